//! Two hundred clients and one dollar: the provider never bills more, and the budget does not hide in caution either.

use std::sync::Arc;

use http::Method;
use nullspend_e2e::{
    console::{Agent, nanos},
    http::Http,
    provider::State,
    stack::Stack,
};
use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::{CHAT, MESSAGES, sum_nanos};

const CLIENTS: usize = 200;
const DOLLAR: i64 = 1_000_000_000;

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    denied: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_spend_one_dollar_and_no_more() {
    let stack = Arc::new(Stack::start().await);
    let budget = stack
        .budget(json!({"entityType": "org", "entityId": "", "maxBudgetMicrodollars": 1_000_000, "policy": "strict_block"}))
        .await;
    let mut agents = Vec::new();
    for _ in 0..4 {
        agents.push(stack.agent().await);
    }

    let barrier = Arc::new(Barrier::new(CLIENTS));
    let clients = (0..CLIENTS).map(|number| {
        let (stack, agent, barrier) = (Arc::clone(&stack), agents[number % 4].clone(), Arc::clone(&barrier));
        tokio::spawn(async move {
            barrier.wait().await;
            spend_until_denied(&stack, &agent, number).await
        })
    });
    let mut total = Tally::default();
    for client in clients.collect::<Vec<_>>() {
        let tally = client.await.expect("a client");
        total.passed += tally.passed;
        total.denied += tally.denied;
    }
    assert_eq!(total.denied, CLIENTS, "every client goes on until it is denied");
    assert!(total.passed > CLIENTS, "{total:?}");

    let calls =
        stack.provider.wait_until(|calls| calls.iter().all(|call| call.state == State::Finished)).await;
    let billed = stack.provider.billed_nanos();
    assert_eq!(calls.len(), total.passed, "a denied request never reaches the provider");
    assert!(billed <= DOLLAR, "the provider billed {billed} nano-dollars of {DOLLAR}");
    assert!(billed >= DOLLAR / 10 * 8, "only {billed} nano-dollars of {DOLLAR} could be used");

    let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
    let events = stack.wait_events(total.passed).await;
    assert_eq!((spent, sum_nanos(&events)), (billed, billed));
    assert!(events.iter().all(|event| event["measurement"] == "exact"), "{:?}", events[0]);
}

async fn spend_until_denied(stack: &Stack, agent: &Agent, number: usize) -> Tally {
    let http = Http::default();
    let path = if number % 4 < 3 { CHAT } else { MESSAGES };
    let model = if path == CHAT { "gpt-4o" } else { "claude-haiku-4-5" };
    let stream = number.is_multiple_of(2);
    let body = json!({"model": model, "stream": stream, "max_tokens": 100,
        "messages": [{"role": "user", "content": format!("[[fake tokens={} chunks=4]]", 70 + number % 25)}]});
    let mut tally = Tally::default();
    loop {
        let live = stack.open(&http, &agent.key, path, body.clone()).await.expect("an answer");
        let status = live.status.as_u16();
        let denied = live.headers.get("x-nullspend-denied").cloned();
        let retry = live.headers.get("x-should-retry").cloned();
        let (text, whole) = live.rest().await;
        assert!(whole, "{text}");
        match status {
            200 => tally.passed += 1,
            429 => {
                let error: Value = serde_json::from_str(&text).expect("JSON");
                assert_eq!(error["error"]["code"], "budget_exceeded", "{text}");
                assert_eq!((denied, retry), (Some("1".parse().unwrap()), Some("false".parse().unwrap())));
                tally.denied += 1;
                return tally;
            }
            _ => panic!("{status}: {text}"),
        }
    }
}

#[tokio::test]
async fn of_two_calls_at_once_a_budget_for_one_admits_one() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let path = "/v1/chat/completions";
    let body = json!({"model": "gpt-4o", "stream": true, "max_tokens": 100,
        "messages": [{"role": "user", "content": "[[fake tokens=4 chunks=4 gate=g gate_at=2]]"}]});
    let budget = stack.limit_key(&agent, 1_000_000).await;
    let first = stack.open(&stack.http, &agent.key, path, body.clone()).await.expect("an answer");
    assert_eq!(first.status.as_u16(), 200);
    // Room for one and a half of what the first call holds.
    let held = nanos(&stack.budget_now(&budget).await["heldNanodollars"]);
    stack.limit_key(&agent, held / 1000 * 3 / 2).await;
    let second = stack.call(&agent.key, path, body.clone()).await;
    assert_eq!((second.status.as_u16(), second.code().as_str()), (429, "budget_exceeded"));
    stack.provider.open_gate("g");
    assert!(first.rest().await.1);
    stack.wait_no_holds(&budget).await;
    let third = stack.call(&agent.key, path, body).await;
    assert_eq!(third.status.as_u16(), 200, "the released hold is free again");
    assert_eq!(stack.provider.calls().len(), 2);
    let denials = stack.api(&stack.owner, Method::GET, "/api/cost-events", Value::Null).await.json();
    assert!(
        denials["data"].as_array().is_some_and(|events| events.len() <= 2),
        "a denial is no event: {denials}"
    );
}
