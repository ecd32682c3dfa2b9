//! A data plane that died and comes back to a ledger that did not.

use std::{sync::Arc, time::Duration};

use nullspend_core::{
    clock::ManualClock,
    exchange::{Settings, upstream::Upstreams},
    id::{AttemptId, BudgetId, OrgId, RandomIds},
    ledger::{CounterKey, ExtendOutcome, Ledger, Reserve, Scope},
    money::Nanos,
    policy::Enforcement,
};
use nullspend_ledger::MemoryLedger;
use nullspend_proto::internal::{
    AttemptStub, BudgetCharge, Closed, LedgerRebuild, Opened, SpoolRecord, WatchResponse, spool_record::Kind,
};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    Config, DataPlane, Deps,
    lease::LeaseConfig,
    report::ReportConfig,
    settle::Settlement,
    spool::{Spool, SpoolConfig},
    testing::{
        FakePlane,
        mute::{Lost, Mute},
    },
};

pub(crate) const ORG: Uuid = Uuid::from_u128(1);
const BUDGET: Uuid = Uuid::from_u128(9);
const HELD: i64 = 1_000;
const SOON: Duration = Duration::from_secs(10);
pub(crate) const COUNTER: CounterKey =
    CounterKey { budget: BudgetId(BUDGET), generation: 1, window_start_ms: 0 };

fn stub(n: u128) -> AttemptStub {
    let charge = BudgetCharge {
        budget_id: BUDGET.to_string(),
        generation: 1,
        window_start_ms: 0,
        window_end_ms: 0,
        of_session: false,
    };
    AttemptStub {
        attempt_id: Uuid::from_u128(n).to_string(),
        org_id: ORG.to_string(),
        held_nanos: HELD,
        charges: vec![charge],
        ..AttemptStub::default()
    }
}

pub(crate) fn charge_of_the_budget() -> nullspend_core::attempt::BudgetCharge {
    nullspend_core::attempt::BudgetCharge { counter: COUNTER, window_end_ms: None, of_session: false }
}

fn opened(n: u128) -> SpoolRecord {
    SpoolRecord { kind: Some(Kind::Opened(Opened { stub: Some(stub(n)) })) }
}

fn closed(n: u128, cost_nanos: i64) -> SpoolRecord {
    let closed = Closed {
        stub: Some(stub(n)),
        revision: 1,
        cost_nanos,
        measurement: "exact".to_owned(),
        ..Closed::default()
    };
    SpoolRecord { kind: Some(Kind::Closed(closed)) }
}

pub(crate) async fn hold(ledger: &MemoryLedger, n: u128, lease_ms: i64) {
    let scope = Scope {
        counter: COUNTER,
        window_end_ms: None,
        limit: Nanos(1_000_000),
        revision: 1,
        enforcement: Enforcement::StrictBlock,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
    };
    let reserve = Reserve {
        hold: AttemptId(Uuid::from_u128(n)),
        org: OrgId(ORG),
        scopes: vec![scope],
        session: None,
        finalize: false,
        amount: Nanos(HELD),
        lease_ms,
        stub: prost::Message::encode_to_vec(&stub(n)).into(),
    };
    ledger.reserve(&reserve).await.unwrap();
}

pub(crate) fn data_plane(
    dir: &TempDir,
    ledger: &Arc<impl Ledger + 'static>,
    clock: Arc<ManualClock>,
    control: &FakePlane,
) -> Arc<DataPlane> {
    data_plane_with(SpoolConfig::default(), dir, ledger, clock, control)
}

