//! How a request steers the fake provider.

use http::HeaderMap;
use serde_json::Value;

/// Instructions of one request: `x-fake-NAME: value` headers, and `[[fake name=value …]]` in any string of the body,
/// which also works through SDKs and through proxies that drop headers. Chunks are counted from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// A name for the call log.
    pub label: Option<String>,
    /// Output tokens to generate, unless the request's own limit is lower.
    pub tokens: Option<u64>,
    /// Pieces of text to spread them over.
    pub chunks: Option<u64>,
    /// Prompt tokens that are read from the cache.
    pub cached: u64,
    /// Wait before the response headers.
    pub delay_ms: u64,
    /// Wait before each chunk.
    pub pace_ms: u64,
    /// Answer with this status and the provider's error body, and bill nothing.
    pub status: Option<u16>,
    /// Break the connection before this chunk (0: before headers).
    pub reset_at: Option<u64>,
    /// Say nothing more from this chunk on (0: not even headers).
    pub stall_at: Option<u64>,
    /// Send the API's own error event instead of this chunk, and end.
    pub error_at: Option<u64>,
    /// Wait before chunk `gate_at` until the test opens the gate of this name.
    pub gate: Option<String>,
    /// Where to wait (0: before headers).
    pub gate_at: u64,
    /// Leave the usage out.
    pub no_usage: bool,
    /// Encode the answer so, although nobody asked for it: `gzip`, `deflate`, `br`, `zstd`, or several by commas.
    pub encoding: Option<String>,
}

impl Control {
    /// Reads both places; the body wins.
    #[must_use]
    pub fn read(headers: &HeaderMap, body: &Value) -> Self {
        let mut control = Self::default();
        for (name, value) in headers {
            if let (Some(name), Ok(value)) = (name.as_str().strip_prefix("x-fake-"), value.to_str()) {
                control.set(&name.replace('-', "_"), value);
            }
        }
        control.read_strings(body);
        control
    }

    fn read_strings(&mut self, value: &Value) {
        match value {
            Value::String(text) => {
                let Some((_, rest)) = text.split_once("[[fake ") else { return };
                let Some((words, _)) = rest.split_once("]]") else { return };
                for word in words.split_whitespace() {
                    let (name, value) = word.split_once('=').unwrap_or((word, "1"));
                    self.set(name, value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.read_strings(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.read_strings(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = value.parse::<u64>();
        match name {
            "label" => self.label = Some(value.to_owned()),
            "tokens" => self.tokens = number.ok(),
            "chunks" => self.chunks = number.ok(),
            "cached" => self.cached = number.unwrap_or(0),
            "delay_ms" => self.delay_ms = number.unwrap_or(0),
            "pace_ms" => self.pace_ms = number.unwrap_or(0),
            "status" => self.status = value.parse().ok(),
            "reset_at" => self.reset_at = number.ok(),
            "stall_at" => self.stall_at = number.ok(),
            "error_at" => self.error_at = number.ok(),
            "gate" => self.gate = Some(value.to_owned()),
            "gate_at" => self.gate_at = number.unwrap_or(0),
            "no_usage" => self.no_usage = true,
            "encoding" => self.encoding = Some(value.to_owned()),
            _ => {}
        }
    }
}
