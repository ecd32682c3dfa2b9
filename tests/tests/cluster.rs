//! Several data planes on one Redis: one set of budgets, whoever dies.

use std::sync::Arc;

use http::Method;
use nullspend_e2e::{
    cluster::Cluster,
    console::{Agent, Console, nanos},
    http::Http,
    provider::State,
};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::{CHAT, MESSAGES, request, sum_nanos};

const CLIENTS: usize = 60;
const DOLLAR: i64 = 1_000_000_000;

/// Spends until it is denied; how many calls passed.
async fn spend_until_denied(console: &Console, agent: &Agent, number: usize) -> usize {
    let http = Http::default();
    let path = if number.is_multiple_of(2) { CHAT } else { MESSAGES };
    let model = if path == CHAT { "gpt-4o" } else { "claude-haiku-4-5" };
    let body = json!({"model": model, "stream": number.is_multiple_of(3), "max_tokens": 400,
        "messages": [{"role": "user", "content": format!("[[fake tokens={} chunks=4]]", 300 + number % 100)}]});
    let mut passed = 0;
    loop {
        let live = console.open(&http, &agent.key, path, body.clone()).await.expect("an answer");
        let status = live.status.as_u16();
        let (text, whole) = live.rest().await;
        assert!(whole, "{text}");
        match status {
            200 => passed += 1,
            429 => return passed,
            // A ledger that is too slow for a moment decides nothing; what it held for the call is given back.
            503 if text.contains("budget_unavailable") => {}
            _ => panic!("{status}: {text}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_spend_one_dollar_together_and_no_more() {
    let cluster = Cluster::start(2).await;
    let first = &cluster.nodes[0].console;
    let agent = first.agent().await;
    let budget = first
        .budget(json!({"entityType": "org", "maxBudgetMicrodollars": 1_000_000, "policy": "strict_block"}))
        .await;
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients = (0..CLIENTS).map(|number| {
        let console = cluster.nodes[number % 2].console.clone();
        let (agent, barrier) = (agent.clone(), Arc::clone(&barrier));
        tokio::spawn(async move {
            barrier.wait().await;
            spend_until_denied(&console, &agent, number).await
        })
    });
    let mut passed = 0;
    for client in clients.collect::<Vec<_>>() {
        passed += client.await.expect("a client");
    }
    let calls =
        cluster.provider.wait_until(|calls| calls.iter().all(|call| call.state == State::Finished)).await;
    let billed = cluster.provider.billed_nanos();
    assert_eq!(calls.len(), passed);
    assert!((DOLLAR / 10 * 7..=DOLLAR).contains(&billed), "the provider billed {billed} of {DOLLAR}");
    let spent = nanos(&first.wait_no_holds(&budget).await["spendNanodollars"]);
    let events = first.wait_events(passed).await;
    assert_eq!((spent, sum_nanos(&events)), (billed, billed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_ends_the_calls_of_one_that_died_and_the_dead_one_adds_nothing() {
    let mut cluster = Cluster::builder().env("NULLSPEND_LEDGER_LEASE_MS", "2000").start(2).await;
    let (first, second) = (cluster.nodes[0].console.clone(), cluster.nodes[1].console.clone());
    let agent = first.agent().await;
    let budget = first.limit_key(&agent, 100_000_000).await;
    let _ = first.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(200);
    let mut streams = Vec::new();
    for _ in 0..5 {
        let body = request(CHAT, "[[fake tokens=6 chunks=6 gate=never gate_at=4]]", true);
        let mut live = first.open(&Http::default(), &agent.key, CHAT, body).await.expect("an answer");
        live.read_until("word").await;
        streams.push(live);
    }
    assert!(nanos(&second.budget_now(&budget).await["heldNanodollars"]) > 0, "the other node sees the holds");
    cluster.kill9_node(0).await;
    drop(streams);
    // The other node sweeps what nobody renews any more.
    let after = second.wait_no_holds(&budget).await;
    let events = second.wait_events(6).await;
    let lapsed = |events: &[Value]| events.iter().filter(|event| event["measurement"] == "lapsed").count();
    assert_eq!(lapsed(&events), 5, "{events:#?}");
    assert_eq!(nanos(&after["spendNanodollars"]), sum_nanos(&events));

    cluster.restart_node(0).await;
    let _ = first.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(200);
    let events = second.wait_events(7).await;
    let after = second.wait_no_holds(&budget).await;
    assert_eq!((lapsed(&events), nanos(&after["spendNanodollars"])), (5, sum_nanos(&events)));
    assert!(sum_nanos(&events) >= cluster.provider.billed_nanos());
}

#[tokio::test]
async fn a_change_binds_every_node_and_a_revoked_key_ends_everywhere() {
    let cluster = Cluster::start(2).await;
    let consoles: Vec<Console> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let agent = consoles[0].agent().await;
    for console in &consoles {
        let _ = console.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(200);
    }
    consoles[0].limit_key(&agent, 1).await;
    for console in &consoles {
        let denied = console.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(429);
        assert_eq!(denied.code(), "budget_exceeded");
    }
    let warned = cluster.log_lines("the ledger's server");
    assert!(warned.is_empty(), "its Redis keeps what it is told: {warned:?}");
    let path = format!("/api/keys/{}", agent.id);
    let revoked = consoles[1].api(&consoles[1].owner, Method::DELETE, &path, Value::Null).await;
    assert_eq!(revoked.status.as_u16(), 200);
    for console in &consoles {
        let refused = console.call(&agent.key, CHAT, request(CHAT, "hello", false)).await;
        assert_eq!(refused.status.as_u16(), 401);
    }
}
