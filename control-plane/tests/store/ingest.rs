//! Records of data planes.

use nullspend_core::{
    id::{AttemptId, BudgetId, Ids, RandomIds},
    ledger::CounterKey,
    money::{MAX_EVENT, MAX_TOTAL_NANOS, Nanos},
};
use nullspend_proto::internal::{self as proto, spool_record::Kind};

use crate::world::{NOW, World, attempt, budget, closed, record, records};

/// The window that [`closed`] charges.
pub(crate) fn counter(budget: BudgetId) -> CounterKey {
    CounterKey { budget, generation: 1, window_start_ms: 1_000 }
}

async fn settled(world: &World, budget: BudgetId) -> i64 {
    world.store.settled(counter(budget)).await.unwrap().0
}

fn lapsed(mut closed: proto::Closed, cost_nanos: i64) -> proto::Closed {
    closed.measurement = "lapsed".to_owned();
    closed.ending = "crashed".to_owned();
    closed.cost_nanos = cost_nanos;
    closed
}

pub async fn records_are_written_once(world: World) {
    let founded = world.founded().await;
    let (a, b) = (budget(), budget());
    let batch = records([closed(&founded, attempt(), 30, &[a, b]), closed(&founded, attempt(), 12, &[a])]);
    let report = world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!((report.inserted, report.duplicates, report.acked_seq), (2, 0, 2));
    let again = world.store.ingest_records("dp", &batch, NOW + 1).await.unwrap();
    assert_eq!((again.inserted, again.duplicates, again.replaced), (0, 2, 0));
    assert_eq!((settled(&world, a).await, settled(&world, b).await), (42, 30));
    assert_eq!(world.store.event_totals(founded.org).await.unwrap(), (2, Nanos(42)));
}

pub async fn the_truth_replaces_a_lapse_whatever_the_order(world: World) {
    let founded = world.founded().await;
    // Apart, reversed, and within one batch in both orders.
    for case in 0..4 {
        let (id, budget) = (attempt(), budget());
        let truth = closed(&founded, id, 40, &[budget]);
        let lapse = lapsed(truth.clone(), 100);
        let batches = match case {
            0 => vec![records([lapse]), records([truth])],
            1 => vec![records([truth]), records([lapse])],
            2 => vec![records([lapse, truth])],
            _ => vec![records([truth, lapse])],
        };
        for _repeat in 0..2 {
            for batch in &batches {
                world.store.ingest_records("dp", batch, NOW).await.unwrap();
            }
        }
        let event = world.store.event(founded.org, AttemptId(id)).await.unwrap().unwrap();
        assert_eq!((event.cost.0, event.measurement.as_str()), (40, "exact"), "case {case}");
        assert_eq!(settled(&world, budget).await, 40, "case {case}");
        let corrected = matches!(case, 0 | 2);
        assert_eq!(event.revision, if corrected { 2 } else { 1 }, "case {case}");
        assert_eq!(event.tags.get("team").map(String::as_str), Some("a"));
    }
}

pub async fn a_higher_revision_wins(world: World) {
    let founded = world.founded().await;
    let (id, budget) = (attempt(), budget());
    let first = closed(&founded, id, 40, &[budget]);
    let second = proto::Closed { revision: 2, cost_nanos: 25, ..first.clone() };
    for batch in [records([first.clone()]), records([second.clone()]), records([first]), records([second])] {
        world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    }
    let event = world.store.event(founded.org, AttemptId(id)).await.unwrap().unwrap();
    assert_eq!((event.cost.0, event.revision), (25, 2));
    assert_eq!(settled(&world, budget).await, 25);
}

pub async fn windows_saturate(world: World) {
    let founded = world.founded().await;
    let budget = budget();
    // A million dollars each: 2^62 nano-dollars are about 4 612 of them.
    for _ in 0..5 {
        let batch = records((0..1_000).map(|_| closed(&founded, attempt(), MAX_EVENT.0, &[budget])));
        world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    }
    assert_eq!(settled(&world, budget).await, MAX_TOTAL_NANOS);
}

