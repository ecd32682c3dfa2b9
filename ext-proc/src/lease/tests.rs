use nullspend_core::{
    clock::ManualClock,
    id::{BudgetId, Ids as _, RandomIds},
    ledger::{CounterKey, Reserve, ReserveOutcome, Scope, SettleOutcome},
    policy::Enforcement,
};
use nullspend_ledger::MemoryLedger;
use tempfile::TempDir;

use super::*;
use crate::{
    spool::{Fsync, SpoolConfig},
    testing::mute::{Lost, Mute},
};

const AMOUNT: Nanos = Nanos(70);

struct World {
    dir: TempDir,
    clock: Arc<ManualClock>,
    ledger: Arc<MemoryLedger>,
    /// Before it, for the leases.
    silent: Arc<Mute>,
    spool: Arc<Spool>,
    metrics: Arc<Metrics>,
    leases: Arc<Leases>,
    org: OrgId,
    budget: BudgetId,
}

fn config() -> SpoolConfig {
    SpoolConfig { fsync: Fsync::Never, ..SpoolConfig::default() }
}

impl World {
    fn new() -> Self {
        Self::of(config())
    }

    fn of(config: SpoolConfig) -> Self {
        let dir = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let ledger = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
        let (spool, _) = Spool::open(dir.path(), config, &RandomIds).unwrap();
        let metrics = Arc::new(Metrics::new());
        let silent = Mute::new(Arc::clone(&ledger));
        let leases = Leases::new(
            Arc::clone(&silent) as _,
            Arc::clone(&spool),
            Arc::clone(&clock) as _,
            Arc::clone(&metrics),
            LeaseConfig { lease: Duration::from_secs(30), sweep_every: Duration::from_secs(2) },
        );
        let (org, budget) = (OrgId(RandomIds.v4()), BudgetId(RandomIds.v4()));
        Self { dir, clock, ledger, silent, spool, metrics, leases, org, budget }
    }

    fn counter(&self) -> CounterKey {
        CounterKey { budget: self.budget, generation: 0, window_start_ms: 0 }
    }

    async fn reserve(&self) -> AttemptId {
        let hold = AttemptId(RandomIds.v4());
        let scope = Scope {
            counter: self.counter(),
            window_end_ms: None,
            limit: Nanos(1_000),
            revision: 1,
            enforcement: Enforcement::StrictBlock,
            session_limit: None,
            velocity: None,
            finalization_reserve: Nanos::ZERO,
        };
        let stub = AttemptStub {
            attempt_id: hold.bare(),
            org_id: self.org.bare(),
            held_nanos: AMOUNT.0,
            ..AttemptStub::default()
        };
        let reserve = Reserve {
            hold,
            org: self.org,
            scopes: vec![scope],
            session: None,
            finalize: false,
            amount: AMOUNT,
            lease_ms: self.leases.lease_ms(),
            stub: stub.encode_to_vec().into(),
        };
        let outcome = self.ledger.reserve(&reserve).await.unwrap();
        assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
        hold
    }

    async fn held(&self) -> Nanos {
        self.ledger.balances(self.org, &[self.counter()]).await.unwrap()[0].held
    }

    async fn settled(&self) -> Nanos {
        self.ledger.balances(self.org, &[self.counter()]).await.unwrap()[0].settled
    }

    fn events(&self) -> Vec<Closed> {
        let batch = self.spool.read_from(1, usize::MAX, usize::MAX).unwrap();
        let events = batch.records.into_iter().filter_map(|record| record.read().ok()?.kind);
        events.map(|kind| if let Kind::Closed(closed) = kind { closed } else { panic!("{kind:?}") }).collect()
    }
}

#[tokio::test]
async fn a_hold_lives_as_long_as_its_lease_is_kept() {
    let world = World::new();
    let hold = world.reserve().await;
    let lease = world.leases.keep(world.org, hold);
    for _ in 0..30 {
        world.clock.advance_ms(10_000);
        world.leases.renew_all().await;
        world.leases.sweep().await;
    }
    assert_eq!(world.held().await, AMOUNT);
    assert_eq!((world.leases.open(), world.metrics.leases_lost.get()), (1, 0));
    let outcome = world.ledger.settle(world.org, hold, Nanos(9)).await.unwrap();
    assert!(matches!(outcome, SettleOutcome::Settled { .. }));
    drop(lease);
    assert_eq!((world.leases.open(), world.held().await), (0, Nanos::ZERO));
    assert!(world.events().is_empty());
}

