//! The texts of a body that OpenAI counts one by one: what messages and instructions say.
//!
//! Everything else (names, arguments, tools, schemas, the JSON around) stays counted by its bytes, which pays for the
//! framing of messages and for tokens that differ where two texts meet.

use crate::json::{Cursor, Kind, Str, Syntax};

/// Calls `each` with every such text.
pub(super) fn visit<'a>(body: &'a str, each: &mut dyn FnMut(Str<'a>)) -> Result<(), Syntax> {
    Cursor::new(body).object(|name, value| match name.lossy().as_ref() {
        "messages" | "input" | "instructions" => content(value, each),
        _ => value.skip().map(drop),
    })
}

/// Plain text, a part, an item, a message, or a list of such.
fn content<'a>(value: &mut Cursor<'a>, each: &mut dyn FnMut(Str<'a>)) -> Result<(), Syntax> {
    match value.kind()? {
        Kind::String => {
            each(value.string()?);
            Ok(())
        }
        Kind::Array => value.array(|part| content(part, each)),
        Kind::Object => value.object(|name, value| match name.lossy().as_ref() {
            "content" | "output" | "text" => content(value, each),
            _ => value.skip().map(drop),
        }),
        _ => value.skip().map(drop),
    }
}
