//! The fake provider against its own claims: a referee must be right.

use http::Method;
use serde_json::{Value, json};

use super::{FakeProvider, State, encode::decoded};
use crate::http::{Http, Live, Reply};

const CREDENTIAL: (&str, &str) = ("authorization", "Bearer sk-test");

async fn post(provider: &FakeProvider, path: &str, body: Value) -> Reply {
    Http::default()
        .send(&Method::POST, &format!("{}{path}", provider.url()), &[CREDENTIAL], body.to_string())
        .await
}

async fn open(provider: &FakeProvider, http: &Http, path: &str, body: Value) -> Live {
    let url = format!("{}{path}", provider.url());
    http.open(&Method::POST, &url, &[CREDENTIAL], body.to_string()).await.expect("an answer")
}

fn request(path: &str, prompt: &str, stream: bool) -> Value {
    let mut body = json!({"model": "gpt-4o-mini", "stream": stream});
    match path {
        "/v1/responses" => body["input"] = json!(prompt),
        _ => body["messages"] = json!([{"role": "user", "content": prompt}]),
    }
    if path == "/v1/messages" {
        (body["model"], body["max_tokens"]) = (json!("claude-sonnet-4-5"), json!(50));
    }
    body
}

const PATHS: [&str; 3] = ["/v1/chat/completions", "/v1/responses", "/v1/messages"];

#[tokio::test]
async fn json_and_stream_are_billed_alike_on_every_api_and_protocol() {
    let provider = FakeProvider::start().await.expect("starts");
    for path in PATHS {
        for (stream, h2) in [(false, false), (true, false), (true, true)] {
            let body = request(path, "say something [[fake tokens=12]]", stream);
            let (text, whole) = open(&provider, &Http::new(h2), path, body).await.rest().await;
            assert!(whole, "{path}: {text}");
            assert!(text.matches("word").count() >= 12, "{path}: {text}");
        }
        let calls = provider.calls();
        let last = &calls[calls.len() - 3..];
        assert!(
            last.iter().all(|call| call.state == State::Finished && call.output_tokens == 12),
            "{last:#?}"
        );
        assert_eq!(last[0].billed_nanos, last[1].billed_nanos);
        assert!(last[0].billed_nanos > 0);
    }
}

#[tokio::test]
async fn usage_comes_at_the_end_of_a_chat_stream_only_when_asked_for() {
    let provider = FakeProvider::start().await.expect("starts");
    let mut body = request(PATHS[0], "hi", true);
    let (text, _) = open(&provider, &Http::default(), PATHS[0], body.clone()).await.rest().await;
    assert!(!text.contains("usage"), "{text}");
    body["stream_options"] = json!({"include_usage": true});
    let (text, _) = open(&provider, &Http::default(), PATHS[0], body).await.rest().await;
    let data: Vec<&str> = text.split("\n\n").filter(|line| !line.is_empty()).collect();
    let last: Value = serde_json::from_str(data[data.len() - 2].trim_start_matches("data: ")).expect("JSON");
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(20)));
    assert_eq!(data.last(), Some(&"data: [DONE]"));
}

#[tokio::test]
async fn a_stream_breaks_where_it_was_told_to_and_bills_what_was_generated() {
    let provider = FakeProvider::start().await.expect("starts");
    for path in PATHS {
        let body = request(path, "[[fake tokens=10 chunks=10 reset_at=4]]", true);
        let (text, whole) = open(&provider, &Http::default(), path, body).await.rest().await;
        assert!(!whole && text.contains("word"), "{path}: {text}");
        let calls =
            provider.wait_until(|calls| calls.last().is_some_and(|call| call.state == State::Cut)).await;
        assert_eq!(calls.last().map(|call| call.output_tokens), Some(3), "{path}");

        let body = request(path, "[[fake tokens=10 chunks=10 error_at=4]]", true);
        let (text, whole) = open(&provider, &Http::default(), path, body).await.rest().await;
        assert!(whole && text.contains("error"), "{path}: {text}");
    }
    let http = Http::default();
    let url = format!("{}/v1/responses", provider.url());
    let body = request(PATHS[1], "[[fake reset_at=0]]", true).to_string();
    assert!(http.open(&Method::POST, &url, &[CREDENTIAL], body).await.is_err());
}

#[tokio::test]
async fn a_client_that_leaves_a_gated_stream_is_seen_and_others_pass_the_gate() {
    let provider = FakeProvider::start().await.expect("starts");
    let body = request(PATHS[0], "[[fake tokens=8 chunks=8 gate=g gate_at=3]]", true);
    let mut leaving = open(&provider, &Http::default(), PATHS[0], body.clone()).await;
    let waiting = open(&provider, &Http::default(), PATHS[0], body).await;
    assert!(leaving.read_until("word").await.contains("word"));
    provider.wait_until(|calls| calls.iter().filter(|call| call.output_tokens == 2).count() == 2).await;
    drop(leaving);
    provider.wait_until(|calls| calls[0].state == State::Cut).await;
    provider.open_gate("g");
    assert!(waiting.rest().await.1);
    assert_eq!(provider.calls()[1].output_tokens, 8);
}

#[tokio::test]
async fn refusals_bill_nothing_and_speak_the_providers_language() {
    let provider = FakeProvider::start().await.expect("starts");
    let failing = post(&provider, PATHS[2], request(PATHS[2], "[[fake status=529]]", true)).await;
    assert_eq!(
        (failing.status.as_u16(), failing.json()["error"]["type"].as_str()),
        (529, Some("overloaded_error"))
    );
    let unknown = post(&provider, PATHS[0], json!({"model": "gpt-17", "messages": []})).await;
    assert_eq!((unknown.status.as_u16(), unknown.code().as_str()), (404, "model_not_found"));
    let url = format!("{}/v1/messages", provider.url());
    let nobody = Http::default().send(&Method::POST, &url, &[], "{}").await;
    assert_eq!(nobody.status.as_u16(), 401);
    assert_eq!((provider.calls().len(), provider.billed_nanos()), (3, 0));
    let log = Http::default().send(&Method::GET, &format!("{}/__log", provider.url()), &[], "").await.json();
    assert_eq!(log.as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn tools_are_called() {
    let provider = FakeProvider::start().await.expect("starts");
    let mut chat = request(PATHS[0], "look it up", false);
    chat["tools"] = json!([{"type": "function", "function": {"name": "lookup", "parameters": {}}}]);
    let call = post(&provider, PATHS[0], chat).await.json();
    assert_eq!(call["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "lookup");
}

#[tokio::test]
async fn unasked_encodings_are_real_and_are_sent_frame_by_frame() {
    let provider = FakeProvider::start().await.expect("starts");
    for encoding in ["gzip", "deflate", "br", "zstd", "gzip,br"] {
        for stream in [false, true] {
            let order = format!("[[fake tokens=3 encoding={encoding}]]");
            let reply = post(&provider, PATHS[0], request(PATHS[0], &order, stream)).await;
            assert_eq!(reply.header("content-encoding"), encoding);
            let text = String::from_utf8(decoded(encoding, &reply.body)).expect("text");
            assert_eq!(text.matches("word").count(), 3, "{encoding}: {text}");
            assert!(
                stream && text.ends_with("data: [DONE]\n\n") || text.ends_with('}'),
                "{encoding}: {text}"
            );
        }
    }
    let claimed = post(&provider, PATHS[0], request(PATHS[0], "[[fake encoding=rot13]]", false)).await;
    assert_eq!((claimed.header("content-encoding"), &claimed.body[..1]), ("rot13", &b"{"[..]));
}
