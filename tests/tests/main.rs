//! Every promise of the product, kept by the real thing. Build the program first (`cargo xtask test` does).
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod budgets;
mod catalogue;
mod cluster;
mod cluster_faults;
mod crowd;
mod endings;
mod explain;
mod faults;
mod freezes;
mod grpc;
mod headers;
mod health;
mod kill9;
mod lifecycle;
mod loops;
mod metrics;
mod one_dollar;
mod postgres;
mod price_table;
mod prices;
mod rate_limits;
mod sdk;
mod secrets;
mod streams;
mod tls;

use serde_json::{Value, json};

/// The three provider routes.
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// A small valid request of a route, with instructions for the fake provider in its prompt.
fn request(path: &str, prompt: &str, stream: bool) -> Value {
    match path {
        CHAT => json!({"model": "gpt-4o-mini", "stream": stream, "max_completion_tokens": 200,
            "messages": [{"role": "user", "content": prompt}]}),
        RESPONSES => {
            json!({"model": "gpt-4o-mini", "stream": stream, "max_output_tokens": 200, "input": prompt})
        }
        _ => json!({"model": "claude-haiku-4-5", "stream": stream, "max_tokens": 200,
            "messages": [{"role": "user", "content": prompt}]}),
    }
}

/// Nano-dollars of all these events.
fn sum_nanos(events: &[Value]) -> i64 {
    events.iter().map(|event| nullspend_e2e::console::nanos(&event["costNanodollars"])).sum()
}
