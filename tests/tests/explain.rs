//! Every call can be asked why: what it cost, what it was taken out of, and what said no.

use http::Method;
use nullspend_e2e::{
    console::{Agent, Console, eventually, nanos},
    http::{Live, Reply},
    stack::Stack,
};
use nullspend_proto::v1::{ExplainRequest, explain_service_client::ExplainServiceClient};
use serde_json::{Value, json};
use tonic::{Code, Request, transport::Channel};

use crate::{CHAT, request};

async fn ask(console: &Console, id: &str) -> Reply {
    console.api(&console.owner, Method::GET, &format!("/api/requests/{id}/explain"), Value::Null).await
}

/// The explanation of an event, or of a denial once its record has arrived.
pub(crate) async fn explain(console: &Console, id: &str) -> Value {
    let found = eventually("the record of the call", async || {
        let reply = ask(console, id).await;
        (reply.status.as_u16() == 200).then_some(reply)
    })
    .await;
    found.json()["data"].clone()
}

async fn call(stack: &Stack, agent: &Agent, prompt: &str, status: u16) -> Reply {
    stack.call(&agent.key, CHAT, request(CHAT, prompt, false)).await.expect_status(status)
}

fn trace(live: &Live) -> String {
    live.headers["x-nullspend-trace-id"].to_str().expect("text").to_owned()
}

pub(crate) fn words(told: &Value) -> Vec<&str> {
    let steps = told["steps"].as_array().expect("steps");
    steps.iter().map(|step| step["step"].as_str().expect("a word")).collect()
}

/// Settled, held and remaining, before or after.
fn numbers(told: &Value, when: &str) -> [i64; 3] {
    let of = &told["budgets"][0][when];
    ["settledNanodollars", "heldNanodollars", "remainingNanodollars"].map(|name| nanos(&of[name]))
}

#[tokio::test]
async fn the_numbers_of_calls_in_a_row_add_up_to_the_nano() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1_000_000).await;
    let mut settled = 0;
    for tokens in [7, 31, 5] {
        let reply = call(&stack, &agent, &format!("hello [[fake tokens={tokens}]]"), 200).await;
        let told = explain(&stack, reply.header("x-nullspend-trace-id")).await;
        let hold = nanos(&told["bound"]["heldNanodollars"]);
        assert_eq!(told["budgets"][0]["id"], budget["id"]);
        assert_eq!(numbers(&told, "before"), [settled, 0, 1_000_000_000 - settled], "{told:#}");
        assert_eq!(numbers(&told, "after"), [settled, hold, 1_000_000_000 - settled - hold], "{told:#}");
        let billed = stack.provider.calls().last().expect("a call").billed_nanos;
        let cost = &told["cost"];
        assert_eq!((nanos(&cost["costNanodollars"]), &cost["basis"]), (billed, &json!("usage")), "{told:#}");
        assert_eq!((&told["outcome"], &cost["overageNanodollars"]), (&json!("settled"), &json!("0")));
        assert!(hold >= billed, "the bound holds");
        settled += billed;

        let price = &told["price"];
        assert_eq!((&price["id"], &price["matched"]), (&json!("openai/gpt-4o-mini"), &json!("exact")));
        let lines = cost["detail"]["steps"][0]["lines"].as_array().expect("lines");
        for line in lines {
            let class = line["class"].as_str().expect("a class");
            assert_eq!(line["ratePicodollars"], price["ratesPicodollars"][class], "{told:#}");
        }
        let all = ["authenticate", "body", "price", "bound", "match", "budget", "reserve", "open", "forward"];
        assert_eq!(words(&told), [&all[..], &["answer", "first_byte", "close"]].concat());
        let steps = told["steps"].as_array().expect("steps");
        let times: Vec<u64> =
            steps.iter().map(|step| step["atMicroseconds"].as_u64().expect("measured")).collect();
        assert!(times.is_sorted() && times[0] > 0, "{times:?}");
        assert_eq!(told["unknown"], json!([]));
    }
    let now = stack.wait_no_holds(&budget).await;
    assert_eq!(nanos(&now["spendNanodollars"]), settled);
}

