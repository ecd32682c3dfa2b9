//! What the cost engine adds to a request: reading and bounding it, and metering its answer.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nullspend_core::{
    attempt::Api,
    bound::bound,
    price::{Catalogue, Lookup},
    request::RequestView,
    usage::{BodyKind, Meter, StripUsageFrame},
};

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

fn request(text_bytes: usize, image_bytes: usize) -> Vec<u8> {
    let text = "The quick brown fox jumps \\\"over\\\" the lazy dog. ".repeat(text_bytes / 49);
    let image = "A".repeat(image_bytes);
    format!(
        r#"{{"model":"gpt-4o","max_tokens":500,"stream":true,"messages":[{{"role":"user","content":[{{"type":"text","text":"{text}"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}]}}"#
    )
    .into_bytes()
}

fn requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("request");
    let Lookup::Priced(priced) = Catalogue::shipped().lookup("openai", "gpt-4o", NOW) else { return };
    for (name, body) in [
        ("1 KB", request(1 << 10, 0)),
        ("32 KB", request(32 << 10, 0)),
        ("1 MB", request(1 << 20, 0)),
        ("20 MiB of text", request(20 << 20, 0)),
        ("20 MiB of image", request(0, 20 << 20)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        for api in [Api::OpenAiChat, Api::AnthropicMessages] {
            group.bench_function(BenchmarkId::new(api.as_str(), name), |b| {
                b.iter(|| RequestView::parse(api, black_box(&body)).map(|view| bound(&priced, &view)));
            });
        }
    }
    group.finish();
}

fn stream(chunks: usize) -> Vec<Vec<u8>> {
    let chunk = br#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1795430100,"model":"gpt-4o-2024-08-06","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"abcd"}

"#;
    let usage: &[u8] =
        br#"data: {"choices":[],"usage":{"prompt_tokens":29,"completion_tokens":9,"total_tokens":38}}

data: [DONE]

"#;
    let mut all = vec![chunk.to_vec(); chunks];
    all.push(usage.to_vec());
    all
}

fn streams(c: &mut Criterion) {
    let mut group = c.benchmark_group("stream");
    for chunks in [100, 10_000] {
        let bytes = stream(chunks);
        group.throughput(Throughput::Elements(chunks as u64));
        group.bench_function(BenchmarkId::new("meter", chunks), |b| {
            b.iter(|| {
                let mut meter = Meter::new(Api::OpenAiChat, "openai", BodyKind::Sse);
                bytes.iter().for_each(|chunk| meter.push(black_box(chunk)));
                meter.finish()
            });
        });
        group.bench_function(BenchmarkId::new("strip", chunks), |b| {
            b.iter(|| {
                let mut filter = StripUsageFrame::new();
                bytes.iter().map(|chunk| filter.push(black_box(chunk)).len()).sum::<usize>()
            });
        });
    }
    group.finish();
}

fn bodies(c: &mut Criterion) {
    let mut group = c.benchmark_group("body");
    for (name, size) in [("1 KB", 1 << 10), ("32 KB", 32 << 10), ("1 MB", 1 << 20)] {
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(size / 45);
        let body = format!(
            r#"{{"id":"c","model":"gpt-4o","choices":[{{"index":0,"message":{{"content":"{text}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":29,"completion_tokens":9}}}}"#
        );
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("meter", name), |b| {
            b.iter(|| {
                let mut meter = Meter::new(Api::OpenAiChat, "openai", BodyKind::Json);
                meter.push(black_box(body.as_bytes()));
                meter.finish()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, streams, bodies);
criterion_main!(benches);
