//! Prices that operators set: in force before the answer, for whom and when they say, and for past calls when asked.

use http::Method;
use nullspend_core::clock::{Clock as _, SystemClock};
use nullspend_e2e::{
    console::{Agent, nanos},
    http::Reply,
    stack::Stack,
};
use serde_json::{Value, json};

use crate::{CHAT, request, sum_nanos};

/// A model that the fake provider has and the catalogue does not.
const HOUSE: &str = "house-large";

async fn call(stack: &Stack, agent: &Agent, model: &str) -> Reply {
    let mut body = request(CHAT, "hello there [[fake tokens=50]]", false);
    body["model"] = json!(model);
    stack.call(&agent.key, CHAT, body).await
}

async fn post(stack: &Stack, path: &str, body: Value, status: u16) -> Value {
    stack.api(&stack.owner, Method::POST, path, body).await.expect_status(status).json()["data"].clone()
}

/// A price of standard rates, USD per million tokens.
fn price(model: &str, input: &str, output: &str) -> Value {
    json!({"provider": "openai", "model": model,
        "tiers": [{"tier": "standard", "usdPerMillionTokens": {"input": input, "output": output}}]})
}

/// An instant so many minutes from now, as the API writes it.
fn minutes_from_now(minutes: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(SystemClock::default().now_ms() + minutes * 60_000);
    format!("{:.3}", at.expect("a time"))
}

fn billed(stack: &Stack) -> i64 {
    stack.provider.calls().iter().map(|call| call.billed_nanos).sum()
}

#[tokio::test]
async fn a_model_without_a_price_is_refused_with_the_way_to_give_it_one() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let refused = call(&stack, &agent, HOUSE).await.expect_status(400);
    assert_eq!(refused.code(), "invalid_model");
    let error = &refused.json()["error"];
    let message = error["message"].as_str().expect("a sentence");
    assert!(message.contains("POST /api/prices"), "{message}");
    assert!(message.contains("nullspend.v1.PriceService/CreatePrice"), "{message}");
    let how = &error["details"]["add_price"];
    assert_eq!((&how["method"], &how["path"]), (&json!("POST"), &json!("/api/prices")), "{error:#}");
    let mut body = how["body"].clone();
    let path = how["path"].as_str().expect("a path");
    let blank = stack.api(&stack.owner, Method::POST, path, body.clone()).await.expect_status(400);
    assert_eq!(blank.code(), "validation_error", "placeholders are no prices");
    assert_eq!(
        stack.api(&agent.key, Method::POST, path, body.clone()).await.expect_status(403).code(),
        "forbidden"
    );

    body["tiers"][0]["usdPerMillionTokens"] = json!({"input": "0.40", "output": "1.60"});
    let row = post(&stack, path, body, 201).await;
    // The answer came after every data plane had confirmed it, so the very next call is priced.
    let _ = call(&stack, &agent, HOUSE).await.expect_status(200);
    let event = stack.wait_events(1).await.remove(0);
    assert_eq!((&event["priceId"], &event["priceVersion"]), (&row["id"], &json!("1")), "{event:#}");
    assert_eq!(nanos(&event["costNanodollars"]), billed(&stack));

    let path = format!("/api/prices/resolve?provider=openai&model={HOUSE}");
    let found = stack.api(&stack.owner, Method::GET, &path, Value::Null).await.expect_status(200).json();
    assert_eq!(found["data"]["price"]["id"], row["id"], "{found:#}");
    assert_eq!(found["data"]["candidates"][0]["verdict"], "answers");
}

#[tokio::test]
async fn an_override_holds_from_its_beginning_until_its_end() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let mut later = price("gpt-4o-mini", "100", "100");
    later["effectiveFrom"] = json!(minutes_from_now(60));
    let later = post(&stack, "/api/prices", later, 201).await;
    let _ = call(&stack, &agent, "gpt-4o-mini").await.expect_status(200);
    assert_eq!(stack.wait_events(1).await[0]["priceId"], "openai/gpt-4o-mini", "its hour has not come");
    let overlap =
        stack.api(&stack.owner, Method::POST, "/api/prices", price("gpt-4o-mini", "0.15", "0.60")).await;
    let overlap = overlap.expect_status(409).json();
    let message = overlap["error"]["message"].as_str().expect("a sentence");
    assert!(message.contains(later["id"].as_str().expect("an id")), "{message}");

    let path = format!("/api/prices/{}", later["id"].as_str().expect("an id"));
    let _ = stack.api(&stack.owner, Method::DELETE, &path, Value::Null).await.expect_status(200);
    let now = post(&stack, "/api/prices", price("gpt-4o-mini", "0.15", "0.60"), 201).await;
    let _ = call(&stack, &agent, "gpt-4o-mini-2024-07-18").await.expect_status(200);
    assert_eq!(stack.wait_events(2).await[0]["priceId"], now["id"], "the catalogue's other names too");
    let event = stack.wait_events(2).await.remove(0);
    let path = format!("/api/cost-events/{}", event["id"].as_str().expect("an id"));
    let one = stack.api(&stack.owner, Method::GET, &path, Value::Null).await.expect_status(200).json();
    let step = &one["data"]["costDetail"]["steps"][0];
    let pico = |line: &Value| line["costPicodollars"].as_str().and_then(|text| text.parse::<i64>().ok());
    let lines = step["lines"].as_array().expect("lines").iter();
    let sum: i64 = lines.map(|line| pico(line).expect("pico-dollars")).sum();
    assert_eq!((sum, &step["priceId"]), (nanos(&event["costNanodollars"]) * 1000, &now["id"]), "{one:#}");
    let path = format!("/api/prices/{}", now["id"].as_str().expect("an id"));
    let begun = stack.api(&stack.owner, Method::DELETE, &path, Value::Null).await.expect_status(409);
    assert!(begun.json()["error"]["message"].as_str().is_some_and(|text| text.contains("/end")), "{begun:?}");
    let ended = post(&stack, &format!("{path}/end"), json!({}), 200).await;
    assert_eq!(ended["version"], "2");
    let _ = call(&stack, &agent, "gpt-4o-mini").await.expect_status(200);
    assert_eq!(stack.wait_events(3).await[0]["priceId"], "openai/gpt-4o-mini");
    assert_eq!(sum_nanos(&stack.events().await), billed(&stack));
}

