use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    cost::cost,
    price::{Catalogue, Lookup},
    usage::{ServedTier, Usage},
};

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

fn priced(provider: &str, model: &str) -> Priced {
    match Catalogue::shipped().lookup(provider, model, NOW) {
        Lookup::Priced(priced) => priced,
        Lookup::Unpriced => panic!("{model} has no price"),
    }
}

fn of(provider: &str, api: Api, body: &Value) -> (Priced, RequestView, Bound) {
    let view = RequestView::parse(api, body.to_string().as_bytes()).unwrap();
    let priced = priced(provider, &view.model);
    let bound = bound(&priced, &view);
    (priced, view, bound)
}

#[test]
fn text_is_bounded_by_its_bytes_and_output_by_the_requests_limit() {
    let body = json!({"model": "gpt-4o", "max_tokens": 100, "n": 2, "messages": [{"role": "user", "content": "hello"}]});
    let (_, view, bound) = of("openai", Api::OpenAiChat, &body);
    assert_eq!(bound.input_tokens, view.body_bytes + FRAMING_TOKENS);
    assert_eq!(bound.output_tokens, 200);
    assert_eq!(bound.cost.0, i64::try_from(bound.input_tokens).unwrap() * 2500 + 200 * 10_000);
}

#[test]
fn limits_clamp_before_they_multiply() {
    let body = json!({"model": "gpt-4o", "max_tokens": i64::MAX, "n": 3});
    assert_eq!(of("openai", Api::OpenAiChat, &body).2.output_tokens, 3 * 16_384);
    let none = json!({"model": "gpt-5"});
    assert_eq!(of("openai", Api::OpenAiChat, &none).2.output_tokens, 128_000);
    let many = json!({"model": "o1-pro", "n": i64::MAX});
    assert_eq!(of("openai", Api::OpenAiChat, &many).2.cost, Nanos(crate::money::MAX_TOTAL_NANOS));
    let long = json!({"model": "gpt-4o", "messages": "x".repeat(300_000)});
    assert_eq!(of("openai", Api::OpenAiChat, &long).2.input_tokens, 128_000, "the window is the most");
}

#[test]
fn what_the_body_does_not_show_is_bounded_by_the_window() {
    for body in [
        json!({"model": "gpt-4.1", "input": "x", "previous_response_id": "r"}),
        json!({"model": "gpt-4.1", "input": "x", "conversation": "c"}),
        json!({"model": "gpt-4.1", "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}),
        json!({"model": "gpt-4.1", "input": [{"type": "item_reference", "id": "i"}]}),
    ] {
        assert_eq!(of("openai", Api::OpenAiResponses, &body).2.input_tokens, 1_047_576, "{body}");
    }
    // A stored prompt may bring tools along, and each step of theirs reads the window again.
    let stored = json!({"model": "gpt-4.1", "prompt": {"id": "p"}});
    assert!(of("openai", Api::OpenAiResponses, &stored).2.input_tokens > 1_047_576);
}

#[test]
fn a_hosted_tool_multiplies_the_input_and_adds_its_fees() {
    let body = json!({"model": "gpt-4o", "input": "x", "max_output_tokens": 10, "max_tool_calls": 2, "tools": [{"type": "web_search"}]});
    let (_, view, bound) = of("openai", Api::OpenAiResponses, &body);
    assert_eq!(bound.input_tokens, view.body_bytes + FRAMING_TOKENS + 2 * 128_000);
    assert_eq!(bound.output_tokens, 10, "the limit holds for all steps together");
    let tokens = i64::try_from(bound.input_tokens).unwrap() * 2500 + 10 * 10_000;
    assert_eq!(bound.cost.0, tokens + 2 * 25_000_000);
}

#[test]
fn an_image_costs_its_cap_and_not_its_bytes() {
    let url = format!("data:image/png;base64,{}", "A".repeat(60_000));
    let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]});
    let (_, view, bound) = of("openai", Api::OpenAiChat, &body);
    assert_eq!(bound.input_tokens, view.body_bytes - url.len() as u64 + 1500 + FRAMING_TOKENS);
}

#[test]
fn an_image_whose_size_shows_costs_what_its_size_does() {
    use base64::Engine as _;
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x03\xe8\0\0\x03\xe8".as_slice(), &[0; 3000]].concat();
    let data = base64::engine::general_purpose::STANDARD.encode(png);
    let source = json!({"type": "base64", "media_type": "image/png", "data": data});
    let image = json!({"type": "image", "source": source});
    let body = json!({"model": "claude-opus-5", "max_tokens": 1, "messages": [{"role": "user", "content": [image, image]}]});
    let (_, view, bound) = of("anthropic", Api::AnthropicMessages, &body);
    let text = view.body_bytes - 2 * data.len() as u64;
    assert_eq!(bound.input_tokens, text + 2 * 1334 + FRAMING_TOKENS);
}

