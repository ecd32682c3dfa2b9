//! Explanations as clients read them: whole answers, and what becomes of parts that nobody told.

mod denied;

use bytes::Bytes;
use http::StatusCode;
use nullspend_core::id::{AttemptId, Ids, OrgId, RandomIds};
use nullspend_proto::{
    internal::{self as proto, data_plane_service_client::DataPlaneServiceClient, spool_record::Kind},
    v1::{ExplainRequest, explain_service_client::ExplainServiceClient},
};
use prost::Message as _;
use serde_json::{Value, json};
use tonic::{Code, Request};
use uuid::Uuid;

use crate::serving_tests::{World, soon};

/// 2100-01-01T12:00:00Z: housekeeping goes by the real clock, and deletes denials that are old by it.
const NOW: i64 = 4_102_488_000_000;
const EVENT: Uuid = Uuid::from_u128(0xe1);
const DENIAL: Uuid = Uuid::from_u128(0xd1);

fn seen(number: u128, policy: &str, limit_nanos: i64) -> proto::SeenBudget {
    proto::SeenBudget {
        budget_id: Uuid::from_u128(number).to_string(),
        entity_type: "tag".to_owned(),
        entity_id: "team=core".to_owned(),
        name: "daily".to_owned(),
        policy: policy.to_owned(),
        interval: "daily".to_owned(),
        window_start_ms: NOW - 43_200_000,
        window_end_ms: NOW + 43_200_000,
        generation: 1,
        revision: 7,
        limit_nanos,
        settled_nanos: 600_000,
        held_nanos: 30_000,
        ..proto::SeenBudget::default()
    }
}

fn steps(words: &[(&str, u64)]) -> Vec<proto::Stamp> {
    let stamp = |(step, at_us): &(&str, u64)| proto::Stamp { step: (*step).to_owned(), at_us: Some(*at_us) };
    words.iter().map(stamp).collect()
}

fn price() -> proto::FoundPrice {
    proto::FoundPrice {
        id: "openai/gpt-4o-mini".to_owned(),
        version: "2026-11-20".to_owned(),
        model: "gpt-4o-mini".to_owned(),
        layer: "catalogue".to_owned(),
        matched: "pattern".to_owned(),
        rates_pico: [("input".to_owned(), 150_000), ("output".to_owned(), 600_000)].into(),
    }
}

fn stub(org: OrgId) -> proto::AttemptStub {
    let charge = |number: u128| proto::BudgetCharge {
        budget_id: Uuid::from_u128(number).to_string(),
        generation: 1,
        window_start_ms: NOW - 43_200_000,
        window_end_ms: NOW + 43_200_000,
        of_session: false,
    };
    proto::AttemptStub {
        attempt_id: EVENT.to_string(),
        org_id: org.bare(),
        key_id: Uuid::from_u128(2).to_string(),
        user_id: Uuid::from_u128(3).to_string(),
        provider: "openai".to_owned(),
        model: "gpt-4o-mini-2024-07-18".to_owned(),
        api: "chat.completions".to_owned(),
        upstream: "openai".to_owned(),
        trace_id: "e1".repeat(16),
        started_at_ms: NOW,
        held_nanos: 180_000,
        charges: vec![charge(0xb1), charge(0xb2)],
        budget_status: "exceeded".to_owned(),
        tags: [("team".to_owned(), "core".to_owned())].into(),
        price_id: Some("openai/gpt-4o-mini".to_owned()),
        price_version: Some("2026-11-20".to_owned()),
        ..proto::AttemptStub::default()
    }
}

