//! Bounds of request bodies.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    error_line,
    record::{BadRecord, at_ms},
    write,
};
use crate::{
    attempt::Api,
    bound::{Bound, bound},
    price::{Catalogue, Lookup},
    request::RequestView,
};

/// As written.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Value,
    provider: String,
    api: String,
    #[serde(borrow)]
    body: &'a RawValue,
    at: Option<String>,
    host: Option<String>,
}

/// Answers one line `{"id","provider","api","body"}` with the most that such a request can use and cost; a line that
/// cannot be read, or a model without a price, gets an `error` and no numbers. `body` is the JSON object itself, bounded
/// in its own bytes, or a string that holds it.
#[must_use]
pub fn bound_line(catalogue: &Arc<Catalogue>, line: &str, now_ms: i64) -> String {
    let line: Line<'_> = match serde_json::from_str(line) {
        Ok(line) => line,
        Err(error) => {
            let id = serde_json::from_str::<Value>(line).ok().and_then(|value| value.get("id").cloned());
            let what = format!("not a request to bound: {error}");
            return error_line(&BadRecord { id: id.unwrap_or_default(), what });
        }
    };
    let raw = |value: Value| write::raw_text(value.to_string());
    let id = raw(line.id.clone());
    match understand(catalogue, &line, now_ms) {
        Ok(bound) => write::object(&[
            ("id", id),
            ("input_tokens_bound", raw(json!(bound.input_tokens))),
            ("output_tokens_bound", raw(json!(bound.output_tokens))),
            ("cost_nano_bound", raw(json!(bound.cost.0))),
        ]),
        Err(what) => {
            let null = || raw(Value::Null);
            write::object(&[
                ("id", id),
                ("input_tokens_bound", null()),
                ("output_tokens_bound", null()),
                ("cost_nano_bound", null()),
                ("error", raw(json!(what))),
            ])
        }
    }
}

fn understand(catalogue: &Arc<Catalogue>, line: &Line<'_>, now_ms: i64) -> Result<Bound, String> {
    let api = match line.api.as_str() {
        "chat.completions" => Api::OpenAiChat,
        "responses" => Api::OpenAiResponses,
        "messages" => Api::AnthropicMessages,
        other => return Err(format!("api is {other:?}; write chat.completions, responses or messages")),
    };
    let at_ms = at_ms(line.at.as_deref(), now_ms)?;
    let quoted: Option<String> = serde_json::from_str(line.body.get()).ok();
    let body = quoted.as_deref().unwrap_or_else(|| line.body.get());
    let mut view = RequestView::parse(api, body.as_bytes()).map_err(|bad| bad.message)?;
    view.regional_host = line.host.as_deref().is_some_and(|host| host.contains(".api.openai.com"));
    match catalogue.lookup(&line.provider, &view.model, at_ms) {
        Lookup::Priced(priced) => Ok(bound(&priced, &view)),
        Lookup::Unpriced => Err(format!("{} of {} has no price", view.model, line.provider)),
    }
}
