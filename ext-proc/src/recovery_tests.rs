//! A data plane that died and comes back to a ledger that did not.

use std::{sync::Arc, time::Duration};

use nullspend_core::{
    clock::ManualClock,
    exchange::{Settings, upstream::Upstreams},
    id::{AttemptId, BudgetId, OrgId, RandomIds},
    ledger::{CounterKey, Ledger, Reserve, Scope},
    money::Nanos,
    policy::Enforcement,
};
use nullspend_ledger::MemoryLedger;
use nullspend_proto::internal::{AttemptStub, BudgetCharge, Closed, Opened, SpoolRecord, spool_record::Kind};
use uuid::Uuid;

use crate::{
    Config, DataPlane, Deps,
    lease::LeaseConfig,
    report::ReportConfig,
    spool::{Spool, SpoolConfig},
    testing::FakePlane,
};

const ORG: Uuid = Uuid::from_u128(1);
const BUDGET: Uuid = Uuid::from_u128(9);
const HELD: i64 = 1_000;
const COUNTER: CounterKey = CounterKey { budget: BudgetId(BUDGET), generation: 1, window_start_ms: 0 };

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

async fn hold(ledger: &MemoryLedger, n: u128, lease_ms: i64) {
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
        stub: bytes::Bytes::new(),
    };
    ledger.reserve(&reserve).await.unwrap();
}

#[tokio::test]
async fn what_the_last_run_left_is_settled_in_a_ledger_that_outlived_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_000_000));
    let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
    // 1 was closed and not settled, 2 never closed, 3 closed after its hold had been swept by another data plane,
    // 4 closed when the ledger had lost its hold.
    for (n, lease_ms) in [(1, 60_000), (2, 60_000), (3, 1)] {
        hold(&ledger, n, lease_ms).await;
    }
    clock.advance_ms(10);
    assert_eq!(ledger.sweep().await.unwrap().len(), 1);
    let (spool, _) = Spool::open(dir.path(), SpoolConfig::default(), &RandomIds).unwrap();
    for record in [opened(1), opened(2), opened(3), opened(4), closed(1, 400), closed(3, 300), closed(4, 200)]
    {
        spool.append(&record).unwrap();
    }
    drop(spool);

    let control = FakePlane::default();
    let config = Config {
        settings: Settings { upstreams: Upstreams(Vec::new()), lease_ms: 30_000, max_body_bytes: 1 << 20 },
        spool_dir: dir.path().to_owned(),
        spool: SpoolConfig::default(),
        report: ReportConfig::default(),
        lease: LeaseConfig::default(),
        max_bodies_in_flight_bytes: 1 << 20,
        policy_max_age: None,
    };
    let deps = Deps {
        ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
        clock,
        ids: Arc::new(RandomIds),
        control_plane: control.channel(),
    };
    let plane = DataPlane::build(config, deps).unwrap();
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
        [(id(1), 1, 400), (id(2), 1, HELD), (id(3), 1, 300), (id(3), 2, 300), (id(4), 1, 200)]
    );
    let balance = ledger.balances(OrgId(ORG), &[COUNTER]).await.unwrap()[0];
    assert_eq!((balance.held, balance.settled), (Nanos::ZERO, Nanos(400 + HELD + 300 + 200)));
    plane.stop().await;
    drop(plane);

    let (_, replay) = Spool::open(dir.path(), SpoolConfig::default(), &RandomIds).unwrap();
    assert!(replay.unsettled.is_empty() && replay.unclosed.is_empty(), "the next start has nothing to do");
}

fn event(record: &SpoolRecord) -> Option<(String, u32, i64)> {
    match record.kind.as_ref()? {
        Kind::Closed(closed) => {
            Some((closed.stub.as_ref()?.attempt_id.clone(), closed.revision, closed.cost_nanos))
        }
        Kind::Opened(_) | Kind::Denied(_) | Kind::Settled(_) => None,
    }
}
