//! The valid end of a stream that is cut: the events with which its API itself says that an answer reached its limit.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{attempt::Api, sse::Events};

/// Listens to a stream, so as to be able to end it.
#[derive(Debug)]
pub(super) struct LastWords {
    /// The API's own end passed already.
    ended: bool,
    heard: Heard,
}

#[derive(Debug)]
enum Heard {
    Chat(Chat),
    Responses(Responses),
    Messages(Messages),
}

#[derive(Debug, Default)]
struct Chat {
    /// The first chunk without its choices: the frame of ours.
    chunk: Option<Value>,
    /// Whether each choice said why it stopped.
    choices: BTreeMap<u64, bool>,
}

#[derive(Debug, Default)]
struct Responses {
    response: Option<Value>,
    sequence: u64,
    /// Output items by index, and whether each is done.
    items: BTreeMap<u64, (Value, bool)>,
}

#[derive(Debug, Default)]
struct Messages {
    /// Whether each content block is still open.
    blocks: BTreeMap<u64, bool>,
}

impl LastWords {
    pub(super) fn new(api: Api) -> Self {
        let heard = match api {
            Api::OpenAiChat => Heard::Chat(Chat::default()),
            Api::OpenAiResponses => Heard::Responses(Responses::default()),
            Api::AnthropicMessages => Heard::Messages(Messages::default()),
        };
        Self { ended: false, heard }
    }

    /// An event passed.
    pub(super) fn heard(&mut self, event: &[u8]) {
        Events::default().push_all(event, |data| {
            self.ended |= data.trim_ascii() == b"[DONE]";
            let Ok(data) = serde_json::from_slice::<Value>(data) else { return };
            self.ended |= match &mut self.heard {
                Heard::Chat(chat) => chat.heard(data),
                Heard::Responses(responses) => responses.heard(&data),
                Heard::Messages(messages) => messages.heard(&data),
            };
        });
    }

    /// The end. `output_tokens` counts those that were seen, which takes its time and only one API needs; `now_s` is Unix
    /// time.
    pub(super) fn say(&mut self, output_tokens: impl FnOnce() -> u64, now_s: i64) -> Vec<u8> {
        if self.ended {
            return Vec::new();
        }
        self.ended = true;
        match &mut self.heard {
            Heard::Chat(chat) => chat.say(now_s),
            Heard::Responses(responses) => responses.say(),
            Heard::Messages(messages) => messages.say(output_tokens()),
        }
    }
}

impl Chat {
    fn heard(&mut self, mut chunk: Value) -> bool {
        for choice in chunk["choices"].as_array().into_iter().flatten() {
            let finished = !choice["finish_reason"].is_null();
            *self.choices.entry(choice["index"].as_u64().unwrap_or(0)).or_default() |= finished;
        }
        if self.chunk.is_none() && chunk.is_object() {
            chunk["choices"] = json!([]);
            self.chunk = Some(chunk);
        }
        false
    }

    fn say(&mut self, now_s: i64) -> Vec<u8> {
        let open = self.choices.iter().filter(|(_, finished)| !**finished).map(|(index, _)| *index);
        let open: Vec<u64> = if self.choices.is_empty() { vec![0] } else { open.collect() };
        let mut said = String::new();
        if !open.is_empty() {
            let blank =
                || json!({"id": "", "object": "chat.completion.chunk", "created": now_s, "model": ""});
            let mut chunk = self.chunk.take().unwrap_or_else(blank);
            let end =
                |index| json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": "length"});
            chunk["choices"] = open.into_iter().map(end).collect();
            said = format!("data: {chunk}\n\n");
        }
        said.push_str("data: [DONE]\n\n");
        said.into_bytes()
    }
}

