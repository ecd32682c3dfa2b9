//! A decoded copy of an encoded answer, for the meter: the client gets the bytes as they came.
//!
//! Providers are asked for `identity`; some compress all the same. Decoding is pushed chunk by chunk, holds one window
//! and 32 KiB for each coding, and stops at what only a decompression bomb would be.

use std::{fmt, io::Write};

use brotli_decompressor::DecompressorWriter;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// Codings in sequence; nobody means more.
const MAX_CODINGS: usize = 3;
/// What any answer may be decoded to.
const FREE_BYTES: u64 = 16 << 20;
/// Decoded bytes that one encoded byte may stand for beyond [`FREE_BYTES`]. Event streams repeat themselves, and reach
/// about 50.
const RATIO_MAX: u64 = 200;
/// Encoded bytes are fed in pieces that end at multiples of this, so that where a chunk ends changes nothing.
const PIECE_BYTES: u64 = 4 << 10;
/// Largest zstd window: 8 MiB, the most that content codings may use (RFC 9659).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// How a brotli stream with a window of up to 1 GiB begins, in its first seven bits; `br` has none (RFC 7932 §9.1).
const BROTLI_LARGE_WINDOW: u8 = 0b001_0001;
/// Output buffer of the brotli decoder.
const BROTLI_BUFFER_BYTES: usize = 32 << 10;

/// Why a part of an answer could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Too large, or encoded so that it would become too large.
    TooLarge,
    /// A content coding that is not known here.
    Encoding,
    /// Not what its content coding promises.
    Corrupt,
}

impl Unread {
    /// The word in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Encoding => "unknown_encoding",
            Self::Corrupt => "corrupt_encoding",
        }
    }
}

/// Push decoder of a `content-encoding`, writing into `W`.
#[derive(Debug)]
pub struct Decoder<W: Write> {
    stage: Stage<W>,
    encoded: u64,
    unread: Option<Unread>,
}

impl<W: Write> Decoder<W> {
    /// For bytes that are not encoded.
    pub fn identity(sink: W) -> Self {
        Self { stage: Stage::end(sink), encoded: 0, unread: None }
    }

    /// For a `content-encoding` header, whose last coding was applied last. One that is not known makes everything
    /// [`Unread::Encoding`].
    pub fn new(sink: W, content_encoding: &str) -> Self {
        let mut decoder = Self::identity(sink);
        for (count, coding) in codings(content_encoding).enumerate() {
            if count == MAX_CODINGS {
                decoder.unread = Some(Unread::Encoding);
            }
            if decoder.unread.is_some() {
                break;
            }
            let Self { stage, .. } = decoder;
            let (stage, unread) = stage.encoded_as(&coding);
            decoder = Self { stage, encoded: 0, unread };
        }
        decoder
    }

    /// Takes the next encoded bytes.
    pub fn push(&mut self, mut chunk: &[u8]) {
        if self.stage.is_end() {
            if self.unread.is_none() {
                self.write(chunk);
            }
            return;
        }
        while !chunk.is_empty() && self.unread.is_none() {
            let room = PIECE_BYTES - self.encoded % PIECE_BYTES;
            let (piece, rest) = chunk.split_at(chunk.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
            chunk = rest;
            self.encoded += piece.len() as u64;
            let whole_pieces = self.encoded.next_multiple_of(PIECE_BYTES);
            self.stage.allow(FREE_BYTES.saturating_add(whole_pieces.saturating_mul(RATIO_MAX)));
            self.write(piece);
        }
    }

    fn write(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            match self.stage.write(piece) {
                Ok(taken) => piece = piece.get(taken..).unwrap_or_default(),
                Err(_) => {
                    let bomb = self.stage.is_overrun();
                    self.unread = Some(if bomb { Unread::TooLarge } else { Unread::Corrupt });
                    return;
                }
            }
        }
    }

    /// Passes on what the decoders still hold.
    pub fn flush(&mut self) {
        if self.unread.is_none() && self.stage.flush().is_err() {
            self.unread = Some(if self.stage.is_overrun() { Unread::TooLarge } else { Unread::Corrupt });
        }
    }

    /// Whether something could not be decoded; nothing is after it.
    #[must_use]
    pub fn unread(&self) -> Option<Unread> {
        self.unread
    }

    /// Where the decoded bytes go.
    pub fn sink(&mut self) -> &mut W {
        self.stage.sink()
    }
}

/// The codings of a header that change anything, lower-cased, in the order they were applied.
fn codings(content_encoding: &str) -> impl Iterator<Item = String> {
    content_encoding
        .split(',')
        .map(|coding| coding.trim().to_ascii_lowercase())
        .filter(|coding| !coding.is_empty() && coding != "identity")
}

/// Whether a `content-encoding` header changes the bytes.
#[must_use]
pub fn is_encoded(content_encoding: &str) -> bool {
    codings(content_encoding).next().is_some()
}

