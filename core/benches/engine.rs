//! What the cost engine adds to a request: reading and bounding it, and metering its answer.

use std::{collections::BTreeMap, hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nullspend_core::{
    attempt::{Api, Closing},
    bound::bound,
    exchange::{
        Admission, Begin, End, Moment, Origin, Settings, Verdict, begin,
        head::Headers,
        upstream::{Dialect, Upstream, Upstreams},
    },
    id::{AttemptId, BudgetId, KeyId, OrgId, UserId},
    ledger::{Balance, ReserveOutcome},
    loops::Fingerprints,
    money::Nanos,
    policy::{BudgetRule, Enforcement, Entity, KeyIdentity, OutputPolicy, Policy, Role},
    price::{Catalogue, Lookup},
    request::RequestView,
    usage::{BodyKind, Meter, StripUsageFrame},
    window::{Interval, TimeZone},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

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

const KEY: &str = "ns_live_sk_00000000000000000000000000000001";
const ORG: OrgId = OrgId(Uuid::from_u128(1));

/// One key, bound by `budgets` budgets.
fn policy(budgets: u128) -> Policy {
    let mut policy = Policy::default();
    let identity = KeyIdentity {
        key: KeyId(Uuid::from_u128(2)),
        org: ORG,
        user: UserId(Uuid::from_u128(3)),
        name: "agent".into(),
        role: Role::Agent,
        default_tags: BTreeMap::new(),
        locked_tags: vec![],
        required_tags: vec![],
        allowed_models: None,
        allowed_providers: None,
        api_version: "2026-04-01".into(),
    };
    policy.put_key(Sha256::digest(KEY).into(), identity);
    for number in 0..budgets {
        policy.put_budget(BudgetRule {
            budget: BudgetId(Uuid::from_u128(100 + number)),
            org: ORG,
            entity: Entity::Org(ORG),
            name: format!("budget {number}"),
            limit: Nanos(1_000_000_000),
            enforcement: Enforcement::StrictBlock,
            output: OutputPolicy::default(),
            interval: Interval::None,
            time_zone: TimeZone::utc(),
            generation: 1,
            revision: 1,
            session_limit: None,
            velocity: None,
            finalization_reserve: Nanos::ZERO,
            loop_max_calls: None,
            outage_credit: Nanos::ZERO,
        });
    }
    policy
}

/// One call from its headers to its event, but for the ledger.
fn call(settings: &Settings, policy: &Arc<Policy>, headers: &Headers, body: &[u8]) -> Option<Closing> {
    let at = |us| Moment { ms: NOW, us };
    let attempt = AttemptId(Uuid::from_u128(7));
    let Begin::Known(known) = begin(Some(Arc::clone(policy)), headers, attempt, at(0)) else {
        return None;
    };
    let awaiting = known.accept(settings, headers).ok()?;
    let opening = match awaiting.body(settings, body, at(10)) {
        Admission::Open(opening) => opening,
        Admission::Reserve(stage) => {
            let scopes = stage.reserve(30_000, |_| Bytes::new()).scopes.len();
            let balance = Balance { limit: Nanos(1_000_000_000), settled: Nanos(5), held: Nanos(7) };
            let outcome = ReserveOutcome::Reserved { balances: vec![balance; scopes], exceeded: vec![] };
            match stage.reserved(Ok(outcome), at(20)) {
                Verdict::Open(opening) => opening,
                _ => return None,
            }
        }
        Admission::Answer(_) => return None,
    };
    let (_, mut forwarded) = opening.opened(body.to_vec(), at(30));
    let head = [(":status", "200"), ("content-type", "application/json")];
    let head = Headers(head.map(|(name, value)| (name.to_owned(), value.into())).into());
    forwarded.response_head(&head, Origin::Provider, at(40));
    let answer = br#"{"model":"gpt-4o","usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    forwarded.response_body(answer.to_vec(), true, at(50));
    Some(forwarded.close(End::Complete, at(60)))
}

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("call");
    let upstream = Upstream::parse("openai", "https://api.openai.com", Dialect::OpenAi, "openai", true);
    let Ok(upstream) = upstream else { return };
    let settings = Settings {
        upstreams: Upstreams(vec![upstream]),
        lease_ms: 30_000,
        max_body_bytes: 1 << 20,
        fingerprints: Fingerprints::default(),
    };
    let headers = [
        (":method", "POST"),
        (":path", "/v1/chat/completions"),
        ("x-nullspend-key", KEY),
        ("content-type", "application/json"),
    ];
    let headers = Headers(headers.map(|(name, value)| (name.to_owned(), value.into())).into());
    let body = request(1 << 10, 0);
    for budgets in [0, 3] {
        let policy = Arc::new(policy(budgets));
        assert!(call(&settings, &policy, &headers, &body).is_some(), "the call is forwarded");
        group.bench_function(BenchmarkId::new("budgets", budgets), |b| {
            b.iter(|| call(&settings, &policy, &headers, black_box(&body)));
        });
    }
    group.finish();
}

criterion_group!(benches, requests, streams, bodies, calls);
criterion_main!(benches);
