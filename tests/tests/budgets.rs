//! Budgets bind what they name, and only that.

use std::time::Duration;

use http::Method;
use nullspend_e2e::{
    console::{Agent, nanos},
    http::Reply,
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{CHAT, request};

async fn call(stack: &Stack, agent: &Agent, headers: &[(&str, &str)]) -> Reply {
    stack.call_with(&agent.key, CHAT, headers, request(CHAT, "hello [[fake tokens=5]]", false)).await
}

/// The code of a denial, or `passed`.
async fn outcome(stack: &Stack, agent: &Agent, headers: &[(&str, &str)]) -> String {
    let reply = call(stack, agent, headers).await;
    match reply.status.as_u16() {
        200 => "passed".to_owned(),
        429 => {
            assert_eq!((reply.header("x-nullspend-denied"), reply.header("x-should-retry")), ("1", "false"));
            reply.code()
        }
        status => panic!("{status}: {}", String::from_utf8_lossy(&reply.body)),
    }
}

async fn delete(stack: &Stack, budget: &Value) {
    let path = format!("/api/budgets/{}", budget["id"].as_str().expect("an id"));
    let gone = stack.api(&stack.owner, Method::DELETE, &path, Value::Null).await.expect_status(200);
    assert_eq!(gone.json(), json!({"deleted": true}));
}

/// A budget that nothing fits into.
fn tiny(entity_type: &str, entity_id: &str) -> Value {
    json!({"entityType": entity_type, "entityId": entity_id, "maxBudgetMicrodollars": 1, "policy": "strict_block"})
}

/// Entity type and id, the headers of a call it binds, that call's code, and what calls without those headers meet:
/// the bound key's and another key's.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, [&'a str; 2]);

#[tokio::test]
async fn each_kind_of_entity_binds_its_own_calls_and_no_others() {
    let stack = Stack::start().await;
    let (bound, free) = (stack.agent().await, stack.agent().await);
    let me = stack
        .api(&free.key, Method::GET, "/api/auth/introspect", Value::Null)
        .await
        .expect_status(200)
        .json();
    let user = me["userId"].as_str().expect("a user").to_owned();
    let red = [("x-nullspend-tags", r#"{"team":"red"}"#)];
    let acme = [("x-nullspend-customer", "acme")];
    let none: [(&str, &str); 0] = [];

    let cases: [Case<'_>; 5] = [
        ("api_key", &bound.id, &none, "budget_exceeded", ["budget_exceeded", "passed"]),
        ("tag", "team=red", &red, "tag_budget_exceeded", ["passed", "passed"]),
        ("customer", "acme", &acme, "customer_budget_exceeded", ["passed", "passed"]),
        ("user", &user, &none, "budget_exceeded", ["budget_exceeded", "budget_exceeded"]),
        ("org", "", &none, "budget_exceeded", ["budget_exceeded", "budget_exceeded"]),
    ];
    for (kind, entity, headers, code, [plain_bound, plain_free]) in cases {
        let budget = stack.budget(tiny(kind, entity)).await;
        assert_eq!(outcome(&stack, &bound, headers).await, code, "{kind}");
        assert_eq!(outcome(&stack, &bound, &none).await, plain_bound, "{kind}");
        assert_eq!(outcome(&stack, &free, &none).await, plain_free, "{kind}");
        delete(&stack, &budget).await;
        assert_eq!(
            outcome(&stack, &bound, headers).await,
            "passed",
            "{kind}: a deleted budget binds nothing"
        );
    }
}

#[tokio::test]
async fn a_denial_says_what_stopped_it_and_what_is_left() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 100).await;
    let body =
        json!({"model": "gpt-4o", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]});
    let reply = stack.call(&agent.key, CHAT, body).await.expect_status(429);
    let error = &reply.json()["error"];
    let details = &error["details"];
    assert_eq!(details["entity_type"], "api_key", "{error:#}");
    assert_eq!(details["budget_limit_microdollars"], 100);
    assert_eq!(details["budget_spend_microdollars"], 0);
    assert_eq!(details["remaining_microdollars"], 100);
    assert!(details["estimated_cost_microdollars"].as_i64().is_some_and(|cost| cost >= 10_000), "{error:#}");
    assert_eq!(error["recovery"]["retryable"], false, "{error:#}");
    assert_eq!(reply.header("x-nullspend-budget-remaining"), "100");
    assert_eq!(reply.header("x-nullspend-budget-limit"), "100");
    assert!(stack.provider.calls().is_empty() && stack.events().await.is_empty());
    assert_eq!(stack.budget_now(&budget).await["spendNanodollars"], "0");
}

