//! What sessions have spent.

use nullspend_control_plane::store::BooksSince;
use nullspend_core::{
    id::BudgetId,
    ledger::SESSION_IDLE_MS,
    money::{MAX_EVENT, MAX_TOTAL_NANOS},
};
use nullspend_proto::internal as proto;

use crate::{
    administration::live_budget,
    world::{Founded, NOW, SINCE, World, attempt, closed, records},
};

/// An attempt of a session that began and ended so long after [`NOW`].
fn spent(
    founded: &Founded,
    budget: BudgetId,
    session: &str,
    cost_nanos: i64,
    [began, ended]: [i64; 2],
) -> proto::Closed {
    let mut closed = closed(founded, attempt(), cost_nanos, &[budget]);
    closed.ended_at_ms = NOW + ended;
    if let Some(stub) = closed.stub.as_mut() {
        stub.session_id = Some(session.to_owned());
        stub.started_at_ms = NOW + began;
        stub.charges[0].of_session = true;
    }
    closed
}

async fn take(world: &World, batch: impl IntoIterator<Item = proto::Closed>) {
    let report = world.store.ingest_records("dp", &records(batch), NOW).await.unwrap();
    assert_eq!(report.quarantined, 0);
}

/// Sessions used after an instant, with what they have spent and when they last did.
async fn spends(world: &World, founded: &Founded, used_after_ms: i64) -> Vec<(String, i64, i64)> {
    let since = BooksSince { session_used_ms: used_after_ms, ..SINCE };
    let spends = world.store.books(founded.org, since, &[]).await.unwrap().sessions;
    spends.into_iter().map(|s| (s.session.to_string(), s.settled.0, s.last_used_ms - NOW)).collect()
}

fn of(id: &str, settled: i64, last_used: i64) -> (String, i64, i64) {
    (id.to_owned(), settled, last_used)
}

pub async fn what_sessions_spend_is_booked_once(world: World) {
    let founded = world.founded().await;
    let budget = live_budget(&world, &founded).await;
    let batch = [
        spent(&founded, budget, "a", 30, [0, 10]),
        spent(&founded, budget, "a", 12, [5, 20]),
        spent(&founded, budget, "b", 7, [0, 5]),
    ];
    for _repeat in 0..2 {
        take(&world, batch.clone()).await;
    }
    let mut plain = spent(&founded, budget, "a", 1_000, [0, 30]);
    plain.stub.as_mut().unwrap().charges[0].of_session = false;
    take(&world, [plain]).await;
    assert_eq!(spends(&world, &founded, 0).await, [of("a", 42, 20), of("b", 7, 5)]);
    assert_eq!(spends(&world, &founded, NOW + 5).await, [of("a", 42, 20)]);
}

pub async fn the_truth_corrects_a_session_too(world: World) {
    let founded = world.founded().await;
    let budget = live_budget(&world, &founded).await;
    for (session, cost) in [("dearer", 90), ("cheaper", 40), ("equal", 60)] {
        take(&world, [spent(&founded, budget, session, 5, [0, 1])]).await;
        let truth = spent(&founded, budget, session, cost, [2, 30]);
        let mut lapse = truth.clone();
        (lapse.measurement, lapse.cost_nanos, lapse.ended_at_ms) = ("lapsed".to_owned(), 60, NOW + 20);
        for batch in [[lapse.clone()], [truth.clone()], [lapse], [truth]] {
            take(&world, batch).await;
        }
    }
    let expected = [of("cheaper", 45, 30), of("dearer", 95, 30), of("equal", 65, 30)];
    assert_eq!(spends(&world, &founded, 0).await, expected);
}

pub async fn a_session_idle_for_a_day_begins_again(world: World) {
    let founded = world.founded().await;
    let budget = live_budget(&world, &founded).await;
    for (session, began, settled) in [("a", SESSION_IDLE_MS - 1, 75), ("b", SESSION_IDLE_MS, 5)] {
        take(&world, [spent(&founded, budget, session, 70, [-100, 0])]).await;
        let ended = SESSION_IDLE_MS + 50;
        take(&world, [spent(&founded, budget, session, 5, [began, ended])]).await;
        let of_session = spends(&world, &founded, 0).await.into_iter().find(|(id, ..)| id == session);
        assert_eq!(of_session, Some(of(session, settled, ended)));
    }
    // What comes late counts: it may have been spent since.
    take(&world, [spent(&founded, budget, "b", 3, [-50, -10])]).await;
    assert_eq!(spends(&world, &founded, 0).await[1], of("b", 8, SESSION_IDLE_MS + 50));
}

pub async fn sessions_saturate_age_and_end_with_their_generation(world: World) {
    let founded = world.founded().await;
    let budget = live_budget(&world, &founded).await;
    for _ in 0..5 {
        take(&world, (0..1_000).map(|_| spent(&founded, budget, "rich", MAX_EVENT.0, [0, 1]))).await;
    }
    take(&world, [spent(&founded, budget, "new", 1, [0, 9])]).await;
    assert_eq!(spends(&world, &founded, 0).await, [of("new", 1, 9), of("rich", MAX_TOTAL_NANOS, 1)]);
    assert_eq!(world.store.purge_sessions(NOW + 1, 10).await.unwrap(), 0);
    assert_eq!(world.store.purge_sessions(NOW + 2, 10).await.unwrap(), 1);
    assert_eq!(spends(&world, &founded, 0).await, [of("new", 1, 9)]);
    let reset = |record: &mut nullspend_control_plane::store::BudgetRecord| record.rule.generation += 1;
    world.store.change_budget(founded.org, budget, reset).await.unwrap().unwrap();
    assert_eq!(spends(&world, &founded, 0).await, []);
}