#[tokio::test]
async fn a_denied_call_names_the_budget_that_stopped_it_by_rest_and_by_grpc() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let wide = stack.budget(json!({"entityType": "org", "maxBudgetMicrodollars": 1_000_000})).await;
    let tiny = stack.limit_key(&agent, 1).await;
    let reply = call(&stack, &agent, "hello", 429).await;
    let told = explain(&stack, reply.header("x-nullspend-trace-id")).await;
    assert_eq!((&told["outcome"], &told["code"]), (&json!("denied"), &json!("budget_exceeded")));
    let denied = &told["deniedBy"];
    assert_eq!((&denied["budgetId"], &denied["why"]), (&tiny["id"], &json!("budget")), "{told:#}");
    assert_eq!((&denied["limitNanodollars"], &denied["spentNanodollars"]), (&json!("1000"), &json!("0")));
    let asked = nanos(&denied["askedNanodollars"]);
    assert!(asked > 1_000, "{told:#}");
    let told_agent = &reply.json()["error"]["details"]["estimated_cost_microdollars"];
    assert_eq!(told_agent.as_i64(), Some((asked + 999) / 1000), "what the agent was told");
    let budgets = told["budgets"].as_array().expect("budgets");
    let verdict = |id: &Value| &budgets.iter().find(|one| one["id"] == *id).expect("it took part")["verdict"];
    assert_eq!((verdict(&tiny["id"]), verdict(&wide["id"])), (&json!("denied"), &Value::Null));
    assert_eq!(budgets.len(), 2);
    assert_eq!((&told["cost"], words(&told).contains(&"forward")), (&Value::Null, false));

    let id = told["id"].as_str().expect("an id");
    assert_eq!(explain(&stack, id.trim_start_matches("ns_evt_")).await, told, "by the bare id");
    let channel = Channel::from_shared(stack.url.clone()).expect("a URL").connect().await.expect("connects");
    let mut client = ExplainServiceClient::new(channel);
    let mut grpc = async |key: &str| {
        let mut request = Request::new(ExplainRequest { id: id.to_owned() });
        request.metadata_mut().insert("x-nullspend-key", key.parse().expect("a header value"));
        client.explain(request).await
    };
    let same = grpc(&stack.owner).await.expect("explained").into_inner().data.expect("data");
    assert_eq!((same.id.as_str(), json!(same.summary)), (id, told["summary"].clone()));
    let by = same.denied_by.expect("denied");
    assert_eq!((json!(by.budget_id), by.asked_nanodollars), (tiny["id"].clone(), asked));
    assert_eq!(grpc(&agent.key).await.expect_err("an agent").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_mandate_and_a_missing_price_say_so() {
    let stack = Stack::start().await;
    let agent = stack.agent_with(json!({"allowedModels": ["gpt-4o-mini", "gpt-9-imaginary"]})).await;
    for (model, status, why) in [("gpt-4o", 403, "mandate"), ("gpt-9-imaginary", 400, "no_price")] {
        let mut body = request(CHAT, "hello", false);
        body["model"] = json!(model);
        let reply = stack.call(&agent.key, CHAT, body).await.expect_status(status);
        let told = explain(&stack, reply.header("x-nullspend-trace-id")).await;
        assert_eq!(told["deniedBy"]["why"], why, "{told:#}");
        let last = if why == "mandate" { "model_mandate" } else { "price" };
        assert_eq!(words(&told).last(), Some(&last), "{told:#}");
        let message = told["deniedBy"]["message"].as_str().expect("a sentence");
        assert!(message.contains(model), "{message}");
    }
}

#[tokio::test]
async fn a_stream_that_was_cut_says_which_budget_had_no_more() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack
        .budget(json!({"entityType": "api_key", "entityId": agent.id, "policy": "strict_block",
            "maxBudgetMicrodollars": 1_500, "incrementalHold": true}))
        .await;
    let mut body = request(CHAT, "hello [[fake tokens=3000 chunks=3000 pace_ms=1]]", true);
    body.as_object_mut().expect("an object").remove("max_completion_tokens");
    let live = stack.open(&stack.http, &agent.key, CHAT, body).await.expect("an answer");
    let trace = trace(&live);
    live.rest().await;
    let told = explain(&stack, &trace).await;
    let bound = &told["bound"];
    assert_eq!(bound["cut"], json!({"code": "budget_exceeded", "budgetId": budget["id"]}), "{told:#}");
    assert_eq!(bound["sliceTokens"], 512);
    assert!(bound["extensions"].as_i64() > Some(0), "{bound}");
    let (asked, held, full) = (
        nanos(&bound["askedNanodollars"]),
        nanos(&bound["heldNanodollars"]),
        nanos(&bound["boundNanodollars"]),
    );
    assert!(asked < held && held <= 1_500_000 && held < full, "{bound}");
    assert_eq!(numbers(&told, "after"), [0, asked, 1_500_000 - asked], "the first slice decided");
    assert_eq!(told["cost"]["basis"], "counted", "{told:#}");
    assert!(told["summary"].as_str().is_some_and(|text| text.contains("ended early")), "{told:#}");
    assert!(words(&told).ends_with(&["cut", "close"]), "{told:#}");
}

