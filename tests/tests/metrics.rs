//! What operators watch, on the admin socket of each plane and nowhere else.

use std::path::Path;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use nullspend_e2e::stack::Stack;
use tokio::net::UnixStream;

use crate::{CHAT, request};

pub(crate) async fn scrape(socket: &Path) -> String {
    let stream =
        UnixStream::connect(socket).await.unwrap_or_else(|error| panic!("{}: {error}", socket.display()));
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request =
        Request::get("/metrics").header("host", "admin").body(Empty::<Bytes>::new()).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.status().as_u16(), 200);
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8_lossy(&body).into_owned()
}

/// The sum of a family's samples; `None` when the family is not there at all.
pub(crate) fn value(text: &str, family: &str) -> Option<f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#') && line.contains(family));
    let values: Vec<f64> = samples.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    if values.is_empty() { None } else { Some(values.iter().sum()) }
}

#[tokio::test]
async fn both_planes_tell_what_happened() {
    let stack = Stack::start().await;
    let (agent, poor) = (stack.agent().await, stack.agent().await);
    let budget = stack.limit_key(&agent, 10_000_000).await;
    stack.limit_key(&poor, 1).await;
    let _ = stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(200);
    let _ = stack.call(&agent.key, CHAT, request(CHAT, "[[fake no_usage]]", true)).await.expect_status(200);
    let _ = stack.call(&poor.key, CHAT, request(CHAT, "hello", false)).await.expect_status(429);
    stack.wait_no_holds(&budget).await;
    stack.wait_events(2).await;

    let text = scrape(&stack.data().join("run/ext-proc-admin.sock")).await;
    for (family, least) in [
        ("requests_total", 2.0),
        ("denials_total", 1.0),
        ("estimated_total", 1.0),
        ("added_latency_seconds_count", 2.0),
    ] {
        assert!(
            value(&text, family).is_some_and(|value| value >= least),
            "{family} of at least {least}:\n{text}"
        );
    }
    for (family, wanted) in
        [("open_holds", 0.0), ("lapsed_total", 0.0), ("unpriced_total", 0.0), ("policy_connected", 1.0)]
    {
        assert_eq!(value(&text, family), Some(wanted), "{family}:\n{text}");
    }
    for family in
        ["overages_total", "oldest_hold_seconds", "spool_depth", "spool_oldest_seconds", "policy_age_seconds"]
    {
        assert!(value(&text, family).is_some(), "{family}:\n{text}");
    }
    let text = scrape(&stack.data().join("run/control-plane-admin.sock")).await;
    assert!(text.lines().any(|line| !line.starts_with('#')), "{text}");
}