#[tokio::test]
async fn a_hold_nobody_keeps_is_charged_and_told_within_one_lease() {
    let world = World::new();
    let hold = world.reserve().await;
    drop(world.leases.keep(world.org, hold));
    world.clock.advance_ms(31_000);
    world.leases.renew_all().await;
    world.leases.sweep().await;
    assert_eq!((world.held().await, world.settled().await), (Nanos::ZERO, AMOUNT));
    let events = world.events();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].measurement.as_str(), events[0].revision), ("lapsed", 1));
    assert_eq!((events[0].cost_nanos, events[0].ended_at_ms), (AMOUNT.0, 1_031_000));
    world.leases.sweep().await;
    assert_eq!(world.events().len(), 1);
    drop(world.leases);
    drop(world.spool);
    let (_, replay) = Spool::open(world.dir.path(), config(), &RandomIds).unwrap();
    assert!(replay.unsettled.is_empty(), "the sweep has charged it");
}

#[tokio::test]
async fn nothing_is_swept_while_the_spool_does_not_take_the_last_sweep_s_events() {
    // Each record wants a file of its own, which a directory that is away does not take.
    let world = World::of(SpoolConfig { segment_bytes: 1, ..config() });
    let aside = world.dir.path().with_extension("aside");
    let lapse_one = async || {
        world.reserve().await;
        world.clock.advance_ms(31_000);
        world.leases.sweep().await;
    };
    lapse_one().await;
    std::fs::rename(world.dir.path(), &aside).unwrap();
    lapse_one().await;
    lapse_one().await;
    assert!(world.leases.write_events().await.is_err());
    assert_eq!(
        (world.settled().await, world.held().await),
        (AMOUNT + AMOUNT, AMOUNT),
        "it stays in the ledger"
    );
    std::fs::rename(&aside, world.dir.path()).unwrap();
    assert!(world.leases.write_events().await.is_ok());
    assert_eq!(world.events().len(), 2);
    world.leases.sweep().await;
    assert_eq!((world.held().await, world.events().len()), (Nanos::ZERO, 3));
}

#[tokio::test]
async fn an_owner_learns_that_its_hold_lapsed() {
    let world = World::new();
    let hold = world.reserve().await;
    let _lease = world.leases.keep(world.org, hold);
    world.clock.advance_ms(31_000);
    world.leases.sweep().await;
    world.leases.renew_all().await;
    assert_eq!(world.metrics.leases_lost.get(), 1, "counted once");
    let outcome = world.ledger.settle(world.org, hold, Nanos(9)).await.unwrap();
    assert_eq!(outcome, SettleOutcome::Lapsed { charged: AMOUNT });
    assert_eq!(world.settled().await, Nanos(9));
}

#[tokio::test]
async fn a_hold_unknown_to_the_ledger_is_noticed() {
    let world = World::new();
    let _lease = world.leases.keep(world.org, AttemptId(RandomIds.v4()));
    world.leases.renew_all().await;
    assert_eq!(world.metrics.leases_lost.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_task_renews_without_being_asked() {
    let world = World::new();
    let hold = world.reserve().await;
    let _lease = world.leases.keep(world.org, hold);
    let stop = CancellationToken::new();
    let task = tokio::spawn(Arc::clone(&world.leases).run(stop.clone()));
    for _ in 0..200 {
        tokio::time::advance(Duration::from_millis(500)).await;
        world.clock.advance_ms(500);
        tokio::task::yield_now().await;
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(world.held().await, AMOUNT);
}

#[tokio::test]
async fn renewals_may_fail_for_as_long_as_a_lease() {
    let world = World::new();
    let hold = world.reserve().await;
    let _lease = world.leases.keep(world.org, hold);
    for lost in [Lost::Request, Lost::Answer] {
        world.silent.loses(world.org, lost);
        for _ in 0..14 {
            world.clock.advance_ms(2_000);
            world.leases.renew_all().await;
            world.leases.sweep().await;
        }
        world.silent.heals();
        world.leases.renew_all().await;
    }
    assert_eq!((world.metrics.ledger_failures.get(), world.metrics.leases_lost.get()), (28, 0));
    assert_eq!(world.held().await, AMOUNT, "56 seconds, of which 28 without a renewal");
    world.silent.loses(world.org, Lost::Request);
    world.clock.advance_ms(31_000);
    world.leases.renew_all().await;
    world.leases.sweep().await;
    assert_eq!(world.metrics.leases_lost.get(), 1, "longer than a lease is too long");
    assert_eq!(world.settled().await, AMOUNT);
}