pub async fn senseless_records_are_set_aside_and_acknowledged(world: World) {
    let founded = world.founded().await;
    let good = closed(&founded, attempt(), 5, &[]);
    let with = |change: fn(&mut proto::Closed)| {
        let mut bad = closed(&founded, attempt(), 5, &[]);
        change(&mut bad);
        bad
    };
    let bad = [
        with(|closed| closed.stub = None),
        with(|closed| closed.cost_nanos = -1),
        with(|closed| closed.cost_nanos = MAX_EVENT.0 + 1),
        with(|closed| closed.measurement = "guessed".to_owned()),
        with(|closed| closed.ended_at_ms = i64::MAX),
        with(|closed| closed.stub.as_mut().unwrap().org_id = "x".to_owned()),
    ];
    let mut batch = records(bad.into_iter().chain([good]));
    batch.push(proto::SequencedRecord { seq: 8, record: Vec::new().into() });
    batch.push(proto::SequencedRecord { seq: 9, record: vec![0xff].into() });
    let report = world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!((report.inserted, report.quarantined, report.acked_seq), (1, 8, 9));
    world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!(world.store.quarantine_depth().await.unwrap(), 8, "set aside once");
}

pub async fn text_no_database_takes_arrives_all_the_same(world: World) {
    let founded = world.founded().await;
    let mut odd = closed(&founded, attempt(), 5, &[]);
    // PostgreSQL takes no NUL in text, and no long text in an index.
    let stub = odd.stub.as_mut().unwrap();
    stub.model = "gpt\0".to_owned();
    stub.session_id = Some("\u{fffd}".repeat(9_000));
    stub.tags.insert("a\0".to_owned(), unlike_anything(9_000));
    let id: AttemptId = stub.attempt_id.parse().unwrap();
    odd.provider_request_id = Some(unlike_anything(60_000));
    let report = world.store.ingest_records("dp\0", &records([odd]), NOW).await.unwrap();
    assert_eq!((report.inserted, report.quarantined), (1, 0));
    let event = world.store.event(founded.org, id).await.unwrap().unwrap();
    assert_eq!(event.model, "gpt\u{fffd}");
    assert_eq!(event.request_id.len(), 1024);
}

/// Text that does not compress.
fn unlike_anything(length: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        text.push_str(&RandomIds.v4().simple().to_string());
    }
    text
}

pub async fn one_refused_record_does_not_hold_back_the_rest(world: World) {
    let founded = world.founded().await;
    world
        .run(
            "CREATE TRIGGER poison BEFORE INSERT ON cost_events WHEN NEW.model = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
            "ALTER TABLE cost_events ADD CONSTRAINT poison CHECK (model <> 'poison')",
        )
        .await;
    let budget = budget();
    let mut batch: Vec<proto::Closed> = (0..5).map(|_| closed(&founded, attempt(), 7, &[budget])).collect();
    batch[2].stub.as_mut().unwrap().model = "poison".to_owned();
    let report = world.store.ingest_records("dp", &records(batch), NOW).await.unwrap();
    assert_eq!((report.inserted, report.quarantined, report.acked_seq), (4, 1, 5));
    assert_eq!(settled(&world, budget).await, 28);
    assert_eq!(world.store.quarantine_depth().await.unwrap(), 1);
}

