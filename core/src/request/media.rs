//! How large images and recordings are, by the first bytes of their base64.
//!
//! Strict: what does not begin exactly as its format says has no size here, and the bound takes the most there can be.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What of a body is not text: billed by size or by time instead of by bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Media {
    /// Images, wherever they come from.
    pub images: Vec<Image>,
    /// Bytes of the images' own data URLs or base64 in the body.
    pub image_bytes: u64,
    /// PDFs and other files whose size in tokens the body does not show.
    pub documents: u64,
    /// Bytes of recordings' base64 in the body.
    pub audio_bytes: u64,
    /// Most tokens of all recordings together.
    pub audio_tokens: u64,
}

/// One image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// Width and height in pixels, where the body shows them.
    pub size: Option<(u32, u32)>,
    /// OpenAI's `detail: low`.
    pub low_detail: bool,
}

impl Media {
    /// Nothing but text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.images.is_empty() && self.documents == 0 && self.audio_tokens == 0
    }
}

/// Enough for every header but that of a JPEG with much before it.
const HEAD: usize = 1 << 10;
/// Metadata of a JPEG (a thumbnail, a colour profile) comes before its size.
const LONG_HEAD: usize = 128 << 10;

/// Tokens of one second. OpenAI documents 10 for what it hears, Google 32.
const AUDIO_TOKENS_PER_SECOND: u64 = 50;

/// Width and height of the image behind `base64`.
pub(super) fn image_size(base64: &str) -> Option<(u32, u32)> {
    [HEAD, LONG_HEAD].into_iter().find_map(|most| {
        let head = head(base64, most)?;
        let size = png(&head).or_else(|| gif(&head)).or_else(|| webp(&head)).or_else(|| jpeg(&head));
        size.filter(|(width, height)| *width > 0 && *height > 0)
    })
}

/// The first `most` bytes.
fn head(base64: &str, most: usize) -> Option<Vec<u8>> {
    let most = most.div_ceil(3) * 4;
    STANDARD.decode(base64.get(..most).unwrap_or(base64)).ok()
}

fn u16_le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn u16_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?)))
}

