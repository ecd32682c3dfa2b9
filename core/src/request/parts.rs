//! Images, files, recordings and references among the messages.
//!
//! Only known places are searched (the content of messages and of tool results). An object that merely looks like an
//! image, inside the arguments of a tool say, is text to the provider and stays counted by its bytes.

use crate::{
    attempt::Api,
    json::{Cursor, Kind},
};

use super::{
    BadRequest, RequestView,
    media::{self, Image},
    tools,
};

/// What one content part or item turned out to be; a field repeated in it counts every time.
#[derive(Default)]
struct Part<'a> {
    kind: String,
    image: bool,
    /// Bytes that are an image if the part is one, and the base64 in them.
    image_bytes: u64,
    images: Vec<&'a str>,
    /// For each `detail`: it says `low`.
    details: Vec<bool>,
    document: bool,
    recordings: Vec<&'a str>,
    inline_source: bool,
    id: bool,
    /// What an id would otherwise stand for is in the body.
    here: bool,
    sealed: bool,
}

/// `messages` or `input`: an array of messages or items, or plain text.
pub(super) fn read_messages<'a>(cursor: &mut Cursor<'a>, view: &mut RequestView) -> Result<(), BadRequest> {
    if cursor.kind()? == Kind::Array { cursor.array(|item| read_part(item, view)) } else { skip(cursor) }
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), BadRequest> {
    cursor.skip()?;
    Ok(())
}

/// A list of parts, one part, or plain text.
fn read_content(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    match cursor.kind()? {
        Kind::Array => cursor.array(|part| read_part(part, view)),
        Kind::Object => read_part(cursor, view),
        _ => skip(cursor),
    }
}

fn read_part(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    if cursor.kind()? != Kind::Object {
        return skip(cursor);
    }
    let mut part = Part::default();
    cursor.object(|key, value| read_field(key.lossy().as_ref(), value, &mut part, view))?;
    part.count(view);
    Ok(())
}

fn read_field<'a>(
    name: &str,
    value: &mut Cursor<'a>,
    part: &mut Part<'a>,
    view: &mut RequestView,
) -> Result<(), BadRequest> {
    match name {
        "type" => {
            if let Some(text) = value.string_or_skip()? {
                part.kind = text.lossy().into_owned();
            }
        }
        "content" | "output" => read_content(value, view)?,
        "outputs" => {
            part.here |= value.kind()? == Kind::Array;
            read_content(value, view)?;
        }
        "image_url" => read_image_url(value, part)?,
        "detail" => read_detail(value, part)?,
        "source" => read_source(value, part, view)?,
        "input_audio" => read_audio(value, part)?,
        // A recording the provider kept from an earlier answer: not in the body.
        "audio" => view.server_state |= value.skip()? != "null",
        "file" | "file_id" | "file_data" | "file_url" => part.document |= value.skip()? != "null",
        // An image that a tool of the provider's made earlier.
        "result" => {
            if let Some(base64) = value.string_or_skip()? {
                part.image_bytes += base64.raw().len() as u64;
                part.images.push(base64.raw());
            }
        }
        "id" => part.id |= value.string_or_skip()?.is_some(),
        "role" | "results" => part.here |= value.skip()? != "null",
        "encrypted_content" => part.sealed |= value.skip()? != "null",
        // Tools can be handed in among the messages, too.
        "tools" => tools::read_list(value, view)?,
        "tool" => read_tool_change(value, view)?,
        _ => skip(value)?,
    }
    Ok(())
}