#[tokio::test]
async fn a_mended_price_is_applied_to_past_calls_once_and_to_their_budgets() {
    let mut stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 5_000_000).await;
    let hour_ago = minutes_from_now(-60);
    let mut wrong = price(HOUSE, "4", "16");
    wrong["effectiveFrom"] = json!(hour_ago);
    let wrong = post(&stack, "/api/prices", wrong, 201).await;
    for _ in 0..3 {
        let _ = call(&stack, &agent, HOUSE).await.expect_status(200);
    }
    let originals = stack.wait_events(3).await;
    let (charged, true_cost) = (sum_nanos(&originals), billed(&stack));
    assert_eq!(charged, true_cost * 10, "ten times too dear");
    assert_eq!(nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]), charged);

    // Ended where it began: it was wrong from the start.
    let path = format!("/api/prices/{}/end", wrong["id"].as_str().expect("an id"));
    post(&stack, &path, json!({"effectiveUntil": hour_ago}), 200).await;
    let mut right = price(HOUSE, "0.40", "1.60");
    right["effectiveFrom"] = json!(hour_ago);
    let right = post(&stack, "/api/prices", right, 201).await;

    let span = json!({"from": hour_ago, "until": minutes_from_now(60), "reason": "a decimal place"});
    let dry = post(&stack, "/api/prices/rerate", span.clone(), 200).await;
    assert_eq!(
        (&dry["dryRun"], &dry["examined"], &dry["adjusted"]),
        (&json!(true), &json!(3), &json!(3)),
        "{dry:#}"
    );
    assert_eq!(nanos(&dry["differenceNanodollars"]), true_cost - charged);
    assert_eq!(stack.events().await.len(), 3, "nothing was booked");

    let mut wet = span;
    wet["dryRun"] = json!(false);
    let done = post(&stack, "/api/prices/rerate", wet.clone(), 200).await;
    assert_eq!(nanos(&done["differenceNanodollars"]), true_cost - charged);
    let events = stack.wait_events(6).await;
    assert_eq!(sum_nanos(&events), true_cost);
    let (adjustments, rest): (Vec<Value>, Vec<Value>) =
        events.into_iter().partition(|event| event["eventType"] == "adjustment");
    assert_eq!(rest, originals, "what was recorded stays");
    for adjustment in &adjustments {
        assert!(rest.iter().any(|event| event["id"] == adjustment["adjustsEventId"]), "{adjustment:#}");
        assert_eq!((&adjustment["priceId"], &adjustment["source"]), (&right["id"], &json!("adjustment")));
        assert_eq!(adjustment["tags"]["_ns_reason"], "a decimal place");
    }
    assert_eq!(
        nanos(&stack.budget_now(&budget).await["spendNanodollars"]),
        true_cost,
        "the ledger took it back"
    );
    let again = post(&stack, "/api/prices/rerate", wet, 200).await;
    assert_eq!((&again["adjusted"], &again["differenceNanodollars"]), (&json!(0), &json!("0")), "{again:#}");

    stack.terminate();
    let _ = stack.ended().await;
    stack.restart().await;
    assert_eq!(
        nanos(&stack.budget_now(&budget).await["spendNanodollars"]),
        true_cost,
        "and so did the store"
    );
    assert_eq!(stack.events().await.len(), 6);
}

#[tokio::test]
async fn calls_without_a_price_pass_with_a_flat_hold_where_the_organisation_says_so() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1_000_000).await;
    let hold = async |hold: Value| {
        let body = json!({"holdMicrodollars": hold});
        let set = stack.api(&stack.owner, Method::PUT, "/api/prices/unpriced", body.clone()).await;
        assert_eq!(set.expect_status(200).json()["data"], body);
    };
    hold(json!(2_000)).await;
    let _ = call(&stack, &agent, HOUSE).await.expect_status(200);
    let event = stack.wait_events(1).await.remove(0);
    assert_eq!((&event["unpriced"], &event["costMicrodollars"]), (&json!(true), &json!(2_000)), "{event:#}");

    // The price comes later, and the call's tokens were kept for it.
    let mut row = price(HOUSE, "0.40", "1.60");
    row["effectiveFrom"] = json!(minutes_from_now(-60));
    post(&stack, "/api/prices", row, 201).await;
    let span = json!({"from": minutes_from_now(-60), "until": minutes_from_now(60), "dryRun": false, "reason": "priced"});
    let done = post(&stack, "/api/prices/rerate", span, 200).await;
    assert_eq!(done["adjusted"], 1, "{done:#}");
    assert_eq!(sum_nanos(&stack.wait_events(2).await), billed(&stack));
    assert_eq!(nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]), billed(&stack));

    hold(Value::Null).await;
    assert_eq!(call(&stack, &agent, "house-small").await.expect_status(400).code(), "invalid_model");
}
