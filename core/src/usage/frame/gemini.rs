//! Gemini generateContent: chunks and whole answers alike.

use crate::json::{Cursor, Syntax};

use super::{super::meter::ToolCall, Frame, Mark, elements, members, number, present, text, tree};

pub(super) fn read<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        match key {
            "responseId" => frame.id = text(value)?,
            "modelVersion" => frame.model = text(value)?,
            "usageMetadata" => frame.usage = tree(value)?,
            "candidates" => drop(elements(value, |candidate| read_candidate(candidate, frame))?),
            "promptFeedback" => members(value, |key, value| {
                if key == "blockReason" {
                    frame.stop = text(value)?;
                    frame.finished = frame.stop.is_some();
                    Ok(())
                } else {
                    value.skip().map(drop)
                }
            })?,
            "error" => {
                if present(value)? {
                    frame.mark = Mark::Error;
                }
            }
            _ => drop(value.skip()?),
        }
        Ok(())
    })
}

fn read_candidate<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let from = frame.texts.len();
    let mut index = 0;
    let mut ended = false;
    members(cursor, |key, value| {
        match key {
            "index" => index = number(value)?,
            "finishReason" => {
                if let Some(reason) = text(value)? {
                    ended = true;
                    frame.stop = Some(reason);
                }
            }
            "content" => members(value, |key, value| {
                if key == "parts" {
                    elements(value, |part| read_part(part, frame)).map(drop)
                } else {
                    value.skip().map(drop)
                }
            })?,
            "groundingMetadata" => members(value, |key, value| {
                if key == "webSearchQueries" {
                    frame.queries = elements(value, |query| query.skip().map(drop))?.unwrap_or(0);
                    Ok(())
                } else {
                    value.skip().map(drop)
                }
            })?,
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    for (owner, _) in frame.texts.iter_mut().skip(from) {
        *owner = index;
    }
    frame.finished |= ended;
    frame.choices.push((index, ended));
    Ok(())
}

fn read_part<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let mut thought = false;
    let mut shown = None;
    members(cursor, |key, value| {
        match key {
            "thought" => thought = value.skip()? == "true",
            "text" => shown = text(value)?,
            "functionCall" => {
                let mut call = ToolCall::default();
                frame.other.push(std::borrow::Cow::Borrowed(value.clone().skip()?));
                members(value, |key, value| {
                    match key {
                        "name" => call.name = text(value)?.unwrap_or_default().into_owned(),
                        "id" => call.id = text(value)?.map(String::from),
                        _ => drop(value.skip()?),
                    }
                    Ok(())
                })?;
                frame.tools.push(call);
            }
            "executableCode" => frame.other.push(std::borrow::Cow::Borrowed(value.skip()?)),
            // Media, and what a hosted tool found, which the model read in a further step.
            "inlineData" | "fileData" | "codeExecutionResult" => {
                frame.hides = true;
                value.skip()?;
            }
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    match shown {
        Some(text) if thought => frame.other.push(text),
        Some(text) => frame.texts.push((0, text)),
        None => {}
    }
    Ok(())
}
