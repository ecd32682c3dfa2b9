//! `POST /v1/messages`.

use serde_json::{Value, json};

use super::{
    Api,
    bill::Bill,
    control::Control,
    error_body,
    play::{Answer, Frame, pieces},
};

pub(super) fn answer(request: &Value, bill: Bill, control: &Control, id: &str) -> Answer {
    let name = id.trim_start_matches("req_");
    let tool = request["tools"][0]["name"].as_str();
    let stop = match (tool, bill.hit_limit) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    };
    let message = json!({"id": format!("msg_{name}"), "type": "message", "role": "assistant",
        "model": bill.served_model, "content": [], "stop_reason": null, "stop_sequence": null});
    if request["stream"].as_bool() == Some(true) {
        return Answer::Sse(stream(message, name, tool, stop, bill, control));
    }
    let text: String = pieces(bill.output_tokens, control).into_iter().map(|(_, _, text)| text).collect();
    let mut whole = message;
    whole["content"] = match tool {
        Some(tool) => json!([{"type": "tool_use", "id": format!("toolu_{name}"), "name": tool,
            "input": {"query": text}}]),
        None => json!([{"type": "text", "text": text}]),
    };
    whole["stop_reason"] = json!(stop);
    if !control.no_usage {
        whole["usage"] = usage(bill, bill.output_tokens);
    }
    Answer::Json(whole)
}

fn stream(
    mut message: Value,
    name: &str,
    tool: Option<&str>,
    stop: &str,
    bill: Bill,
    control: &Control,
) -> Vec<Frame> {
    if !control.no_usage {
        // The real API also starts with a placeholder of a few output tokens.
        message["usage"] = usage(bill, 1);
    }
    let block = match tool {
        Some(tool) => json!({"type": "tool_use", "id": format!("toolu_{name}"), "name": tool, "input": {}}),
        None => json!({"type": "text", "text": ""}),
    };
    let delta = |text: &str| match tool {
        Some(_) => json!({"type": "input_json_delta", "partial_json": text}),
        None => json!({"type": "text_delta", "text": text}),
    };
    let block_delta =
        |text: &str| Frame::event(&json!({"type": "content_block_delta", "index": 0, "delta": delta(text)}));
    let failure = Frame::event(&error_body(Api::Messages, 529, "Overloaded"));
    let mut frames = vec![
        Frame::event(&json!({"type": "message_start", "message": message})),
        Frame::event(&json!({"type": "content_block_start", "index": 0, "content_block": block})),
        Frame::event(&json!({"type": "ping"})),
    ];
    if tool.is_some() {
        frames.push(block_delta("{\"query\": \""));
    }
    for (number, tokens, text) in pieces(bill.output_tokens, control) {
        frames.push(block_delta(&text).carrying(number, tokens, &failure));
    }
    if tool.is_some() {
        frames.push(block_delta("\"}"));
    }
    frames.push(Frame::event(&json!({"type": "content_block_stop", "index": 0})));
    let mut last = json!({"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": null}});
    if !control.no_usage {
        last["usage"] = json!({"output_tokens": bill.output_tokens});
    }
    frames.push(Frame::event(&last));
    frames.push(Frame::event(&json!({"type": "message_stop"})));
    frames
}

/// Anthropic counts cached tokens beside `input_tokens`, not inside.
fn usage(bill: Bill, output_tokens: u64) -> Value {
    json!({"input_tokens": bill.input_tokens - bill.cached_tokens, "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": bill.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": output_tokens, "service_tier": "standard"})
}