fn data_plane_with(
    spool: SpoolConfig,
    dir: &TempDir,
    ledger: &Arc<impl Ledger + 'static>,
    clock: Arc<ManualClock>,
    control: &FakePlane,
) -> Arc<DataPlane> {
    let config = Config {
        settings: Settings {
            upstreams: Upstreams(Vec::new()),
            lease_ms: 30_000,
            max_body_bytes: 1 << 20,
            fingerprints: nullspend_core::loops::Fingerprints::default(),
        },
        spool_dir: dir.path().to_owned(),
        spool,
        report: ReportConfig::default(),
        lease: LeaseConfig::default(),
        max_bodies_in_flight_bytes: 1 << 20,
        rate_limits: crate::RateLimits::default(),
        policy_max_age: None,
    };
    let deps = Deps {
        ledger: Arc::clone(ledger) as Arc<dyn Ledger>,
        clock,
        ids: Arc::new(RandomIds),
        control_plane: control.channel(),
    };
    DataPlane::build(config, deps).unwrap()
}

fn write(dir: &TempDir, records: &[SpoolRecord]) {
    let (spool, _) = Spool::open(dir.path(), SpoolConfig::default(), &RandomIds).unwrap();
    for record in records {
        spool.append(record).unwrap();
    }
}

fn asked(rebuilds: &[&str]) -> WatchResponse {
    let rebuild = |id: &&str| LedgerRebuild { rebuild_id: (*id).to_owned(), org_id: ORG.to_string() };
    WatchResponse {
        revision: 1,
        history_id: "h".to_owned(),
        snapshot: true,
        rebuilds: rebuilds.iter().map(rebuild).collect(),
        ..WatchResponse::default()
    }
}

#[tokio::test]
async fn a_rebuild_is_told_what_is_under_way_once_everything_else_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let mut elsewhere = stub(4);
    elsewhere.org_id = Uuid::from_u128(2).to_string();
    let mut grown = stub(1);
    grown.held_nanos = 2 * HELD;
    let of = |stub| SpoolRecord { kind: Some(Kind::Opened(Opened { stub: Some(stub) })) };
    let done = crate::convert::settled(AttemptId(Uuid::from_u128(3)));
    write(
        &dir,
        &[
            opened(1),
            opened(2),
            of(elsewhere),
            of(grown.clone()),
            opened(3),
            closed(2, 400),
            closed(3, 9),
            done,
        ],
    );
    let clock = Arc::new(ManualClock::at(1_000_000));
    let (ledger, control) = (Arc::new(MemoryLedger::new(Arc::clone(&clock) as _)), FakePlane::default());
    let (mut delivered, watch) = (control.delivered(), control.next_watch());
    let plane = data_plane(&dir, &ledger, clock, &control);
    watch.send(Ok(asked(&["r1"]))).unwrap();
    let mut told = tokio::time::timeout(SOON, delivered.recv()).await.unwrap().unwrap();
    told.attempts.sort_by(|a, b| a.attempt_id.cmp(&b.attempt_id));
    assert_eq!((told.dataplane_id.as_str(), told.rebuild_id.as_str()), (plane.id(), "r1"));
    assert_eq!(told.attempts, [grown, stub(2)], "the settled one and another organisation's are left out");
    assert_eq!(control.records().iter().filter_map(event).count(), 2, "both ends were reported before");
    watch.send(Ok(asked(&["r1", "r2"]))).unwrap();
    let told = tokio::time::timeout(SOON, delivered.recv()).await.unwrap().unwrap();
    assert_eq!(told.rebuild_id, "r2", "r1 was answered");
    plane.leave().await;
    assert_eq!(control.left(), 0, "there is work under way");
    plane.stop().await;
}

