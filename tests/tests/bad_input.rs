//! Bad input: a clear 4xx in the contract's shape, and the provider never hears of it.

use bytes::Bytes;
use http::Method;
use nullspend_e2e::{console::Agent, http::Reply, stack::Stack};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{CHAT, MESSAGES, RESPONSES, request};

const MIB: usize = 1024 * 1024;

async fn post(stack: &Stack, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
    stack.http.send(&Method::POST, &format!("{}{path}", stack.url), headers, body).await
}

fn assert_refused(what: &str, reply: &Reply, status: u16, code: &str) {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status.as_u16(), status, "{what}: {text}");
    let error = &reply.json()["error"];
    assert_eq!(error["code"], code, "{what}: {text}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 5), "{what}: {text}");
    assert!(error.get("details").is_some(), "{what}: {text}");
}

/// A valid chat request with one field changed.
fn changed(field: &str, value: Value) -> String {
    let mut body = request(CHAT, "hello", false);
    body[field] = value;
    body.to_string()
}

fn bad_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let text = |what, body: &str| (what, body.as_bytes().to_vec());
    let mut deep = br#"{"model":"gpt-4o-mini","messages":"#.to_vec();
    deep.extend(std::iter::repeat_n(b'[', 200_000));
    let mut invalid = br#"{"model":"gpt-4o-mini","messages":[{"role":"user","content":""#.to_vec();
    invalid.extend_from_slice(&[0xff, 0xfe]);
    invalid.extend_from_slice(br#""}]}"#);
    vec![
        text("an empty body", ""),
        text("no JSON", "hello"),
        text("cut JSON", r#"{"model":"gpt-4o-mini""#),
        text("more after the JSON", r#"{"model":"gpt-4o-mini","messages":[]} {}"#),
        text("an array", "[]"),
        text("a number", "1"),
        text("a byte order mark", "\u{feff}{\"model\":\"gpt-4o-mini\",\"messages\":[]}"),
        text("no model", r#"{"messages":[]}"#),
        text("two models", r#"{"model":"gpt-4o-mini","model":"gpt-4o","messages":[]}"#),
        text("two limits", r#"{"model":"gpt-4o-mini","max_tokens":1,"max_tokens":100000,"messages":[]}"#),
        ("deep nesting", deep),
        ("invalid UTF-8", invalid),
        ("a number as model", changed("model", json!(4)).into_bytes()),
        ("null as model", changed("model", Value::Null).into_bytes()),
        ("a negative limit", changed("max_tokens", json!(-1)).into_bytes()),
        ("a fractional limit", changed("max_tokens", json!(1.5)).into_bytes()),
        ("a limit in words", changed("max_tokens", json!("100")).into_bytes()),
        ("a huge limit", changed("max_completion_tokens", json!(1e300)).into_bytes()),
        ("an object as limit", changed("max_completion_tokens", json!({})).into_bytes()),
        ("a negative number of choices", changed("n", json!(-2)).into_bytes()),
        ("a word as number of choices", changed("n", json!("2")).into_bytes()),
        ("a word as stream", changed("stream", json!("yes")).into_bytes()),
    ]
}

#[tokio::test]
async fn bad_bodies_are_refused_before_anything_is_forwarded() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let headers = good_headers(&agent);
    for (what, body) in bad_bodies() {
        let reply = post(&stack, CHAT, &headers, body).await;
        assert_refused(what, &reply, 400, "bad_request");
        assert_eq!(reply.header("x-nullspend-trace-id").len(), 32, "{what}");
    }
    for (path, field) in [(RESPONSES, "max_output_tokens"), (MESSAGES, "max_tokens")] {
        for value in [json!(-1), json!(0.5), json!("7"), json!(1e300), json!([])] {
            let mut body = request(path, "hello", true);
            body[field] = value.clone();
            let reply = post(&stack, path, &headers, body.to_string()).await;
            assert_refused(&format!("{path} {value}"), &reply, 400, "bad_request");
        }
    }
    let unknown = post(&stack, CHAT, &headers, changed("model", json!("gpt-17-imaginary"))).await;
    assert_refused("an unknown model", &unknown, 400, "invalid_model");
    assert!(stack.provider.calls().is_empty(), "{:#?}", stack.provider.calls());
    assert!(stack.events().await.is_empty(), "nothing was forwarded, so nothing is recorded");
    assert_eq!(
        stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.status.as_u16(),
        200,
        "still alive"
    );
}

fn good_headers(agent: &Agent) -> [(&str, &str); 3] {
    [("x-nullspend-key", &agent.key), ("authorization", "Bearer sk-x"), ("content-type", "application/json")]
}

/// What it is, the path, the headers, and the status and code of the refusal.
type Refused<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, u16, &'a str);

#[tokio::test]
async fn bad_headers_keys_and_routes_are_refused_before_anything_is_forwarded() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let body = request(CHAT, "hello", false).to_string();
    let good = good_headers(&agent);
    let with = |more: (&'static str, &'static str)| [&good[..], &[more]].concat();
    let typed = |kind: &'static str| vec![good[0], good[1], ("content-type", kind)];
    let long_session = "s".repeat(300);
    let refused: Vec<Refused<'_>> = vec![
        ("no key", CHAT, good[1..].to_vec(), 401, "unauthorized"),
        (
            "an unknown key",
            CHAT,
            vec![("x-nullspend-key", "ns_live_sk_00000000000000000000000000000000"), good[1], good[2]],
            401,
            "unauthorized",
        ),
        (
            "a key of another make",
            CHAT,
            vec![("x-nullspend-key", "hello"), good[1], good[2]],
            401,
            "unauthorized",
        ),
        (
            "an administrator's key",
            CHAT,
            vec![("x-nullspend-key", &stack.owner), good[1], good[2]],
            403,
            "forbidden",
        ),
        (
            "a strange upstream",
            CHAT,
            with(("x-nullspend-upstream", "https://evil.example")),
            400,
            "invalid_upstream",
        ),
        (
            "an inner upstream",
            CHAT,
            with(("x-nullspend-upstream", "http://169.254.169.254")),
            400,
            "invalid_upstream",
        ),
        (
            "a long session",
            CHAT,
            [&good[..], &[("x-nullspend-session", &long_session)]].concat(),
            400,
            "bad_request",
        ),
        ("plain text", CHAT, typed("text/plain"), 415, "unsupported_media_type"),
        ("a form", CHAT, typed("multipart/form-data; boundary=x"), 415, "unsupported_media_type"),
        ("a compressed body", CHAT, with(("content-encoding", "gzip")), 415, "unsupported_media_type"),
        ("an unknown encoding", CHAT, with(("content-encoding", "snappy")), 415, "unsupported_media_type"),
        ("an unknown route", "/v1/embeddings", good.to_vec(), 404, "not_found"),
        ("an unknown route, no key", "/v1/embeddings", vec![], 404, "not_found"),
        ("a climbing route", "/v1/chat/completions/../../v1/files", good.to_vec(), 404, "not_found"),
    ];
    for (what, path, headers, status, code) in refused {
        let reply = post(&stack, path, &headers, body.clone()).await;
        assert_refused(what, &reply, status, code);
    }
    let got = stack.http.send(&Method::GET, &format!("{}{CHAT}", stack.url), &good, "").await;
    assert_refused("a GET", &got, 404, "not_found");

    let bomb = "x".repeat(200 * 1024);
    let reply = post(&stack, CHAT, &[&good[..], &[("x-bomb", &bomb)]].concat(), body.clone()).await;
    assert!([400, 413, 431].contains(&reply.status.as_u16()), "{reply:?}");
    let many: Vec<(&str, &str)> =
        good.into_iter().chain(std::iter::repeat_n(("x-many", "1"), 2_000)).collect();
    let reply = post(&stack, CHAT, &many, body).await;
    assert!([400, 413, 431].contains(&reply.status.as_u16()), "{reply:?}");
    assert!(stack.provider.calls().is_empty(), "{:#?}", stack.provider.calls());
}

/// Sends a chunked request, which announces no length.
async fn chunked(stack: &Stack, agent: &Agent, pieces: impl IntoIterator<Item = Vec<u8>>) -> String {
    let address = stack.url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.expect("connects");
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\nx-nullspend-key: {}\r\nauthorization: Bearer sk-x\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        agent.key
    );
    let mut answer = Vec::new();
    let sending = async {
        socket.write_all(head.as_bytes()).await?;
        for piece in pieces {
            socket.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            socket.write_all(&piece).await?;
            socket.write_all(b"\r\n").await?;
        }
        socket.write_all(b"0\r\n\r\n").await
    };
    // A refusal may arrive, and the connection close, before everything was sent.
    let _ = sending.await;
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn bodies_without_length_are_bounded_like_any_other() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let body = request(CHAT, "hello [[fake tokens=5]]", false).to_string();
    let pieces = body.as_bytes().chunks(7).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let good = chunked(&stack, &agent, pieces).await;
    assert!(good.starts_with("HTTP/1.1 200"), "{good}");
    let cut = chunked(&stack, &agent, [body.as_bytes()[..20].to_vec()]).await;
    assert!(cut.starts_with("HTTP/1.1 400") && cut.contains("bad_request"), "{cut}");
    assert_eq!(stack.provider.calls().len(), 1);

    let large = request(CHAT, &"x".repeat(33 * MIB), false).to_string();
    let reply = post(&stack, CHAT, &good_headers(&agent), large).await;
    assert_refused("33 MiB", &reply, 413, "payload_too_large");
    let fits = request(CHAT, &"x".repeat(31 * MIB), false).to_string();
    let reply = post(&stack, CHAT, &good_headers(&agent), fits).await;
    assert_eq!(reply.status.as_u16(), 200, "{}", String::from_utf8_lossy(&reply.body));
    assert_eq!(stack.provider.calls().len(), 2);
    stack.wait_events(2).await;
}
