//! The one pass over a request body.

use std::{borrow::Cow, collections::HashSet};

use crate::{
    attempt::Api,
    json::{Cursor, Kind, Syntax},
};

use super::{
    BadRequest, CacheAsked, HostedKind, HostedTool, Media, RequestView, growth, parts,
    splice::{Limit, Points, Span},
    tools,
};

/// The longest model name; longer ones are a mistake.
const MAX_MODEL_BYTES: usize = 256;

impl From<Syntax> for BadRequest {
    fn from(error: Syntax) -> Self {
        Self::new(format!("the request body is not valid JSON: {} (at byte {})", error.what, error.at))
    }
}

pub(super) fn parse(api: Api, body: &[u8]) -> Result<RequestView, BadRequest> {
    let text = std::str::from_utf8(body).map_err(|error| {
        BadRequest::new(format!(
            "the request body must be UTF-8 text (invalid at byte {})",
            error.valid_up_to()
        ))
    })?;
    let mut cursor = Cursor::new(text);
    if cursor.kind()? != Kind::Object {
        return Err(BadRequest::new("the request body must be one JSON object"));
    }
    let mut view = blank(api, body.len());
    view.splice.open = cursor.pos() + 1;
    let mut seen: HashSet<Cow<'_, str>> = HashSet::new();
    let mut model = None;
    cursor.object(|key, value| {
        let name = key.text().ok_or_else(|| BadRequest::new("a field name holds half a surrogate pair"))?;
        match name.as_ref() {
            "model" => model = Some(read_model(value)?),
            "max_completion_tokens" if api == Api::OpenAiChat => view.splice.limits[0] = limit(value, &name)?,
            "max_tokens" if api != Api::OpenAiResponses => view.splice.limits[1] = limit(value, &name)?,
            "max_output_tokens" if api == Api::OpenAiResponses => {
                view.splice.limits[2] = limit(value, &name)?;
            }
            _ => field(&name, value, &mut view)?,
        }
        if seen.contains(&name) {
            return Err(BadRequest::field(&name, format!("`{name}` is given twice; give it once")));
        }
        seen.insert(name);
        Ok(())
    })?;
    cursor.end()?;
    view.model = model.ok_or_else(|| {
        BadRequest::field("model", "`model` is missing; name the model to call, for example \"gpt-4o-mini\"")
    })?;
    // A provider takes the first of these that is set; the largest is a bound whichever that is.
    view.max_output = view.splice.limits.iter().flatten().filter_map(|limit| limit.tokens).max();
    finish(&mut view, text);
    Ok(view)
}

fn blank(api: Api, len: usize) -> RequestView {
    RequestView {
        api,
        model: String::new(),
        stream: false,
        include_usage: None,
        max_output: None,
        choices: 1,
        service_tier: None,
        fast: false,
        inference_geo: None,
        regional_host: false,
        assume_priority: false,
        body_bytes: len as u64,
        counted_off: 0,
        growth_bytes: 0,
        media: Media::default(),
        audio_output: false,
        tools: 0,
        tools_bytes: 0,
        hidden_tool_tokens: 0,
        hosted: Vec::new(),
        advisors: Vec::new(),
        prediction_bytes: 0,
        max_tool_calls: None,
        web_search_options: false,
        cache: CacheAsked::No,
        server_state: false,
        background: false,
        thinking: false,
        thinking_budget: None,
        reasoning_off: false,
        compaction: false,
        temperature: None,
        splice: Points::default(),
    }
}

