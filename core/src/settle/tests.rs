use serde_json::{Value, json};

use super::*;
use crate::{
    attempt::Api,
    bound::bound,
    price::{Catalogue, Lookup},
    usage::{BodyKind, Meter},
};

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

struct Call {
    priced: Priced,
    view: RequestView,
    bound: Bound,
    body: Vec<u8>,
}

fn call(provider: &str, api: Api, body: &Value) -> Call {
    let body = body.to_string().into_bytes();
    let view = RequestView::parse(api, &body).unwrap();
    let Lookup::Priced(priced) = Catalogue::shipped().lookup(provider, &view.model, NOW) else {
        panic!("no price")
    };
    let bound = bound(&priced, &view);
    Call { priced, view, bound, body }
}

fn chat(model: &str) -> Call {
    let body = json!({"model": model, "stream": true, "max_tokens": 1000, "messages": [{"role": "user", "content": "Tell me a story."}]});
    call("openai", Api::OpenAiChat, &body)
}

impl Call {
    fn settle(&self, kind: BodyKind, answer: &str) -> Charge {
        let mut meter = Meter::new(self.view.api, self.priced.provider(), kind);
        meter.push(answer.as_bytes());
        let prompt = prompt_tokens(&self.priced, &self.view, &self.body);
        settle(&self.priced, &self.view, &self.bound, self.bound.cost, &meter.finish(), prompt)
    }

    fn stream(&self, frames: &[&str]) -> Charge {
        self.settle(
            BodyKind::Sse,
            &frames.iter().map(|frame| format!("data: {frame}\n\n")).collect::<String>(),
        )
    }
}

#[test]
fn a_fine_tune_at_its_base_models_price_is_no_exact_cost() {
    let end = r#"{"choices":[],"usage":{"prompt_tokens":8,"completion_tokens":3}}"#;
    let of = |model| chat(model).stream(&[end]);
    let (tuned, base) = (of("ft:gpt-4o-mini-2024-07-18:acme::x"), of("gpt-4o-mini"));
    assert_eq!((tuned.measurement, base.measurement), (Measurement::Estimated, Measurement::Exact));
    assert_eq!((tuned.cost.nanos, tuned.whole_hold), (base.cost.nanos, false));
}

fn is_whole_hold(call: &Call, charge: &Charge) {
    assert_eq!(
        (charge.cost.nanos, charge.measurement, charge.whole_hold),
        (call.bound.cost, Measurement::Estimated, true)
    );
    let parts = charge.cost.parts;
    assert_eq!(parts.input + parts.cached + parts.output + parts.fees, call.bound.cost);
}

const TEXT: &str = r#"{"choices":[{"index":0,"delta":{"content":"Once upon a time there was a fox."}}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":9}}"#;

#[test]
fn final_usage_is_charged_exactly() {
    let call = chat("gpt-4o");
    let charge = call.stream(&[TEXT, USAGE, "[DONE]"]);
    assert_eq!((charge.cost.nanos, charge.measurement), (Nanos(11 * 2500 + 9 * 10_000), Measurement::Exact));
}

#[test]
fn a_stream_cut_in_visible_text_is_charged_for_what_was_seen() {
    let call = chat("gpt-4o");
    let charge = call.stream(&[TEXT]);
    assert_eq!((charge.measurement, charge.whole_hold), (Measurement::Estimated, false));
    // 9 tokens of text, and framing; the prompt by the count of its whole JSON.
    assert_eq!(charge.cost.tokens.output, 9 + 8);
    assert!(charge.cost.tokens.input >= 11 && charge.cost.tokens.input < 60, "{:?}", charge.cost.tokens);
    assert!(charge.cost.nanos < call.bound.cost);
    let longer = call.stream(&[TEXT, TEXT]);
    assert!(longer.cost.nanos > charge.cost.nanos);
}

