//! Answers that are encoded, and answers that name their own price.

use super::*;
use crate::usage::{Vendor, decode::tests::encode_all};

/// 9 x 150 + 3 x 600 nano-dollars, as [`STREAM`] tells.
const STREAM_COST: Nanos = Nanos(3150);
const JSON: &str = r#"{"model":"gpt-4o-mini","choices":[{"index":0,"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;

fn encoded_head(kind: &str, encoding: &str) -> Headers {
    let mut head = response("200", kind);
    // A list may come in several fields.
    for coding in encoding.split(", ") {
        head.0.push(("content-encoding".into(), coding.into()));
    }
    head
}

/// Sends `body` in chunks as an answer of that encoding; the client must get it untouched.
fn answer(stream: bool, encoding: &str, body: &[u8], chunk_bytes: usize, end: End) -> Closing {
    let (_, mut forwarded) = forward_of(stream);
    let kind = if stream { "text/event-stream" } else { "application/json" };
    forwarded.response_head(&encoded_head(kind, encoding), Origin::Provider, later(5));
    let mut out = Vec::new();
    for chunk in body.chunks(chunk_bytes) {
        out.extend(forwarded.response_body(chunk.to_vec(), false, later(6)));
    }
    out.extend(forwarded.response_body(Vec::new(), end == End::Complete, later(7)));
    assert!(out == body, "{encoding}: the client must get the bytes as they came");
    close(forwarded, end)
}

#[test]
fn an_encoded_answer_passes_untouched_and_is_charged_exactly() {
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, gzip"] {
        for (stream, text) in [(true, STREAM), (false, JSON)] {
            let body = encode_all(encoding, text.as_bytes());
            for chunk_bytes in [1, 10, usize::MAX] {
                let closing = answer(stream, encoding, &body, chunk_bytes, End::Complete);
                assert_eq!(
                    (closing.cost, closing.measurement),
                    (STREAM_COST, Measurement::Exact),
                    "{encoding} {stream}"
                );
                assert!(!closing.system_tags.contains_key("_ns_unread"), "{encoding}");
            }
        }
    }
}

#[test]
fn what_cannot_be_decoded_is_charged_in_full_and_says_why() {
    let hold = forward_of(true).1.stub().held;
    let bomb = encode_all("gzip", &vec![b'\n'; 24 << 20]);
    let cases: [(&str, &[u8], &str); 4] = [
        ("dcz", STREAM.as_bytes(), "unknown_encoding"),
        ("gzip, aws-chunked", STREAM.as_bytes(), "unknown_encoding"),
        ("gzip", STREAM.as_bytes(), "corrupt_encoding"),
        ("gzip", &bomb, "too_large"),
    ];
    for (encoding, body, why) in cases {
        let closing = answer(true, encoding, body, 1000, End::Complete);
        assert_eq!((closing.cost, closing.measurement), (hold, Measurement::Estimated), "{encoding} {why}");
        assert_eq!(closing.system_tags["_ns_unread"], why);
        assert_eq!(closing.system_tags["_ns_whole_hold"], "true");
    }
}

#[test]
fn an_encoded_stream_that_breaks_is_charged_for_what_was_seen_of_it() {
    let hold = forward_of(true).1.stub().held;
    for encoding in ["gzip", "br"] {
        let long: String = (0..5000)
            .map(|n| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"word {n}\"}}}}]}}\n\n"))
            .collect();
        let body = encode_all(encoding, long.as_bytes());
        let closing = answer(true, encoding, &body[..body.len() / 2], 1000, End::Broken);
        assert_eq!(closing.measurement, Measurement::Estimated);
        assert!(closing.cost > Nanos::ZERO && closing.cost <= hold, "{encoding}: {}", closing.cost);
        assert!(
            closing.tokens.output > 0 && !closing.system_tags.contains_key("_ns_whole_hold"),
            "{encoding}"
        );
    }
}

/// An answer of `vendor`, in whose name the call was priced as OpenAI's.
fn routed(policy: Policy, vendor: Vendor, model: &str, usage: &Value) -> Closing {
    let body = json!({"model": model, "max_tokens": 100, "messages": []}).to_string().into_bytes();
    let mut opening = opened(admit(policy, CHAT, &body));
    opening.admitted.call.upstream.vendor = vendor;
    let (_, mut forwarded) = opening.opened(body, NOW);
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, later(10));
    let answer =
        json!({"model": "vendor/some-model", "choices": [{"finish_reason": "stop"}], "usage": usage});
    forwarded.response_body(answer.to_string().into_bytes(), true, later(11));
    close(forwarded, End::Complete)
}

#[test]
fn a_vendor_that_names_its_price_is_charged_at_it_and_others_only_upwards() {
    let mut flat = policy_with(identity());
    flat.put_org(ORG, OrgRule { unpriced_hold: Some(Nanos(5)) });
    // By the table: 1000 x 150 + 10 x 600 nano-dollars.
    let usage =
        |cost: Value| json!({"prompt_tokens": 1000, "completion_tokens": 10, "cost": cost, "is_byok": false});
    let table = Nanos(156_000);
    let cases = [
        (Vendor::OpenRouter, "gpt-4o-mini", json!(0.0001), Nanos(100_000), Measurement::Exact),
        (Vendor::OpenRouter, "gpt-4o-mini", json!(0.5), Nanos(500_000_000), Measurement::Exact),
        (Vendor::OpenRouter, "gpt-4o-mini", json!(0), Nanos::ZERO, Measurement::Exact),
        (Vendor::OpenRouter, "some-model", json!(0.25), Nanos(250_000_000), Measurement::Exact),
        (Vendor::OpenRouter, "some-model", json!("free"), Nanos(5), Measurement::Estimated),
        (Vendor::OpenRouter, "gpt-4o-mini", json!(-1), table, Measurement::Estimated),
        (Vendor::Compatible, "gpt-4o-mini", json!(0.0001), table, Measurement::Estimated),
        (Vendor::Compatible, "gpt-4o-mini", json!(0.5), Nanos(500_000_000), Measurement::Estimated),
        (Vendor::Compatible, "some-model", json!(0.25), Nanos(5), Measurement::Estimated),
    ];
    for (vendor, model, named, cost, measurement) in cases {
        let closing = routed(flat.clone(), vendor, model, &usage(named.clone()));
        assert_eq!((closing.cost, closing.measurement), (cost, measurement), "{vendor:?} {model} {named}");
        let own = closing.system_tags.contains_key("_ns_provider_cost");
        assert_eq!(own, cost != table && cost != Nanos(5), "{vendor:?} {model} {named}");
    }
}