/// A stream that was clamped, paid for as it came, and counted when it was cut.
fn event(org: OrgId) -> proto::Closed {
    let trail = proto::Trail {
        price: Some(price()),
        bound: Some(proto::Bounded {
            input_tokens: Some(200),
            output_tokens: Some(900),
            cost_nanos: 570_000,
            hold_nanos: 120_000,
            counted: true,
            clamp: Some(proto::Clamped { asked_tokens: None, applied_tokens: 900, full_nanos: 9_860_400 }),
            slice_tokens: Some(512),
        }),
        budgets: vec![seen(0xb1, "strict_block", 1_000_000), seen(0xb2, "soft_block", 700_000)],
        steps: steps(&[
            ("authenticate", 40),
            ("body", 90),
            ("price", 120),
            ("bound", 120),
            ("match", 120),
            ("budget", 150),
            ("count", 900),
            ("budget", 930),
            ("reserve", 930),
            ("open", 990),
            ("forward", 990),
            ("answer", 200_000),
            ("first_byte", 200_400),
            ("cut", 310_000),
            ("close", 310_500),
        ]),
        extensions: 1,
        cut: Some(proto::CutShort {
            code: "budget_exceeded".to_owned(),
            budget_id: Some(Uuid::from_u128(0xb1).to_string()),
        }),
        basis: "counted".to_owned(),
        ..proto::Trail::default()
    };
    proto::Closed {
        stub: Some(proto::AttemptStub { trail: trail.to_bytes(), ..stub(org) }),
        revision: 1,
        ended_at_ms: NOW + 310,
        cost_nanos: 170_000,
        measurement: "estimated".to_owned(),
        ending: "aborted".to_owned(),
        status_code: 200,
        served_model: Some("gpt-4o-mini-2024-07-18".to_owned()),
        tokens: Some(proto::Tokens { input: 200, output: 233, ..proto::Tokens::default() }),
        breakdown: Some(proto::Breakdown::default()),
        ..proto::Closed::default()
    }
}

fn denial(org: OrgId) -> proto::Denied {
    let kept = proto::SeenBudget { kept_back_nanos: 50_000, ..seen(0xb1, "strict_block", 1_000_000) };
    let trail = proto::Trail {
        price: Some(price()),
        bound: Some(proto::Bounded {
            input_tokens: Some(200),
            output_tokens: Some(1_000),
            cost_nanos: 630_000,
            hold_nanos: 630_000,
            ..proto::Bounded::default()
        }),
        budgets: vec![seen(0xb2, "warn", 700_000), kept],
        denied_by: Some(proto::DeniedBy {
            place: 1,
            why: "budget".to_owned(),
            spend_nanos: None,
            retry_after_ms: Some(43_200_000),
        }),
        steps: steps(&[("authenticate", 40), ("body", 90), ("price", 120), ("bound", 120), ("budget", 150)]),
        ..proto::Trail::default()
    };
    proto::Denied {
        attempt_id: DENIAL.to_string(),
        org_id: org.bare(),
        key_id: Uuid::from_u128(2).to_string(),
        at_ms: NOW,
        code: "tag_budget_exceeded".to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4o-mini-2024-07-18".to_owned(),
        trace_id: "d1".repeat(16),
        session_id: Some("s-1".to_owned()),
        customer: Some("acme".to_owned()),
        tags: [("team".to_owned(), "core".to_owned())].into(),
        estimated_nanos: 630_000,
        details_json: json!({"remaining_microdollars": 320}).to_string(),
        suppressed: 2,
        trail: trail.to_bytes(),
    }
}

fn change(stub: &mut proto::AttemptStub, how: impl FnOnce(&mut proto::Trail)) {
    let mut trail = proto::Trail::decode(stub.trail.clone()).unwrap();
    how(&mut trail);
    stub.trail = trail.to_bytes();
}

async fn report(world: &World, kinds: impl IntoIterator<Item = Kind>) {
    let record = |(kind, seq)| proto::SequencedRecord::new(seq, &proto::SpoolRecord { kind: Some(kind) });
    let records = kinds.into_iter().zip(1..).map(record);
    let records: Vec<_> = records.collect();
    let report = world.plane.app().store().ingest_records("dp", &records, NOW).await.unwrap();
    assert_eq!(report.quarantined, 0);
}

async fn explain(world: &World, id: &str) -> (StatusCode, Value) {
    world.rest("owner", "GET", &format!("/api/requests/{id}/explain"), None).await
}

