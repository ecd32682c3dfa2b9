//! kill -9 in the middle of everything: no call is lost, none is double, and nothing stays held.

use std::{collections::HashMap, sync::Arc};

use http::Method;
use nullspend_core::id::{Ids, RandomIds};
use nullspend_e2e::{
    console::{Agent, eventually, nanos},
    http::Http,
    program::{alive, children},
    provider::{Call, State},
    stack::Stack,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{CHAT, MESSAGES, request, sum_nanos};

const STREAMS: usize = 50;
const CHURNING: usize = 4;

/// What a client knows of its call.
struct Seen {
    trace: String,
    complete: bool,
}

fn new_trace() -> String {
    RandomIds.v4().simple().to_string()
}

/// One call; complete only when the answer was a 200 that ended validly.
async fn call(http: &Http, url: &str, agent: &Agent, path: &str, body: Value, trace: String) -> Seen {
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    let headers = [
        ("x-nullspend-key", agent.key.as_str()),
        ("authorization", "Bearer sk-provider-credential"),
        ("content-type", "application/json"),
        ("traceparent", parent.as_str()),
    ];
    let complete = match http.open(&Method::POST, &format!("{url}{path}"), &headers, body.to_string()).await {
        Ok(live) if live.status == 200 => live.rest().await.1,
        _ => false,
    };
    Seen { trace, complete }
}

/// Calls without a pause until one fails, as the kill makes the last one do.
async fn churn(url: String, agent: Agent, number: usize) -> Vec<Seen> {
    let http = Http::default();
    let mut seen = Vec::new();
    loop {
        let body = request(CHAT, "[[fake tokens=8 chunks=2]]", number.is_multiple_of(2));
        seen.push(call(&http, &url, &agent, CHAT, body, new_trace()).await);
        if !seen.last().is_some_and(|last| last.complete) {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_loses_no_call_and_keeps_no_hold() {
    let mut stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 100_000_000).await;
    let mut seen = Vec::new();
    for number in 0..20 {
        let path = if number % 2 == 0 { CHAT } else { MESSAGES };
        let body = request(path, "[[fake tokens=8 chunks=2]]", number % 4 < 2);
        seen.push(call(&stack.http, &stack.url, &agent, path, body, new_trace()).await);
    }
    assert!(seen.iter().all(|call| call.complete));

    let (mut streams, gated) = (JoinSet::new(), Arc::new(Http::default()));
    for number in 0..STREAMS {
        let path = if number % 2 == 0 { CHAT } else { MESSAGES };
        let body = request(path, "[[fake label=gated tokens=6 chunks=6 gate=never gate_at=4]]", true);
        let (http, url, agent) = (Arc::clone(&gated), stack.url.clone(), agent.clone());
        streams.spawn(async move { call(&http, &url, &agent, path, body, new_trace()).await });
    }
    let in_the_middle = |call: &&Call| call.label.as_deref() == Some("gated") && call.output_tokens == 3;
    stack.provider.wait_until(|calls| calls.iter().filter(in_the_middle).count() == STREAMS).await;
    let mut churning = JoinSet::new();
    for number in 0..CHURNING {
        churning.spawn(churn(stack.url.clone(), agent.clone(), number));
    }
    let before = stack.provider.calls().len();
    stack.provider.wait_until(|calls| calls.len() > before + 10).await;

    let envoys = children(stack.pid());
    assert!(!envoys.is_empty(), "Envoy is a child of the program");
    stack.kill9().await;
    eventually("the end of Envoy", async || (!envoys.iter().any(|pid| alive(*pid))).then_some(())).await;
    while let Some(more) = churning.join_next().await {
        seen.extend(more.expect("a client"));
    }
    while let Some(stream) = streams.join_next().await {
        let stream = stream.expect("a client");
        assert!(!stream.complete, "a stream that was cut must not look complete");
        seen.push(stream);
    }
    let calls = stack.provider.wait_until(|calls| calls.iter().all(|call| call.state != State::Open)).await;

    stack.restart().await;
    let after = stack.wait_no_holds(&budget).await;
    let events = stack.events().await;
    reconcile(&seen, &calls, &events);
    assert_eq!(nanos(&after["spendNanodollars"]), sum_nanos(&events));
    assert!(sum_nanos(&events) >= stack.provider.billed_nanos());
    let again = stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await;
    assert_eq!(again.status.as_u16(), 200, "the restarted product works on");
}

fn reconcile(seen: &[Seen], calls: &[Call], events: &[Value]) {
    let mut events_of: HashMap<&str, Vec<&Value>> = HashMap::new();
    for event in events {
        events_of.entry(event["traceId"].as_str().unwrap_or_default()).or_default().push(event);
    }
    let trace_of = |call: &Call| call.headers.get("traceparent").map(|parent| parent[3..35].to_owned());
    let calls_of: HashMap<String, &Call> =
        calls.iter().filter_map(|call| Some((trace_of(call)?, call))).collect();
    assert_eq!(calls_of.len(), calls.len(), "traceparent reaches the provider");
    assert!(
        events_of.keys().all(|trace| seen.iter().any(|call| call.trace == *trace)),
        "an event out of nowhere"
    );
    for Seen { trace, complete } in seen {
        let found = events_of.get(trace.as_str()).map_or(&[][..], Vec::as_slice);
        let provider = calls_of.get(trace);
        let story = json!({"trace": trace, "complete": complete, "provider": provider, "events": found});
        assert!(found.len() <= 1, "one event at most: {story:#}");
        assert!(provider.is_none() || found.len() == 1, "a call without an event: {story:#}");
        let Some(event) = found.first() else { continue };
        if *complete {
            assert_eq!(event["measurement"], "exact", "finished before the kill: {story:#}");
            assert_eq!(
                nanos(&event["costNanodollars"]),
                provider.map_or(0, |call| call.billed_nanos),
                "{story:#}"
            );
        }
        if provider.is_some_and(|call| call.state == State::Cut) {
            assert_ne!(event["measurement"], "exact", "cut at the provider: {story:#}");
        }
        if event["measurement"] == "lapsed" {
            assert_eq!(event["ending"], "crashed", "{story:#}");
        }
    }
    let gated = calls.iter().filter(|call| call.label.as_deref() == Some("gated"));
    for call in gated {
        let trace = trace_of(call).unwrap_or_default();
        assert_eq!(events_of[trace.as_str()][0]["measurement"], "lapsed", "{call:#?}");
    }
}
