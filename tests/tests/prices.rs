//! Prices that operators set: in force on the next call, kept by the events they priced, mended without rewriting them.

use http::Method;
use nullspend_e2e::{console::nanos, stack::Stack};
use serde_json::{Value, json};

use crate::CHAT;

const MODEL: &str = "gpt-4o-mini";

fn chat(model: &str) -> Value {
    json!({"model": model, "max_tokens": 50, "messages": [{"role": "user", "content": "[[fake tokens=10]] one two three"}]})
}

fn standard(model: &str, input: &str, output: &str) -> Value {
    json!({"provider": "openai", "model": model, "reason": "our contract",
        "tiers": [{"tier": "standard", "usdPerMillionTokens": {"input": input, "output": output}}]})
}

async fn api(stack: &Stack, method: Method, path: &str, body: Value, status: u16) -> Value {
    stack.api(&stack.owner, method, path, body).await.expect_status(status).json()
}

#[tokio::test]
async fn a_model_without_a_price_says_how_to_add_one_and_passes_once_it_has() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let refused = stack.call(&agent.key, CHAT, chat("house-model")).await.expect_status(400);
    let message = refused.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(refused.code(), "invalid_model");
    assert!(message.contains("/api/prices"), "{message}");
    let path = "/api/prices/resolve?provider=openai&model=house-model";
    let found = api(&stack, Method::GET, path, Value::Null, 200).await;
    assert_eq!((&found["data"]["priced"], &found["data"]["price"]), (&json!(false), &Value::Null));

    let made = api(&stack, Method::POST, "/api/prices", standard("house-model", "1.5", "6"), 201).await;
    let price = &made["data"];
    assert_eq!(price["tiers"][0]["picodollarsPerToken"], json!({"input": 1_500_000, "output": 6_000_000}));
    let found = api(&stack, Method::GET, path, Value::Null, 200).await;
    assert_eq!(
        (&found["data"]["price"]["id"], &found["data"]["candidates"][0]["layer"]),
        (&price["id"], &json!("organization"))
    );
    // The fake provider does not have the model: the call passed us all the same.
    let passed = stack.call(&agent.key, CHAT, chat("house-model")).await.expect_status(404);
    assert_eq!(passed.header("x-nullspend-denied"), "");
    let event = &stack.wait_events(1).await[0];
    assert_eq!((&event["priceId"], &event["priceVersion"]), (&price["id"], &json!("1")));
}