#[test]
fn a_recording_costs_its_time_and_not_its_bytes() {
    use base64::Engine as _;
    let second = [
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".as_slice(),
        &[0; 32_000],
    ];
    let data = base64::engine::general_purpose::STANDARD.encode(second.concat());
    let part = json!({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}});
    let body =
        json!({"model": "gpt-audio", "max_tokens": 1, "messages": [{"role": "user", "content": [part]}]});
    let (_, view, bound) = of("openai", Api::OpenAiChat, &body);
    let audio = view.media.audio_tokens;
    assert!((100..110).contains(&audio), "{audio}");
    assert_eq!(bound.input_tokens, view.body_bytes - data.len() as u64 + audio + FRAMING_TOKENS);
    let odd = body.to_string().replace(&data, "AAAA");
    let view = RequestView::parse(Api::OpenAiChat, odd.as_bytes()).unwrap();
    assert_eq!(super::bound(&priced("openai", "gpt-audio"), &view).input_tokens, 128_000, "the window");
}

#[test]
fn what_an_output_limit_does_not_hold_for_is_added() {
    let output = |provider, api, body: Value| of(provider, api, &body).2.output_tokens;
    let chat = json!({"model": "gpt-4o", "max_tokens": 10, "prediction": {"type": "content", "content": "x".repeat(500)}});
    assert!(output("openai", Api::OpenAiChat, chat) > 510, "wrong predictions are billed as output");
    let compact = json!({"model": "claude-opus-5", "max_tokens": 10, "context_management": {"edits": [{"type": "compact_20260112"}]}});
    let longest = priced("anthropic", "claude-opus-5").limits().max_output.unwrap();
    assert_eq!(output("anthropic", Api::AnthropicMessages, compact), 10 + DEFAULT_STEPS * longest);
}

#[test]
fn an_advisor_is_bounded_at_its_own_price_and_length() {
    let cost = |tool: Value| {
        let body =
            json!({"model": "claude-haiku-5-5", "max_tokens": 1, "inference_geo": "global", "tools": [tool]});
        of("anthropic", Api::AnthropicMessages, &body).2.cost
    };
    let advisor =
        json!({"type": "advisor_20260301", "name": "advisor", "model": "claude-mythos-5", "max_uses": 1});
    let mythos = priced("anthropic", "claude-mythos-5");
    let rates = mythos.standard().rates;
    let (input, output) = (rates.billed(Class::Input).0, rates.billed(Class::Output).0);
    let limits = mythos.limits();
    let once = limits.max_input.max(limits.context).unwrap() * input + limits.max_output.unwrap() * output;
    assert!(cost(advisor.clone()).0 >= i64::try_from(once / 1000).unwrap());
    let mut short = advisor;
    short["max_tokens"] = json!(1000);
    let saved = (limits.max_output.unwrap() - 1000) * output;
    assert!(cost(short).0 <= i64::try_from((once - saved) / 1000).unwrap() * 2);
}

#[test]
fn a_project_s_own_default_tier_can_be_assumed() {
    let cost = |assume, tier: Value| {
        let body = json!({"model": "gpt-4o", "max_tokens": 10, "service_tier": tier}).to_string();
        let mut view = RequestView::parse(Api::OpenAiChat, body.as_bytes()).unwrap();
        // The same length for every tier.
        (view.body_bytes, view.assume_priority) = (100, assume);
        super::bound(&priced("openai", "gpt-4o"), &view).cost
    };
    let (standard, priority) = (cost(false, json!("default")), cost(false, json!("priority")));
    assert!(priority > standard);
    for (assume, tier, expected) in [
        (false, json!(null), standard),
        (false, json!("auto"), standard),
        (true, json!(null), priority),
        (true, json!("auto"), priority),
        (true, json!("default"), standard),
        (true, json!("flex"), standard),
    ] {
        assert_eq!(cost(assume, tier.clone()), expected, "{assume} {tier}");
    }
}

#[test]
fn what_a_chat_s_search_finds_is_input() {
    let body = json!({"model": "gpt-5-search-api", "messages": []});
    assert!(of("openai", Api::OpenAiChat, &body).2.input_tokens > 272_000);
    let preview = json!({"model": "gpt-4o-search-preview", "messages": []});
    assert!(of("openai", Api::OpenAiChat, &preview).2.input_tokens < 1000, "its fee includes the findings");
}

