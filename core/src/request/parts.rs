//! Images, files and audio among the messages.
//!
//! Only known places are searched (the content of messages and of tool results). An object that merely looks like an
//! image, inside the arguments of a tool say, is text to the provider and stays counted by its bytes.

use crate::json::{Cursor, Kind, Syntax};

use super::RequestView;

/// What one content part turned out to be; a field repeated in the part counts every time.
#[derive(Default)]
struct Part {
    kind: String,
    image_bytes: u64,
    image: bool,
    document: bool,
    audio_bytes: u64,
    inline_source: bool,
}

/// `messages` or `input`: an array of messages or items, or plain text.
pub(super) fn read_messages(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), Syntax> {
    if cursor.kind()? == Kind::Array {
        cursor.array(|item| read_part(item, view))
    } else {
        cursor.skip().map(drop)
    }
}

/// A list of parts, one part, or plain text.
fn read_content(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), Syntax> {
    match cursor.kind()? {
        Kind::Array => cursor.array(|part| read_part(part, view)),
        Kind::Object => read_part(cursor, view),
        _ => cursor.skip().map(drop),
    }
}

fn read_part(cursor: &mut Cursor<'_>, view: &mut RequestView) -> Result<(), Syntax> {
    if cursor.kind()? != Kind::Object {
        return cursor.skip().map(drop);
    }
    let mut part = Part::default();
    cursor.object(|key, value| {
        match key.lossy().as_ref() {
            "type" => {
                if let Some(text) = value.string_or_skip()? {
                    part.kind = text.lossy().into_owned();
                }
            }
            "content" | "output" => read_content(value, view)?,
            "image_url" => read_image_url(value, &mut part)?,
            "source" => read_source(value, &mut part, view)?,
            "input_audio" => part.audio_bytes += value.skip()?.len() as u64,
            // Audio the provider kept from an earlier answer: not in the body.
            "audio" => view.server_state |= !value.null() && !value.skip()?.is_empty(),
            "file" | "file_id" | "file_data" | "file_url" => {
                part.document = true;
                value.skip()?;
            }
            _ => drop(value.skip()?),
        }
        Ok::<(), Syntax>(())
    })?;
    part.count(view);
    Ok(())
}

impl Part {
    fn count(self, view: &mut RequestView) {
        let named_image = self.kind.contains("image") || self.kind == "computer_screenshot";
        if named_image || self.image {
            view.media.images += 1;
        }
        if named_image {
            view.media.image_bytes += self.image_bytes;
        } else if self.document || self.kind == "document" && self.inline_source || self.kind == "input_file"
        {
            view.media.documents += 1;
        }
        view.media.audio_bytes += self.audio_bytes;
        if self.kind == "item_reference" || self.kind == "container_upload" {
            view.server_state = true;
        }
    }
}

/// A data URL, bare (Responses) or in an object (chat).
fn read_image_url(cursor: &mut Cursor<'_>, part: &mut Part) -> Result<(), Syntax> {
    part.image = true;
    match cursor.kind()? {
        Kind::String => {
            part.image_bytes += data_url(cursor.string()?.raw());
            Ok(())
        }
        Kind::Object => cursor.object(|key, value| {
            match value.string_or_skip()? {
                Some(url) if key.raw() == "url" => part.image_bytes += data_url(url.raw()),
                _ => {}
            }
            Ok(())
        }),
        _ => cursor.skip().map(drop),
    }
}

fn data_url(url: &str) -> u64 {
    if url.starts_with("data:image/") { url.len() as u64 } else { 0 }
}

/// Anthropic's `source`: base64, a URL, a file id, or text and content, which are counted by their bytes.
fn read_source(cursor: &mut Cursor<'_>, part: &mut Part, view: &mut RequestView) -> Result<(), Syntax> {
    if cursor.kind()? != Kind::Object {
        return cursor.skip().map(drop);
    }
    let mut kind = String::new();
    let mut data = 0;
    cursor.object(|key, value| {
        match key.lossy().as_ref() {
            "type" => {
                if let Some(text) = value.string_or_skip()? {
                    kind = text.lossy().into_owned();
                }
            }
            "data" => data += value.skip()?.len() as u64,
            "content" => read_content(value, view)?,
            _ => drop(value.skip()?),
        }
        Ok::<(), Syntax>(())
    })?;
    if kind == "base64" {
        part.image_bytes += data;
    }
    part.inline_source |= kind != "text" && kind != "content";
    Ok(())
}
