//! Thresholds are told once, by whoever reaches them.

use nullspend_control_plane::store::BudgetRecord;
use nullspend_core::{id::BudgetId, ledger::CounterKey, money::Nanos};
use nullspend_proto::internal as proto;

use crate::{
    administration::live_budget,
    ingest::counter,
    world::{Founded, NOW, World, attempt, budget, closed, records},
};

/// A budget of 1 000 with thresholds at 50, 80 and 100.
async fn thousand(world: &World, founded: &Founded) -> BudgetId {
    let id = live_budget(world, founded).await;
    change(world, founded, id, |record| {
        record.rule.limit = Nanos(1_000);
        record.thresholds = vec![50, 80, 100];
    })
    .await;
    id
}

async fn change(
    world: &World,
    founded: &Founded,
    id: BudgetId,
    change: impl FnOnce(&mut BudgetRecord) + Send,
) {
    world.store.change_budget(founded.org, id, change).await.unwrap().unwrap();
}

/// What a batch reaches: percentages, with what was settled then.
async fn reached(world: &World, batch: impl IntoIterator<Item = proto::Closed>) -> Vec<(i32, i64)> {
    let report = world.store.ingest_records("dp", &records(batch), NOW).await.unwrap();
    report.crossed.iter().map(|crossing| (crossing.percent, crossing.settled.0)).collect()
}

pub async fn a_threshold_is_reached_once(world: World) {
    let founded = world.founded().await;
    let id = thousand(&world, &founded).await;
    let spend = |nanos| [closed(&founded, attempt(), nanos, &[id])];
    assert_eq!(reached(&world, spend(499)).await, []);
    let half = spend(1);
    assert_eq!(reached(&world, half.clone()).await, [(50, 500)], "exactly equal counts");
    assert_eq!(reached(&world, half).await, [], "a repeated batch");
    assert_eq!(reached(&world, spend(299)).await, []);
    assert_eq!(reached(&world, spend(900)).await, [(80, 1_699), (100, 1_699)], "several at once");
    assert_eq!(reached(&world, spend(5)).await, []);
    assert_eq!(
        reached(&world, [closed(&founded, attempt(), 5_000, &[budget()])]).await,
        [],
        "no such budget"
    );
    let mut all = world.store.crossings(&[counter(id), counter(budget())]).await.unwrap();
    all.sort_by_key(|crossing| crossing.percent);
    assert_eq!(all.iter().map(|crossing| crossing.percent).collect::<Vec<_>>(), [50, 80, 100]);
}

pub async fn a_correction_does_not_tell_again_and_another_limit_or_generation_does(world: World) {
    let founded = world.founded().await;
    let id = thousand(&world, &founded).await;
    let spend = |nanos| [closed(&founded, attempt(), nanos, &[id])];
    let mut lapse = closed(&founded, attempt(), 600, &[id]);
    let truth = proto::Closed { cost_nanos: 10, ..lapse.clone() };
    lapse.measurement = "lapsed".to_owned();
    assert_eq!(reached(&world, [lapse]).await, [(50, 600)]);
    assert_eq!(reached(&world, [truth]).await, []);
    assert_eq!(reached(&world, spend(600)).await, [], "told in this window");
    change(&world, &founded, id, |record| record.rule.limit = Nanos(700)).await;
    assert_eq!(reached(&world, spend(1)).await, [(80, 611)], "of the limit in force");
    change(&world, &founded, id, |record| record.rule.generation = 2).await;
    assert_eq!(reached(&world, spend(5_000)).await, [], "spend of an old generation");
    let second = CounterKey { generation: 2, ..counter(id) };
    assert_eq!(world.store.crossings(&[second]).await.unwrap(), []);
    let mut new = spend(350);
    new[0].stub.as_mut().unwrap().charges[0].generation = 2;
    assert_eq!(reached(&world, new).await, [(50, 350)]);
}

pub async fn many_writers_tell_each_threshold_once(world: World) {
    let founded = world.founded().await;
    let id = thousand(&world, &founded).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let batch = records((0..10).map(|_| closed(&founded, attempt(), 15, &[id])));
            let store = world.store.clone();
            tokio::spawn(async move { store.ingest_records(&format!("dp{n}"), &batch, NOW).await })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        let report = task.await.unwrap().expect("contention is dealt with inside");
        told.extend(report.crossed.iter().map(|crossing| crossing.percent));
    }
    told.sort_unstable();
    assert_eq!(told, [50, 80, 100]);
}