fn field(name: &str, value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    match name {
        "stream" => view.stream = boolean(value, name)?.unwrap_or(false),
        "stream_options" => stream_options(value, view)?,
        "messages" | "input" | "system" | "instructions" => parts::read_messages(value, view)?,
        "tools" => tools::read(value, view)?,
        "mcp_servers" => tools::read_mcp_servers(value, view)?,
        "service_tier" => view.service_tier = word(value)?,
        "temperature" => {
            // Kept for a tag only, so only what looks like a number that somebody meant.
            let text = value.skip()?;
            let number =
                text.len() <= 16 && text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
            view.temperature = number.then(|| text.to_owned());
        }
        "background" => view.background = boolean(value, name)?.unwrap_or(false),
        "thinking" => thinking(value, view)?,
        "reasoning_effort" => view.reasoning_off = word(value)?.as_deref() == Some("none"),
        "reasoning" => view.reasoning_off = member(value, "effort")?.as_deref() == Some("none"),
        // Lists of stand-ins: the answer could come from a dearer model than the one that was bounded.
        "models" | "route" | "fallbacks" => {
            if present(value)?.is_some_and(|text| text != "[]") {
                let message =
                    format!("`{name}` lets another model answer than the one bounded; name one `model` only");
                return Err(BadRequest::field(name, message));
            }
        }
        _ => match view.api {
            Api::OpenAiChat => chat_field(name, value, view)?,
            Api::OpenAiResponses => responses_field(name, value, view)?,
            Api::AnthropicMessages => messages_field(name, value, view)?,
        },
    }
    Ok(())
}

fn chat_field(name: &str, value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    match name {
        "n" | "best_of" => {
            let choices = whole(value, name)?.unwrap_or(1);
            if choices == 0 {
                return Err(BadRequest::field(name, format!("`{name}` must be a whole number of 1 or more")));
            }
            view.choices = view.choices.max(choices);
        }
        "modalities" => view.audio_output |= value.skip()?.contains("\"audio\""),
        "audio" => view.audio_output |= present(value)?.is_some(),
        "prediction" => view.prediction_bytes = value.skip()?.len() as u64,
        "web_search_options" => view.web_search_options = present(value)?.is_some(),
        "prompt_cache_retention" | "prompt_cache_options" => long_cache(value, view)?,
        _ => drop(value.skip()?),
    }
    Ok(())
}

fn responses_field(name: &str, value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    match name {
        "previous_response_id" | "conversation" => view.server_state |= present(value)?.is_some(),
        "prompt" => {
            // A stored prompt may bring tools along that the body does not show.
            if present(value)?.is_some() {
                view.server_state = true;
                view.hosted.push(HostedTool { kind: HostedKind::WebSearch, max_uses: None });
            }
        }
        "max_tool_calls" => view.max_tool_calls = whole(value, name)?,
        "prompt_cache_retention" | "prompt_cache_options" => long_cache(value, view)?,
        "context_management" => view.compaction = present(value)?.is_some(),
        _ => drop(value.skip()?),
    }
    Ok(())
}

fn messages_field(name: &str, value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    match name {
        "speed" => view.fast = word(value)?.as_deref() == Some("fast"),
        "inference_geo" => view.inference_geo = word(value)?,
        "context_management" => view.compaction |= value.skip()?.contains("compact"),
        "compaction" => view.compaction |= present(value)?.is_some(),
        // A new thread holds nothing yet.
        "thread" => view.server_state |= member(value, "type")?.is_some_and(|kind| kind != "create"),
        "container" => view.server_state |= present(value)?.is_some(),
        _ => drop(value.skip()?),
    }
    Ok(())
}

fn long_cache(value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    if present(value)?.is_some() {
        view.cache = CacheAsked::Long;
    }
    Ok(())
}

/// What may stand almost anywhere is searched for as text: a false find only raises the bound. Letters written as
/// escapes could hide it.
fn finish(view: &mut RequestView, text: &str) {
    tools::add_instructions(view);
    view.growth_bytes = growth::bytes(text);
    let has = |word: &str| memchr::memmem::find(text.as_bytes(), word.as_bytes()).is_some();
    let hidden = hides_letters(text);
    let long = match view.api {
        Api::OpenAiChat | Api::OpenAiResponses => hidden || has("\"12h\""),
        Api::AnthropicMessages => {
            // `caching` is an advisor's own.
            let asked = hidden || has("cache_control") || has("\"caching\"");
            if asked {
                view.cache = CacheAsked::Short;
            }
            asked && (hidden || has("\"1h\""))
        }
    };
    if long {
        view.cache = CacheAsked::Long;
    }
}

/// Whether printable ASCII is written as `\u00xx`; `<`, `>`, `&` and `'` do not count, which some writers escape.
fn hides_letters(text: &str) -> bool {
    memchr::memmem::find_iter(text.as_bytes(), b"\\u00").any(|at| {
        let code = text.get(at + 4..at + 6).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        code.is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_')
    })
}

