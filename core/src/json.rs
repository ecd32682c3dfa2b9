//! A strict, forward-only JSON cursor over text that is already known to be UTF-8.
//!
//! It hands out slices of the text and never builds a tree, so a 20 MiB body costs one linear pass and no copies,
//! and it keeps positions, so that a field can be changed without writing the rest anew (design law 6).

use std::borrow::Cow;

/// Nesting deeper than this is refused: no caller needs it, and it bounds the recursion.
pub(crate) const MAX_DEPTH: usize = 128;

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// Byte offset.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A JSON string: its text between the quotes, escapes still in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Str<'a> {
    quoted: &'a str,
    escaped: bool,
}

impl<'a> Str<'a> {
    /// Without its quotes, escapes not resolved.
    pub(crate) fn raw(self) -> &'a str {
        &self.quoted[1..self.quoted.len() - 1]
    }

    /// The value; `None` when an escape names half a surrogate pair.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        if self.escaped {
            serde_json::from_str(self.quoted).ok().map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(self.raw()))
        }
    }

    /// The value, with a replacement character for what cannot be decoded.
    pub(crate) fn lossy(self) -> Cow<'a, str> {
        self.text().unwrap_or(Cow::Borrowed("\u{fffd}"))
    }
}

/// What a value starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// A position in a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    text: &'a str,
    pos: usize,
    depth: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, pos: 0, depth: 0 }
    }

    pub(crate) fn pos(&self) -> usize {
        self.pos
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Syntax> {
        Err(Syntax { at: self.pos, what })
    }

    fn space(&mut self) {
        let bytes = self.bytes();
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(self.pos) {
            self.pos += 1;
        }
    }

    fn peek(&mut self) -> Option<u8> {
        self.space();
        self.bytes().get(self.pos).copied()
    }

    /// What the next value is; the cursor then stands on its first byte.
    pub(crate) fn kind(&mut self) -> Result<Kind, Syntax> {
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => self.fail("expected a value"),
            None => self.fail("the text ends where a value is expected"),
        }
    }

    /// Nothing but space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        if self.peek().is_some() { self.fail("unexpected text after the value") } else { Ok(()) }
    }

    pub(crate) fn string(&mut self) -> Result<Str<'a>, Syntax> {
        if self.peek() != Some(b'"') {
            return self.fail("expected a string");
        }
        let start = self.pos;
        let bytes = self.bytes();
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            at += until(bytes.get(at..).unwrap_or_default(), ends_plain_text);
            match bytes.get(at) {
                Some(b'"') => {
                    self.pos = at + 1;
                    return Ok(Str { quoted: &self.text[start..=at], escaped });
                }
                Some(b'\\') => escaped = true,
                Some(_) => return self.fail("a control character inside a string must be escaped"),
                None => return self.fail("the text ends inside a string"),
            }
            at += match bytes.get(at + 1) {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
                Some(b'u')
                    if bytes.get(at + 2..at + 6).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) =>
                {
                    6
                }
                _ => return self.fail("a backslash in a string must start a valid escape"),
            };
        }
    }

    /// A number as written.
    pub(crate) fn number(&mut self) -> Result<&'a str, Syntax> {
        self.space();
        let start = self.pos;
        let bytes = self.bytes();
        let digits = |mut at: usize| {
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            at
        };
        let mut at = start + usize::from(bytes.get(start) == Some(&b'-'));
        let whole = at;
        at = digits(at);
        if at == whole || (bytes[whole] == b'0' && at > whole + 1) {
            return self.fail("malformed number");
        }
        if bytes.get(at) == Some(&b'.') {
            let fraction = at + 1;
            at = digits(fraction);
            if at == fraction {
                return self.fail("malformed number");
            }
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let exponent = at + 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            at = digits(exponent);
            if at == exponent {
                return self.fail("malformed number");
            }
        }
        self.pos = at;
        Ok(&self.text[start..at])
    }

    pub(crate) fn boolean(&mut self) -> Result<bool, Syntax> {
        self.space();
        for (word, value) in [("true", true), ("false", false)] {
            if self.text[self.pos..].starts_with(word) {
                self.pos += word.len();
                return Ok(value);
            }
        }
        self.fail("expected true or false")
    }

    /// Takes a `null` if one is next.
    pub(crate) fn null(&mut self) -> bool {
        self.space();
        let is_null = self.text[self.pos..].starts_with("null");
        if is_null {
            self.pos += 4;
        }
        is_null
    }

    fn enter(&mut self) -> Result<(), Syntax> {
        self.pos += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.fail("nested too deeply") } else { Ok(()) }
    }

    /// Calls `each` for every member of the object that is next; it must consume the value.
    pub(crate) fn object<E: From<Syntax>>(
        &mut self,
        mut each: impl FnMut(Str<'a>, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.peek() != Some(b'{') {
            return Ok(self.fail("expected an object")?);
        }
        self.enter()?;
        if self.peek() == Some(b'}') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            let key = self.string()?;
            if self.peek() != Some(b':') {
                return Ok(self.fail("expected ':' after a key")?);
            }
            self.pos += 1;
            each(key, self)?;
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b'}') => break,
                _ => return Ok(self.fail("expected ',' or '}'")?),
            }
        }
        self.pos += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Calls `each` for every element of the array that is next; it must consume the value.
    pub(crate) fn array<E: From<Syntax>>(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.peek() != Some(b'[') {
            return Ok(self.fail("expected an array")?);
        }
        self.enter()?;
        if self.peek() == Some(b']') {
            self.pos += 1;
            self.depth -= 1;
            return Ok(());
        }
        loop {
            each(self)?;
            match self.peek() {
                Some(b',') => self.pos += 1,
                Some(b']') => break,
                _ => return Ok(self.fail("expected ',' or ']'")?),
            }
        }
        self.pos += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Checks and passes over one value; answers its text.
    pub(crate) fn skip(&mut self) -> Result<&'a str, Syntax> {
        let kind = self.kind()?;
        let start = self.pos;
        match kind {
            Kind::Object => self.object(|_, value| value.skip().map(drop))?,
            Kind::Array => self.array(|value| value.skip().map(drop))?,
            Kind::String => self.string().map(drop)?,
            Kind::Number => self.number().map(drop)?,
            Kind::Bool => self.boolean().map(drop)?,
            Kind::Null if self.null() => {}
            Kind::Null => return self.fail("expected a value"),
        }
        Ok(&self.text[start..self.pos])
    }

    /// A string if that is what comes next; anything else is passed over.
    pub(crate) fn string_or_skip(&mut self) -> Result<Option<Str<'a>>, Syntax> {
        if self.kind()? == Kind::String { self.string().map(Some) } else { self.skip().map(|_| None) }
    }
}

