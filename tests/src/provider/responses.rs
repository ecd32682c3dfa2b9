//! `POST /v1/responses`.

use serde_json::{Value, json};

use super::{
    bill::Bill,
    chat::CREATED,
    control::Control,
    play::{Answer, Frame, pieces},
};

pub(super) fn answer(request: &Value, bill: Bill, control: &Control, id: &str) -> Answer {
    let name = id.trim_start_matches("req_");
    let shell = Shell { request, bill, id: format!("resp_{name}"), usage: !control.no_usage };
    let text: String = pieces(bill.output_tokens, control).into_iter().map(|(_, _, text)| text).collect();
    let tool = request["tools"][0]["name"].as_str();
    let item = match tool {
        Some(tool) => json!({"id": format!("fc_{name}"), "type": "function_call", "status": "completed",
            "call_id": format!("call_{name}"), "name": tool, "arguments": json!({"query": text}).to_string()}),
        None => {
            json!({"id": format!("msg_{name}"), "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "annotations": [], "logprobs": [], "text": text}]})
        }
    };
    if request["stream"].as_bool() == Some(true) {
        Answer::Sse(stream(&shell, &item, control))
    } else {
        Answer::Json(shell.ended(&item))
    }
}

/// What the response object repeats in every state.
struct Shell<'a> {
    request: &'a Value,
    bill: Bill,
    id: String,
    usage: bool,
}

impl Shell<'_> {
    fn object(&self, status: &str, output: &Value, usage: &Value, tier: &str) -> Value {
        let tools = if self.request["tools"].is_array() { self.request["tools"].clone() } else { json!([]) };
        let incomplete =
            if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
        json!({"id": self.id, "object": "response", "created_at": CREATED, "status": status, "background": false,
            "error": null, "incomplete_details": incomplete, "instructions": self.request["instructions"],
            "max_output_tokens": self.request["max_output_tokens"], "model": self.bill.served_model,
            "output": output, "parallel_tool_calls": true, "previous_response_id": null, "service_tier": tier,
            "store": true, "temperature": 1.0, "tool_choice": "auto", "tools": tools, "top_p": 1.0,
            "truncation": "disabled", "usage": usage, "metadata": {}})
    }

    fn begun(&self) -> Value {
        self.object("in_progress", &json!([]), &Value::Null, "auto")
    }

    fn ended(&self, item: &Value) -> Value {
        let status = if self.bill.hit_limit { "incomplete" } else { "completed" };
        let usage = json!({"input_tokens": self.bill.input_tokens,
            "input_tokens_details": {"cached_tokens": self.bill.cached_tokens},
            "output_tokens": self.bill.output_tokens, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.bill.input_tokens + self.bill.output_tokens});
        self.object(status, &json!([item]), if self.usage { &usage } else { &Value::Null }, "default")
    }
}

fn stream(shell: &Shell<'_>, item: &Value, control: &Control) -> Vec<Frame> {
    let mut events: Vec<(Value, Option<(u64, u64)>)> = Vec::new();
    let mut say = |event: Value, chunk: Option<(u64, u64)>| events.push((event, chunk));
    let call = item["type"] == "function_call";
    let item_id = &item["id"];
    say(json!({"type": "response.created", "response": shell.begun()}), None);
    say(json!({"type": "response.in_progress", "response": shell.begun()}), None);
    let mut added = item.clone();
    added["status"] = json!("in_progress");
    added[if call { "arguments" } else { "content" }] = if call { json!("") } else { json!([]) };
    say(json!({"type": "response.output_item.added", "output_index": 0, "item": added}), None);
    if !call {
        let part = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": ""});
        say(
            json!({"type": "response.content_part.added", "item_id": item_id, "output_index": 0, "content_index": 0,
            "part": part}),
            None,
        );
    }
    for (number, tokens, text) in pieces(shell.bill.output_tokens, control) {
        let event = if call {
            json!({"type": "response.function_call_arguments.delta", "item_id": item_id, "output_index": 0,
                "delta": text})
        } else {
            json!({"type": "response.output_text.delta", "item_id": item_id, "output_index": 0, "content_index": 0,
                "delta": text, "logprobs": []})
        };
        say(event, Some((number, tokens)));
    }
    if call {
        say(
            json!({"type": "response.function_call_arguments.done", "item_id": item_id, "output_index": 0,
            "name": item["name"], "arguments": item["arguments"]}),
            None,
        );
    } else {
        let part = &item["content"][0];
        say(
            json!({"type": "response.output_text.done", "item_id": item_id, "output_index": 0, "content_index": 0,
            "text": part["text"], "logprobs": []}),
            None,
        );
        say(
            json!({"type": "response.content_part.done", "item_id": item_id, "output_index": 0, "content_index": 0,
            "part": part}),
            None,
        );
    }
    say(json!({"type": "response.output_item.done", "output_index": 0, "item": item}), None);
    let last = if shell.bill.hit_limit { "response.incomplete" } else { "response.completed" };
    say(json!({"type": last, "response": shell.ended(item)}), None);
    numbered(events)
}

fn numbered(events: Vec<(Value, Option<(u64, u64)>)>) -> Vec<Frame> {
    let number = |sequence: usize, mut event: Value| {
        event["sequence_number"] = json!(sequence);
        Frame::event(&event)
    };
    let frames = events.into_iter().enumerate().map(|(sequence, (event, chunk))| {
        let Some((chunk, tokens)) = chunk else { return number(sequence, event) };
        let failure = json!({"type": "error", "code": "server_error", "param": null,
            "message": "The server had an error while processing your request."});
        number(sequence, event).carrying(chunk, tokens, &number(sequence, failure))
    });
    frames.collect()
}