#[tokio::test]
async fn soft_and_warn_let_pass_and_only_soft_marks() {
    let stack = Stack::start().await;
    for (policy, warning, status) in [("soft_block", "budget_exceeded", "exceeded"), ("warn", "", "approved")]
    {
        let agent = stack.agent().await;
        let mut budget = tiny("api_key", &agent.id);
        budget["policy"] = json!(policy);
        let budget = stack.budget(budget).await;
        let reply = call(&stack, &agent, &[("x-nullspend-session", policy)]).await.expect_status(200);
        assert_eq!(reply.header("x-nullspend-warning"), warning, "{policy}");
        let spent = stack.wait_no_holds(&budget).await;
        assert_eq!(
            nanos(&spent["spendNanodollars"]),
            stack.provider.calls().last().map_or(0, |call| call.billed_nanos)
        );
        let path = format!("/api/cost-events?sessionId={policy}");
        let event = nullspend_e2e::console::eventually("the event", async || {
            let page = stack.api(&stack.owner, Method::GET, &path, Value::Null).await.json();
            page["data"].get(0).cloned()
        })
        .await;
        assert_eq!(event["budgetStatus"], status, "{policy} {event:#}");
    }
}

#[tokio::test]
async fn raising_and_resetting_make_room_at_once() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1).await;
    assert_eq!(outcome(&stack, &agent, &[]).await, "budget_exceeded");
    let raised = stack.limit_key(&agent, 1_000_000).await;
    assert_eq!(raised["id"], budget["id"], "the same budget, changed");
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed");

    // Spend from elsewhere draws on the same budget.
    let report = json!({"provider": "openai", "model": "gpt-4o", "inputTokens": 1, "outputTokens": 1,
        "costMicrodollars": 2_000_000});
    let _ = stack.api(&agent.key, Method::POST, "/api/cost-events", report).await.expect_status(201);
    assert_eq!(outcome(&stack, &agent, &[]).await, "budget_exceeded");
    let path = format!("/api/budgets/{}", budget["id"].as_str().expect("an id"));
    let reset = stack.api(&stack.owner, Method::POST, &path, Value::Null).await.expect_status(200).json();
    assert_eq!(reset["data"]["spendNanodollars"], "0", "{reset:#}");
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed");
    let billed = stack.provider.calls().last().map_or(0, |call| call.billed_nanos);
    assert_eq!(
        nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]),
        billed,
        "only what came after the reset"
    );
}

#[tokio::test]
async fn a_revoked_key_is_refused_within_a_second_and_never_again_accepted() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed");
    let path = format!("/api/keys/{}", agent.id);
    let _ = stack.api(&stack.owner, Method::DELETE, &path, Value::Null).await.expect_status(200);
    let refused = async { while call(&stack, &agent, &[]).await.status != 401 {} };
    tokio::time::timeout(Duration::from_secs(1), refused).await.expect("refused within a second");
    let _ = stack.api(&agent.key, Method::GET, "/api/budgets/status", Value::Null).await.expect_status(401);
}

#[tokio::test]
async fn mandates_come_before_money() {
    let stack = Stack::start().await;
    let agent = stack.agent_with(json!({"allowedModels": ["gpt-4o"], "allowedProviders": ["openai"]})).await;
    let wrong_model = stack.call(&agent.key, CHAT, request(CHAT, "hello", false)).await.expect_status(403);
    assert_eq!(wrong_model.code(), "mandate_violation");
    assert_eq!(wrong_model.json()["error"]["details"]["mandate"], "allowed_models");
    assert_eq!(wrong_model.header("x-nullspend-denied"), "", "a mandate is no denial");
    let wrong_provider =
        stack.call(&agent.key, crate::MESSAGES, request(crate::MESSAGES, "hello", false)).await;
    assert_eq!(wrong_provider.expect_status(403).json()["error"]["details"]["mandate"], "allowed_providers");
    assert!(stack.provider.calls().is_empty());
}

