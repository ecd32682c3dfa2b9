//! A ledger that carries out what it is asked, or not, and falls silent on command.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use nullspend_core::{
    id::{AttemptId, OrgId},
    ledger::{
        Balance, Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable,
        LimitChange, OpenHolds, Reserve, ReserveOutcome, Restored, SessionSpend, SettleOutcome,
    },
    money::Nanos,
};
use nullspend_ledger::MemoryLedger;

/// What is lost of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    Request,
    Answer,
    /// Every answer once a charge was made.
    AfterCharge,
}

/// Loses what one may want to lose of renewals, settlements and charges; everything else arrives.
pub(crate) struct Mute {
    inner: Arc<MemoryLedger>,
    lost: Mutex<HashMap<OrgId, Lost>>,
}

impl Mute {
    pub(crate) fn new(inner: Arc<MemoryLedger>) -> Arc<Self> {
        Arc::new(Self { inner, lost: Mutex::default() })
    }

    /// Loses this of every call of an organisation from now on.
    pub(crate) fn loses(&self, org: OrgId, lost: Lost) {
        self.lost.lock().unwrap().insert(org, lost);
    }

    /// Loses nothing any more.
    pub(crate) fn heals(&self) {
        self.lost.lock().unwrap().clear();
    }

    async fn ask<T>(
        &self,
        org: OrgId,
        call: impl Future<Output = Result<T, LedgerUnavailable>>,
    ) -> Result<T, LedgerUnavailable> {
        let lost = self.lost.lock().unwrap().get(&org).copied();
        if lost == Some(Lost::Request) {
            return Err(LedgerUnavailable::unanswered("request lost"));
        }
        let answer = call.await;
        if lost == Some(Lost::Answer) { Err(LedgerUnavailable::unanswered("answer lost")) } else { answer }
    }
}

#[async_trait::async_trait]
impl Ledger for Mute {
    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable> {
        self.ask(org, self.inner.extend(org, holds, number, lease_ms, add)).await
    }

    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable> {
        self.ask(org, self.inner.settle(org, hold, actual)).await
    }

    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable> {
        let answer = self.ask(charge.org, self.inner.charge(charge)).await;
        if self.lost.lock().unwrap().get(&charge.org) == Some(&Lost::AfterCharge) {
            self.loses(charge.org, Lost::Answer);
        }
        answer
    }

    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.inner.reserve(reserve).await
    }

    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable> {
        self.inner.balances(org, counters).await
    }

    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable> {
        self.inner.apply_limits(org, changes).await
    }

    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable> {
        self.inner.sweep().await
    }

    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable> {
        self.inner.load(org, settled).await
    }

    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable> {
        self.inner.load_sessions(org, sessions).await
    }

    async fn begin_rebuild(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        self.inner.begin_rebuild(org).await
    }

    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable> {
        self.inner.restore(reserve, as_a).await
    }

    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable> {
        self.inner.restore_done(org, ids).await
    }

    async fn finish_rebuild(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        self.inner.finish_rebuild(org).await
    }

    async fn is_lost(&self, org: OrgId) -> Result<bool, LedgerUnavailable> {
        self.inner.is_lost(org).await
    }

    async fn give_up(&self, org: OrgId) -> Result<(), LedgerUnavailable> {
        self.inner.give_up(org).await
    }

    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable> {
        self.inner.open_holds().await
    }
}