fn golden(name: &str, found: &Value) {
    let file = format!("{}/testdata/explain/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let wanted: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(*found, wanted, "{file} differs; found:\n{found:#}");
}

#[tokio::test]
async fn an_event_is_explained_whole() {
    let world = World::new().await;
    report(&world, [Kind::Closed(event(world.org))]).await;
    let (status, whole) = explain(&world, &AttemptId(EVENT).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{whole:#}");
    golden("event", &whole);
    assert_eq!(explain(&world, &EVENT.to_string()).await.1, whole, "by the bare id");
    assert_eq!(explain(&world, &"e1".repeat(16)).await.1, whole, "by its trace");
}

#[tokio::test]
async fn a_denial_is_explained_whole() {
    let world = World::new().await;
    report(&world, [Kind::Denied(denial(world.org))]).await;
    let (status, whole) = explain(&world, &AttemptId(DENIAL).to_string()).await;
    assert_eq!(status, StatusCode::OK, "{whole:#}");
    golden("denial", &whole);
    assert_eq!(explain(&world, &"d1".repeat(16)).await.1, whole, "by its trace");
}

#[tokio::test]
async fn grpc_says_what_rest_says() {
    let world = World::new().await;
    report(&world, [Kind::Closed(event(world.org)), Kind::Denied(denial(world.org))]).await;
    let mut client = ExplainServiceClient::new(world.channel("public").await);
    let mut ask = async |id: String, key: &'static str| {
        let mut request = Request::new(ExplainRequest { id });
        request.metadata_mut().insert("x-nullspend-key", key.parse().unwrap());
        client.explain(request).await
    };
    for id in [EVENT, DENIAL] {
        let (_, rest) = explain(&world, &id.to_string()).await;
        let rest = &rest["data"];
        let grpc = ask(id.to_string(), "owner").await.unwrap().into_inner().data.expect("an explanation");
        assert_eq!(
            (rest["id"].as_str(), rest["summary"].as_str()),
            (Some(grpc.id.as_str()), Some(grpc.summary.as_str()))
        );
        let remaining = |budget: &nullspend_proto::v1::ExplainedBudget| {
            let left = |balance: &Option<nullspend_proto::v1::ExplainedBalance>| {
                json!(balance.as_ref().unwrap().remaining_nanodollars.to_string())
            };
            (left(&budget.before), left(&budget.after))
        };
        let shown: Vec<_> = rest["budgets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|budget| {
                let left = |when: &str| budget[when]["remainingNanodollars"].clone();
                (left("before"), left("after"))
            })
            .collect();
        assert_eq!(grpc.budgets.iter().map(remaining).collect::<Vec<_>>(), shown);
        let told: Vec<_> =
            grpc.steps.iter().map(|s| json!({"step": s.step, "atMicroseconds": s.at_microseconds})).collect();
        assert_eq!(json!(told), rest["steps"]);
        assert_eq!(ask(id.to_string(), "agent").await.unwrap_err().code(), Code::PermissionDenied);
    }
    assert_eq!(ask(RandomIds.v4().to_string(), "owner").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_that_says_how_long_denials_are_kept() {
    let world = World::new().await;
    // Another organisation's, with everything there is to know.
    let elsewhere = OrgId(RandomIds.v4());
    report(&world, [Kind::Closed(event(elsewhere)), Kind::Denied(denial(elsewhere))]).await;
    let traces = ["e1".repeat(16), "d1".repeat(16)];
    let ids: Vec<_> =
        [EVENT, DENIAL, RandomIds.v4()].map(|id| id.to_string()).into_iter().chain(traces).collect();
    let asked = ids.iter().map(|id| explain(&world, id));
    for (status, refused) in futures::future::join_all(asked).await {
        assert_eq!(status, StatusCode::NOT_FOUND, "{refused}");
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(
            message.contains("Denials are kept for 7 days") && message.contains("told of soon"),
            "{message}"
        );
    }
    let (status, refused) = explain(&world, "nonsense").await;
    assert_eq!((status, &refused["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("validation_error")));
    let agent = world.rest("agent", "GET", &format!("/api/requests/{EVENT}/explain"), None).await;
    assert_eq!(agent.0, StatusCode::FORBIDDEN, "agents read what they are told when they are denied");
}

#[tokio::test]
async fn a_call_that_is_not_recorded_yet_is_waited_for() {
    let world = World::new().await;
    let waiting = world.plane.app().records();
    for (kind, asked) in [
        (Kind::Closed(event(world.org)), EVENT.to_string()),
        (Kind::Denied(denial(world.org)), "d1".repeat(16)),
    ] {
        let reporting = async {
            while waiting.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
            let record = proto::SpoolRecord { kind: Some(kind) };
            let batch = proto::ReportRequest {
                dataplane_id: asked.clone(),
                records: vec![proto::SequencedRecord::new(1, &record)],
                ..proto::ReportRequest::default()
            };
            let mut planes = DataPlaneServiceClient::new(world.channel("internal").await);
            let mut acks = planes.report(tokio_stream::once(batch)).await.unwrap().into_inner();
            acks.message().await.unwrap().unwrap();
        };
        let ((status, told), ()) =
            soon(Box::pin(futures::future::join(explain(&world, &asked), reporting))).await;
        assert_eq!(status, StatusCode::OK, "{told:#}");
    }
    assert_eq!((*waiting.borrow(), waiting.receiver_count()), (2, 0), "each batch wakes who waits");
}

#[tokio::test]
async fn an_event_of_an_earlier_version_says_which_parts_are_not_known() {
    let world = World::new().await;
    let old = proto::Closed { stub: Some(stub(world.org)), ..event(world.org) };
    let old_denial = proto::Denied { trail: Bytes::new(), ..denial(world.org) };
    report(&world, [Kind::Closed(old), Kind::Denied(old_denial)]).await;
    let (_, told) = explain(&world, &EVENT.to_string()).await;
    let told = &told["data"];
    assert_eq!((&told["price"], &told["bound"], &told["steps"]), (&Value::Null, &Value::Null, &json!([])));
    let budgets = told["budgets"].as_array().unwrap();
    assert_eq!((budgets.len(), &budgets[0]["before"]), (2, &Value::Null), "what it was charged to is known");
    let unknown = told["unknown"].as_array().unwrap();
    assert!(unknown.iter().any(|part| part.as_str().unwrap().contains("bound")), "{unknown:?}");
    assert!(
        unknown.iter().any(|part| part.as_str().unwrap().contains("what the cost rests on")),
        "{unknown:?}"
    );

    let (_, told) = explain(&world, &DENIAL.to_string()).await;
    let denied = &told["data"]["deniedBy"];
    assert_eq!((&denied["why"], &denied["askedNanodollars"]), (&json!("budget"), &json!("630000")));
    assert!(
        denied["message"].as_str().unwrap().contains("remaining_microdollars"),
        "the answer's own facts: {denied}"
    );
    assert_eq!(told["data"]["unknown"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_correction_tells_what_the_event_said_before() {
    let world = World::new().await;
    let lapse = proto::Closed { measurement: "lapsed".to_owned(), cost_nanos: 180_000, ..event(world.org) };
    let mut before = lapse.clone();
    change(before.stub.as_mut().unwrap(), |trail| trail.basis.clear());
    report(&world, [Kind::Closed(before)]).await;
    let (_, told) = explain(&world, &EVENT.to_string()).await;
    let cost = &told["data"]["cost"];
    assert_eq!((&told["data"]["outcome"], &cost["measurement"]), (&json!("lapsed"), &json!("lapsed")));
    assert!(cost["how"].as_str().unwrap().contains("whole hold"), "{cost}");
    report(&world, [Kind::Closed(proto::Closed { revision: 2, ..event(world.org) })]).await;
    let (_, told) = explain(&world, &EVENT.to_string()).await;
    let (told, cost) = (&told["data"], &told["data"]["cost"]);
    assert_eq!((&told["outcome"], &cost["costNanodollars"]), (&json!("corrected"), &json!("170000")));
    let said = &cost["revisions"];
    assert_eq!(said.as_array().map(Vec::len), Some(1), "{said}");
    assert_eq!((&said[0]["measurement"], &said[0]["costNanodollars"]), (&json!("lapsed"), &json!("180000")));
    assert_eq!(told["unknown"], json!([]));
}

#[tokio::test]
async fn reported_spend_and_adjustments_say_what_is_known() {
    let world = World::new().await;
    let budget = json!({"entityType": "tag", "entityId": "team=core", "maxBudgetMicrodollars": 5_000_000});
    let (_, made) = world.rest("owner", "POST", "/api/budgets", Some(budget)).await;
    let event = json!({"provider": "openai", "model": "gpt-4o", "inputTokens": 10, "outputTokens": 5,
        "costMicrodollars": 1_200, "tags": {"team": "core"}});
    let (_, reported) = world.rest("agent", "POST", "/api/cost-events", Some(event)).await;
    let (status, told) = explain(&world, reported["data"]["id"].as_str().unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let told = &told["data"];
    assert_eq!((&told["outcome"], &told["source"]), (&json!("reported"), &json!("api")));
    assert_eq!(told["cost"]["how"], "what its reporter says");
    let charged = &told["budgets"][0];
    assert_eq!((&charged["id"], &charged["entityId"]), (&made["data"]["id"], &json!("team=core")));
    assert!(told["unknown"][0].as_str().unwrap().contains("spent elsewhere"), "{told}");
}

#[tokio::test]
async fn a_call_on_credit_tells_the_budgets_it_was_charged_to() {
    let world = World::new().await;
    let budget = json!({"entityType": "tag", "entityId": "team=core", "maxBudgetMicrodollars": 5_000_000});
    let (_, made) = world.rest("owner", "POST", "/api/budgets", Some(budget)).await;
    let mut closed = event(world.org);
    let stub = closed.stub.as_mut().unwrap();
    stub.charges.truncate(1);
    stub.charges[0].budget_id = made["data"]["id"].as_str().unwrap().trim_start_matches("ns_bgt_").to_owned();
    stub.on_credit = true;
    change(stub, |trail| {
        (trail.budgets, trail.cut) = (Vec::new(), None);
        trail.steps = steps(&[("match", 120), ("credit", 200_120), ("open", 200_300)]);
    });
    report(&world, [Kind::Closed(closed)]).await;
    let (_, told) = explain(&world, &EVENT.to_string()).await;
    let told = &told["data"];
    let charged = &told["budgets"][0];
    assert_eq!((&charged["id"], &charged["entityId"]), (&made["data"]["id"], &json!("team=core")));
    assert_eq!((&charged["before"], &charged["verdict"]), (&Value::Null, &Value::Null));
    let summary = told["summary"].as_str().unwrap();
    assert!(
        summary.ends_with("nothing was held and the call went on its budgets' outageCreditMicrodollars"),
        "{summary}"
    );
    assert_eq!(told["unknown"], json!(["the budgets' numbers: the ledger did not answer"]));
}

#[tokio::test]
async fn a_cost_above_its_hold_an_alias_and_a_flat_hold_are_told() {
    let world = World::new().await;
    let mut dear = event(world.org);
    dear.cost_nanos = 200_000;
    let stub = dear.stub.as_mut().unwrap();
    stub.model = "openai/mini".to_owned();
    change(stub, |trail| trail.price.as_mut().unwrap().matched = "exact".to_owned());
    let flat = Uuid::from_u128(0xf1);
    let mut unpriced = event(world.org);
    let stub = unpriced.stub.as_mut().unwrap();
    (stub.attempt_id, stub.unpriced) = (flat.to_string(), true);
    change(stub, |trail| (trail.price, trail.basis) = (None, "whole_hold_unpriced".to_owned()));
    report(&world, [Kind::Closed(dear), Kind::Closed(unpriced)]).await;
    let (_, told) = explain(&world, &EVENT.to_string()).await;
    assert_eq!(told["data"]["cost"]["overageNanodollars"], "20000");
    assert_eq!(told["data"]["price"]["matched"], "alias");
    let (_, told) = explain(&world, &flat.to_string()).await;
    let price = &told["data"]["price"];
    assert_eq!(
        (&price["id"], &price["how"]),
        (&Value::Null, &json!("the model has no price, and a flat amount was held"))
    );
    assert_eq!(told["data"]["cost"]["how"], "the model has no price, so the flat hold is charged");
}
