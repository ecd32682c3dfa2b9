//! What the records tell whoever asks why.

use nullspend_proto::internal::Trail;
use prost::Message as _;

use super::{increments::unclosed, *};

fn read(bytes: &[u8]) -> Trail {
    assert!(!bytes.is_empty(), "no trail");
    Trail::decode(bytes).unwrap()
}

fn words(trail: &Trail) -> Vec<&str> {
    trail.steps.iter().map(|stamp| stamp.step.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_explained_by_its_record_from_the_moment_it_is_opened() {
    let mut world = World::new(Nanos(1_000_000_000)).await;
    let mut exchange = world.request().await;
    let Answer::RequestBody(_) = exchange.send(&chat(false)).await else { panic!("not forwarded") };
    let open = unclosed(&world).remove(0);
    let trail = read(&open.trail);
    let decided = ["authenticate", "body", "price", "bound", "match", "budget", "reserve"];
    assert_eq!((words(&trail), trail.basis.as_str()), (decided.to_vec(), ""));
    assert!(trail.steps.iter().all(|stamp| stamp.at_us.is_some()), "{trail:#?}");
    let seen = &trail.budgets[0];
    assert_eq!(
        (seen.budget_id.as_str(), seen.limit_nanos),
        (BudgetId(BUDGET).bare().as_str(), 1_000_000_000)
    );
    assert_eq!((seen.settled_nanos, seen.held_nanos), (0, 0), "before the hold");
    let bound = trail.bound.expect("bounded");
    assert_eq!((bound.hold_nanos, bound.cost_nanos), (open.held_nanos, open.held_nanos));
    let price = trail.price.expect("priced");
    assert_eq!((price.layer.as_str(), price.matched.as_str()), ("catalogue", "exact"));
    assert_eq!(price.rates_pico.get("output"), Some(&600_000));

    exchange.answer_head("application/json").await;
    exchange.answer_body(ANSWER, true).await;
    let records = world.records().await;
    let stub = closed(&records)[0].stub.clone().expect("a stub");
    let trail = read(&stub.trail);
    let all = [&decided[..], &["open", "forward", "answer", "first_byte", "close"]].concat();
    assert_eq!((words(&trail), trail.basis.as_str()), (all, "usage"));
    let times: Vec<_> = trail.steps.iter().map(|stamp| stamp.at_us).collect();
    assert!(times.is_sorted(), "{times:?}");
    let bytes = trail.encoded_len();
    assert!(bytes < 700, "small beside the rest: {bytes} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_explained_by_its_record() {
    let mut world = World::new(Nanos(7)).await;
    let mut exchange = world.request().await;
    let Answer::ImmediateResponse(_) = exchange.send(&chat(false)).await else { panic!("forwarded") };
    let records = world.records().await;
    let Some(Kind::Denied(denied)) = &records[0].kind else { panic!("no denial: {records:#?}") };
    let trail = read(&denied.trail);
    let by = trail.denied_by.as_ref().expect("a budget said no");
    assert_eq!((by.place, by.why.as_str(), by.spend_nanos), (0, "budget", None));
    assert_eq!((trail.budgets[0].limit_nanos, trail.budgets[0].held_nanos), (7, 0));
    assert_eq!(trail.bound.as_ref().map(|bound| bound.cost_nanos), Some(denied.estimated_nanos));
    assert!(trail.steps.iter().all(|stamp| stamp.at_us.is_some()), "{trail:#?}");
}