pub async fn a_record_that_was_set_aside_is_taken_in_once_it_can_be(world: World) {
    let founded = world.founded().await;
    world
        .run(
            "CREATE TRIGGER poison BEFORE INSERT ON cost_events WHEN NEW.model LIKE 'poison%' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
            "ALTER TABLE cost_events ADD CONSTRAINT poison CHECK (model NOT LIKE 'poison%')",
        )
        .await;
    let budget = budget();
    let mut batch: Vec<proto::Closed> = (0..3).map(|_| closed(&founded, attempt(), 7, &[budget])).collect();
    batch[1].stub.as_mut().unwrap().model = "poison 1".to_owned();
    batch[2].stub.as_mut().unwrap().model = "poison 2".to_owned();
    let mut batch = records(batch);
    batch.push(proto::SequencedRecord { seq: 9, record: vec![0xff].into() });
    let report = world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!((report.inserted, report.quarantined), (1, 3));
    let retry = async || world.store.retry_quarantine(NOW).await.unwrap().taken;
    assert_eq!((retry().await, world.store.quarantine_depth().await.unwrap()), (0, 3), "nothing was mended");
    world
        .run(
            "DROP TRIGGER poison; CREATE TRIGGER poison BEFORE INSERT ON cost_events WHEN NEW.model = 'poison 1' \
             BEGIN SELECT RAISE(ABORT, 'no'); END",
            "ALTER TABLE cost_events DROP CONSTRAINT poison, ADD CONSTRAINT poison CHECK (model <> 'poison 1')",
        )
        .await;
    assert_eq!((retry().await, world.store.quarantine_depth().await.unwrap()), (1, 2), "one was");
    assert_eq!(settled(&world, budget).await, 14);
    assert_eq!(retry().await, 0, "and counts once");
    assert_eq!(settled(&world, budget).await, 14);
}

pub async fn a_database_that_is_not_as_it_should_be_takes_the_records_later(world: World) {
    let founded = world.founded().await;
    let (gone, back) =
        ("ALTER TABLE cost_events RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO cost_events");
    world.run(gone, gone).await;
    let batch = records([closed(&founded, attempt(), 7, &[])]);
    let error = world.store.ingest_records("dp", &batch, NOW).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    world.run(back, back).await;
    let report = world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!((report.inserted, report.quarantined), (1, 0));
    assert_eq!(world.store.quarantine_depth().await.unwrap(), 0);
}

pub async fn large_batches_are_whole(world: World) {
    let founded = world.founded().await;
    let budgets: Vec<BudgetId> = (0..3).map(|_| budget()).collect();
    let batch = records((0..1_203).map(|n| closed(&founded, attempt(), n, &budgets)));
    let report = world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    assert_eq!(report.inserted, 1_203);
    let sum = (0..1_203).sum();
    for budget in budgets {
        assert_eq!(settled(&world, budget).await, sum);
    }
    assert_eq!(world.store.event_totals(founded.org).await.unwrap(), (1_203, Nanos(sum)));
}

pub async fn concurrent_repeats_count_once(world: World) {
    let founded = world.founded().await;
    let (a, b) = (budget(), budget());
    let truths: Vec<proto::Closed> = (0..40).map(|_| closed(&founded, attempt(), 3, &[a, b])).collect();
    let lapses: Vec<proto::Closed> = truths.iter().map(|truth| lapsed(truth.clone(), 50)).collect();
    let tasks: Vec<_> = [truths.clone(), lapses.clone(), truths.into_iter().rev().collect(), lapses]
        .into_iter()
        .enumerate()
        .map(|(n, list)| {
            let store = world.store.clone();
            tokio::spawn(async move { store.ingest_records(&format!("dp{n}"), &records(list), NOW).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().expect("contention is dealt with inside");
    }
    assert_eq!(world.store.event_totals(founded.org).await.unwrap(), (40, Nanos(120)));
    assert_eq!((settled(&world, a).await, settled(&world, b).await), (120, 120));
}

pub async fn an_empty_batch_is_acknowledged(world: World) {
    let report = world.store.ingest_records("dp", &[], NOW).await.unwrap();
    assert_eq!(report.acked_seq, 0);
    let own = record(4, Kind::Settled(proto::Settled { attempt_id: attempt().to_string() }));
    let report = world.store.ingest_records("dp", &[own], NOW).await.unwrap();
    assert_eq!((report.acked_seq, report.inserted, report.quarantined), (4, 0, 0));
}
