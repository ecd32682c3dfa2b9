//! Settlements that the ledger is slow to answer: carried out or not, forgotten or not, they count once.

use std::sync::Arc;

use nullspend_core::{clock::ManualClock, ledger::Ledger as _};
use nullspend_ledger::MemoryLedger;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::{
    recovery_tests::{COUNTER, ORG, charge_of_the_budget, data_plane, hold},
    testing::{
        FakePlane,
        mute::{Lost, Mute},
    },
};

const COST: Nanos = Nanos(400);
/// Longer than the ledger remembers.
const LONG_MS: i64 = 2 * REMEMBER_DONE_MS;

struct World {
    plane: Arc<DataPlane>,
    clock: Arc<ManualClock>,
    books: Arc<MemoryLedger>,
    ledger: Arc<Mute>,
    _dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let books = Arc::new(MemoryLedger::new(Arc::clone(&clock) as _));
        let ledger = Mute::new(Arc::clone(&books));
        let plane = data_plane(&dir, &ledger, Arc::clone(&clock), &FakePlane::default());
        Self { plane, clock, books, ledger, _dir: dir }
    }

    /// Settles twice, `pause_ms` apart, and loses what is lost of the first try.
    async fn settle_twice(&self, settlement: &Settlement, lost: Lost, pause_ms: i64) -> Settled {
        let mut unanswered = Unanswered::default();
        self.ledger.loses(OrgId(ORG), lost);
        settlement.attempt(&self.plane, None, &mut unanswered).await.expect_err("no answer");
        self.ledger.heals();
        self.clock.advance_ms(pause_ms);
        self.plane.leases.sweep().await;
        settlement.attempt(&self.plane, None, &mut unanswered).await.unwrap()
    }

    async fn settled(&self) -> Nanos {
        self.books.balances(OrgId(ORG), &[COUNTER]).await.unwrap()[0].settled
    }
}

fn settlement(held: bool) -> Settlement {
    let charges = vec![charge_of_the_budget()];
    Settlement {
        org: OrgId(ORG),
        hold: AttemptId(Uuid::from_u128(1)),
        cost: COST,
        charges,
        session: None,
        held,
    }
}

#[tokio::test]
async fn what_was_carried_out_unanswered_counts_once_however_late_it_is_told_again() {
    for pause_ms in [10, LONG_MS] {
        let world = World::new();
        hold(&world.books, 1, 60_000).await;
        assert_eq!(world.settle_twice(&settlement(true), Lost::Answer, pause_ms).await, Settled::Done);
        assert_eq!(world.settled().await, COST, "after {pause_ms} ms");
        assert_eq!(world.plane.metrics.settlements_presumed.get(), u64::from(pause_ms == LONG_MS));
    }
}

#[tokio::test]
async fn what_was_charged_counts_once_however_late_its_last_answer_comes() {
    for pause_ms in [10, LONG_MS] {
        let world = World::new();
        assert_eq!(world.settle_twice(&settlement(false), Lost::AfterCharge, pause_ms).await, Settled::Done);
        assert_eq!(world.settled().await, COST, "after {pause_ms} ms");
    }
}

#[tokio::test]
async fn what_was_never_carried_out_counts_however_late_it_is_told_again() {
    let world = World::new();
    hold(&world.books, 1, 60_000).await;
    let settled = world.settle_twice(&settlement(true), Lost::Request, LONG_MS).await;
    assert_eq!(settled, Settled::AfterLapse, "the hold had lapsed, which is not forgotten");
    assert_eq!(world.settled().await, COST);
    // A call on credit has no hold, so a ledger that does not know it was never told.
    let world = World::new();
    assert_eq!(world.settle_twice(&settlement(false), Lost::Request, LONG_MS).await, Settled::Done);
    assert_eq!(world.settled().await, COST);
}
