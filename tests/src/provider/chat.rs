//! `POST /v1/chat/completions`.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    Api,
    bill::Bill,
    control::Control,
    error_body,
    play::{Answer, Frame, pieces},
};

/// 2026-11-23, an arbitrary instant: answers do not read the clock.
pub(super) const CREATED: i64 = 1_795_430_000;

pub(super) fn answer(request: &Value, bill: Bill, control: &Control, id: &str) -> Answer {
    let completion = format!("chatcmpl-{}", id.trim_start_matches("req_"));
    let tool = request["tools"][0]["function"]["name"].as_str();
    if request["stream"].as_bool() == Some(true) {
        let with_usage = request["stream_options"]["include_usage"].as_bool() == Some(true);
        return Answer::Sse(stream(&completion, tool, bill, control, with_usage));
    }
    let choices = request["n"].as_u64().unwrap_or(1).max(1);
    let text: String =
        pieces(bill.output_tokens / choices, control).into_iter().map(|(_, _, text)| text).collect();
    let message = match tool {
        Some(name) => json!({"role": "assistant", "content": null, "refusal": null, "annotations": [],
            "tool_calls": [{"id": format!("call_{completion}"), "type": "function",
                "function": {"name": name, "arguments": json!({"query": text}).to_string()}}]}),
        None => json!({"role": "assistant", "content": text, "refusal": null, "annotations": []}),
    };
    let choices: Vec<Value> = (0..choices)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason(bill, tool)}))
        .collect();
    let mut whole = json!({"id": completion, "object": "chat.completion", "created": CREATED,
        "model": bill.served_model, "choices": choices, "usage": usage(bill), "service_tier": "default",
        "system_fingerprint": "fp_6f7a8b9c0d"});
    if control.no_usage
        && let Some(fields) = whole.as_object_mut()
    {
        fields.remove("usage");
    }
    Answer::Json(whole)
}

fn stream(
    completion: &str,
    tool: Option<&str>,
    bill: Bill,
    control: &Control,
    with_usage: bool,
) -> Vec<Frame> {
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({"id": completion, "object": "chat.completion.chunk", "created": CREATED,
            "model": bill.served_model, "service_tier": "default", "system_fingerprint": "fp_6f7a8b9c0d",
            "choices": choices});
        if with_usage {
            chunk["usage"] = usage;
        }
        Frame::data(&chunk)
    };
    let delta = |delta: Value, finish: Option<&str>| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let failure =
        Frame::data(&error_body(Api::Chat, 500, "The server had an error while processing your request."));
    let first = match tool {
        Some(name) => json!({"role": "assistant", "content": null, "tool_calls": [{"index": 0,
            "id": format!("call_{completion}"), "type": "function", "function": {"name": name, "arguments": ""}}]}),
        None => json!({"role": "assistant", "content": "", "refusal": null}),
    };
    let argument = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    let mut frames = vec![delta(first, None)];
    if tool.is_some() {
        frames.push(delta(argument("{\"query\":\""), None));
    }
    for (number, tokens, text) in pieces(bill.output_tokens, control) {
        let content = if tool.is_some() { argument(&text) } else { json!({"content": text}) };
        frames.push(delta(content, None).carrying(number, tokens, &failure));
    }
    if tool.is_some() {
        frames.push(delta(argument("\"}"), None));
    }
    frames.push(delta(json!({}), Some(reason(bill, tool))));
    if with_usage && !control.no_usage {
        frames.push(chunk(json!([]), usage(bill)));
    }
    frames.push(Frame::whole(Bytes::from_static(b"data: [DONE]\n\n")));
    frames
}

fn reason(bill: Bill, tool: Option<&str>) -> &'static str {
    match (tool, bill.hit_limit) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    }
}

fn usage(bill: Bill) -> Value {
    json!({"prompt_tokens": bill.input_tokens, "completion_tokens": bill.output_tokens,
        "total_tokens": bill.input_tokens + bill.output_tokens,
        "prompt_tokens_details": {"cached_tokens": bill.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0}})
}
