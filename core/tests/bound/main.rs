//! The bound of text, against tokenizers and against what any tokenizer of its kind can do.

#![allow(clippy::expect_used, clippy::panic, reason = "a test: clippy does not see that its helpers are")]

mod prompts;
mod texts;

use nullspend_core::{
    attempt::Api,
    bound::bound,
    price::{Catalogue, Lookup, Priced},
    request::RequestView,
    tokenizer::{self, Encoding},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

fn priced(api: Api, model: &str) -> Priced {
    let provider = if api == Api::AnthropicMessages { "anthropic" } else { "openai" };
    match Catalogue::shipped().lookup(provider, model, NOW) {
        Lookup::Priced(priced) => priced,
        Lookup::Unpriced => panic!("{model} has no price"),
    }
}

/// By bytes, and counted where that is possible.
fn input_bounds(api: Api, priced: &Priced, body: &str) -> [u64; 2] {
    let mut view = RequestView::parse(api, body.as_bytes()).expect("a valid body");
    let loose = bound(priced, &view).input_tokens;
    if let Some(encoding) = tokenizer::published(priced) {
        view.count_texts(body.as_bytes(), encoding);
    }
    [loose, bound(priced, &view).input_tokens]
}

/// The same JSON with everything outside ASCII escaped, as many clients write it.
fn escaped(body: &str) -> String {
    let mut units = [0; 2];
    let escape = |c: char| match c {
        ' '..='~' => c.to_string(),
        _ => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    body.chars().map(escape).collect()
}

/// A request of each API that holds `text` once in every place where text can stand, with the number of those places
/// and of messages.
fn requests(text: &str) -> [(Api, Value, u64, u64); 3] {
    let schema = json!({"type": "object", "properties": {"q": {"type": "string", "description": text}}});
    let chat = json!({"model": "gpt-4o", "messages": [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": "text", "text": text}]},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}]},
        {"role": "tool", "tool_call_id": "c", "content": text}],
        "tools": [{"type": "function", "function": {"name": "f", "description": text, "parameters": schema}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "description": text, "schema": {}}}});
    let responses = json!({"model": "gpt-4o", "instructions": text, "input": [
        {"role": "user", "content": text},
        {"role": "user", "content": [{"type": "input_text", "text": text}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": text},
        {"type": "function_call_output", "call_id": "c", "output": text}],
        "tools": [{"type": "function", "name": "f", "description": text, "parameters": schema}],
        "text": {"format": {"type": "json_schema", "name": "s", "description": text, "schema": {}}}});
    let messages = json!({"model": "claude-sonnet-5", "max_tokens": 1, "system": [{"type": "text", "text": text}],
        "messages": [
            {"role": "user", "content": text},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {"q": text}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": text},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}}]}],
        "tools": [{"name": "f", "description": text, "input_schema": schema}]});
    [
        (Api::OpenAiChat, chat, 8, 4),
        (Api::OpenAiResponses, responses, 8, 5),
        (Api::AnthropicMessages, messages, 7, 4),
    ]
}

/// What providers add around messages: OpenAI three tokens and the role, and three before the answer.
const PER_MESSAGE: u64 = 8;
const PER_REQUEST: u64 = 8;

/// The least that is true of `text`'s bound in every place, in both ways of writing it.
fn check(name: &str, text: &str, count: impl Fn(Api, &str) -> u64) {
    for (api, body, places, messages) in requests(text) {
        let priced = priced(api, body["model"].as_str().expect("a model"));
        let body = body.to_string();
        let real = places * count(api, text) + messages * PER_MESSAGE + PER_REQUEST;
        for body in [escaped(&body), body] {
            let [loose, tight] = input_bounds(api, &priced, &body);
            assert!(tight <= loose, "{name}: counting never makes more");
            // Beyond its window a provider refuses.
            let most = priced.limits().max_input.unwrap_or(u64::MAX);
            assert!(real.min(most) <= tight, "{name}, {}: {real} > {tight}", api.as_str());
        }
    }
}

/// The model's encoding by an implementation that is not ours; for Claude, whose is not, one token for each byte of normalised text.
fn reference(api: Api, text: &str) -> u64 {
    if api == Api::AnthropicMessages {
        return text.nfkc().map(|c| c.len_utf8() as u64).sum::<u64>().max(text.len() as u64);
    }
    tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64
}

#[test]
fn no_text_has_more_tokens_than_its_bound() {
    for (name, text) in texts::all() {
        check(name, &text, reference);
    }
}

#[test]
fn our_counts_are_the_reference_s() {
    for (name, text) in texts::all() {
        assert_same(name, &text);
    }
}

fn assert_same(name: &str, text: &str) {
    let o200k = tiktoken_rs::o200k_base_singleton().encode_ordinary(text).len() as u64;
    let cl100k = tiktoken_rs::cl100k_base_singleton().encode_ordinary(text).len() as u64;
    assert_eq!([Encoding::O200k.count(text), Encoding::Cl100k.count(text)], [o200k, cl100k], "{name}");
    assert!(o200k.max(cl100k) <= text.len() as u64, "{name}: a token for each byte is the most");
}

fn text() -> impl Strategy<Value = String> {
    let texts = texts::all();
    let piece = prop_oneof![
        any::<String>(),
        "[a-z0-9]{0,40}",
        "[\\x00-\\x7f]{0,40}",
        prop::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter),
        (prop::sample::select(texts), any::<prop::sample::Index>(), 0..200_usize).prop_map(
            |((_, text), at, len)| { text.chars().skip(at.index(text.len() + 1)).take(len).collect() }
        ),
    ];
    prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_random_text_has_more_tokens_than_its_bound(text in text()) {
        check("random", &text, reference);
        assert_same("random", &text);
    }
}