fn read_model(value: &mut Cursor<'_>) -> Result<String, BadRequest> {
    if value.kind()? != Kind::String {
        return Err(BadRequest::field("model", "`model` must be a string, for example \"gpt-4o-mini\""));
    }
    let model =
        value.string()?.text().ok_or_else(|| BadRequest::field("model", "`model` must be valid text"))?;
    if model.trim().is_empty() || model.len() > MAX_MODEL_BYTES {
        return Err(BadRequest::field("model", format!("`model` must have 1 to {MAX_MODEL_BYTES} bytes")));
    }
    Ok(model.into_owned())
}

/// A whole number of 0 or more; `null` is as good as absent.
pub(super) fn whole(value: &mut Cursor<'_>, name: &str) -> Result<Option<u64>, BadRequest> {
    if value.null() {
        return Ok(None);
    }
    let text = value.skip()?;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && number <= i64::MAX as u64 => Ok(Some(number)),
        _ => Err(BadRequest::field(
            name,
            format!("`{name}` must be a whole number of 0 or more, not {}", shown(text)),
        )),
    }
}

/// A value in an error message, cut short.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn boolean(value: &mut Cursor<'_>, name: &str) -> Result<Option<bool>, BadRequest> {
    match value.kind()? {
        Kind::Bool => Ok(Some(value.boolean()?)),
        Kind::Null if value.null() => Ok(None),
        _ => {
            let text = value.skip()?;
            Err(BadRequest::field(name, format!("`{name}` must be true or false, not {}", shown(text))))
        }
    }
}

pub(super) fn word(value: &mut Cursor<'_>) -> Result<Option<String>, BadRequest> {
    Ok(value.string_or_skip()?.map(|text| text.lossy().into_owned()))
}

fn limit(value: &mut Cursor<'_>, name: &str) -> Result<Option<Limit>, BadRequest> {
    value.kind()?;
    let start = value.pos();
    let tokens = whole(value, name)?;
    Ok(Some(Limit { at: Span { start, end: value.pos() }, tokens }))
}

/// Whether it is on, and how much of the output it may take.
fn thinking(value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    if value.kind()? != Kind::Object {
        value.skip()?;
        return Ok(());
    }
    value.object(|key, member| {
        match key.lossy().as_ref() {
            "type" => view.thinking = word(member)?.is_some_and(|kind| kind != "disabled"),
            // The provider's to judge; a budget that is no number only makes the call hard to clamp.
            "budget_tokens" => view.thinking_budget = member.skip()?.parse().ok(),
            _ => drop(member.skip()?),
        }
        Ok(())
    })
}

/// The string at `name` of an object; passes over anything else.
fn member(value: &mut Cursor<'_>, name: &str) -> Result<Option<String>, BadRequest> {
    let mut found = None;
    if value.kind()? == Kind::Object {
        value.object(|key, member| {
            if key.lossy() == name {
                found = word(member)?;
            } else {
                member.skip()?;
            }
            Ok::<(), BadRequest>(())
        })?;
    } else {
        value.skip()?;
    }
    Ok(found)
}

/// The value's text unless it is `null`.
fn present<'a>(value: &mut Cursor<'a>) -> Result<Option<&'a str>, BadRequest> {
    Ok(Some(value.skip()?).filter(|text| *text != "null"))
}

fn stream_options(value: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    let kind = value.kind()?;
    let start = value.pos();
    match kind {
        Kind::Null if value.null() => {}
        Kind::Object => {
            view.splice.options_open = Some(start + 1);
            view.splice.options_empty = true;
            value.object(|key, option| {
                view.splice.options_empty = false;
                if key.lossy() != "include_usage" {
                    option.skip()?;
                    return Ok(());
                }
                if view.splice.include_usage.is_some() {
                    let message = "`stream_options.include_usage` is given twice; give it once";
                    return Err(BadRequest::field("stream_options.include_usage", message));
                }
                option.kind()?;
                let from = option.pos();
                view.include_usage = boolean(option, "stream_options.include_usage")?;
                view.splice.include_usage = Some(Span { start: from, end: option.pos() });
                Ok(())
            })?;
        }
        _ => return Err(BadRequest::field("stream_options", "`stream_options` must be an object")),
    }
    view.splice.options = Some(Span { start, end: value.pos() });
    Ok(())
}
