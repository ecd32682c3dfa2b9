//! One JSON object of an answer (a stream's event, or a whole body), read for what the meter needs.

mod chat;
mod gemini;
mod messages;
mod responses;

use std::borrow::Cow;

use serde_json::Value;

use crate::json::{Cursor, Kind, Syntax};

use super::{Dialect, meter::ToolCall};

/// What an object says about the end of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Nothing.
    #[default]
    None,
    /// Anthropic's first event: its usage is the base that later ones overwrite.
    Start,
    /// The answer is whole.
    Complete,
    /// It ended early, by a limit; it is billed.
    Incomplete,
    /// The provider gave up.
    Failed,
    /// An error instead of, or in the middle of, an answer.
    Error,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Frame<'a> {
    pub mark: Mark,
    pub usage: Option<Value>,
    /// `x_groq.usage`, which counts only where `usage` is missing.
    pub side_usage: Option<Value>,
    /// `choices` is there and empty.
    pub no_choices: bool,
    /// A choice, candidate or message said why it stopped.
    pub finished: bool,
    /// Choices or candidates by index, and whether they said why they stopped.
    pub choices: Vec<(u64, bool)>,
    pub id: Option<Cow<'a, str>>,
    pub model: Option<Cow<'a, str>>,
    pub tier: Option<Cow<'a, str>>,
    pub stop: Option<Cow<'a, str>>,
    /// Visible text by choice, output or block.
    pub texts: Vec<(u64, Cow<'a, str>)>,
    /// Output that is not answer text: tool arguments, reasoning that is shown.
    pub other: Vec<Cow<'a, str>>,
    pub tools: Vec<ToolCall>,
    /// Something was answered, even if without text.
    pub content: bool,
    /// More output than is shown, or of another kind than text.
    pub hides: bool,
    /// `tool_usage.web_search.num_requests`.
    pub told_searches: Option<u64>,
    pub web_searches: u64,
    pub file_searches: u64,
    pub images: u64,
    pub containers: Vec<Cow<'a, str>>,
    pub queries: u64,
}

/// Reads one object; `None` when the text is no JSON object. `whole` means the body of an answer that is no stream.
pub(super) fn read(dialect: Dialect, text: &str, whole: bool) -> Option<Frame<'_>> {
    let mut cursor = Cursor::new(text);
    let mut frame = Frame::default();
    let object = cursor.kind().ok()? == Kind::Object;
    let done = match dialect {
        _ if !object => cursor.skip().map(drop),
        Dialect::Chat => chat::read(&mut cursor, &mut frame),
        Dialect::Responses if whole => responses::read_response(&mut cursor, &mut frame, true),
        Dialect::Responses => responses::read_event(&mut cursor, &mut frame),
        Dialect::Messages if whole => messages::read_message(&mut cursor, &mut frame, true),
        Dialect::Messages => messages::read_event(&mut cursor, &mut frame),
        Dialect::Gemini => gemini::read(&mut cursor, &mut frame),
    };
    done.and_then(|()| cursor.end()).ok()?;
    Some(frame)
}

/// A non-null object or other value as a tree; small by its nature.
fn tree(cursor: &mut Cursor<'_>) -> Result<Option<Value>, Syntax> {
    Ok(serde_json::from_str(cursor.skip()?).ok().filter(|value: &Value| !value.is_null()))
}

fn text<'a>(cursor: &mut Cursor<'a>) -> Result<Option<Cow<'a, str>>, Syntax> {
    Ok(cursor.string_or_skip()?.map(|text| text.lossy()))
}

/// A whole number; anything else is 0.
fn number(cursor: &mut Cursor<'_>) -> Result<u64, Syntax> {
    Ok(cursor.skip()?.parse().unwrap_or(0))
}

/// Anything but `null`.
fn present(cursor: &mut Cursor<'_>) -> Result<bool, Syntax> {
    Ok(cursor.skip()? != "null")
}

/// Calls `each` for the members of an object; passes over anything else.
fn members<'a>(
    cursor: &mut Cursor<'a>,
    mut each: impl FnMut(&str, &mut Cursor<'a>) -> Result<(), Syntax>,
) -> Result<(), Syntax> {
    if cursor.kind()? == Kind::Object {
        cursor.object(|key, value| each(&key.lossy(), value))
    } else {
        cursor.skip().map(drop)
    }
}

/// Calls `each` for the elements of an array and answers how many there were; passes over anything else.
fn elements<'a>(
    cursor: &mut Cursor<'a>,
    mut each: impl FnMut(&mut Cursor<'a>) -> Result<(), Syntax>,
) -> Result<Option<u64>, Syntax> {
    if cursor.kind()? != Kind::Array {
        cursor.skip()?;
        return Ok(None);
    }
    let mut count = 0;
    cursor.array(|element| {
        count += 1;
        each(element)
    })?;
    Ok(Some(count))
}
