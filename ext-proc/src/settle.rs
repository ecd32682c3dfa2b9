//! Brings an attempt's cost to the ledger, for as long as that takes.

use std::time::Duration;

use nullspend_core::{
    attempt::{AttemptStub, BudgetCharge},
    id::{AttemptId, OrgId},
    ledger::{
        Charge, ChargeOutcome, CounterKey, ExtendOutcome, LedgerUnavailable, REMEMBER_DONE_MS, Reserve,
        SettleOutcome, Silence,
    },
    money::Nanos,
};
use nullspend_proto::internal as wire;
use tracing::{debug, error, warn};

use crate::DataPlane;

/// Between tries to reach the ledger.
const RETRY: Duration = Duration::from_millis(500);

/// What the ledger said at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The cost counts, and nothing else is to do.
    Done,
    /// The hold had lapsed, and its sweeper wrote an event: the truth must replace it.
    AfterLapse,
}

/// A cost that the ledger must hear of.
///
/// It may be told again and again: it remembers for an hour what it has settled or charged. After that it knows nothing of
/// an id, as if it had never heard of it. So where a try that it may have carried out is older than that, "unknown" counts
/// as carried out: a hold that it still had would be held or lapsed, which it does remember. Should it have lost the
/// hold instead, its books are short of a cost that the event has, and drift says so; charged blindly they would count
/// it twice, and deny what fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settlement {
    pub org: OrgId,
    pub hold: AttemptId,
    pub cost: Nanos,
    pub charges: Vec<BudgetCharge>,
    pub session: Option<String>,
    /// The ledger granted a hold for it.
    pub held: bool,
}

/// When the ledger may first have carried something out that it did not answer, in Unix milliseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Unanswered(Option<i64>);

impl Unanswered {
    /// Notes what came of a try.
    fn note<T>(&mut self, tried: &Result<T, LedgerUnavailable>, now_ms: i64) {
        if tried.as_ref().is_err_and(|unavailable| unavailable.silence == Silence::Unanswered) {
            self.since(now_ms);
        }
    }

    fn since(&mut self, now_ms: i64) {
        self.0.get_or_insert(now_ms);
    }

    /// Whether the ledger may have forgotten it by now.
    fn is_forgotten(self, now_ms: i64) -> bool {
        self.0.is_some_and(|since_ms| now_ms - since_ms >= REMEMBER_DONE_MS)
    }
}

impl Settlement {
    /// Of an attempt that ended now.
    pub(crate) fn of(stub: &AttemptStub, cost: Nanos) -> Self {
        Self {
            org: stub.org,
            hold: stub.attempt,
            cost,
            charges: stub.charges.clone(),
            session: stub.session_id.clone(),
            held: !stub.on_credit,
        }
    }

    /// Of a reserve whose call was refused.
    pub(crate) fn given_up(reserve: &Reserve) -> Self {
        let session = reserve.session.as_deref();
        Self {
            org: reserve.org,
            hold: reserve.hold,
            cost: Nanos::ZERO,
            charges: reserve.scopes.iter().map(|scope| BudgetCharge::to_scope(scope, session)).collect(),
            session: session.map(str::to_owned),
            held: false,
        }
    }

    /// Of a record that an earlier run wrote; `None` when it names no attempt.
    pub(crate) fn read(closed: &wire::Closed) -> Option<Self> {
        let stub = closed.stub.as_ref()?;
        let charge = |charge: &wire::BudgetCharge| {
            let counter = CounterKey {
                budget: charge.budget_id.parse().ok()?,
                generation: charge.generation,
                window_start_ms: charge.window_start_ms,
            };
            let window_end_ms = (charge.window_end_ms != 0).then_some(charge.window_end_ms);
            Some(BudgetCharge { counter, window_end_ms, of_session: charge.of_session })
        };
        Some(Self {
            org: stub.org_id.parse().ok()?,
            hold: stub.attempt_id.parse().ok()?,
            cost: Nanos(closed.cost_nanos),
            charges: stub.charges.iter().map(charge).collect::<Option<_>>()?,
            session: stub.session_id.clone(),
            held: !stub.on_credit,
        })
    }

