//! Streams of budgets with `incrementalHold`: paid for as they come, and ended as their API ends an answer.

use std::time::Duration;

use nullspend_e2e::{
    console::{Agent, nanos},
    provider::State,
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{
    CHAT, MESSAGES, RESPONSES, request,
    sdk::{node, python},
};

/// Words of the answer that is asked for, each a token.
const WORDS: u64 = 3000;

/// A key with an incremental budget, and that budget.
async fn agent(stack: &Stack, microdollars: i64) -> (Agent, Value) {
    let agent = stack.agent().await;
    let budget = stack
        .budget(json!({"entityType": "api_key", "entityId": agent.id, "policy": "strict_block",
            "maxBudgetMicrodollars": microdollars, "incrementalHold": true}))
        .await;
    (agent, budget)
}

/// A stream without a limit of its own, or with the highest where the API needs one.
fn unlimited(path: &str, prompt: &str) -> Value {
    let mut body = request(path, prompt, true);
    for limit in ["max_completion_tokens", "max_output_tokens"] {
        body.as_object_mut().expect("an object").remove(limit);
    }
    if path == MESSAGES {
        body["max_tokens"] = json!(32_000);
    }
    body
}

#[tokio::test]
async fn a_stream_that_outgrows_its_budget_ends_as_its_api_ends_one_and_is_cancelled() {
    let stack = Stack::start().await;
    // What a whole answer may cost does not fit either of them by far.
    for (path, microdollars, ending) in [
        (CHAT, 1_500, "\"finish_reason\":\"length\""),
        (RESPONSES, 1_500, "\"reason\":\"max_output_tokens\""),
        (CHAT, 1_500, "\"finish_reason\":\"length\""),
        (MESSAGES, 15_000, "\"stop_reason\":\"max_tokens\""),
    ] {
        let (agent, budget) = agent(&stack, microdollars).await;
        let prompt = format!("hello [[fake tokens={WORDS} chunks={WORDS} pace_ms=1]]");
        let opened = stack.open(&stack.http, &agent.key, path, unlimited(path, &prompt)).await;
        let (text, whole) = opened.expect("an answer").rest().await;
        assert!(whole, "{path}: a valid end of the stream");
        assert!(text.contains(ending), "{path}: {}", &text[text.len().saturating_sub(800)..]);
        assert!(text.contains(": nullspend {\"budgetId\":\"ns_bgt_"), "{path}");
        let calls = stack
            .provider
            .wait_until(|calls| calls.last().is_some_and(|call| call.state == State::Cut))
            .await;
        let call = calls.last().expect("a call");
        let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
        assert!(spent <= microdollars * 1000, "{path}: {spent}");
        assert!(spent > microdollars * 100, "{path}: {spent} of what was let through");
        let shown = text.matches("word").count();
        // For whoever measures the tail: what the provider made and nobody saw.
        println!(
            "{path}: {shown} tokens shown, {} made; charged {spent}, billed {}",
            call.output_tokens, call.billed_nanos
        );
        assert!(call.output_tokens < WORDS, "{path}: the provider was stopped");
    }
    let events = stack.wait_events(4).await;
    for event in &events {
        assert_eq!(
            (&event["ending"], &event["measurement"]),
            (&json!("aborted"), &json!("estimated")),
            "{event:#}"
        );
        assert_eq!(event["tags"]["_ns_cut"], "budget_exceeded", "{event:#}");
    }
}

#[tokio::test]
async fn many_streams_share_a_budget_that_one_bound_would_fill() {
    let stack = Stack::start().await;
    // One call may cost about 10 000 micro-dollars; four answers of 100 tokens cost 4 x 60.
    let (agent, budget) = agent(&stack, 12_000).await;
    let body = unlimited(CHAT, "hello [[fake tokens=100 chunks=20 gate=all gate_at=10]]");
    let mut live = Vec::new();
    for _ in 0..4 {
        let opened = stack.open(&stack.http, &agent.key, CHAT, body.clone()).await.expect("an answer");
        assert_eq!(opened.status.as_u16(), 200);
        live.push(opened);
    }
    stack.provider.open_gate("all");
    for stream in live {
        let (text, whole) = stream.rest().await;
        assert!(whole && text.contains("\"finish_reason\":\"stop\""), "{text}");
    }
    let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
    assert_eq!(spent, stack.provider.billed_nanos());
}

#[tokio::test]
async fn a_stream_killed_in_the_middle_is_charged_all_that_was_held_for_it() {
    let mut stack = Stack::start().await;
    let (agent, budget) = agent(&stack, 1_000_000).await;
    let body = unlimited(CHAT, "hello [[fake tokens=2000 chunks=20 gate=late gate_at=15]]");
    let mut live = stack.open(&stack.http, &agent.key, CHAT, body).await.expect("an answer");
    let mut words = 0;
    while words < 1_300 {
        words += live.read_until("word").await.matches("word").count();
    }
    let held = nanos(&stack.budget_now(&budget).await["heldNanodollars"]);
    stack.kill9().await;
    stack.restart().await;
    let event = stack.wait_events(1).await.remove(0);
    assert_eq!(event["measurement"], "lapsed", "{event:#}");
    let cost = nanos(&event["costNanodollars"]);
    let billed = stack.provider.calls().last().map_or(0, |call| call.billed_nanos);
    assert!(cost >= held.min(billed) && cost >= 1_300 * 600, "{cost} of {held} held, {billed} billed");
}

#[tokio::test]
async fn the_official_sdks_read_a_cut_stream_to_its_end() {
    let stack = Stack::start().await;
    for (mut program, scenario, microdollars) in [
        (python("sdk/python/openai_sdk.py"), "cut_chat", 1_500),
        (python("sdk/python/openai_sdk.py"), "cut_responses", 1_500),
        (python("sdk/python/openai_sdk.py"), "cut_responses_helper", 1_500),
        (node("openai_sdk.mjs"), "cutChat", 1_500),
        (node("openai_sdk.mjs"), "cutResponses", 1_500),
        (python("sdk/python/anthropic_sdk.py"), "cut_helper", 15_000),
        (python("sdk/python/anthropic_sdk.py"), "cut_events", 15_000),
        (node("anthropic_sdk.mjs"), "cutHelper", 15_000),
    ] {
        let (agent, budget) = agent(&stack, microdollars).await;
        program.arg(scenario).env("E2E_URL", &stack.url).env("E2E_KEY", &agent.key).env("E2E_CUT", "1");
        let ran = tokio::time::timeout(Duration::from_secs(120), program.kill_on_drop(true).output()).await;
        let ran = ran.expect("it ends").expect("it runs");
        let said = String::from_utf8_lossy(&ran.stdout) + String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success() && said.contains(&format!("ok {scenario}")), "{said}");
        let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
        let events = stack.events().await;
        assert!(spent <= microdollars * 1000, "{scenario}: {spent}, {events:#?}");
    }
}
