//! Every way an answer can break, at every piece of it, for each API.

use http::Method;
use serde_json::{Value, json};

use super::{
    audit::{Audit, audit},
    fleet::Seen,
};
use crate::{http::Http, stack::Stack};
use nullspend_core::id::{Ids, RandomIds};

const PIECES: u64 = 8;

fn body(path: &str, prompt: &str) -> Value {
    match path {
        "/v1/responses" => {
            json!({"model": "gpt-4o-mini", "stream": true, "max_output_tokens": 200, "input": prompt})
        }
        "/v1/messages" => json!({"model": "claude-haiku-4-5", "stream": true, "max_tokens": 200,
            "messages": [{"role": "user", "content": prompt}]}),
        _ => json!({"model": "gpt-4o-mini", "stream": true, "max_completion_tokens": 200,
            "messages": [{"role": "user", "content": prompt}]}),
    }
}

/// For every API and every `step`-th piece: the client leaves after it, and the provider resets before it.
pub async fn at_every_piece(step: usize) -> Audit {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budgets = [stack.limit_key(&agent, 1_000_000_000).await];
    let mut seen = Vec::new();
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/messages"] {
        for piece in (1..=PIECES).step_by(step) {
            for leaves in [true, false] {
                let how =
                    if leaves { format!("gate=never gate_at={piece}") } else { format!("reset_at={piece}") };
                let prompt = format!("[[fake tokens=24 chunks={PIECES} {how}]]");
                let trace = RandomIds.v4().simple().to_string();
                let parent = format!("00-{trace}-00f067aa0ba902b7-01");
                let headers = [
                    ("x-nullspend-key", agent.key.as_str()),
                    ("authorization", "Bearer sk-provider-credential"),
                    ("content-type", "application/json"),
                    ("traceparent", parent.as_str()),
                ];
                let (http, url) = (Http::default(), format!("{}{path}", stack.url));
                let opened = http.open(&Method::POST, &url, &headers, body(path, &prompt).to_string()).await;
                let mut live = opened.expect("an answer");
                let status = Some(live.status.as_u16());
                if leaves {
                    // All that was sent before the gate, so that nothing is in between.
                    let mut text = String::new();
                    while text.matches("word").count() < usize::try_from((piece - 1) * 3).unwrap_or(0) {
                        text.push_str(&live.read_until("word").await);
                    }
                    drop((live, http));
                } else {
                    let whole = live.rest().await.1;
                    assert!(!whole || status != Some(200), "a reset must not look like an end");
                }
                seen.push(Seen { trace, status, complete: false });
            }
        }
    }
    let audit = audit(&stack, &stack.provider, &budgets, &seen).await;
    assert_eq!(audit.unseen_nanos, 0, "what was sent was seen: {audit:?}");
    audit
}
