//! `GET /health` and `GET /health/ready`, answered through Envoy itself, so that "ready" proves the whole way.

use nullspend_core::exchange::answer::Answer;
use serde_json::{Value, json};

/// What a data plane needs to take calls.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    /// Why it can take none, by part.
    pub missing: Vec<(&'static str, String)>,
}

/// The process answers.
#[must_use]
pub fn alive() -> Answer {
    answer(200, &json!({ "status": "ok", "service": "nullspend-proxy" }))
}

/// Calls may come, or why they had better go to another data plane.
#[must_use]
pub fn ready(readiness: &Readiness) -> Answer {
    if readiness.missing.is_empty() {
        return alive();
    }
    let missing: serde_json::Map<String, Value> =
        readiness.missing.iter().map(|(part, why)| ((*part).to_owned(), json!(why))).collect();
    answer(503, &json!({ "status": "unavailable", "service": "nullspend-proxy", "missing": missing }))
}

fn answer(status: u16, body: &Value) -> Answer {
    Answer {
        status,
        headers: vec![("cache-control", "no-store".to_owned())],
        body: body.to_string().into_bytes(),
        code: "",
        details: Value::Null,
    }
}
