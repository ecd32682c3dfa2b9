//! A ledger behind a bad network, to prove that repeating a call does no harm.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use nullspend_core::{
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, OpenHolds, Reserve, ReserveOutcome, Restored, SessionSpend, SettleOutcome,
    },
    money::Nanos,
};

use crate::conformance::Random;

/// Passes calls on to a ledger, but loses some requests, loses some replies, and makes some calls twice.
///
/// Lost calls are `Err`, as a caller would see them; it cannot tell which were carried out.
#[derive(Debug)]
pub struct Faulty<L: ?Sized> {
    random: Mutex<Random>,
    /// One call in so many is faulty.
    one_in: u64,
    faults: AtomicU64,
    inner: Arc<L>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    RequestLost,
    ReplyLost,
    Repeated,
}

impl<L: Ledger + ?Sized> Faulty<L> {
    /// Faults are drawn from the seed.
    pub fn new(inner: Arc<L>, seed: u64, one_in: u64) -> Self {
        Self { random: Mutex::new(Random::seeded(seed)), one_in, faults: AtomicU64::new(0), inner }
    }

    /// How many calls went wrong so far.
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::SeqCst)
    }

    fn draw(&self) -> Fault {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        if !random.chance(self.one_in) {
            return Fault::None;
        }
        self.faults.fetch_add(1, Ordering::SeqCst);
        *random.pick(&[Fault::RequestLost, Fault::ReplyLost, Fault::Repeated])
    }

    async fn call<T, C>(&self, call: impl Fn() -> C) -> Result<T, LedgerUnavailable>
    where
        C: Future<Output = Result<T, LedgerUnavailable>>,
    {
        let fault = self.draw();
        if fault == Fault::RequestLost {
            return Err(LedgerUnavailable::unanswered("request lost"));
        }
        let answer = call().await;
        match fault {
            Fault::ReplyLost => Err(LedgerUnavailable::unanswered("reply lost")),
            Fault::Repeated => call().await.and(answer),
            _ => answer,
        }
    }
}

#[async_trait]
impl<L: Ledger + ?Sized> Ledger for Faulty<L> {
    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.call(|| self.inner.reserve(reserve)).await
    }

    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable> {
        self.call(|| self.inner.extend(org, holds, number, lease_ms, add)).await
    }

    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable> {
        self.call(|| self.inner.settle(org, hold, actual)).await
    }

    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable> {
        self.call(|| self.inner.charge(charge)).await
    }

    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable> {
        self.call(|| self.inner.balances(org, counters)).await
    }

    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.apply_limits(org, changes)).await
    }

    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable> {
        self.call(|| self.inner.sweep()).await
    }

    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.load(org, settled)).await
    }

    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.load_sessions(org, sessions)).await
    }

    async fn begin_rebuild(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        self.call(|| self.inner.begin_rebuild(org)).await
    }

    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.call(|| self.inner.restore(reserve, as_a)).await
    }

    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.restore_done(org, ids)).await
    }

    async fn finish_rebuild(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.finish_rebuild(org)).await
    }

    async fn is_lost(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        self.call(|| self.inner.is_lost(org)).await
    }

    async fn give_up(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        self.call(|| self.inner.give_up(org)).await
    }

    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable> {
        self.call(|| self.inner.open_holds()).await
    }
}