/// One coding and the stages after it, and how many bytes came here.
struct Stage<W: Write> {
    coding: Coding<W>,
    taken: u64,
    allowed: u64,
}

enum Coding<W: Write> {
    End(W),
    Gzip(Box<MultiGzDecoder<Stage<W>>>),
    Deflate(Box<ZlibDecoder<Stage<W>>>),
    Brotli(Box<DecompressorWriter<Stage<W>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Stage<W>>>),
}

impl<W: Write> Stage<W> {
    fn end(sink: W) -> Self {
        Self::of(Coding::End(sink))
    }

    fn of(coding: Coding<W>) -> Self {
        Self { coding, taken: 0, allowed: u64::MAX }
    }

    fn is_end(&self) -> bool {
        matches!(self.coding, Coding::End(_))
    }

    /// The decoder of a coding in front of `self`; `self` again with a reason where there is none.
    fn encoded_as(self, coding: &str) -> (Self, Option<Unread>) {
        let coding = match coding {
            "gzip" | "x-gzip" => Coding::Gzip(Box::new(MultiGzDecoder::new(self))),
            "deflate" => Coding::Deflate(Box::new(ZlibDecoder::new(self))),
            "br" => Coding::Brotli(Box::new(DecompressorWriter::new(self, BROTLI_BUFFER_BYTES))),
            "zstd" => match zstd_decoder() {
                Some(decoder) => {
                    Coding::Zstd(Box::new(zstd::stream::write::Decoder::with_decoder(self, decoder)))
                }
                None => return (self, Some(Unread::Encoding)),
            },
            _ => return (self, Some(Unread::Encoding)),
        };
        (Self::of(coding), None)
    }

    /// The next stage, if there is one.
    fn next(&mut self) -> Option<&mut Self> {
        match &mut self.coding {
            Coding::End(_) => None,
            Coding::Gzip(decoder) => Some(decoder.get_mut()),
            Coding::Deflate(decoder) => Some(decoder.get_mut()),
            Coding::Brotli(decoder) => Some(decoder.get_mut()),
            Coding::Zstd(decoder) => Some(decoder.get_mut()),
        }
    }

    /// Lets that many decoded bytes pass from every coding, all in all.
    fn allow(&mut self, bytes: u64) {
        let mut at = self;
        while let Some(next) = at.next() {
            next.allowed = bytes;
            at = next;
        }
    }

    fn is_overrun(&mut self) -> bool {
        let mut at = self;
        while let Some(next) = at.next() {
            if next.taken > next.allowed {
                return true;
            }
            at = next;
        }
        false
    }

    fn sink(&mut self) -> &mut W {
        match &mut self.coding {
            Coding::End(sink) => sink,
            Coding::Gzip(decoder) => decoder.get_mut().sink(),
            Coding::Deflate(decoder) => decoder.get_mut().sink(),
            Coding::Brotli(decoder) => decoder.get_mut().sink(),
            Coding::Zstd(decoder) => decoder.get_mut().sink(),
        }
    }
}

fn zstd_decoder() -> Option<zstd::stream::raw::Decoder<'static>> {
    let mut decoder = zstd::stream::raw::Decoder::new().ok()?;
    let window = zstd::stream::raw::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX);
    decoder.set_parameter(window).ok()?;
    Some(decoder)
}

impl<W: Write> Write for Stage<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let large_window = self.taken == 0 && bytes.first().is_some_and(|b| b & 0x7f == BROTLI_LARGE_WINDOW);
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        if self.taken > self.allowed {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        let taken = match &mut self.coding {
            Coding::End(sink) => sink.write(bytes),
            Coding::Gzip(decoder) => decoder.write(bytes),
            Coding::Deflate(decoder) => decoder.write(bytes),
            Coding::Brotli(_) if large_window => Err(std::io::ErrorKind::InvalidData.into()),
            Coding::Brotli(decoder) => decoder.write(bytes),
            Coding::Zstd(decoder) => decoder.write(bytes),
        }?;
        // An encoded stream that has ended takes nothing more, and the decoder before it would ask for ever: what
        // follows means nothing.
        let taken = if taken == 0 { bytes.len() } else { taken };
        // What was not taken comes again.
        self.taken -= (bytes.len() - taken) as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.coding {
            Coding::End(sink) => sink.flush(),
            Coding::Gzip(decoder) => decoder.flush(),
            Coding::Deflate(decoder) => decoder.flush(),
            Coding::Brotli(decoder) => decoder.flush(),
            Coding::Zstd(decoder) => decoder.flush(),
        }
    }
}

impl<W: Write> fmt::Debug for Stage<W> {
    /// Names the coding; the windows behind it are large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.coding {
            Coding::End(_) => "identity",
            Coding::Gzip(_) => "gzip",
            Coding::Deflate(_) => "deflate",
            Coding::Brotli(_) => "br",
            Coding::Zstd(_) => "zstd",
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
