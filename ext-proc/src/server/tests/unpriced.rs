//! Calls of models without a price are counted by model, whatever becomes of them.

use nullspend_proto::internal::OrgPolicy;

use super::*;

async fn counted(policy: WatchResponse) -> (Answer, String, World) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut world = World::timed(policy, Arc::clone(&clock), clock).await;
    let mut exchange = world.request().await;
    let body = json!({"model": "llama-9", "max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]});
    let verdict = exchange.send(&body).await;
    let scrape = world.plane.scrape().await;
    (verdict, scrape, world)
}

const COUNTED: &str = r#"nullspend_unpriced_total{provider="openai",model="llama-9"} 1"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_model_is_counted_by_name() {
    let (verdict, scrape, world) = counted(snapshot(Nanos(1_000_000))).await;
    let Answer::ImmediateResponse(refused) = verdict else { panic!("forwarded") };
    assert_eq!(refused.status.unwrap().code, 400);
    assert!(scrape.lines().any(|line| line == COUNTED), "{scrape}");
    assert!(closed(&world.records().await).is_empty(), "a refusal is no event");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_with_a_flat_hold_is_counted_by_name_and_marks_its_event() {
    let mut policy = snapshot(Nanos(1_000_000));
    policy.orgs = vec![OrgPolicy { org_id: OrgId(ORG).bare(), unpriced_hold_nanos: Some(9) }];
    let (verdict, scrape, world) = counted(policy).await;
    assert!(matches!(verdict, Answer::RequestBody(_)), "{verdict:?}");
    assert!(scrape.lines().any(|line| line == COUNTED), "{scrape}");
    let records = world.records().await;
    let events = closed(&records);
    assert_eq!((events[0].cost_nanos, events[0].stub.as_ref().unwrap().unpriced), (9, true));
}