#[test]
fn caching_and_geography_are_taken_at_their_dearest() {
    let cost = |extra: Value| {
        let mut body = json!({"model": "claude-opus-4-6", "max_tokens": 1, "messages": [{"role": "user", "content": "x".repeat(10_000)}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        of("anthropic", Api::AnthropicMessages, &body).2.cost.0 as f64
    };
    let plain = cost(json!({"inference_geo": "global"}));
    assert!((cost(json!({})) / plain - 1.1).abs() < 0.01);
    let short = cost(json!({"inference_geo": "global", "cache_control": {"type": "ephemeral"}}));
    assert!((short / plain - 1.25).abs() < 0.02);
    let long = cost(json!({"inference_geo": "global", "cache_control": {"type": "ephemeral", "ttl": "1h"}}));
    assert!((long / plain - 2.0).abs() < 0.03);
}

fn case() -> impl Strategy<Value = (Priced, Api)> {
    let all: Vec<_> = [
        ("openai", Api::OpenAiChat),
        ("openai", Api::OpenAiResponses),
        ("anthropic", Api::AnthropicMessages),
    ]
    .iter()
    .flat_map(|(provider, api)| {
        Catalogue::shipped().priced_at(provider, NOW).map(|priced| (priced, *api)).collect::<Vec<_>>()
    })
    .collect();
    prop::sample::select(all)
}

fn body() -> impl Strategy<Value = Value> {
    let tier = prop::sample::select(vec![
        json!(null),
        json!("auto"),
        json!("default"),
        json!("flex"),
        json!("priority"),
        json!("odd"),
    ]);
    let cache = prop::sample::select(vec![
        json!(null),
        json!({"type": "ephemeral"}),
        json!({"type": "ephemeral", "ttl": "1h"}),
    ]);
    let tools = prop::sample::select(vec![
        json!([]),
        json!([{"type": "web_search"}]),
        json!([{"type": "web_search_20250305", "name": "web_search"}]),
    ]);
    let geo = prop::sample::select(vec![json!(null), json!("us"), json!("global")]);
    (tier, cache, tools, geo, 0..400_000_usize, prop::option::of(0..200_000_u64), 1..4_u64).prop_map(
        |(tier, cache, tools, geo, text, limit, n)| {
            let mut body = json!({"messages": "x".repeat(text), "service_tier": tier, "tools": tools, "inference_geo": geo, "n": n,
                "max_tokens": limit, "max_output_tokens": limit, "stream": true});
            if !cache.is_null() {
                body["cache_control"] = cache;
            }
            body
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the provider may report of a request within its bound costs no more than the bound.
    #[test]
    fn no_possible_usage_costs_more_than_the_bound(
        (priced, api) in case(), mut body in body(), shares in prop::collection::vec(0.0..1.0_f64, 8), served in 0..3_u8,
    ) {
        body["model"] = json!(priced.model().id());
        let view = RequestView::parse(api, body.to_string().as_bytes()).unwrap();
        let bound = bound(&priced, &view);
        let mut left = bound.input_tokens;
        let mut used = Usage { prompt: (bound.input_tokens as f64 * shares[6]) as u64, ..Usage::default() };
        let classes = match api {
            Api::AnthropicMessages if view.cache == CacheAsked::Long => {
                vec![Class::CachedInput, Class::CacheWrite5m, Class::CacheWrite1h, Class::Input]
            }
            Api::AnthropicMessages if view.cache == CacheAsked::Short => vec![Class::CachedInput, Class::CacheWrite5m, Class::Input],
            Api::AnthropicMessages => vec![Class::CachedInput, Class::Input],
            _ => vec![Class::CachedInput, Class::CacheWrite30m, Class::Input],
        };
        for (class, share) in classes.into_iter().zip(&shares) {
            let tokens = (left as f64 * share) as u64;
            used.counts.add(class, tokens);
            left -= tokens;
        }
        used.counts.add(Class::Output, (bound.output_tokens as f64 * shares[7]) as u64);
        used.geo_us = view.inference_geo.as_deref() != Some("global");
        // Chat has no hosted tools.
        used.tools.web_searches = if view.hosted.is_empty() || api == Api::OpenAiChat { 0 } else { 3 };
        used.tier = match (served, view.service_tier.as_deref()) {
            (1, Some("flex")) => ServedTier::Known(Tier::Flex),
            (1 | 2, Some("priority" | "odd")) => ServedTier::Known(Tier::Priority),
            _ => ServedTier::default(),
        };
        let charged = cost(&priced, &used, &CostContext::of(&view)).nanos;
        prop_assert!(charged <= bound.cost, "{} > {} for {} {:?}", charged, bound.cost, priced.id(), used);
    }
}