#[tokio::test]
async fn a_rebuild_waits_for_what_was_swept_and_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, &[closed(3, 9), crate::convert::settled(AttemptId(Uuid::from_u128(3)))]);
    let clock = Arc::new(ManualClock::at(1_000_000));
    let (ledger, control) = (Arc::new(MemoryLedger::new(Arc::clone(&clock) as _)), FakePlane::default());
    let (mut delivered, watch) = (control.delivered(), control.next_watch());
    let small = SpoolConfig { segment_bytes: 1, ..SpoolConfig::default() };
    let plane = data_plane_with(small, &dir, &ledger, Arc::clone(&clock), &control);
    // Where the spool's next file would be.
    let in_the_way = dir.path().join(format!("{:020}.seg", 3));
    std::fs::create_dir(&in_the_way).unwrap();
    hold(&ledger, 1, 1).await;
    clock.advance_ms(10);
    plane.leases.sweep().await;
    let refused = plane.metrics.spool_refusals.get();
    watch.send(Ok(asked(&["r1"]))).unwrap();
    let asks_again = async {
        while plane.metrics.spool_refusals.get() < refused + 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, asks_again).await.unwrap();
    assert!(delivered.try_recv().is_err(), "the books would be made again without the lapse");
    plane.leave().await;
    assert_eq!(control.left(), 0, "an event is in memory alone");
    std::fs::remove_dir(&in_the_way).unwrap();
    tokio::time::timeout(SOON, delivered.recv()).await.unwrap().unwrap();
    assert_eq!(control.records().iter().filter_map(event).count(), 2);
    plane.stop().await;
}

#[tokio::test]
async fn a_data_plane_with_nothing_under_way_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let (ledger, control) = (Arc::new(MemoryLedger::new(Arc::clone(&clock) as _)), FakePlane::default());
    let plane = data_plane(&dir, &ledger, clock, &control);
    plane.leave().await;
    assert_eq!(control.left(), 1);
    plane.stop().await;
}

#[tokio::test]
async fn what_is_settled_keeps_no_segment_although_its_mark_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
    // Each record in a segment of its own, for which there will be no room.
    let config = SpoolConfig { segment_bytes: 1, ..SpoolConfig::default() };
    let plane = data_plane_with(config, &dir, &ledger, clock, &FakePlane::default());
    for record in [opened(1), closed(1, 400)] {
        plane.spool.append(&record).unwrap();
    }
    assert_eq!(plane.spool.stats().unsettled, 1);
    std::fs::remove_dir_all(dir.path()).unwrap();
    let marked = plane.mark_settled(AttemptId(Uuid::from_u128(1)));
    let marked = tokio::time::timeout(Duration::from_millis(1), marked).await;
    assert!(marked.is_err(), "the mark waits for room");
    assert_eq!(plane.spool.stats().unsettled, 0, "the end does not");
}

#[tokio::test]
async fn what_the_last_run_left_is_settled_in_a_ledger_that_outlived_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
    // 1 was closed and not settled, 2 never closed, 3 closed after its hold had been swept by another data plane,
    // 4 closed when the ledger had lost its hold.
    // 5 never closed, and its hold had grown when it was swept.
    for (n, lease_ms) in [(1, 60_000), (2, 60_000), (3, 1), (5, 1)] {
        hold(&ledger, n, lease_ms).await;
    }
    let grown = ledger.extend(OrgId(ORG), &[AttemptId(Uuid::from_u128(5))], 1, 1, Nanos(70)).await.unwrap();
    assert_eq!(grown, [ExtendOutcome::Extended]);
    clock.advance_ms(10);
    assert_eq!(ledger.sweep().await.unwrap().len(), 2);
    write(
        &dir,
        &[
            opened(1),
            opened(2),
            opened(3),
            opened(4),
            opened(5),
            closed(1, 400),
            closed(3, 300),
            closed(4, 200),
        ],
    );

    let control = FakePlane::default();
    let plane = data_plane(&dir, &ledger, clock, &control);
    plane.resume().unwrap();
    let settled = async {
        while plane.in_flight() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), settled).await.unwrap();
    assert!(plane.flush(Duration::from_secs(10)).await);
    let mut events: Vec<(String, u32, i64)> = control.records().iter().filter_map(event).collect();
    events.sort();
    let id = |n: u128| Uuid::from_u128(n).to_string();
    assert_eq!(
        events,
        [
            (id(1), 1, 400),
            (id(2), 1, HELD),
            (id(3), 1, 300),
            (id(3), 2, 300),
            (id(4), 1, 200),
            (id(5), 1, HELD),
            (id(5), 2, HELD)
        ]
    );
    let balance = ledger.balances(OrgId(ORG), &[COUNTER]).await.unwrap()[0];
    assert_eq!((balance.held, balance.settled), (Nanos::ZERO, Nanos(400 + HELD + 300 + 200 + HELD)));
    plane.stop().await;
    drop(plane);

    let (_, replay) = Spool::open(dir.path(), SpoolConfig::default(), &RandomIds).unwrap();
    assert!(replay.unsettled.is_empty() && replay.unclosed.is_empty(), "the next start has nothing to do");
}

