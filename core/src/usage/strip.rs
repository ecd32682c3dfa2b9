//! Takes the usage frame out again that only we asked for (design law 6).

use crate::json::{Cursor, Kind, Syntax};

/// A usage frame is small; a longer frame passes without being held until its end.
const HOLD_BYTES: usize = 64 << 10;

/// A filter for an OpenAI chat stream whose client did not ask for usage: every byte passes as it is, except the
/// frames that hold no choice but a usage object. A frame is held until it is whole, never longer.
#[derive(Debug, Default)]
pub struct StripUsageFrame {
    /// Bytes of the present frame that were not handed on.
    held: Vec<u8>,
    /// Bytes of the present line.
    line: usize,
    /// The byte before was a CR: an LF now is the rest of that line's end.
    after_cr: bool,
    /// The frame that this CR closed was taken out.
    dropped: bool,
    /// The present frame is too long for a usage frame.
    passing: bool,
    /// `[DONE]` went by.
    done: bool,
}

impl StripUsageFrame {
    /// A new filter.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a chunk; answers what the client gets now.
    #[must_use]
    pub fn push(&mut self, mut chunk: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(chunk.len() + self.held.len());
        while let Some(first) = chunk.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                chunk = &chunk[1..];
                if !std::mem::take(&mut self.dropped) {
                    let target = if self.held.is_empty() { &mut out } else { &mut self.held };
                    target.push(b'\n');
                }
                continue;
            }
            self.dropped = false;
            if self.done {
                out.extend_from_slice(chunk);
                break;
            }
            let end = memchr::memchr2(b'\n', b'\r', chunk);
            let (now, rest) = chunk.split_at(end.map_or(chunk.len(), |end| end + 1));
            chunk = rest;
            self.held.extend_from_slice(now);
            self.line += now.len();
            if end.is_some() {
                self.after_cr = now.last() == Some(&b'\r');
                let blank = self.line == 1;
                self.line = 0;
                if blank {
                    self.close(&mut out);
                }
            }
            self.passing |= self.held.len() > HOLD_BYTES;
            if self.passing {
                out.append(&mut self.held);
            }
        }
        out
    }

    /// The bytes have ended; answers what was still held.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.close(&mut out);
        out
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        let data = if self.passing { Vec::new() } else { data_of(&self.held) };
        self.passing = false;
        self.done |= data.trim_ascii() == b"[DONE]";
        let text = std::str::from_utf8(&data).unwrap_or_default();
        if is_usage_only(text).unwrap_or(false) {
            self.dropped = self.after_cr;
            self.held.clear();
        } else {
            out.append(&mut self.held);
        }
    }
}

/// The data of a frame, however its lines end.
fn data_of(frame: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    crate::sse::Events::default().push_all(frame, |event| data.extend_from_slice(event));
    data
}

fn is_usage_only(text: &str) -> Result<bool, Syntax> {
    let mut cursor = Cursor::new(text);
    let (mut no_choices, mut usage) = (false, false);
    cursor.object(|key, value| {
        match key.lossy().as_ref() {
            "choices" => {
                let array = value.kind()? == Kind::Array;
                let inner = value.skip()?.trim_start_matches('[').trim_end_matches(']');
                no_choices = array && inner.trim().is_empty();
            }
            "usage" => {
                usage = value.kind()? == Kind::Object;
                value.skip()?;
            }
            _ => drop(value.skip()?),
        }
        Ok::<(), Syntax>(())
    })?;
    cursor.end()?;
    Ok(no_choices && usage)
}