impl Responses {
    fn heard(&mut self, event: &Value) -> bool {
        self.sequence = self.sequence.max(event["sequence_number"].as_u64().unwrap_or(0));
        let index = event["output_index"].as_u64().unwrap_or(0);
        let kind = event["type"].as_str().unwrap_or_default();
        match kind {
            "response.created" | "response.in_progress" => self.response = Some(event["response"].clone()),
            "response.output_item.added" => drop(self.items.insert(index, (event["item"].clone(), false))),
            "response.output_item.done" => drop(self.items.insert(index, (event["item"].clone(), true))),
            "response.completed" | "response.incomplete" | "response.failed" | "error" => return true,
            _ => {
                if let Some((item, _)) = self.items.get_mut(&index) {
                    grow(item, kind, event);
                }
            }
        }
        false
    }

    fn say(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let mut output = Vec::new();
        for (index, (mut item, done)) in std::mem::take(&mut self.items) {
            if !done {
                if let Some(item) = item.as_object_mut() {
                    item.insert("status".to_owned(), json!("incomplete"));
                }
                let event = json!({"type": "response.output_item.done", "output_index": index, "item": item});
                said.extend(self.event(event));
            }
            output.push(item);
        }
        let blank = || json!({"id": "", "object": "response"});
        let mut response = self.response.take().filter(Value::is_object).unwrap_or_else(blank);
        response["status"] = json!("incomplete");
        response["incomplete_details"] = json!({"reason": "max_output_tokens"});
        response["output"] = Value::Array(output);
        said.extend(self.event(json!({"type": "response.incomplete", "response": response})));
        said
    }

    fn event(&mut self, mut event: Value) -> Vec<u8> {
        self.sequence += 1;
        event["sequence_number"] = json!(self.sequence);
        named(&event)
    }
}

/// Adds a piece to an output item that is being written, as far as both are what the API says: a provider may send anything.
fn grow(item: &mut Value, kind: &str, event: &Value) {
    let part = usize::try_from(event["content_index"].as_u64().unwrap_or(0)).unwrap_or(usize::MAX);
    let text = match kind {
        "response.content_part.added" => {
            if let Some(Value::Array(content)) = item.get_mut("content") {
                content.push(event["part"].clone());
            }
            None
        }
        "response.output_text.delta" => of_part(item, part, "text"),
        "response.refusal.delta" => of_part(item, part, "refusal"),
        "response.function_call_arguments.delta" => item.get_mut("arguments"),
        "response.custom_tool_call_input.delta" => item.get_mut("input"),
        _ => None,
    };
    if let (Some(Value::String(text)), Some(delta)) = (text, event["delta"].as_str()) {
        text.push_str(delta);
    }
}

fn of_part<'a>(item: &'a mut Value, part: usize, field: &str) -> Option<&'a mut Value> {
    item.get_mut("content")?.get_mut(part)?.get_mut(field)
}

impl Messages {
    fn heard(&mut self, event: &Value) -> bool {
        let index = event["index"].as_u64().unwrap_or(0);
        match event["type"].as_str().unwrap_or_default() {
            "content_block_start" => drop(self.blocks.insert(index, true)),
            "content_block_stop" => drop(self.blocks.insert(index, false)),
            "message_stop" | "error" => return true,
            _ => {}
        }
        false
    }

    fn say(&mut self, output_tokens: u64) -> Vec<u8> {
        let open = self.blocks.iter().filter(|(_, open)| **open).map(|(index, _)| *index);
        let stop = |index| json!({"type": "content_block_stop", "index": index});
        let mut events: Vec<Value> = open.map(stop).collect();
        // The SDKs read the usage here; it is what was counted, as no better is known.
        events.push(
            json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens", "stop_sequence": null},
            "usage": {"output_tokens": output_tokens}}),
        );
        events.push(json!({"type": "message_stop"}));
        events.iter().flat_map(named).collect()
    }
}

/// An event with its name, as both APIs that name them do.
fn named(event: &Value) -> Vec<u8> {
    let name = event["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {event}\n\n").into_bytes()
}
