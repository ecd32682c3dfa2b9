//! How much longer a text can get when a tokenizer normalises it first.
//!
//! Anthropic's published tokenizer applied NFKC before it counted, and one character of 3 bytes can become 33. A
//! byte bound of the body alone would then be no bound; this counts what normalisation can add.

use std::sync::LazyLock;

use unicode_normalization::UnicodeNormalization;

use crate::json::until;

/// Longer by so many bytes once normalised, for every character of the basic plane.
static GROWTH: LazyLock<Box<[u8]>> = LazyLock::new(|| (0..=0xffff_u32).map(normalised).collect());

fn normalised(code: u32) -> u8 {
    let Some(c) = char::from_u32(code) else { return 0 };
    let long: usize = std::iter::once(c).nfkc().map(char::len_utf8).sum();
    u8::try_from(long.saturating_sub(c.len_utf8())).unwrap_or(u8::MAX)
}

fn growth(c: char) -> u64 {
    let code = u32::from(c);
    match GROWTH.get(code as usize) {
        Some(bytes) => u64::from(*bytes),
        // Emoji and the supplementary ideographs are their own normal form.
        None if (0x1_f300..0x1_fb00).contains(&code) || (0x2_0000..0x2_f800).contains(&code) => 0,
        None => u64::from(normalised(code)),
    }
}

/// Bytes that normalisation can add to the strings of a JSON text.
pub(super) fn bytes(json: &str) -> u64 {
    let mut total = 0;
    let mut rest = json;
    // ASCII that is no escape is its own normal form: pass over it in one go.
    loop {
        rest = &rest[until(rest.as_bytes(), |byte| byte >= 0x80 || byte == b'\\')..];
        if let Some(after) = rest.strip_prefix('\\') {
            let (grown, used) = escape(after);
            total += grown;
            rest = after.get(used..).unwrap_or_default();
        } else {
            let mut chars = rest.chars();
            let Some(c) = chars.next() else { return total };
            total += growth(c);
            rest = chars.as_str();
        }
    }
}

/// What an escape, its backslash already passed, adds beyond its own six bytes; and its length.
fn escape(after: &str) -> (u64, usize) {
    let Some(hex) = after.strip_prefix('u').and_then(|rest| rest.get(..4)) else {
        return (0, 1);
    };
    let code = u32::from_str_radix(hex, 16).unwrap_or(0);
    let Some(c) = char::from_u32(code) else {
        // Half a surrogate pair: the pair takes twelve bytes, no character of the supplementary planes that many.
        return (0, 5);
    };
    let long = c.len_utf8() as u64 + growth(c);
    (long.saturating_sub(6), 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_normalisation_adds() {
        assert_eq!(bytes(r#"{"a":"plain \n text \\ \" "}"#), 0);
        assert_eq!(bytes("\u{fdfa}"), 30, "3 bytes become 33");
        assert_eq!(bytes(r"\ufdfa"), 27, "6 bytes of escape become 33");
        assert_eq!(bytes("한국어 日本語 naïve Ελλάδα 🧾"), 0);
    }

    #[test]
    fn is_never_below_the_real_growth() {
        for code in (0..0x2_ffff_u32).step_by(7) {
            if let Some(c) = char::from_u32(code) {
                let text: String = [c, 'x', c, c].iter().collect();
                let real: usize = text.nfkc().map(char::len_utf8).sum();
                assert!(text.len() as u64 + bytes(&text) >= real as u64 || c == '\\', "{code:x}");
            }
        }
    }
}