fn u32_le(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u32_be(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn png(bytes: &[u8]) -> Option<(u32, u32)> {
    bytes.strip_prefix(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")?;
    Some((u32_be(bytes, 16)?, u32_be(bytes, 20)?))
}

/// The larger of the screen and the first frame, which readers widen the screen for.
fn gif(bytes: &[u8]) -> Option<(u32, u32)> {
    bytes.strip_prefix(b"GIF87a").or_else(|| bytes.strip_prefix(b"GIF89a"))?;
    let (width, height, flags) = (u16_le(bytes, 6)?, u16_le(bytes, 8)?, *bytes.get(10)?);
    let mut at = 13 + if flags & 0x80 != 0 { 3 << ((flags & 7) + 1) } else { 0 };
    while *bytes.get(at)? == 0x21 {
        at += 2;
        while *bytes.get(at)? != 0 {
            at += 1 + usize::from(*bytes.get(at)?);
        }
        at += 1;
    }
    if *bytes.get(at)? != 0x2c {
        return None;
    }
    let edge = |offset: usize| Some(u16_le(bytes, at + offset)? + u16_le(bytes, at + offset + 4)?);
    Some((width.max(edge(1)?), height.max(edge(3)?)))
}

fn webp(bytes: &[u8]) -> Option<(u32, u32)> {
    if !bytes.starts_with(b"RIFF") || bytes.get(8..12)? != b"WEBP" {
        return None;
    }
    match bytes.get(12..16)? {
        b"VP8 " if bytes.get(23..26)? == b"\x9d\x01\x2a" => {
            Some((u16_le(bytes, 26)? & 0x3fff, u16_le(bytes, 28)? & 0x3fff))
        }
        b"VP8L" if *bytes.get(20)? == 0x2f => {
            let bits = u32_le(bytes, 21)?;
            Some(((bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1))
        }
        b"VP8X" => {
            let three = |at| Some((u32_le(bytes, at)? & 0xff_ffff) + 1);
            Some((three(24)?, three(27)?))
        }
        _ => None,
    }
}

fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    bytes.strip_prefix(b"\xff\xd8")?;
    let mut at = 2;
    loop {
        if *bytes.get(at)? != 0xff {
            return None;
        }
        // A marker may have any number of fill bytes before it.
        while *bytes.get(at)? == 0xff {
            at += 1;
        }
        let marker = *bytes.get(at)?;
        let long = u16_be(bytes, at + 1)?;
        match marker {
            0xc4 | 0xc8 | 0xcc => {}
            0xc0..=0xcf => return Some((u16_be(bytes, at + 6)?, u16_be(bytes, at + 4)?)),
            // Segments without a length, and the scan itself: no size comes before one in a whole image.
            0x00 | 0x01 | 0xd0..=0xda => return None,
            _ => {}
        }
        if long < 2 {
            return None;
        }
        at += 1 + long as usize;
    }
}

/// Most tokens of the recording behind `base64`.
///
/// PCM by its length over its byte rate. MP3 by its characters: its smallest frames take 180 bytes a second, far more
/// than a second has tokens. Anything else could hold hours of silence in a few bytes.
pub(super) fn audio_tokens(base64: &str) -> u64 {
    let Some(head) = head(base64, HEAD) else { return u64::MAX };
    let bytes = base64.len() as u64 / 4 * 3 + 3;
    if let Some(rate) = pcm_bytes_per_second(&head) {
        return (bytes * AUDIO_TOKENS_PER_SECOND).div_ceil(rate) + AUDIO_TOKENS_PER_SECOND;
    }
    let mp3 =
        head.starts_with(b"ID3") || matches!(head.as_slice(), [0xff, second, ..] if second & 0xe0 == 0xe0);
    if mp3 { base64.len() as u64 } else { u64::MAX }
}

/// Of a WAV file whose first chunk says plain samples at a rate that anybody records at.
fn pcm_bytes_per_second(bytes: &[u8]) -> Option<u64> {
    if !bytes.starts_with(b"RIFF") || bytes.get(8..16)? != b"WAVEfmt " {
        return None;
    }
    let (format, channels, rate) = (u16_le(bytes, 20)?, u16_le(bytes, 22)?, u32_le(bytes, 24)?);
    let (block, bits) = (u16_le(bytes, 32)?, u16_le(bytes, 34)?);
    let plain = matches!(format, 1 | 3) && matches!(bits, 8 | 16 | 24 | 32 | 64) && channels > 0;
    (plain && rate >= 4000 && block == channels * bits / 8).then(|| u64::from(rate) * u64::from(block))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(bytes: &[u8]) -> Option<(u32, u32)> {
        image_size(&STANDARD.encode(bytes))
    }

    fn png_of(width: u32, height: u32) -> Vec<u8> {
        [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &width.to_be_bytes(), &height.to_be_bytes(), &[8; 30]]
            .concat()
    }

    fn jpeg_of(before: &[u8]) -> Vec<u8> {
        [b"\xff\xd8".as_slice(), before, b"\xff\xff\xc2\0\x11\x08\x01\x02\x03\x04\x03"].concat()
    }

    #[test]
    fn reads_the_size_of_the_four_formats() {
        assert_eq!(size(&png_of(800, 601)), Some((800, 601)));
        assert_eq!(size(&jpeg_of(b"")), Some((0x304, 0x102)));
        let segment = [b"\xff\xe1\xff\xff".as_slice(), &vec![0; 0xfffd]].concat();
        assert_eq!(size(&jpeg_of(&segment)), Some((0x304, 0x102)), "behind 64 KB of metadata");
        assert_eq!(size(&jpeg_of(&segment.repeat(3))), None, "behind too much");
        let gif = b"GIF89a\x0a\0\x14\0\x80\0\0\0\0\0\0\0\0\x21\xf9\x04\0\0\0\0\0\x2c\x05\0\0\0\x08\0\x1e\0\0";
        assert_eq!(size(gif), Some((13, 30)), "the frame is larger than the screen");
        let webp = |rest: &[u8]| size(&[b"RIFF\0\0\0\0WEBP".as_slice(), rest, &[0; 20]].concat());
        assert_eq!(webp(b"VP8 \0\0\0\0\0\0\0\x9d\x01\x2a\x90\x41\x2c\x01"), Some((400, 300)));
        assert_eq!(webp(b"VP8L\0\0\0\0\x2f\x8f\xc1\x4a\0"), Some((400, 300)));
        assert_eq!(webp(b"VP8X\0\0\0\0\0\0\0\0\x8f\x01\0\x2b\x01\0"), Some((400, 300)));
    }

    #[test]
    fn what_is_not_exactly_of_its_format_has_no_size() {
        let mut late = b"\x89PNG\r\n\x1a\n\0\0\0\x08tEXt\0\0\0\x01\0\0\0\x01".to_vec();
        late.extend(png_of(9000, 9000));
        for bytes in [late.as_slice(), &png_of(0, 9), &png_of(9, 9)[..20], b"GIF89a\x0a\0\x14\0", b"BM", b""]
        {
            assert_eq!(size(bytes), None, "{bytes:?}");
        }
        for bytes in
            [&b"\xff\xd8\xff\xda\0\x08"[..], b"\xff\xd8\xff\xe0\0\x01\xff\xc0\0\x11\x08\0\x01\0\x01\x03"]
        {
            assert_eq!(size(bytes), None, "{bytes:?}");
        }
        assert_eq!(image_size("not base64!"), None);
    }

    fn wav(format: u16, rate: u32, bits: u16) -> Vec<u8> {
        let mut bytes = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
        bytes.extend(format.to_le_bytes());
        bytes.extend(1_u16.to_le_bytes());
        bytes.extend(rate.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((bits / 8).to_le_bytes());
        bytes.extend(bits.to_le_bytes());
        bytes.extend(vec![0; 320_000]);
        bytes
    }

    #[test]
    fn recordings_are_bounded_by_their_time() {
        let tokens = |bytes: &[u8]| audio_tokens(&STANDARD.encode(bytes));
        let ten_seconds = tokens(&wav(1, 16_000, 16));
        assert!((500..=560).contains(&ten_seconds), "{ten_seconds}");
        assert_eq!(tokens(&wav(1, 1, 8)), u64::MAX, "a second in a byte");
        assert_eq!(tokens(&wav(0x55, 16_000, 16)), u64::MAX, "compressed");
        assert_eq!(tokens(b"fLaC"), u64::MAX, "silence takes no room");
        assert_eq!(tokens(b"ID3\x04rest!"), 12);
        assert_eq!(audio_tokens("?"), u64::MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(start in 0..6_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let starts: [&[u8]; 6] = [b"", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBPVP8", b"RIFF\0\0\0\0WAVEfmt ", b"\x89PNG"];
            let text = STANDARD.encode([starts[start], &bytes].concat());
            let _ = (image_size(&text), audio_tokens(&text));
        }
    }
}
