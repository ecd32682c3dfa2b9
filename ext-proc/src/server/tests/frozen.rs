//! A freeze that comes while a call is on its way: what is not forwarded yet is not forwarded any more.

use nullspend_core::ledger::{LimitChange, Limits};
use nullspend_proto::internal::FreezeRule;

use super::*;

/// Freezes a model and waits until that is enforced.
async fn freeze(world: &World, model: &str) {
    let rule = FreezeRule {
        freeze_id: Uuid::from_u128(77).to_string(),
        org_id: OrgId(ORG).bare(),
        entity_type: "model".into(),
        entity_id: model.into(),
        reason: "stop".into(),
        since_ms: 5,
    };
    let budget = BudgetRule { revision: 2, ..snapshot(Nanos(2_000_000_000)).budgets[0].clone() };
    let delta = WatchResponse {
        snapshot: false,
        revision: 2,
        keys: Vec::new(),
        budgets: vec![budget],
        freezes: vec![rule],
        ..snapshot(Nanos(0))
    };
    world._watch.send(Ok(delta)).unwrap();
    assert!(world.plane.policy_at(2).await.is_some_and(|policy| policy.revision == 2));
}

fn assert_frozen(answer: Answer) {
    let Answer::ImmediateResponse(denied) = answer else { panic!("forwarded") };
    let body: Value = serde_json::from_slice(&denied.body).unwrap();
    assert_eq!((denied.status.unwrap().code, &body["error"]["code"]), (403, &json!("frozen")));
}

async fn left_a_denial_and_no_hold(world: &World) {
    let records = world.records().await;
    assert!(closed(&records).is_empty(), "a denial is no event");
    assert!(matches!(&records[0].kind, Some(Kind::Denied(denied)) if denied.code == "frozen"), "{records:?}");
    assert_eq!(world.settled().await, Nanos::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_frozen_between_headers_and_body_is_refused() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let headers = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-nullspend-key", KEY)];
    let Answer::RequestHeaders(_) = exchange.ask(head(&headers)).await else { panic!("refused") };
    freeze(&world, "gpt-4o-mini").await;
    let body =
        HttpBody { body: chat(false).to_string().into_bytes(), end_of_stream: true, ..HttpBody::default() };
    assert_frozen(exchange.ask(Phase::RequestBody(body)).await);
    left_a_denial_and_no_hold(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_frozen_while_it_is_decided_is_refused_and_its_hold_released() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    // The ledger knows a newer limit, so the call waits for the policy that has it.
    let change = LimitChange {
        budget: BudgetId(BUDGET),
        revision: 2,
        limits: Some(Limits::strict(Nanos(2_000_000_000))),
    };
    world.ledger.apply_limits(OrgId(ORG), &[change]).await.unwrap();
    let mut exchange = world.request().await;
    let asked = tokio::spawn(async move { exchange.send(&chat(false)).await });
    let waiting = async {
        while world.plane.watch.waiting() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("the call waits");
    freeze(&world, "gpt-4o-mini").await;
    assert_frozen(asked.await.unwrap());
    left_a_denial_and_no_hold(&world).await;
}
