//! OpenAI Responses: its events, and the response object that three of them and the plain answer carry.

use std::borrow::Cow;

use crate::json::{Cursor, Syntax};

use super::{super::meter::ToolCall, Frame, Mark, elements, members, number, present, text, tree};

pub(super) fn read_event<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let mut kind = None;
    let mut index = 0;
    let mut delta = None;
    // Its texts and arguments have come, or will come, in pieces; its fees are counted from the whole.
    let mut item = Frame::default();
    members(cursor, |key, value| {
        match key {
            "type" => kind = text(value)?,
            "output_index" => index = number(value)?,
            "delta" => delta = text(value)?,
            "response" => read_response(value, frame, false)?,
            // Some errors come bare, without the type of an event.
            "error" => {
                if present(value)? {
                    frame.mark = Mark::Error;
                }
            }
            "item" => frame.hides |= read_item(value, &mut item, false)?,
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    let kind = kind.as_deref().unwrap_or_default();
    match kind {
        "response.completed" => frame.mark = Mark::Complete,
        "response.incomplete" => frame.mark = Mark::Incomplete,
        "response.failed" => frame.mark = Mark::Failed,
        "error" | "response.error" => frame.mark = Mark::Error,
        _ => {
            // Only the three ends above carry usage that counts.
            frame.usage = None;
            frame.tier = None;
            if frame.mark != Mark::Error {
                frame.mark = Mark::None;
            }
        }
    }
    if kind == "response.output_item.added" {
        frame.other.extend(item.tools.iter().map(|call| Cow::Owned(call.name.clone())));
        frame.tools.append(&mut item.tools);
    }
    let Some(delta) = delta else { return Ok(()) };
    match kind {
        "response.output_text.delta" => frame.texts.push((index, delta)),
        "response.audio.delta" | "response.output_audio.delta" => frame.hides = true,
        _ => {
            // A summary stands for more reasoning than it shows.
            frame.hides |= kind.starts_with("response.reasoning_summary");
            frame.other.push(delta);
        }
    }
    Ok(())
}

/// `whole` takes the text too: in a stream it has come in pieces already.
pub(super) fn read_response<'a>(
    cursor: &mut Cursor<'a>,
    frame: &mut Frame<'a>,
    whole: bool,
) -> Result<(), Syntax> {
    let mut status = None;
    members(cursor, |key, value| {
        match key {
            "id" => frame.id = text(value)?,
            "model" => frame.model = text(value)?,
            "service_tier" => frame.tier = text(value)?,
            "status" => status = text(value)?,
            "usage" => frame.usage = tree(value)?,
            "error" => {
                if present(value)? && whole {
                    frame.mark = Mark::Error;
                }
            }
            "incomplete_details" => members(value, |key, value| {
                if key == "reason" {
                    frame.stop = text(value)?;
                    Ok(())
                } else {
                    value.skip().map(drop)
                }
            })?,
            "output" => drop(elements(value, |item| read_item(item, frame, whole).map(drop))?),
            "tool_usage" => read_tool_usage(value, frame)?,
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    if whole {
        match status.as_deref() {
            Some("completed") => frame.mark = Mark::Complete,
            Some("incomplete") => frame.mark = Mark::Incomplete,
            Some("failed" | "cancelled") => frame.mark = Mark::Failed,
            _ => {}
        }
    }
    if frame.stop.is_none() {
        frame.stop = status;
    }
    Ok(())
}

fn read_tool_usage<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        if key != "web_search" {
            return value.skip().map(drop);
        }
        members(value, |key, value| {
            if key == "num_requests" {
                frame.told_searches = Some(number(value)?);
                Ok(())
            } else {
                value.skip().map(drop)
            }
        })
    })
}

/// An output item; answers whether it stands for work that the stream does not show.
fn read_item<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>, whole: bool) -> Result<bool, Syntax> {
    let mut kind = Cow::Borrowed("");
    let mut action = None;
    let mut container = None;
    let mut call = ToolCall::default();
    let mut shown = Vec::new();
    members(cursor, |key, value| {
        match key {
            "type" => kind = text(value)?.unwrap_or_default(),
            "action" => members(value, |key, value| {
                if key == "type" {
                    action = text(value)?;
                    Ok(())
                } else {
                    value.skip().map(drop)
                }
            })?,
            "container_id" => container = text(value)?,
            "call_id" => call.id = text(value)?.map(String::from),
            "name" => call.name = text(value)?.unwrap_or_default().into_owned(),
            "content" if whole => drop(elements(value, |part| read_text(part, &mut shown))?),
            "arguments" | "input" if whole => frame.other.extend(text(value)?),
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    frame.texts.extend(shown.into_iter().map(|text| (0, text)));
    frame.content = true;
    match kind.as_ref() {
        "message" => return Ok(false),
        "function_call" | "custom_tool_call" => {
            if whole {
                frame.other.push(Cow::Owned(call.name.clone()));
            }
            frame.tools.push(call);
            return Ok(false);
        }
        // Opening a page and finding in one are free.
        "web_search_call" if action.as_deref().is_none_or(|action| action == "search") => {
            frame.web_searches += 1;
        }
        "file_search_call" => frame.file_searches += 1,
        "image_generation_call" => frame.images += 1,
        "code_interpreter_call" | "shell_call" => frame.containers.push(container.unwrap_or_default()),
        _ => {}
    }
    Ok(true)
}

fn read_text<'a>(cursor: &mut Cursor<'a>, shown: &mut Vec<Cow<'a, str>>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        if matches!(key, "text" | "refusal") {
            shown.extend(text(value)?);
            Ok(())
        } else {
            value.skip().map(drop)
        }
    })
}