#[tokio::test]
async fn a_call_that_a_crash_cut_short_is_explained_by_what_was_written_before() {
    let mut stack = Stack::start().await;
    let agent = stack.agent().await;
    let budget = stack.limit_key(&agent, 1_000_000).await;
    let body = request(CHAT, "hello [[fake tokens=6 chunks=6 gate=never gate_at=3]]", true);
    let mut live = stack.open(&stack.http, &agent.key, CHAT, body).await.expect("an answer");
    let trace = trace(&live);
    live.read_until("word").await;
    stack.kill9().await;
    stack.restart().await;
    let told = explain(&stack, &trace).await;
    let cost = &told["cost"];
    assert_eq!((&told["outcome"], &cost["ending"]), (&json!("lapsed"), &json!("crashed")), "{told:#}");
    let held = nanos(&told["bound"]["heldNanodollars"]);
    assert_eq!(nanos(&cost["costNanodollars"]), held, "the whole hold");
    assert!(cost["how"].as_str().is_some_and(|how| how.contains("whole hold")), "{cost}");
    assert_eq!(numbers(&told, "after"), [0, held, 1_000_000_000 - held]);
    assert_eq!(told["budgets"][0]["id"], budget["id"]);
    assert_eq!(words(&told).last(), Some(&"reserve"), "what the opened record knew: {told:#}");
    assert_eq!((&cost["basis"], &told["unknown"]), (&Value::Null, &json!([])));
}

#[tokio::test]
async fn a_call_is_explained_as_soon_as_it_was_answered() {
    let stack = Stack::start().await;
    let agent = stack.agent().await;
    for _ in 0..3 {
        let passed = call(&stack, &agent, "hello", 200).await;
        let told = ask(&stack, passed.header("x-nullspend-trace-id")).await.expect_status(200).json();
        assert_eq!(told["data"]["outcome"], "settled", "{told:#}");
    }
    let tiny = stack.limit_key(&agent, 1).await;
    let denied = call(&stack, &agent, "hello", 429).await;
    let told = ask(&stack, denied.header("x-nullspend-trace-id")).await.expect_status(200).json();
    assert_eq!(told["data"]["deniedBy"]["budgetId"], tiny["id"], "{told:#}");
}

#[tokio::test]
async fn what_nobody_knows_is_a_404_that_says_how_long_denials_are_kept() {
    let stack = Stack::start().await;
    let trace = "ab".repeat(16);
    let asked = ["ns_evt_00000000-0000-0000-0000-0000000000aa", &trace].map(|id| ask(&stack, id));
    for refused in futures::future::join_all(asked).await {
        let refused = refused.expect_status(404).json();
        let message = refused["error"]["message"].as_str().expect("a sentence").to_owned();
        assert!(message.contains("Denials are kept for 7 days"), "{message}");
    }
    let _ = ask(&stack, "7").await.expect_status(400);
}
