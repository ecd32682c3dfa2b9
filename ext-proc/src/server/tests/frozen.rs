//! A freeze or a revocation that comes while a call is on its way: what is not forwarded yet is not forwarded any more.

use nullspend_core::{
    exchange::{Admission, Begin, Verdict, begin},
    id::AttemptId,
    ledger::{LimitChange, Limits},
};
use nullspend_proto::internal::FreezeRule;

use super::*;
use crate::{flight::Flight, plane::Asked};

/// Lets the control plane say `delta`, and waits until that is enforced.
async fn change(world: &World, delta: WatchResponse) {
    let delta = WatchResponse { snapshot: false, revision: 2, ..delta };
    world._watch.send(Ok(delta)).unwrap();
    assert!(world.plane.policy_at(2).await.is_some_and(|policy| policy.revision == 2));
}

/// Freezes a model.
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
    let delta =
        WatchResponse { keys: Vec::new(), budgets: vec![budget], freezes: vec![rule], ..snapshot(Nanos(0)) };
    change(world, delta).await;
}

/// Revokes the key.
async fn revoke(world: &World) {
    let budget = BudgetRule { revision: 2, ..snapshot(Nanos(2_000_000_000)).budgets[0].clone() };
    let revoked_key_ids = vec![KeyId(Uuid::from_u128(2)).bare()];
    let delta =
        WatchResponse { keys: Vec::new(), budgets: vec![budget], revoked_key_ids, ..snapshot(Nanos(0)) };
    change(world, delta).await;
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

/// A call that has its headers answered and waits for a policy that has the ledger's newer limit.
async fn waits_for_a_policy(world: &mut World) -> tokio::task::JoinHandle<Answer> {
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
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_frozen_while_it_is_decided_is_refused_and_its_hold_released() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let asked = waits_for_a_policy(&mut world).await;
    freeze(&world, "gpt-4o-mini").await;
    assert_frozen(asked.await.unwrap());
    left_a_denial_and_no_hold(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_while_its_call_is_decided_is_unknown_and_its_hold_released() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let asked = waits_for_a_policy(&mut world).await;
    revoke(&world).await;
    let Answer::ImmediateResponse(refused) = asked.await.unwrap() else { panic!("forwarded") };
    assert_eq!(refused.status.unwrap().code, 401);
    assert!(world.records().await.is_empty(), "neither event nor denial");
    assert_eq!(world.settled().await, Nanos::ZERO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_revoked_while_the_record_is_written_lets_nothing_leave() {
    let world = World::new(Nanos(1_000_000_000)).await;
    let headers = [(":method", "POST"), (":path", "/v1/chat/completions"), ("x-nullspend-key", KEY)];
    let Phase::RequestHeaders(head) = head(&headers) else { unreachable!() };
    let (headers, now) = (crate::wire::headers(head.headers), world.plane.now());
    let Begin::Known(known) = begin(world.plane.policy(), &headers, AttemptId(Uuid::from_u128(7)), now)
    else {
        panic!("unknown")
    };
    let body = chat(false).to_string().into_bytes();
    let awaiting = known.accept(&world.plane.settings, &headers).unwrap();
    let Admission::Reserve(reserving) = awaiting.body(&world.plane.settings, &body, now) else {
        panic!("not reserving")
    };
    let Asked::Ledger(outcome) = world.plane.reserve(&reserving).await else { panic!("on credit") };
    let Verdict::Open(opening) = reserving.reserved(outcome, now) else { panic!("not open") };
    revoke(&world).await;
    let permit = world.plane.bodies.permit(body.len()).unwrap();
    let Err(answered) = Flight::open(&world.plane, opening, body, permit).await else { panic!("forwarded") };
    assert_eq!(answered.answer.status, 401);
    let records = world.records().await;
    let events = closed(&records);
    assert_eq!((events.len(), events[0].cost_nanos, events[0].ending.as_str()), (1, 0, "aborted"));
    assert_eq!(world.settled().await, Nanos::ZERO);
}
