//! What a call costs at the fake provider: its own token rule and its own price table, so that nothing of the product
//! is needed to know the truth.

use serde_json::Value;

use super::{Api, control::Control};

/// Pico-dollars per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rates {
    input: i128,
    cached: i128,
    output: i128,
}

/// (name, dated name that the answer carries, USD per million tokens × 1000: input, cached input, output).
const TABLE: &[(&str, &str, [i128; 3])] = &[
    ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", [150, 75, 600]),
    ("gpt-4o", "gpt-4o-2024-08-06", [2_500, 1_250, 10_000]),
    ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", [400, 100, 1_600]),
    // Of no catalogue.
    ("house-large", "house-large", [400, 100, 1_600]),
    ("gpt-5-mini", "gpt-5-mini-2025-08-07", [250, 25, 2_000]),
    ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", [3_000, 300, 15_000]),
    ("claude-haiku-4-5", "claude-haiku-4-5-20251001", [1_000, 100, 5_000]),
];

/// Output tokens of a call that names no number.
const USUAL_OUTPUT: u64 = 20;

/// Counts and prices of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The dated model name.
    pub served_model: &'static str,
    rates: Rates,
    /// All prompt tokens, cached ones included.
    pub input_tokens: u64,
    /// Of those, read from the cache.
    pub cached_tokens: u64,
    /// Output tokens if the answer is generated whole.
    pub output_tokens: u64,
    /// The request's own limit cut the answer short.
    pub hit_limit: bool,
}

impl Bill {
    /// `None` for a model that this provider does not have.
    #[must_use]
    pub fn of(api: Api, request: &Value, control: &Control) -> Option<Self> {
        let model = request["model"].as_str()?;
        let (_, served_model, [input, cached, output]) =
            *TABLE.iter().find(|(name, dated, _)| model == *name || model == *dated)?;
        let limit = ["max_completion_tokens", "max_tokens", "max_output_tokens"]
            .iter()
            .find_map(|name| request[name].as_u64());
        let wanted = control.tokens.unwrap_or(USUAL_OUTPUT);
        let choices = if api == Api::Chat { request["n"].as_u64().unwrap_or(1).max(1) } else { 1 };
        let input_tokens = input_tokens(api, request);
        Some(Self {
            served_model,
            rates: Rates { input: input * 1000, cached: cached * 1000, output: output * 1000 },
            input_tokens,
            cached_tokens: control.cached.min(input_tokens),
            output_tokens: limit.map_or(wanted, |limit| limit.min(wanted)) * choices,
            hit_limit: limit.is_some_and(|limit| limit < wanted),
        })
    }

    /// Nano-dollars once `output` tokens have been generated, rounded half up.
    #[must_use]
    pub fn nanos(&self, output: u64) -> i64 {
        let plain = i128::from(self.input_tokens - self.cached_tokens);
        let pico = plain * self.rates.input
            + i128::from(self.cached_tokens) * self.rates.cached
            + i128::from(output) * self.rates.output;
        i64::try_from((pico + 500) / 1000).unwrap_or(i64::MAX)
    }
}

/// One token per whitespace-separated word of the prompt, 3 per message, 3 for the answer's start. No tokenizer joins
/// words, so this stays at or below the true count of any text, and far below its bytes.
fn input_tokens(api: Api, request: &Value) -> u64 {
    let (messages, extra) = match api {
        Api::Chat => (&request["messages"], &Value::Null),
        Api::Responses => (&request["input"], &request["instructions"]),
        Api::Messages => (&request["messages"], &request["system"]),
    };
    let framing = 3 * u64::try_from(messages.as_array().map_or(1, Vec::len)).unwrap_or(0) + 3;
    let tools = request["tools"].as_array().map_or(0, |tools| {
        tools.iter().map(|tool| tool.to_string().split_whitespace().count()).sum::<usize>()
    });
    framing + words(messages) + words(extra) + u64::try_from(tools).unwrap_or(0)
}

/// Words of the texts in a message list: strings, and `content`, `text` and `output` fields within.
fn words(value: &Value) -> u64 {
    match value {
        Value::String(text) => u64::try_from(text.split_whitespace().count()).unwrap_or(0),
        Value::Array(items) => items.iter().map(words).sum(),
        Value::Object(fields) => {
            ["content", "text", "output"].iter().filter_map(|name| fields.get(*name)).map(words).sum()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_call_is_billed_by_the_word_and_rounded_once() {
        let request = json!({"model": "gpt-4o-mini", "max_tokens": 7,
            "messages": [{"role": "user", "content": "four words are here"}]});
        let bill = Bill::of(Api::Chat, &request, &Control::default()).expect("a known model");
        assert_eq!((bill.input_tokens, bill.output_tokens, bill.hit_limit), (4 + 3 + 3, 7, true));
        assert_eq!(bill.nanos(7), 10 * 150 + 7 * 600);
    }

    #[test]
    fn cached_tokens_cost_the_cached_rate_and_unknown_models_are_refused() {
        let request = json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "system": "be brief",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi there"}]}]});
        let control = Control { cached: 4, tokens: Some(2), ..Control::default() };
        let bill = Bill::of(Api::Messages, &request, &control).expect("a known model");
        assert_eq!(bill.input_tokens, 10);
        assert_eq!(bill.nanos(2), 6 * 3_000 + 4 * 300 + 2 * 15_000);
        assert_eq!(Bill::of(Api::Chat, &json!({"model": "gpt-17"}), &control), None);
    }
}
