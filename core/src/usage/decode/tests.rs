use std::io::Write as _;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};

use super::*;

fn encode(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "gzip" => {
            let mut encoder = GzEncoder::new(&mut out, Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        "deflate" => {
            let mut encoder = ZlibEncoder::new(&mut out, Compression::default());
            encoder.write_all(plain).unwrap();
            encoder.finish().unwrap();
        }
        "br" => brotli::CompressorWriter::new(&mut out, 4096, 5, 22).write_all(plain).unwrap(),
        "zstd" => out = zstd::encode_all(plain, 3).unwrap(),
        other => panic!("{other}"),
    }
    out
}

/// As a provider encodes that says `content-encoding: header`.
pub(crate) fn encode_all(header: &str, plain: &[u8]) -> Vec<u8> {
    codings(header).fold(plain.to_vec(), |bytes, coding| encode(&coding, &bytes))
}

fn decode(header: &str, encoded: &[u8], chunk_bytes: usize) -> (Vec<u8>, Option<Unread>) {
    let mut decoder = Decoder::new(Vec::new(), header);
    for chunk in encoded.chunks(chunk_bytes) {
        decoder.push(chunk);
    }
    decoder.flush();
    (std::mem::take(decoder.sink()), decoder.unread())
}

/// Text that is worth compressing, and does not end at a piece.
fn text() -> Vec<u8> {
    (0..1000).flat_map(|n: u32| format!("data: {{\"n\":{},\"é\":1}}\n\n", n * n).into_bytes()).collect()
}

const CODINGS: [&str; 4] = ["gzip", "deflate", "br", "zstd"];

#[test]
fn every_coding_alone_and_in_sequence_in_any_cutting() {
    let plain = text();
    let headers = CODINGS.iter().map(|coding| (*coding).to_owned());
    let pairs = CODINGS.iter().flat_map(|a| CODINGS.iter().map(move |b| format!("{a},  {b}")));
    for header in headers.chain(pairs).chain(["gzip, identity, br, zstd".to_owned()]) {
        let encoded = encode_all(&header, &plain);
        for chunk_bytes in [1, 7, 4096, 5000, usize::MAX] {
            let (decoded, unread) = decode(&header, &encoded, chunk_bytes);
            assert_eq!((decoded == plain, unread), (true, None), "{header} in chunks of {chunk_bytes}");
        }
    }
}

#[test]
fn names_are_read_as_http_means_them() {
    let plain = b"{}";
    assert_eq!(decode("X-GZIP", &encode("gzip", plain), 1), (plain.to_vec(), None));
    assert_eq!(decode(" identity ,", plain, 1), (plain.to_vec(), None));
    assert!(!is_encoded("identity") && !is_encoded("") && is_encoded("identity, br"));
    for unknown in ["compress", "gzip, dcb", "gzip gzip", "gzip,gzip,gzip,gzip"] {
        assert_eq!(decode(unknown, b"anything", 3), (Vec::new(), Some(Unread::Encoding)), "{unknown}");
    }
}

#[test]
fn members_and_frames_may_follow_each_other() {
    for coding in ["gzip", "zstd"] {
        let two = [encode(coding, b"first "), encode(coding, b"second")].concat();
        assert_eq!(decode(coding, &two, 5), (b"first second".to_vec(), None), "{coding}");
    }
}

#[test]
fn what_is_cut_short_is_decoded_as_far_as_it_goes() {
    let plain = text();
    for coding in CODINGS {
        let encoded = encode(coding, &plain);
        let (decoded, unread) = decode(coding, &encoded[..encoded.len() / 2], 100);
        assert_eq!(unread, None, "{coding}");
        assert!(plain.starts_with(&decoded) && decoded.len() < plain.len(), "{coding}");
        assert!(coding == "zstd" || !decoded.is_empty(), "{coding}");
    }
}

#[test]
fn what_follows_an_encoded_stream_means_nothing_in_a_sequence_too() {
    let plain = text();
    for inner in ["deflate", "br"] {
        let longer = [encode(inner, &plain), b"and more".repeat(1000)].concat();
        assert_eq!(decode(inner, &longer, 700), (plain.clone(), None), "{inner}");
        for outer in CODINGS {
            let header = format!("{inner}, {outer}");
            assert_eq!(decode(&header, &encode(outer, &longer), 700), (plain.clone(), None), "{header}");
        }
    }
}

#[test]
fn what_is_not_encoded_so_is_corrupt() {
    for coding in CODINGS {
        assert_eq!(
            decode(coding, b"{\"usage\":{\"prompt_tokens\":1}}", 4).1,
            Some(Unread::Corrupt),
            "{coding}"
        );
    }
}

#[test]
fn a_bomb_is_put_down_long_before_it_is_decoded() {
    struct Counter(u64);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let zeros = vec![0; 24 << 20];
    for header in ["gzip", "zstd", "br", "gzip, gzip"] {
        let bomb = encode_all(header, &zeros);
        let mut decoder = Decoder::new(Counter(0), header);
        decoder.push(&bomb);
        decoder.flush();
        assert_eq!(decoder.unread(), Some(Unread::TooLarge), "{header}: {} bytes", bomb.len());
        let limit = FREE_BYTES + RATIO_MAX * (bomb.len() as u64 + PIECE_BYTES);
        assert!(decoder.sink().0 <= limit, "{header}: {} decoded", decoder.sink().0);
    }
}

#[test]
fn a_window_that_no_content_coding_may_have_is_refused() {
    let plain = vec![7; 4 << 20];
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&plain).unwrap();
    let encoded = encoder.finish().unwrap();
    assert_eq!(decode("zstd", &encoded, 1000).1, Some(Unread::Corrupt));
    let params =
        brotli::enc::BrotliEncoderParams { quality: 1, lgwin: 28, large_window: true, ..Default::default() };
    let mut encoded = Vec::new();
    brotli::CompressorWriter::with_params(&mut encoded, 4096, &params).write_all(&plain).unwrap();
    assert_eq!(decode("br", &encoded, 1000), (Vec::new(), Some(Unread::Corrupt)));
}