#[tokio::test]
async fn an_organisation_whose_ledger_is_silent_keeps_no_other_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let books = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
    hold(&books, 2, 60_000).await;
    let other = OrgId(Uuid::from_u128(5));
    let stub = AttemptStub { org_id: other.bare(), ..stub(1) };
    let silent = Closed { stub: Some(stub), revision: 1, ..Closed::default() };
    write(&dir, &[SpoolRecord { kind: Some(Kind::Closed(silent)) }, closed(2, 400)]);
    let ledger = Mute::new(Arc::clone(&books));
    ledger.loses(other, Lost::Request);
    let plane = data_plane(&dir, &ledger, clock, &FakePlane::default());
    plane.resume().unwrap();
    let settled = async {
        while plane.spool.stats().unsettled > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, settled).await.unwrap();
    assert_eq!(books.balances(OrgId(ORG), &[COUNTER]).await.unwrap()[0].settled, Nanos(400));
    assert!(plane.spool.is_unsettled(AttemptId(Uuid::from_u128(1))), "it goes on trying");
    plane.stop().await;
}

#[tokio::test]
async fn a_lapse_of_a_call_that_never_left_is_settled_once_its_correction_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
    hold(&ledger, 1, 1).await;
    clock.advance_ms(10);
    assert_eq!(ledger.sweep().await.unwrap().len(), 1);
    let charged = async || ledger.balances(OrgId(ORG), &[COUNTER]).await.unwrap()[0].settled;
    let never_left = Settlement {
        org: OrgId(ORG),
        hold: AttemptId(Uuid::from_u128(1)),
        cost: Nanos::ZERO,
        charges: Vec::from([charge_of_the_budget()]),
        session: None,
        held: true,
    };
    let until = async |met: &dyn Fn() -> bool| {
        let looking = async {
            while !met() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, looking).await.unwrap();
    };
    let control = FakePlane::default();
    let plane = data_plane(&dir, &ledger, Arc::clone(&clock), &control);
    // No record may be so long.
    let unwritable = AttemptStub { model: "m".repeat(5 << 20), ..stub(1) };
    plane.take_back(never_left.clone(), unwritable);
    until(&|| plane.metrics.spool_refusals.get() > 0).await;
    assert_eq!(charged().await, Nanos(HELD), "a death now would leave the event above the ledger");
    plane.stop().await;
    drop(plane);

    let dir = tempfile::tempdir().unwrap();
    let plane = data_plane(&dir, &ledger, Arc::clone(&clock), &control);
    plane.take_back(never_left, stub(1));
    until(&|| plane.in_flight() == 0).await;
    assert_eq!(charged().await, Nanos::ZERO);
    assert!(plane.flush(SOON).await);
    let events: Vec<_> = control.records().iter().filter_map(event).collect();
    assert_eq!(events.last(), Some(&(Uuid::from_u128(1).to_string(), 2, 0)));
    plane.stop().await;
    drop(plane);
    let (_, replay) = Spool::open(dir.path(), SpoolConfig::default(), &RandomIds).unwrap();
    assert!(replay.unsettled.is_empty(), "the next start has nothing to do");
}

fn event(record: &SpoolRecord) -> Option<(String, u32, i64)> {
    match record.kind.as_ref()? {
        Kind::Closed(closed) => {
            Some((closed.stub.as_ref()?.attempt_id.clone(), closed.revision, closed.cost_nanos))
        }
        Kind::Opened(_) | Kind::Denied(_) | Kind::Settled(_) => None,
    }
}
