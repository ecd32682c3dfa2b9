//! OpenAI chat completions: chunks and whole answers alike.

use crate::json::{Cursor, Kind, Syntax};

use super::{super::meter::ToolCall, Frame, Mark, elements, members, number, present, text, tree};

pub(super) fn read<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        match key {
            "id" => frame.id = text(value)?,
            "model" => frame.model = text(value)?.filter(|model| !model.is_empty()),
            "service_tier" => frame.tier = text(value)?,
            "usage" => frame.usage = tree(value)?,
            "x_groq" => members(value, |key, value| {
                match key {
                    "usage" => frame.side_usage = tree(value)?,
                    "error" if present(value)? => frame.mark = Mark::Error,
                    "error" => {}
                    _ => drop(value.skip()?),
                }
                Ok(())
            })?,
            "error" => {
                if present(value)? {
                    frame.mark = Mark::Error;
                }
            }
            "choices" => frame.no_choices = elements(value, |choice| read_choice(choice, frame))? == Some(0),
            _ => drop(value.skip()?),
        }
        Ok(())
    })
}

fn read_choice<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let from = frame.texts.len();
    let mut index = 0;
    let mut ended = false;
    members(cursor, |key, value| {
        match key {
            "index" => index = number(value)?,
            "finish_reason" => {
                if let Some(reason) = text(value)? {
                    ended = true;
                    frame.stop = Some(reason);
                }
            }
            "delta" | "message" => read_message(value, frame)?,
            "text" => frame.texts.extend(text(value)?.map(|text| (0, text))),
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

fn read_message<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        match key {
            "content" => read_content(value, frame)?,
            "refusal" => frame.other.extend(text(value)?),
            "reasoning_content" | "reasoning" => {
                if let Some(shown) = text(value)? {
                    frame.other.push(shown);
                }
            }
            "tool_calls" => drop(elements(value, |call| read_call(call, frame))?),
            "function_call" => read_function(value, frame, &mut ToolCall::default())?,
            // The readable parts of it are in `reasoning` already.
            "reasoning_details" => frame.hides |= value.skip()?.contains("\"reasoning.encrypted\""),
            "audio" | "images" => frame.hides |= !matches!(value.skip()?, "null" | "[]"),
            _ => drop(value.skip()?),
        }
        Ok(())
    })
}

/// Text, or (Mistral) a list of parts with text or thinking.
fn read_content<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    if cursor.kind()? != Kind::Array {
        frame.texts.extend(text(cursor)?.map(|text| (0, text)));
        return Ok(());
    }
    elements(cursor, |part| {
        members(part, |key, value| {
            match key {
                "text" => frame.texts.extend(text(value)?.map(|text| (0, text))),
                "thinking" => drop(elements(value, |part| read_thinking(part, frame))?),
                _ => drop(value.skip()?),
            }
            Ok(())
        })
    })
    .map(drop)
}

fn read_thinking<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        if key == "text" {
            frame.other.extend(text(value)?);
            Ok(())
        } else {
            value.skip().map(drop)
        }
    })
}

fn read_call<'a>(cursor: &mut Cursor<'a>, frame: &mut Frame<'a>) -> Result<(), Syntax> {
    let mut call = ToolCall::default();
    members(cursor, |key, value| {
        match key {
            "id" => call.id = text(value)?.map(String::from),
            "function" | "custom" => read_function(value, frame, &mut call)?,
            _ => drop(value.skip()?),
        }
        Ok(())
    })?;
    // Only the first piece of a call names it.
    if !call.name.is_empty() {
        frame.tools.push(call);
    }
    Ok(())
}

fn read_function<'a>(
    cursor: &mut Cursor<'a>,
    frame: &mut Frame<'a>,
    call: &mut ToolCall,
) -> Result<(), Syntax> {
    members(cursor, |key, value| {
        match key {
            "name" => {
                if let Some(name) = text(value)? {
                    call.name = name.clone().into_owned();
                    frame.other.push(name);
                }
            }
            "arguments" | "input" => frame.other.extend(text(value)?),
            _ => drop(value.skip()?),
        }
        Ok(())
    })
}