#[tokio::test]
async fn an_overridden_price_holds_from_its_beginning_and_a_mended_one_is_booked_as_an_adjustment() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 10_000_000).await;
    let _ = stack.call(&agent.key, CHAT, chat(MODEL)).await.expect_status(200);
    let first = stack.wait_events(1).await[0].clone();
    assert_eq!(first["priceId"], "openai/gpt-4o-mini");
    let (input, output) = (first["inputTokens"].as_i64().unwrap(), first["outputTokens"].as_i64().unwrap());

    let future = json!({"effectiveFrom": "2099-01-01T00:00:00Z"});
    let with = |mut price: Value, more: Value| {
        price.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        price
    };
    let later = api(&stack, Method::POST, "/api/prices", with(standard(MODEL, "9", "9"), future), 201).await;
    let _ = stack.call(&agent.key, CHAT, chat(MODEL)).await.expect_status(200);
    let second = stack.wait_events(2).await[0].clone();
    assert_eq!(second["costNanodollars"], first["costNanodollars"], "not yet");
    let clash = stack
        .api(&stack.owner, Method::POST, "/api/prices", standard(MODEL, "1", "1"))
        .await
        .expect_status(409);
    assert!(
        clash.json()["error"]["message"].as_str().unwrap().contains(later["data"]["id"].as_str().unwrap())
    );
    let gone = format!("/api/prices/{}", later["data"]["id"].as_str().unwrap());
    assert_eq!(api(&stack, Method::DELETE, &gone, Value::Null, 200).await, json!({"deleted": true}));

    // The contract price was known before, and entered too late: it begins in the past.
    let since = json!({"effectiveFrom": "2020-01-01T00:00:00Z"});
    let mended = api(&stack, Method::POST, "/api/prices", with(standard(MODEL, "1", "2"), since), 201).await;
    let price = mended["data"]["id"].clone();
    let _ = stack.call(&agent.key, CHAT, chat("gpt-4o-mini-2024-07-18")).await.expect_status(200);
    let third = stack.wait_events(3).await[0].clone();
    let new_cost = input * 1_000 + output * 2_000;
    assert_eq!(
        (&third["priceId"], nanos(&third["costNanodollars"])),
        (&price, new_cost),
        "its snapshots too"
    );

    let span = json!({"from": "2020-01-01T00:00:00Z", "until": "2020-12-31T00:00:00Z"});
    let _ = stack
        .api(&stack.owner, Method::POST, "/api/prices/rerate", json!({"from": "x"}))
        .await
        .expect_status(400);
    assert_eq!(api(&stack, Method::POST, "/api/prices/rerate", span, 200).await["data"]["examined"], 0);
    let now = jiff_now();
    let span = json!({"from": now.0, "until": now.1, "reason": "contract"});
    let dry = api(&stack, Method::POST, "/api/prices/rerate", span.clone(), 200).await["data"].clone();
    let difference = 2 * (new_cost - nanos(&first["costNanodollars"]));
    assert_eq!(
        (&dry["dryRun"], &dry["examined"], &dry["adjusted"]),
        (&json!(true), &json!(3), &json!(2)),
        "{dry:#}"
    );
    assert_eq!(nanos(&dry["differenceNanodollars"]), difference);
    assert_eq!(stack.events().await.len(), 3);

    let real = with(span, json!({"dryRun": false}));
    let booked = api(&stack, Method::POST, "/api/prices/rerate", real.clone(), 200).await["data"].clone();
    assert_eq!(booked["adjusted"], 2, "{booked:#}");
    assert_eq!(
        api(&stack, Method::POST, "/api/prices/rerate", real, 200).await["data"]["adjusted"],
        0,
        "once"
    );
    let events = stack.wait_events(5).await;
    let adjustments: Vec<&Value> = events.iter().filter(|event| event["eventType"] == "adjustment").collect();
    assert_eq!(adjustments.len(), 2);
    let originals: Vec<&Value> = adjustments.iter().map(|event| &event["adjustsEventId"]).collect();
    assert!(originals.contains(&&first["id"]) && originals.contains(&&second["id"]));
    assert!(events.contains(&first) && events.contains(&second), "the originals stay as they were");
    let spent = nanos(&stack.wait_no_holds(&budget).await["spendNanodollars"]);
    assert_eq!((spent, crate::sum_nanos(&events)), (3 * new_cost, 3 * new_cost));

    let one = format!("/api/cost-events/{}", third["id"].as_str().unwrap());
    let detail = api(&stack, Method::GET, &one, Value::Null, 200).await["data"]["costDetail"].clone();
    let lines = detail["steps"][0]["lines"].as_array().expect("lines").clone();
    let pico: i64 =
        lines.iter().map(|line| line["costPicodollars"].as_str().unwrap().parse::<i64>().unwrap()).sum();
    assert_eq!((pico, &detail["steps"][0]["priceId"]), (new_cost * 1000, &price), "{detail:#}");
}

/// From long ago until tomorrow.
fn jiff_now() -> (String, String) {
    let output = std::process::Command::new("date")
        .args(["-u", "-d", "+1 day", "+%FT%TZ"])
        .output()
        .expect("date runs");
    let tomorrow = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    let output = std::process::Command::new("date")
        .args(["-u", "-d", "-1 day", "+%FT%TZ"])
        .output()
        .expect("date runs");
    (String::from_utf8(output.stdout).expect("text").trim().to_owned(), tomorrow)
}

#[tokio::test]
async fn an_organisation_may_hold_a_flat_amount_instead_of_refusing() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let set =
        api(&stack, Method::POST, "/api/prices/unpriced", json!({"holdMicrodollars": 20_000}), 200).await;
    assert_eq!(set["data"]["holdMicrodollars"], 20_000);
    let passed = stack.call(&agent.key, CHAT, chat("house-model")).await.expect_status(404);
    assert_eq!(passed.header("x-nullspend-denied"), "");
    let event = &stack.wait_events(1).await[0];
    assert_eq!(
        (&event["unpriced"], &event["costMicrodollars"]),
        (&json!(true), &json!(0)),
        "refused upstream: free"
    );
    assert_eq!(
        api(&stack, Method::POST, "/api/prices/unpriced", json!({}), 200).await["data"]["holdMicrodollars"],
        Value::Null
    );
    assert_eq!(stack.call(&agent.key, CHAT, chat("house-model")).await.code(), "invalid_model");
}
