//! Headers in both directions (contract §2.3, §2.5, §2.6).

use nullspend_e2e::stack::Stack;
use serde_json::{Value, json};

use crate::{CHAT, MESSAGES, request};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[tokio::test]
async fn an_answer_tells_the_caller_what_was_understood() {
    let stack = Stack::start().await;
    let agent = stack.agent_with(json!({"defaultTags": {"env": "test"}})).await;
    let plain = stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(200);
    assert_eq!(plain.header("x-nullspend-trace-id").len(), 32);
    assert_eq!(plain.header("nullspend-version"), "2026-04-01");
    assert!(plain.header("x-nullspend-overhead-ms").parse::<u64>().is_ok(), "{:?}", plain.headers);
    assert!(plain.header("server-timing").contains("dur="), "{:?}", plain.headers);
    assert_eq!(plain.header("x-nullspend-budget-limit"), "", "no budget matched");

    stack.limit_key(&agent, 5_000_000).await;
    let asked = [
        ("x-nullspend-traceid", TRACE),
        ("x-nullspend-session", " ses_1 "),
        ("x-nullspend-customer", "acme"),
        ("x-nullspend-tags", r#"{"team":"red","_ns_hidden":"x","bad key":"x"}"#),
    ];
    for (path, stream) in [(CHAT, false), (CHAT, true), (MESSAGES, true)] {
        let reply = stack
            .call_with(&agent.key, path, &asked, request(path, "hello", stream))
            .await
            .expect_status(200);
        assert_eq!(reply.header("x-nullspend-trace-id"), TRACE);
        assert_eq!(reply.header("x-nullspend-session"), "ses_1");
        let tags: Value = serde_json::from_str(reply.header("x-nullspend-effective-tags")).expect("JSON");
        assert_eq!(tags, json!({"env": "test", "team": "red", "customer": "acme"}));
        assert_eq!(reply.header("x-nullspend-warning"), "invalid_tags", "dropped tags are told");
        assert_eq!(reply.header("x-nullspend-budget-limit"), "5000000");
        assert!(reply.header("x-nullspend-budget-entity").starts_with("api_key:"), "{:?}", reply.headers);
        assert!(
            reply.header("x-nullspend-budget-remaining").parse::<i64>().is_ok_and(|left| left < 5_000_000)
        );
    }
    let wrong = stack
        .call_with(&agent.key, CHAT, &[("x-nullspend-customer", "a b")], request(CHAT, "hello", false))
        .await;
    assert_eq!((wrong.status.as_u16(), wrong.header("x-nullspend-warning")), (200, "invalid_customer"));
    let failing = request(CHAT, "[[fake status=500]]", false);
    let failed = stack.call_with(&agent.key, CHAT, &asked[..2], failing).await.expect_status(500);
    assert_eq!(failed.header("x-nullspend-budget-limit"), "5000000", "on errors too");
    assert_eq!(
        (failed.header("x-nullspend-session"), failed.header("x-nullspend-trace-id")),
        ("ses_1", TRACE)
    );

    let events = stack.wait_events(6).await;
    let session: Vec<&Value> = events.iter().filter(|event| event["sessionId"] == "ses_1").collect();
    assert_eq!(session.len(), 4);
    assert!(session.iter().all(|event| event["traceId"] == TRACE), "{session:#?}");
    let tagged: Vec<&Value> = events.iter().filter(|event| event["customerId"] == "acme").collect();
    assert_eq!(tagged.len(), 3);
    assert!(
        tagged.iter().all(|event| event["tags"]["team"] == "red" && event["tags"]["env"] == "test"),
        "{tagged:#?}"
    );
}

#[tokio::test]
async fn the_provider_gets_its_own_headers_and_none_of_ours() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let sent = [
        ("x-nullspend-session", "ses_1"),
        ("x-nullspend-tags", r#"{"a":"b"}"#),
        ("x-nullspend-cluster", "elsewhere"),
        ("x-nullspend-host", "elsewhere"),
        ("openai-organization", "org-1"),
        ("accept-encoding", "gzip, br"),
        ("x-forwarded-for", "10.1.2.3"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ];
    let body = request(CHAT, "hello", false);
    let _ = stack.call_with(&agent.key, CHAT, &sent, body.clone()).await.expect_status(200);
    let call = stack.provider.calls().pop().expect("a call");
    assert_eq!(call.credential.as_deref(), Some("Bearer sk-provider-credential"));
    assert_eq!(call.headers.get("openai-organization").map(String::as_str), Some("org-1"));
    assert!(call.headers["traceparent"].contains(TRACE), "{:?}", call.headers);
    let ours: Vec<&String> = call
        .headers
        .keys()
        .filter(|name| {
            name.starts_with("x-nullspend")
                || name.starts_with("x-envoy")
                || name.starts_with("x-forwarded")
                || *name == "accept-encoding"
        })
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    assert_eq!(call.headers["host"], stack.provider.url().trim_start_matches("http://"));
    assert_eq!(call.body.as_deref(), Some(body.to_string().as_str()), "the body is untouched");

    let url = format!("{}{MESSAGES}", stack.url);
    for credential in [("x-api-key", "sk-ant-1"), ("authorization", "Bearer sk-ant-oat-2")] {
        let headers = [
            ("x-nullspend-key", agent.key.as_str()),
            ("content-type", "application/json"),
            credential,
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "b1"),
        ];
        let body = request(MESSAGES, "hello", false).to_string();
        let reply = stack.http.send(&http::Method::POST, &url, &headers, body).await;
        assert_eq!(reply.status.as_u16(), 200);
        let call = stack.provider.calls().pop().expect("a call");
        assert_eq!(
            call.headers.get(credential.0).map(String::as_str),
            Some(credential.1),
            "a bearer stays a bearer"
        );
        assert_eq!(call.headers["anthropic-beta"], "b1");
    }
    let _ =
        stack.call(&agent.key, "/v1/v1/messages", request(MESSAGES, "hello", false)).await.expect_status(200);
    assert_eq!(stack.provider.calls().pop().expect("a call").path, MESSAGES);
}