/// How many bytes stand before the first special one; all, where none is.
pub(crate) fn until(bytes: &[u8], special: impl Fn(u8) -> bool) -> usize {
    if bytes.first().is_some_and(|byte| special(*byte)) {
        return 0;
    }
    // Most bytes are not special: looked at in blocks without a branch for each, which the compiler makes vectors of.
    let any = |block: &[u8]| block.iter().fold(false, |any, byte| any | special(*byte));
    let clean = bytes.chunks_exact(16).take_while(|block| !any(block)).count() * 16;
    clean + bytes[clean..].iter().position(|byte| special(*byte)).unwrap_or(bytes.len() - clean)
}

/// What a string cannot hold as it is.
fn ends_plain_text(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<(), Syntax> {
        let mut cursor = Cursor::new(text);
        cursor.skip()?;
        cursor.end()
    }

    #[test]
    fn accepts_exactly_what_json_allows() {
        for good in [
            "{}",
            "[]",
            " [1, -0.5e+3 ,\"a\\u00e9\\n\", true,false,null] ",
            "{\"a\":{\"b\":[{}]}}",
            "0",
            "\"\\ud800\"",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            "nul",
            "tru",
            "\"\\x\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "{a:1}",
            "[1 2]",
            "{} {}",
            "\"abc",
            "'a'",
            "NaN",
            "{\"a\" 1}",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn depth_is_limited() {
        let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH + 1)).map_err(|e| e.what), Err("nested too deeply"));
        assert!(check(&"[".repeat(1_000_000)).is_err());
    }

    #[test]
    fn a_special_byte_is_found_at_every_place() {
        let plain = |text: &[u8]| until(text, ends_plain_text);
        for len in 0..70 {
            let text = vec![b'x'; len];
            assert_eq!(plain(&text), len);
            for at in 0..len {
                for special in [b'"', b'\\', 0, 0x1f] {
                    let mut text = text.clone();
                    text[at] = special;
                    text[len - 1] = if at < len / 2 { b'"' } else { text[len - 1] };
                    assert_eq!(plain(&text), at, "{special} at {at} of {len}");
                }
                let mut text = text.clone();
                text[at] = 0x20 | (0x80 * u8::from(at % 2 == 0));
                assert_eq!(plain(&text), len);
            }
        }
    }

    #[test]
    fn agrees_with_serde_json_on_strings() {
        let mut cursor = Cursor::new("\"a\\\"\\u00e9 é\"");
        assert_eq!(cursor.string().ok().and_then(Str::text).as_deref(), Some("a\"é é"));
    }
}
