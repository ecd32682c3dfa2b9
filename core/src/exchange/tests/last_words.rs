//! The valid end of a stream that is cut, in each API's own words.

use super::{
    increments::{Budgeted, streaming},
    *,
};
use crate::{attempt::Api, exchange::last_words::LastWords};

/// The events of ours, after `pieces` of the provider's passed and the next was refused.
fn ours(path: &str, pieces: &[Value]) -> Vec<Value> {
    let named = |event: &Value| match event["type"].as_str() {
        Some(name) => format!("event: {name}\ndata: {event}\n\n"),
        None => format!("data: {event}\n\n"),
    };
    let forwarded = streaming(path);
    let room = forwarded.stub().held;
    let mut stream = Budgeted::new(forwarded, room);
    for piece in pieces {
        stream.push(named(piece).as_bytes(), false);
        assert!(!stream.cut, "{piece} fits");
    }
    let long = "long ".repeat(2000);
    let last = match path {
        CHAT => json!({"choices": [{"index": 0, "delta": {"content": long}}]}),
        "/v1/responses" => {
            json!({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": long})
        }
        _ => {
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": long}})
        }
    };
    stream.push(named(&last).as_bytes(), false);
    assert!(stream.cut);
    let sent = String::from_utf8(stream.sent).unwrap();
    assert!(!sent.contains("long"), "what was not paid for did not pass");
    let (_, ours) = sent.split_once(": nullspend ").expect("the mark");
    let (mark, ours) = ours.split_once("\n\n").unwrap();
    assert_eq!(serde_json::from_str::<Value>(mark).unwrap()["code"], "budget_exceeded");
    let mut events = Vec::new();
    crate::sse::Events::default().push_all(ours.as_bytes(), |data| {
        events.push(serde_json::from_slice(data).unwrap_or_else(|_| json!(String::from_utf8_lossy(data))));
    });
    events
}

#[test]
fn chat_ends_every_open_choice_by_length_and_says_done() {
    let chunk = |choices: Value| json!({"id": "c9", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": choices});
    let said = ours(
        CHAT,
        &[
            chunk(json!([{"index": 0, "delta": {"content": "a"}}])),
            chunk(json!([{"index": 1, "delta": {"content": "b"}}])),
            chunk(json!([{"index": 1, "delta": {}, "finish_reason": "stop"}])),
        ],
    );
    let end = json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"});
    assert_eq!(said, [chunk(json!([end])), json!("[DONE]")]);
}

#[test]
fn chat_that_only_owes_its_usage_just_says_done() {
    let finished = json!({"id": "c9", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    assert_eq!(ours(CHAT, &[finished]), [json!("[DONE]")]);
}

#[test]
fn responses_end_incomplete_with_what_was_written() {
    let path = "/v1/responses";
    let response =
        json!({"id": "r1", "object": "response", "created_at": 7, "status": "in_progress", "output": []});
    let message = |status: &str, content: Value| json!({"id": "m1", "type": "message", "status": status, "content": content});
    let part = |text: &str| json!({"type": "output_text", "text": text});
    let said = ours(
        path,
        &[
            json!({"type": "response.created", "sequence_number": 0, "response": response}),
            json!({"type": "response.output_item.added", "sequence_number": 1, "output_index": 0, "item": message("in_progress", json!([]))}),
            json!({"type": "response.content_part.added", "sequence_number": 2, "output_index": 0, "content_index": 0, "part": part("")}),
            json!({"type": "response.output_text.delta", "sequence_number": 3, "output_index": 0, "content_index": 0, "delta": "Hé"}),
            json!({"type": "response.output_text.delta", "sequence_number": 4, "output_index": 0, "content_index": 0, "delta": "llo"}),
        ],
    );
    let written = message("incomplete", json!([part("Héllo")]));
    let mut ended = response;
    ended["status"] = json!("incomplete");
    ended["incomplete_details"] = json!({"reason": "max_output_tokens"});
    ended["output"] = json!([written]);
    assert_eq!(
        said,
        [
            json!({"type": "response.output_item.done", "sequence_number": 5, "output_index": 0, "item": written}),
            json!({"type": "response.incomplete", "sequence_number": 6, "response": ended}),
        ]
    );
}

#[test]
fn items_that_are_not_what_the_api_says_are_survived() {
    let mut words = LastWords::new(Api::OpenAiResponses);
    let mut hear = |event: Value| words.heard(format!("data: {event}\n\n").as_bytes());
    hear(json!({"type": "response.created", "response": "x"}));
    let odd = [json!("x"), json!({"content": ["x"]}), json!({"content": "x"}), json!(7)];
    let kinds = ["content_part.added", "output_text.delta", "refusal.delta", "function_call_arguments.delta"];
    for (index, item) in (0..).zip(odd) {
        let index: u64 = index;
        hear(json!({"type": "response.output_item.added", "output_index": index, "item": item}));
        for kind in kinds {
            let kind = format!("response.{kind}");
            hear(json!({"type": kind, "output_index": index, "delta": "d", "part": 1}));
        }
    }
    let said = String::from_utf8(words.say(|| 0, 0)).unwrap();
    assert_eq!(said.matches("event: ").count(), 5, "the end of each item, and of the response: {said}");
}

#[test]
fn messages_close_their_open_block_and_stop_at_max_tokens() {
    let start = |index: u64| json!({"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}});
    let usage = json!({"input_tokens": 9, "output_tokens": 1});
    let said = ours(
        "/v1/messages",
        &[
            json!({"type": "message_start", "message": {"id": "m1", "type": "message", "model": "claude-haiku-4-5", "content": [], "usage": usage}}),
            start(0),
            json!({"type": "content_block_stop", "index": 0}),
            start(1),
            json!({"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Hello there"}}),
        ],
    );
    assert_eq!(said[0], json!({"type": "content_block_stop", "index": 1}));
    assert_eq!(said[1]["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert!(said[1]["usage"]["output_tokens"].as_u64().is_some_and(|tokens| tokens > 2), "{said:?}");
    assert_eq!(said[2..], [json!({"type": "message_stop"})]);
}