impl Part<'_> {
    fn count(self, view: &mut RequestView) {
        let named_image = self.kind.contains("image") || self.kind == "computer_screenshot";
        if named_image || self.image {
            let size = match self.images.as_slice() {
                [only] if named_image => media::image_size(only),
                _ => None,
            };
            let low_detail = !self.details.is_empty() && self.details.iter().all(|low| *low);
            view.media.images.push(Image { size, low_detail });
        }
        if named_image {
            view.media.image_bytes += self.image_bytes;
        } else if self.document || self.kind == "document" && self.inline_source || self.kind == "input_file"
        {
            view.media.documents += 1;
        }
        for base64 in &self.recordings {
            let tokens = media::audio_tokens(base64);
            view.media.audio_tokens = view.media.audio_tokens.saturating_add(tokens);
            if self.kind == "input_audio" {
                view.media.audio_bytes += base64.len() as u64;
            }
        }
        view.server_state |= self.kind == "container_upload" || self.is_recalled(view.api);
    }

    /// An item of an earlier answer that is only named: OpenAI adds what it kept of it.
    fn is_recalled(&self, api: Api) -> bool {
        let elsewhere = match self.kind.as_str() {
            "item_reference" => return true,
            "reasoning" => !self.sealed,
            "" | "web_search_call" | "file_search_call" | "code_interpreter_call" => !self.here,
            _ => false,
        };
        api == Api::OpenAiResponses && self.id && elsewhere
    }
}

/// A data URL, bare (Responses) or in an object (chat).
fn read_image_url<'a>(cursor: &mut Cursor<'a>, part: &mut Part<'a>) -> Result<(), BadRequest> {
    part.image = true;
    match cursor.kind()? {
        Kind::String => {
            part.data_url(cursor.string()?.raw());
            Ok(())
        }
        Kind::Object => cursor.object(|key, value| {
            match key.lossy().as_ref() {
                "url" => {
                    if let Some(url) = value.string_or_skip()? {
                        part.data_url(url.raw());
                    }
                }
                "detail" => read_detail(value, part)?,
                _ => skip(value)?,
            }
            Ok(())
        }),
        _ => skip(cursor),
    }
}

fn read_detail(cursor: &mut Cursor<'_>, part: &mut Part<'_>) -> Result<(), BadRequest> {
    let detail = cursor.string_or_skip()?;
    part.details.push(detail.is_some_and(|text| text.raw() == "low"));
    Ok(())
}

impl<'a> Part<'a> {
    fn data_url(&mut self, url: &'a str) {
        if url.starts_with("data:image/") {
            self.image_bytes += url.len() as u64;
            // No base64 in it: no size.
            self.images.push(url.split_once(";base64,").map_or("", |(_, base64)| base64));
        } else {
            self.images.push("");
        }
    }
}

fn read_audio<'a>(cursor: &mut Cursor<'a>, part: &mut Part<'a>) -> Result<(), BadRequest> {
    if cursor.kind()? != Kind::Object {
        part.recordings.push("");
        return skip(cursor);
    }
    cursor.object(|key, value| {
        if key.lossy() == "data" {
            part.recordings.push(value.string_or_skip()?.map_or("", |data| data.raw()));
        } else {
            skip(value)?;
        }
        Ok(())
    })
}

/// Anthropic's `source`: base64, a URL, a file id, or text and content, which are counted by their bytes.
fn read_source<'a>(
    cursor: &mut Cursor<'a>,
    part: &mut Part<'a>,
    view: &mut RequestView,
) -> Result<(), BadRequest> {
    if cursor.kind()? != Kind::Object {
        return skip(cursor);
    }
    let mut kind = String::new();
    let mut data = Vec::new();
    cursor.object(|key, value| {
        match key.lossy().as_ref() {
            "type" => {
                if let Some(text) = value.string_or_skip()? {
                    kind = text.lossy().into_owned();
                }
            }
            "data" => data.extend(value.string_or_skip()?.map(|text| text.raw())),
            "content" => read_content(value, view)?,
            _ => skip(value)?,
        }
        Ok::<(), BadRequest>(())
    })?;
    if kind == "base64" {
        part.image_bytes += data.iter().map(|text| text.len() as u64).sum::<u64>();
        part.images.extend(data);
    } else {
        part.images.push("");
    }
    part.inline_source |= kind != "text" && kind != "content";
    Ok(())
}

/// Anthropic's `tool_addition`: a reference, or a whole definition.
fn read_tool_change(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), BadRequest> {
    if cursor.kind()? != Kind::Object {
        return skip(cursor);
    }
    cursor.object(
        |key, value| {
            if key.lossy() == "definition" { tools::read_tool(value, view) } else { skip(value) }
        },
    )
}