    /// Settles the hold, or charges what a lost one should have taken; tries again while the ledger is away.
    pub(crate) async fn run(&self, plane: &DataPlane) -> Settled {
        self.until_told(plane, None).await
    }

    /// The same of a call that never left. Should its hold have lapsed, the correction of its event is in the spool before the
    /// ledger knows: as everywhere, nothing is settled that a death could make forgotten.
    pub(crate) async fn take_back(&self, plane: &DataPlane, stub: &wire::AttemptStub) -> Settled {
        self.until_told(plane, Some(stub)).await
    }

    async fn until_told(&self, plane: &DataPlane, never_left: Option<&wire::AttemptStub>) -> Settled {
        if self.charges.is_empty() {
            return Settled::Done;
        }
        let (mut told, mut unanswered) = (false, Unanswered::default());
        loop {
            match self.attempt(plane, never_left, &mut unanswered).await {
                Ok(settled) => {
                    plane.credit.told(self.hold);
                    return settled;
                }
                Err(cause) if told => debug!(%cause, attempt = %self.hold, "settling will be tried again"),
                Err(cause) => warn!(%cause, attempt = %self.hold, "settling will be tried again"),
            }
            told = true;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn attempt(
        &self,
        plane: &DataPlane,
        never_left: Option<&wire::AttemptStub>,
        unanswered: &mut Unanswered,
    ) -> Result<Settled, LedgerUnavailable> {
        if let Some(stub) = never_left
            && self.has_lapsed(plane).await?
        {
            plane.write_correction(self.hold, stub).await;
        }
        let tried_ms = plane.clock.now_ms();
        let settled = plane.ledger.settle(self.org, self.hold, self.cost).await;
        if self.held {
            unanswered.note(&settled, tried_ms);
        }
        match settled? {
            SettleOutcome::Settled { over_by } => plane.metrics.overage(over_by),
            SettleOutcome::AlreadyDone => {}
            SettleOutcome::Lapsed { .. } => return Ok(Settled::AfterLapse),
            SettleOutcome::Unknown if unanswered.is_forgotten(plane.clock.now_ms()) => {
                plane.metrics.settlements_presumed.inc();
                warn!(attempt = %self.hold, cost = %self.cost, "the ledger may have forgotten this settlement, so it is not made again");
            }
            // Nothing is charged too: a reserve of this id that is still on its way then holds nothing.
            SettleOutcome::Unknown => {
                let charged = plane.ledger.charge(&self.charge()).await;
                // Answered or not: the settle after it may get no answer.
                unanswered.since(tried_ms);
                if let ChargeOutcome::Invalid(misuse) = charged? {
                    error!(%misuse, attempt = %self.hold, "the ledger refused a charge; the store's figures stand");
                    return Ok(Settled::Done);
                }
                // It may have come and lapsed in between, and its sweeper wrote an event.
                let again = plane.ledger.settle(self.org, self.hold, self.cost).await?;
                if matches!(again, SettleOutcome::Lapsed { .. }) {
                    return Ok(Settled::AfterLapse);
                }
            }
            SettleOutcome::Invalid(misuse) => {
                error!(%misuse, attempt = %self.hold, cost = %self.cost, "the ledger refused a settlement; the hold will lapse");
            }
        }
        Ok(Settled::Done)
    }

    /// Whether a sweeper has written an event of the call. What has not lapsed yet will not for as long as a lease.
    async fn has_lapsed(&self, plane: &DataPlane) -> Result<bool, LedgerUnavailable> {
        let (holds, number) = ([self.hold], plane.leases.next_number());
        let lease_ms = plane.settings.lease_ms;
        let outcomes = plane.ledger.extend(self.org, &holds, number, lease_ms, Nanos::ZERO).await?;
        Ok(outcomes == [ExtendOutcome::Lapsed])
    }

    fn charge(&self) -> Charge {
        let scopes = self.charges.iter().map(BudgetCharge::scope);
        let session = self.session.as_deref().map(Into::into);
        Charge { id: self.hold, org: self.org, scopes: scopes.collect(), session, actual: self.cost }
    }
}

#[cfg(test)]
mod tests;
