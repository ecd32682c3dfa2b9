//! Encodes an answer although nobody asked for it, frame by frame, as a compressing proxy does.

use std::io::{self, Write};

use bytes::Bytes;

const BROTLI_QUALITY: u32 = 4;
const BROTLI_WINDOW_LOG: u32 = 20;
const ZSTD_LEVEL: i32 = 3;

/// The codings of a `content-encoding`, in the order they are applied. Names that are not known here are only claimed.
pub(super) struct Encoder(Vec<Coding>);

enum Coding {
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Deflate(flate2::write::ZlibEncoder<Vec<u8>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(content_encoding: &str) -> Self {
        Self(content_encoding.split(',').filter_map(|name| Coding::named(name.trim())).collect())
    }

    /// The encoded bytes of a frame, complete as far as they go; the last one ends the encoding.
    pub(super) fn frame(&mut self, frame: Bytes, last: bool) -> io::Result<Bytes> {
        self.0.iter_mut().try_fold(frame, |bytes, coding| coding.encode(&bytes, last).map(Bytes::from))
    }
}

impl Coding {
    fn named(name: &str) -> Option<Self> {
        let level = flate2::Compression::default();
        Some(match name {
            "gzip" => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), level)),
            "deflate" => Self::Deflate(flate2::write::ZlibEncoder::new(Vec::new(), level)),
            "br" => Self::Brotli(Box::new(brotli())),
            "zstd" => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL).ok()?),
            _ => return None,
        })
    }

    fn encode(&mut self, bytes: &[u8], last: bool) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                if last { encoder.try_finish() } else { encoder.flush() }?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Deflate(encoder) => {
                encoder.write_all(bytes)?;
                if last { encoder.try_finish() } else { encoder.flush() }?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Brotli(encoder) => {
                encoder.write_all(bytes)?;
                if last {
                    // Only a writer that is given up ends its stream.
                    return Ok(std::mem::replace(&mut **encoder, brotli()).into_inner());
                }
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder) => {
                encoder.write_all(bytes)?;
                if last { encoder.do_finish() } else { encoder.flush() }?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }
}

fn brotli() -> brotli::CompressorWriter<Vec<u8>> {
    brotli::CompressorWriter::new(Vec::new(), 4096, BROTLI_QUALITY, BROTLI_WINDOW_LOG)
}

/// What a client sees that decodes: the inverse of [`Encoder`], for tests.
#[must_use]
pub fn decoded(content_encoding: &str, bytes: &[u8]) -> Vec<u8> {
    let mut decoder = nullspend_core::usage::decode::Decoder::new(Vec::new(), content_encoding);
    decoder.push(bytes);
    decoder.flush();
    std::mem::take(decoder.sink())
}
