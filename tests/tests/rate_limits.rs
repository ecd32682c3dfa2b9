//! Rate limits: so many calls of an address and of a key, whatever the headers say.

use http::Method;
use nullspend_e2e::{console::Agent, http::Reply, stack::Stack};
use serde_json::{Value, json};

use crate::{CHAT, request};

async fn call(stack: &Stack, agent: &Agent, headers: &[(&str, &str)]) -> Reply {
    stack.call_with(&agent.key, CHAT, headers, request(CHAT, "hello [[fake tokens=5]]", false)).await
}

fn assert_limited(reply: &Reply) {
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "rate_limited"), "{reply:?}");
    let retry_after: u64 = reply.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    for absent in ["x-nullspend-denied", "x-should-retry", "x-ratelimit-limit"] {
        assert_eq!(reply.header(absent), "", "{absent}");
    }
    assert_ne!(reply.header("x-nullspend-trace-id"), "");
}

#[tokio::test]
async fn a_key_may_make_so_many_calls() {
    let stack = Stack::builder().env("NULLSPEND_RATE_LIMITS_KEY_CALLS_PER_MINUTE", "2").start().await;
    let (agent, other) = (stack.agent().await, stack.agent().await);
    let budget = stack.limit_key(&agent, 1_000_000).await;
    for _ in 0..2 {
        let _ = call(&stack, &agent, &[]).await.expect_status(200);
    }
    assert_limited(&call(&stack, &agent, &[]).await);
    let _ = call(&stack, &other, &[]).await.expect_status(200);
    assert_eq!(stack.provider.calls().len(), 3);
    stack.wait_no_holds(&budget).await;
}

#[tokio::test]
async fn calls_that_are_refused_for_who_makes_them_count_too() {
    let stack = Stack::builder().env("NULLSPEND_RATE_LIMITS_KEY_CALLS_PER_MINUTE", "2").start().await;
    let administrator = Agent { id: String::new(), key: stack.owner.clone() };
    for _ in 0..2 {
        let _ = call(&stack, &administrator, &[]).await.expect_status(403);
    }
    assert_limited(&call(&stack, &administrator, &[]).await);
    assert!(stack.provider.calls().is_empty());
}

#[tokio::test]
async fn an_address_is_that_of_the_connection_whatever_a_header_says() {
    let stack = Stack::builder().env("NULLSPEND_RATE_LIMITS_IP_CALLS_PER_MINUTE", "3").start().await;
    let agent = stack.agent().await;
    let nobody = Agent { id: String::new(), key: "ns_live_sk_wrong".to_owned() };
    let _ = call(&stack, &nobody, &[]).await.expect_status(401);
    for address in ["198.51.100.1", "198.51.100.2"] {
        let _ = call(&stack, &agent, &[("x-forwarded-for", address)]).await.expect_status(200);
    }
    for spoofed in [("x-forwarded-for", "198.51.100.3"), ("x-real-ip", "198.51.100.4")] {
        assert_limited(&call(&stack, &agent, &[spoofed]).await);
    }
    assert_limited(&call(&stack, &nobody, &[]).await);
    assert_eq!(stack.provider.calls().len(), 2);
}

#[tokio::test]
async fn behind_a_proxy_its_word_counts_and_no_further_one() {
    let stack = Stack::builder()
        .env("NULLSPEND_RATE_LIMITS_IP_CALLS_PER_MINUTE", "1")
        .env("NULLSPEND_ENVOY_TRUSTED_PROXIES", "1")
        .start()
        .await;
    let agent = stack.agent().await;
    // The proxy appends whom it speaks for; what its client claimed stands before that.
    for (chain, passes) in [
        ("198.51.100.1", true),
        ("203.0.113.1, 198.51.100.1", false),
        ("203.0.113.2, 198.51.100.1", false),
        ("198.51.100.1, 198.51.100.2", true),
        ("2001:db8:1:2::1", true),
        ("2001:db8:1:2:ffff::2", false),
    ] {
        let reply = call(&stack, &agent, &[("x-forwarded-for", chain)]).await;
        assert_eq!(reply.status.as_u16(), if passes { 200 } else { 429 }, "{chain}");
    }
}

#[tokio::test]
async fn administration_is_limited_by_key_and_told_where_it_stands() {
    let stack = Stack::builder().env("NULLSPEND_RATE_LIMITS_API_CALLS_PER_MINUTE", "3").start().await;
    let made = json!({"name": "reader", "role": "viewer"});
    let made = stack.api(&stack.owner, Method::POST, "/api/keys", made).await.expect_status(201);
    assert_eq!((made.header("x-ratelimit-limit"), made.header("x-ratelimit-remaining")), ("3", "2"));
    let reader = made.json()["data"]["rawKey"].as_str().expect("a key").to_owned();
    let read = async |path: &str| stack.api(&reader, Method::GET, path, Value::Null).await;
    assert_eq!(read("/api/budgets").await.expect_status(200).header("x-ratelimit-remaining"), "2");
    assert_eq!(read("/api/budgets/nonsense").await.expect_status(400).header("x-ratelimit-remaining"), "1");
    let refused = stack.api(&reader, Method::POST, "/api/freezes", json!({})).await.expect_status(403);
    assert_eq!((refused.header("x-ratelimit-limit"), refused.header("x-ratelimit-remaining")), ("3", "0"));
    let limited = read("/api/budgets").await.expect_status(429);
    assert_eq!(
        (limited.code().as_str(), limited.header("x-ratelimit-remaining")),
        ("rate_limit_exceeded", "0")
    );
    let retry_after: u64 = limited.header("retry-after").parse().expect("seconds");
    assert!((1..=20).contains(&retry_after), "{retry_after}");
    assert!(limited.header("x-ratelimit-reset").parse::<i64>().is_ok_and(|ms| ms > 1_700_000_000_000));
    let unreadable = json!({"name": 7});
    let unreadable = stack.api(&stack.owner, Method::POST, "/api/keys", unreadable).await.expect_status(400);
    assert_eq!(unreadable.header("x-ratelimit-remaining"), "1");
    let read = stack.api(&stack.owner, Method::GET, "/api/budgets", Value::Null).await.expect_status(200);
    assert_eq!(read.header("x-ratelimit-remaining"), "0");
}
