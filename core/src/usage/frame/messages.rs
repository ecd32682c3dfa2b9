//! Anthropic Messages: its events, and the message object that the first of them and the plain answer carry.

use std::borrow::Cow;

use crate::json::{Cursor, Syntax};

use super::{super::meter::ToolCall, Frame, Mark, elements, members, number, present, text, tree};

pub(super) fn read_event<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let mut kind = None;
    let mut index = 0;
    let mut usage = None;
    let from = frame.texts.len();
    members(cursor, |key, value| {
        match key {
            "type" => kind = text(value)?,
            "index" => index = number(value)?,
            "message" => read_message(value, frame, false)?,
            "content_block" => read_block(value, frame)?,
            "delta" => read_delta(value, frame)?,
            "usage" => usage = tree(value)?,
            "error" => {
                if present(value)? {
                    frame.mark = Mark::Error;
                }
            }
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    for (owner, _) in frame.texts.iter_mut().skip(from) {
        *owner = index;
    }
    match kind.as_deref().unwrap_or_default() {
        "message_start" => frame.mark = Mark::Start,
        "message_delta" => {
            frame.usage = usage;
            frame.finished = frame.stop.is_some();
        }
        "message_stop" => frame.mark = Mark::Complete,
        "error" => frame.mark = Mark::Error,
        _ => {}
    }
    Ok(())
}

/// `whole` takes the content too: in a stream it comes as blocks of its own.
pub(super) fn read_message<'a>(
    cursor: &mut Cursor<'a>,
    frame: &mut Frame<'a>,
    whole: bool,
) -> Result<(), Syntax> {
    let mut kind = None;
    members(cursor, |key, value| {
        match key {
            "type" => kind = text(value)?,
            "id" => frame.id = text(value)?,
            "model" => frame.model = text(value)?,
            "stop_reason" if whole => frame.stop = text(value)?,
            "usage" => frame.usage = tree(value)?,
            "content" if whole => drop(elements(value, |block| read_block(block, frame))?),
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    if whole {
        frame.finished = frame.stop.is_some();
        frame.mark = if kind.as_deref() == Some("error") { Mark::Error } else { Mark::Complete };
    }
    Ok(())
}

fn read_block<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let mut kind = Cow::Borrowed("");
    let mut call = ToolCall::default();
    let mut input = None;
    members(cursor, |key, value| {
        match key {
            "type" => kind = text(value)?.unwrap_or_default(),
            "id" => call.id = text(value)?.map(String::from),
            "name" => call.name = text(value)?.unwrap_or_default().into_owned(),
            "text" => frame.texts.extend(text(value)?.map(|text| (0, text))),
            "thinking" => frame.other.extend(text(value)?),
            "input" => input = Some(value.skip()?),
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    frame.content = true;
    match kind.as_ref() {
        "text" => {}
        "tool_use" => {
            frame.other.push(Cow::Owned(call.name.clone()));
            frame.tools.push(call);
            frame.other.extend(input.filter(|text| *text != "{}").map(Cow::Borrowed));
        }
        // Thinking is shown as a summary, or not at all; what server tools find is input that is not shown.
        _ => frame.hides = true,
    }
    Ok(())
}

fn read_delta<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        match key {
            "text" => frame.texts.extend(text(value)?.map(|text| (0, text))),
            "partial_json" | "thinking" => frame.other.extend(text(value)?),
            "stop_reason" => frame.stop = text(value)?,
            _ => drop(value.skip()?),
        }
        Ok(())
    })
}
