//! Every way a call can end: exactly one event each, an honest cost, and nothing left held.

use std::{net::TcpListener, time::Duration};

use nullspend_e2e::{
    console::{Agent, nanos},
    http::Http,
    provider::{Call, State, encode::decoded},
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{CHAT, MESSAGES, RESPONSES, request};

const PATHS: [&str; 3] = [CHAT, RESPONSES, MESSAGES];

/// A stack with a budget that never denies, so that every call holds something.
struct World {
    stack: Stack,
    agent: Agent,
    budget: Value,
    made: usize,
}

impl World {
    async fn new() -> Self {
        Self::of(Stack::start().await).await
    }

    async fn of(stack: Stack) -> Self {
        let agent = stack.agent().await;
        let budget = stack.limit_key(&agent, 1_000_000_000).await;
        Self { stack, agent, budget, made: 0 }
    }

    /// The one event that the last call left, after its hold was given back.
    async fn event(&mut self) -> Value {
        self.made += 1;
        let made = self.made;
        let events = self.stack.wait_events(made).await;
        self.stack.wait_no_holds(&self.budget).await;
        events.into_iter().next().expect("the newest event")
    }

    fn last_call(&self) -> Call {
        self.stack.provider.calls().pop().expect("a call at the provider")
    }

    /// Spend of the budget is what the events say, to the nano-dollar.
    async fn settle_up(&self) {
        let spent = nanos(&self.stack.budget_now(&self.budget).await["spendNanodollars"]);
        assert_eq!(spent, crate::sum_nanos(&self.stack.events().await));
        assert!(spent >= self.stack.provider.billed_nanos());
    }
}

fn cost(event: &Value) -> i64 {
    nanos(&event["costNanodollars"])
}

fn assert_estimated(event: &Value, least: i64) {
    assert_eq!(event["measurement"], "estimated", "{event:#}");
    assert!(cost(event) >= least && cost(event) > 0, "at least {least}: {event:#}");
    let bound = event["estimatedCostMicrodollars"].as_i64();
    assert!(bound.is_none_or(|bound| cost(event) <= bound * 1000 + 999), "never above the hold: {event:#}");
}

#[tokio::test]
async fn a_complete_answer_costs_what_the_provider_bills() {
    let mut world = World::new().await;
    for path in PATHS {
        for (stream, prompt) in [
            (false, "hello there [[fake tokens=31]]"),
            (true, "hello there [[fake tokens=31 chunks=7]]"),
            (false, "one two three four five six [[fake tokens=3 cached=5]]"),
            (true, "cut by its own limit [[fake tokens=500 chunks=9]]"),
        ] {
            let reply = world
                .stack
                .call(&world.agent.key, path, request(path, prompt, stream))
                .await
                .expect_status(200);
            let (event, call) = (world.event().await, world.last_call());
            assert_eq!(
                (cost(&event), &event["measurement"]),
                (call.billed_nanos, &json!("exact")),
                "{path} {event:#}"
            );
            assert_eq!(event["requestId"], json!(call.request_id), "{path}");
            assert_eq!(reply.header("x-request-id"), call.request_id, "{path}");
            let counts =
                ["inputTokens", "outputTokens", "cachedInputTokens"].map(|name| event[name].as_u64());
            assert_eq!(
                counts,
                [call.input_tokens, call.output_tokens, call.cached_tokens].map(Some),
                "{path} {event:#}"
            );
            assert_eq!((&event["ending"], &event["statusCode"]), (&json!("complete"), &json!(200)));
        }
    }
    let mut dated = request(CHAT, "a dated snapshot", true);
    dated["model"] = json!("gpt-4o-mini-2024-07-18");
    let _ = world.stack.call(&world.agent.key, CHAT, dated).await.expect_status(200);
    assert_eq!(cost(&world.event().await), world.last_call().billed_nanos, "priced as its base");
    world.settle_up().await;
}

#[tokio::test]
async fn a_providers_error_passes_byte_for_byte_and_costs_nothing() {
    let mut world = World::new().await;
    for path in PATHS {
        for status in [400, 401, 429, 500, 529] {
            let body = request(path, &format!("[[fake status={status}]]"), status % 2 == 0);
            let direct = Http::default();
            let url = format!("{}{path}", world.stack.provider.url());
            let headers = [("authorization", "Bearer sk-provider-credential")];
            let wanted = direct.send(&http::Method::POST, &url, &headers, body.to_string()).await;
            let got = world.stack.call(&world.agent.key, path, body).await.expect_status(status);
            assert_eq!(got.body, wanted.body, "{path} {status}");
            assert_eq!(got.header("x-nullspend-denied"), "", "an upstream 429 is not ours");
            let event = world.event().await;
            assert_eq!((cost(&event), &event["ending"]), (0, &json!("provider_error")), "{event:#}");
            assert_eq!(event["statusCode"], json!(status));
        }
    }
    world.settle_up().await;
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_pays_for_what_it_was_sent() {
    let mut world = World::new().await;
    for (round, (path, h2)) in
        [(CHAT, false), (CHAT, true), (RESPONSES, false), (MESSAGES, false)].into_iter().enumerate()
    {
        let gate = format!("[[fake tokens=20 chunks=10 gate=round{round} gate_at=4]]");
        let http = Http::new(h2);
        let opened = world.stack.open(&http, &world.agent.key, path, request(path, &gate, true)).await;
        let mut live = opened.expect("an answer");
        world
            .stack
            .provider
            .wait_until(|calls| calls.last().is_some_and(|call| call.output_tokens == 6))
            .await;
        let mut text = String::new();
        while text.matches("word").count() < 6 {
            text.push_str(&live.read_until("word").await);
        }
        drop((live, http));
        let event = world.event().await;
        let calls = world
            .stack
            .provider
            .wait_until(|calls| calls.last().is_some_and(|call| call.state == State::Cut))
            .await;
        assert_estimated(&event, calls.last().map_or(0, |call| call.billed_nanos));
        assert_eq!(event["ending"], "aborted", "{path} {event:#}");
    }
    world.settle_up().await;
}

#[tokio::test]
async fn a_provider_that_breaks_off_is_charged_for_what_was_seen() {
    let mut world = World::new().await;
    for (round, path) in PATHS.into_iter().enumerate() {
        let order = format!("[[fake tokens=20 chunks=10 gate=break{round} gate_at=5 reset_at=5]]");
        let opened =
            world.stack.open(&world.stack.http, &world.agent.key, path, request(path, &order, true)).await;
        let mut live = opened.expect("an answer");
        live.read_until("word").await;
        world.stack.provider.open_gate(&format!("break{round}"));
        let (text, whole) = live.rest().await;
        assert!(!whole, "a broken stream must not look complete: {text}");
        let event = world.event().await;
        assert_estimated(&event, world.last_call().billed_nanos);
        assert_eq!(event["ending"], "aborted", "{path} {event:#}");

        // Broken so early that Envoy may not have begun to answer: then it says so itself.
        let body = request(path, "[[fake tokens=20 chunks=10 reset_at=1]]", true);
        let opened =
            world.stack.open(&world.stack.http, &world.agent.key, path, body).await.expect("an answer");
        let status = opened.status.as_u16();
        let (_, whole) = opened.rest().await;
        assert!(!whole || (502..=504).contains(&status), "{path} {status}");
        assert_estimated(&world.event().await, world.last_call().billed_nanos);

        // The same with the API's own error event and a valid end.
        let body = request(path, "[[fake tokens=20 chunks=10 error_at=5]]", true);
        let reply = world.stack.call(&world.agent.key, path, body).await.expect_status(200);
        assert!(String::from_utf8_lossy(&reply.body).contains("error"));
        assert_estimated(&world.event().await, world.last_call().billed_nanos);
    }
    world.settle_up().await;
}

#[tokio::test]
async fn an_answer_that_never_began_is_charged_in_full() {
    let mut world = World::new().await;
    for stream in [false, true] {
        let reply =
            world.stack.call(&world.agent.key, CHAT, request(CHAT, "[[fake reset_at=0]]", stream)).await;
        assert!((502..=504).contains(&reply.status.as_u16()), "{reply:?}");
        assert!(!reply.code().is_empty(), "{reply:?}");
        assert_estimated(&world.event().await, world.last_call().billed_nanos);

        let before = world.stack.provider.calls().len();
        let http = Http::default();
        let (url, key) = (format!("{}{CHAT}", world.stack.url), world.agent.key.clone());
        let asking = tokio::spawn(async move {
            let headers = [
                ("x-nullspend-key", key.as_str()),
                ("authorization", "Bearer x"),
                ("content-type", "application/json"),
            ];
            let body = request(CHAT, "[[fake stall_at=0]]", stream).to_string();
            http.open(&http::Method::POST, &url, &headers, body).await
        });
        world.stack.provider.wait_until(|calls| calls.len() > before).await;
        asking.abort();
        assert!(asking.await.is_err(), "nothing was answered");
        let event = world.event().await;
        assert_estimated(&event, world.last_call().billed_nanos);
    }
    world.settle_up().await;
}

#[tokio::test]
async fn answers_without_usage_are_charged_and_marked() {
    let mut world = World::new().await;
    for path in PATHS {
        for stream in [false, true] {
            let body = request(path, "[[fake tokens=9 no_usage]]", stream);
            let _ = world.stack.call(&world.agent.key, path, body).await.expect_status(200);
            assert_estimated(&world.event().await, world.last_call().billed_nanos);
        }
    }
    world.settle_up().await;
}

#[tokio::test]
async fn an_answer_that_is_encoded_unasked_passes_untouched_and_costs_what_it_costs() {
    let mut world = World::new().await;
    for (path, encoding) in [
        (CHAT, "gzip"),
        (CHAT, "br"),
        (CHAT, "zstd"),
        (CHAT, "gzip,br"),
        (RESPONSES, "zstd"),
        (MESSAGES, "br"),
    ] {
        for stream in [false, true] {
            let order = format!("[[fake tokens=9 chunks=3 encoding={encoding}]]");
            let reply = world.stack.call(&world.agent.key, path, request(path, &order, stream)).await;
            let reply = reply.expect_status(200);
            assert_eq!(reply.header("content-encoding"), encoding, "{path}");
            let text = String::from_utf8_lossy(&decoded(encoding, &reply.body)).into_owned();
            assert!(text.contains("word"), "{path} {encoding}: {text}");
            let (event, call) = (world.event().await, world.last_call());
            let found = (cost(&event), &event["measurement"]);
            assert_eq!(found, (call.billed_nanos, &json!("exact")), "{path} {encoding} {event:#}");
        }
    }
    for stream in [false, true] {
        let body = request(CHAT, "[[fake tokens=9 encoding=rot13]]", stream);
        let _ = world.stack.call(&world.agent.key, CHAT, body).await.expect_status(200);
        let event = world.event().await;
        assert_estimated(&event, world.last_call().billed_nanos);
        assert_eq!(event["tags"]["_ns_unread"], "unknown_encoding", "{event:#}");
    }
    world.settle_up().await;
}

#[tokio::test]
async fn a_provider_that_is_down_leaves_one_event_and_no_hold() {
    let nobody =
        TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let stack = Stack::builder().upstream(&format!("http://{nobody}")).start().await;
    let mut world = World::of(stack).await;
    for stream in [false, true] {
        let reply = world.stack.call(&world.agent.key, CHAT, request(CHAT, "hello", stream)).await;
        assert!((502..=504).contains(&reply.status.as_u16()), "{reply:?}");
        let event = world.event().await;
        assert_eq!(event["ending"], "unreachable", "{event:#}");
    }
    assert!(world.stack.provider.calls().is_empty());
}

#[tokio::test]
async fn a_stream_may_outlive_its_lease_many_times() {
    let stack = Stack::builder().env("NULLSPEND_LEDGER_LEASE_MS", "1000").start().await;
    let mut world = World::of(stack).await;
    let body = request(CHAT, "[[fake tokens=20 chunks=10 gate=late gate_at=5]]", true);
    let mut live =
        world.stack.open(&world.stack.http, &world.agent.key, CHAT, body).await.expect("an answer");
    live.read_until("word").await;
    let held = world.stack.budget_now(&world.budget).await["heldNanodollars"].clone();
    assert!(nanos(&held) > 0);
    // Time itself is what is tested here: four leases of it.
    for _ in 0..16 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(
            world.stack.budget_now(&world.budget).await["heldNanodollars"],
            held,
            "held as long as it lives"
        );
    }
    world.stack.provider.open_gate("late");
    assert!(live.rest().await.1);
    let event = world.event().await;
    assert_eq!((cost(&event), &event["measurement"]), (world.last_call().billed_nanos, &json!("exact")));
    world.settle_up().await;
}