#[tokio::test]
async fn required_and_locked_tags_hold_callers_to_their_budgets() {
    let stack = Stack::start().await;
    let settings = json!({"defaultTags": {"team": "red"}, "lockedTags": ["team"], "requiredTags": ["job"]});
    let agent = stack.agent_with(settings).await;
    let missing = call(&stack, &agent, &[]).await.expect_status(400);
    assert!(
        missing.json()["error"]["message"].as_str().is_some_and(|text| text.contains("job")),
        "{missing:?}"
    );
    let named = [("x-nullspend-tags", r#"{"job":"1","team":"blue"}"#)];
    let reply = call(&stack, &agent, &named).await.expect_status(200);
    let tags: Value = serde_json::from_str(reply.header("x-nullspend-effective-tags")).expect("JSON");
    assert_eq!(tags, json!({"job": "1", "team": "red"}), "a locked tag cannot be changed");
    stack.budget(tiny("tag", "team=red")).await;
    assert_eq!(outcome(&stack, &agent, &named).await, "tag_budget_exceeded");
}

#[tokio::test]
async fn agents_can_ask_what_they_may_spend() {
    let stack = Stack::start().await;
    let agent = stack.agent_with(json!({"allowedModels": ["gpt-4o-mini"]})).await;
    stack.limit_key(&agent, 5_000_000).await;
    let url = |path: &str| format!("{}{path}", stack.url);
    let get = async |path: &str, more: &[(&str, &str)]| {
        let headers = [&[("x-nullspend-key", agent.key.as_str())], more].concat();
        stack.http.send(&Method::GET, &url(path), &headers, "").await.expect_status(200).json()
    };
    for path in ["/api/policy", "/v1/policy"] {
        let policy = get(path, &[]).await;
        assert_eq!(policy["budget"]["remaining_microdollars"], 5_000_000, "{policy:#}");
        assert_eq!(
            (&policy["allowed_models"], &policy["allowed_providers"]),
            (&json!(["gpt-4o-mini"]), &Value::Null)
        );
        assert_eq!(
            (&policy["restrictions_active"], &policy["cheapest_overall"]["model"]),
            (&json!(true), &json!("gpt-4o-mini"))
        );
        // The published Python client 0.4.0 would refuse every call if it were told of a budget (contract §0.3-13).
        assert_eq!(get(path, &[("x-nullspend-sdk", "python/0.2.1")]).await["budget"], Value::Null);
    }
    let status = get("/api/budgets/status", &[]).await;
    assert_eq!(status["entities"][0]["remainingMicrodollars"], 5_000_000, "{status:#}");
    let denied =
        stack.api(&agent.key, Method::POST, "/api/budgets", tiny("org", "")).await.expect_status(403);
    assert_eq!(denied.code(), "forbidden");
}

#[tokio::test]
async fn a_clamped_call_gets_as_much_answer_as_its_budget_affords() {
    let stack = Stack::start().await;
    for path in [CHAT, crate::RESPONSES, crate::MESSAGES] {
        let agent = stack.agent().await;
        let budget = |microdollars: i64, clamp: bool| {
            json!({"entityType": "api_key", "entityId": agent.id, "policy": "strict_block",
                "maxBudgetMicrodollars": microdollars, "clampOutput": clamp})
        };
        let mut body = request(path, "hello [[fake tokens=3000]]", true);
        for limit in ["max_completion_tokens", "max_output_tokens", "max_tokens"] {
            body.as_object_mut().expect("an object").remove(limit);
        }
        if path == crate::MESSAGES {
            body["max_tokens"] = json!(4000);
        }
        let microdollars = 1_500;
        stack.budget(budget(microdollars, false)).await;
        let denied = stack.call(&agent.key, path, body.clone()).await.expect_status(429);
        assert_eq!(denied.header("x-nullspend-max-tokens-applied"), "");
        let budget = stack.budget(budget(microdollars, true)).await;
        let reply = stack.call(&agent.key, path, body.clone()).await.expect_status(200);
        let applied: u64 =
            reply.header("x-nullspend-max-tokens-applied").parse().expect("a number of tokens");
        let call = stack.provider.calls().pop().expect("a call");
        let sent: Value = serde_json::from_str(call.body.as_deref().expect("a body")).expect("JSON");
        let limits = ["max_completion_tokens", "max_output_tokens", "max_tokens"];
        assert_eq!(
            limits.iter().filter_map(|name| sent[name].as_u64()).collect::<Vec<_>>(),
            [applied],
            "{sent}"
        );
        assert_eq!(call.output_tokens, applied, "the answer was as long as it could be");
        let spent = stack.wait_no_holds(&budget).await;
        assert_eq!(nanos(&spent["spendNanodollars"]), call.billed_nanos);
        assert!(
            call.billed_nanos <= microdollars * 1000 && call.billed_nanos > microdollars * 500,
            "{call:#?}"
        );
    }
}

#[tokio::test]
async fn a_session_is_stopped_at_its_limit_and_others_go_on() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let mut limited = tiny("api_key", &agent.id);
    limited["policy"] = json!("warn");
    limited["sessionLimitMicrodollars"] = json!(1);
    stack.budget(limited).await;
    let (one, two) = ([("x-nullspend-session", "one")], [("x-nullspend-session", "two")]);
    let denied = call(&stack, &agent, &one).await.expect_status(429);
    assert_eq!(
        (denied.code().as_str(), denied.header("x-nullspend-denied")),
        ("session_limit_exceeded", "1")
    );
    let details = &denied.json()["error"]["details"];
    assert_eq!((&details["session_id"], &details["session_limit_microdollars"]), (&json!("one"), &json!(1)));
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed", "without a session");
    // Spend that the SDK reports for a session counts towards it.
    let raise = json!({"entityType": "api_key", "entityId": agent.id, "maxBudgetMicrodollars": 1,
        "sessionLimitMicrodollars": 1_000_000});
    stack.budget(raise).await;
    assert_eq!(outcome(&stack, &agent, &one).await, "passed");
    let report = json!({"provider": "openai", "model": "gpt-4o", "inputTokens": 1, "outputTokens": 1,
        "costMicrodollars": 1_000_000, "sessionId": "one"});
    let _ = stack.api(&agent.key, Method::POST, "/api/cost-events", report).await.expect_status(201);
    assert_eq!(outcome(&stack, &agent, &one).await, "session_limit_exceeded");
    assert_eq!(outcome(&stack, &agent, &two).await, "passed");
    let long = "s".repeat(257);
    let refused = call(&stack, &agent, &[("x-nullspend-session", &long)]).await.expect_status(400);
    let message = refused.json()["error"]["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("X-NullSpend-Session")), "{message}");
}

#[tokio::test]
async fn what_is_spent_too_fast_waits_for_the_cool_down() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let paced = |limit| {
        json!({"entityType": "api_key", "entityId": agent.id, "maxBudgetMicrodollars": 1_000_000,
            "velocityLimitMicrodollars": limit, "velocityWindowSeconds": 3600, "velocityCooldownSeconds": 600})
    };
    stack.budget(paced(1_000_000)).await;
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed");
    stack.budget(paced(1)).await;
    for _ in 0..2 {
        let denied = call(&stack, &agent, &[]).await.expect_status(429);
        assert_eq!(denied.code(), "velocity_exceeded");
        let retry_after: u64 = denied.header("retry-after").parse().expect("seconds");
        assert!((590..=600).contains(&retry_after), "{retry_after}");
        let details = &denied.json()["error"]["details"];
        assert_eq!((&details["limitMicrodollars"], &details["windowSeconds"]), (&json!(1), &json!(3600)));
        assert!(details["currentMicrodollars"].is_i64(), "{details:#}");
    }
    stack.budget(paced(0)).await;
    assert_eq!(outcome(&stack, &agent, &[]).await, "passed", "switched off");
}

#[tokio::test]
async fn what_is_kept_back_is_for_calls_that_finalize() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let kept = json!({"entityType": "api_key", "entityId": agent.id, "maxBudgetMicrodollars": 1_000_000,
        "finalizationReserveMicrodollars": 999_999});
    stack.budget(kept).await;
    let denied = call(&stack, &agent, &[]).await.expect_status(429);
    let details = &denied.json()["error"]["details"];
    assert_eq!(details["remaining_microdollars"], 1, "{details:#}");
    assert_eq!(details["finalization_remaining_microdollars"], 1_000_000, "{details:#}");
    assert_eq!(outcome(&stack, &agent, &[("x-nullspend-finalize", "1")]).await, "passed");
}
