//! An agent that repeats itself is stopped, where a budget asks for it.

use http::Method;
use nullspend_e2e::{
    console::{Agent, eventually},
    http::Reply,
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{
    CHAT, MESSAGES,
    explain::{explain, words},
    request,
};

async fn limited(stack: &Stack, agent: &Agent, loop_max_calls: i64) -> Value {
    let budget = json!({"entityType": "api_key", "entityId": agent.id, "name": "loops",
        "maxBudgetMicrodollars": 1_000_000, "policy": "warn", "loopMaxCalls": loop_max_calls});
    stack.budget(budget).await
}

async fn ask(stack: &Stack, agent: &Agent, prompt: &str) -> Reply {
    stack.call(&agent.key, CHAT, request(CHAT, prompt, false)).await
}

fn assert_loop(reply: &Reply, kind: &str, calls: u64, most: u64) {
    assert_eq!((reply.status.as_u16(), reply.code().as_str()), (429, "loop_detected"), "{reply:?}");
    for (header, value) in [("x-nullspend-denied", "1"), ("x-should-retry", "false"), ("retry-after", "60")] {
        assert_eq!(reply.header(header), value, "{header}");
    }
    let details = &reply.json()["error"]["details"];
    for (name, value) in [
        ("type", json!(kind)),
        ("model", json!("gpt-4o-mini")),
        ("callCount", json!(calls)),
        ("windowSeconds", json!(60)),
        ("maxCalls", json!(most)),
    ] {
        assert_eq!(details[name], value, "{name}");
    }
}

#[tokio::test]
async fn the_same_request_passes_as_often_as_its_budget_allows() {
    let stack = Stack::start().await;
    let (agent, other) = (stack.agent().await, stack.agent().await);
    let spending = stack.limit_key(&agent, 1_000_000).await;
    let budget = limited(&stack, &agent, 3).await;
    assert_eq!(
        stack.budget_now(&spending).await["maxBudgetMicrodollars"],
        1_000_000,
        "it stays beside a named one"
    );
    assert_eq!(budget["loopMaxCalls"], 3);
    for _ in 0..3 {
        let _ = ask(&stack, &agent, "again").await.expect_status(200);
    }
    let denied = ask(&stack, &agent, "again").await;
    assert_loop(&denied, "per_key", 4, 3);
    let told = explain(&stack, denied.header("x-nullspend-trace-id")).await;
    let by = &told["deniedBy"];
    assert_eq!((&by["why"], &by["budgetId"]), (&json!("loop"), &budget["id"]), "{told:#}");
    assert!(
        by["message"].as_str().is_some_and(|text| text.contains("this very request 4 times")),
        "{told:#}"
    );
    assert_eq!(words(&told).last(), Some(&"loop"), "{told:#}");
    assert_loop(&ask(&stack, &agent, "again").await, "per_key", 5, 3);
    // Another request, another API and another key are no part of it.
    let _ = ask(&stack, &agent, "something else").await.expect_status(200);
    let _ = stack.call(&agent.key, MESSAGES, request(MESSAGES, "again", false)).await.expect_status(200);
    let _ = ask(&stack, &other, "again").await.expect_status(200);
    assert_eq!(stack.provider.calls().len(), 6, "what is denied is not forwarded");
    stack.wait_events(6).await;
    stack.wait_no_holds(&budget).await;
    let denied = eventually("denial records", async || {
        let path = "/api/cost-events?budgetStatus=denied";
        let page = stack.api(&stack.owner, Method::GET, path, Value::Null).await.expect_status(200).json();
        page["data"].as_array().filter(|list| list.len() >= 2).cloned()
    })
    .await;
    assert_eq!(denied.len(), 2);

    assert_eq!(limited(&stack, &agent, 0).await["loopMaxCalls"], Value::Null, "0 switches it off");
    let _ = ask(&stack, &agent, "again").await.expect_status(200);
}

#[tokio::test]
async fn requests_that_repeat_in_turn_are_a_loop_together() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    limited(&stack, &agent, 14).await;
    for call in 0..14 {
        let _ = ask(&stack, &agent, &format!("step {}", call % 5)).await.expect_status(200);
    }
    assert_loop(&ask(&stack, &agent, "step 4").await, "aggregate", 15, 14);
    let _ = ask(&stack, &agent, "a way out").await.expect_status(200);
}