#[test]
fn what_may_hide_output_is_charged_the_whole_hold() {
    let thinker = chat("gpt-5");
    is_whole_hold(&thinker, &thinker.stream(&[TEXT]));
    let call = chat("gpt-4o");
    is_whole_hold(&call, &call.stream(&[]));
    is_whole_hold(&call, &call.stream(&[r#"{"choices":[{"delta":{"role":"assistant"}}]}"#]));
    let plain = json!({"model": "gpt-4o", "max_tokens": 10, "messages": []});
    let plain = self::call("openai", Api::OpenAiChat, &plain);
    is_whole_hold(&plain, &plain.settle(BodyKind::Json, r#"{"choices":[{"message":{"content":"Once"#));
    let searching = json!({"model": "gpt-4o", "stream": true, "input": "x", "max_tool_calls": 1, "tools": [{"type": "web_search"}]});
    let searching = self::call("openai", Api::OpenAiResponses, &searching);
    is_whole_hold(&searching, &searching.stream(&[r#"{"type":"response.output_text.delta","delta":"Hi"}"#]));
    assert_eq!(unseen(Nanos(7)).cost.nanos, Nanos(7));
}

#[test]
fn an_answer_without_usage_is_counted_from_its_text() {
    let body = json!({"model": "gpt-4o", "max_tokens": 1000, "messages": []});
    let call = call("openai", Api::OpenAiChat, &body);
    let charge = call.settle(
        BodyKind::Json,
        r#"{"choices":[{"message":{"content":"Once upon a time there was a fox."},"finish_reason":"stop"}]}"#,
    );
    assert_eq!(
        (charge.measurement, charge.whole_hold, charge.cost.tokens.output),
        (Measurement::Estimated, false, 17)
    );
}

#[test]
fn whatever_of_an_answer_was_seen_is_counted_when_the_stream_breaks() {
    let call = chat("gpt-4o");
    let said = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
    let words = "a story about a fox and a hound that met in a wood";
    let tokens = i64::try_from(crate::tokenizer::count(words)).unwrap();
    for (delta, calls) in [
        (format!(r#"{{"content":"{words}"}}"#), 0),
        (format!(r#"{{"refusal":"{words}"}}"#), 0),
        (format!(r#"{{"reasoning_content":"{words}"}}"#), 0),
        (format!(r#"{{"content":[{{"type":"text","text":"{words}"}}]}}"#), 0),
        (format!(r#"{{"tool_calls":[{{"index":0,"function":{{"arguments":"{words}"}}}}]}}"#), 0),
        (format!(r#"{{"tool_calls":[{{"id":"t","function":{{"name":"{words}","arguments":""}}}}]}}"#), 1),
        (format!(r#"{{"function_call":{{"arguments":"{words}"}}}}"#), 0),
    ] {
        let charge = call.stream(&[&said(&delta)]);
        assert_eq!((charge.measurement, charge.whole_hold), (Measurement::Estimated, false), "{delta}");
        assert_eq!(charge.cost.tokens.output, tokens + 8 * (1 + calls), "{delta}");
    }
}

#[test]
fn zeros_beside_an_answer_are_not_believed() {
    let call = chat("gpt-4o");
    let zeros = r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#;
    let prompt_only = r#"{"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":0}}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    for frames in [vec![TEXT, end, zeros, "[DONE]"], vec![zeros, TEXT], vec![prompt_only, TEXT, end]] {
        let charge = call.stream(&frames);
        assert_eq!((charge.measurement, charge.whole_hold), (Measurement::Estimated, false), "{frames:?}");
        assert_eq!(charge.cost.tokens.output, 9 + 8, "{frames:?}");
        assert!(charge.cost.tokens.input >= 11, "{frames:?}");
    }
}

#[test]
fn the_input_that_anthropic_told_is_kept_and_its_placeholder_is_not() {
    let body = json!({"model": "claude-sonnet-4-6", "stream": true, "max_tokens": 1000, "messages": [{"role": "user", "content": "x"}]});
    let call = call("anthropic", Api::AnthropicMessages, &body);
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}}}"#;
    let delta = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Once upon a time there was a fox."}}"#;
    let charge = call.stream(&[start, delta]);
    assert_eq!((charge.cost.tokens.input, charge.cost.tokens.cached_input), (15, 5));
    assert_eq!(charge.cost.tokens.output, (9_i64 * 220 + 99) / 100 + 8);
    let held = call.stream(&[start]);
    is_whole_hold(&call, &held);
    assert_eq!(held.cost.tokens.input, 15);
}

#[test]
fn an_estimate_never_exceeds_the_hold() {
    let mut call = chat("gpt-4o");
    let text = format!(r#"{{"choices":[{{"delta":{{"content":"{}"}}}}]}}"#, "many words ".repeat(3000));
    let charge = call.stream(&[&text]);
    assert!(charge.cost.nanos <= call.bound.cost && charge.cost.tokens.output <= 1000);
    call.bound.output_tokens = u64::MAX;
    let charge = call.stream(&[&text]);
    assert_eq!(charge.cost.nanos, call.bound.cost);
    let parts = charge.cost.parts;
    assert_eq!(parts.input + parts.cached + parts.output + parts.fees, call.bound.cost);
}
