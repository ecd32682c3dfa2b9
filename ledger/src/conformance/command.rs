//! What a model run may ask of a ledger, and what it may be answered.

use nullspend_core::{
    id::{AttemptId, OrgId},
    ledger::{
        Charge, ChargeOutcome, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable, LimitChange, Reserve,
        ReserveOutcome, Restored, SettleOutcome,
    },
    money::Nanos,
};

#[derive(Clone, Debug)]
pub(super) enum Command {
    Reserve(Reserve),
    Extend { org: OrgId, holds: Vec<AttemptId>, number: u64, lease_ms: i64, add: Nanos },
    Settle { org: OrgId, hold: AttemptId, actual: Nanos },
    Charge(Charge),
    ApplyLimits { org: OrgId, changes: Vec<LimitChange> },
    Restore(Reserve, Restored),
    RestoreDone { org: OrgId, ids: Vec<AttemptId> },
    Sweep,
    MoveClock { by_ms: i64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Reserve(ReserveOutcome),
    Extend(Vec<ExtendOutcome>),
    Settle(SettleOutcome),
    Charge(ChargeOutcome),
    Sweep(Vec<LapsedHold>),
    Done,
}

impl Answer {
    /// Whether a call that was carried out unseen and then repeated may answer this instead of `first`.
    pub(super) fn may_repeat(&self, first: &Self) -> bool {
        match (self, first) {
            (Self::Reserve(ReserveOutcome::AlreadyDone), Self::Reserve(ReserveOutcome::Reserved { .. })) => {
                true
            }
            (Self::Settle(SettleOutcome::AlreadyDone), Self::Settle(first)) => {
                matches!(first, SettleOutcome::Settled { .. } | SettleOutcome::Lapsed { .. })
            }
            (Self::Charge(ChargeOutcome::AlreadyDone), Self::Charge(ChargeOutcome::Charged { .. })) => true,
            (Self::Extend(again), Self::Extend(first)) => again.iter().zip(first).all(|(again, first)| {
                again == first || (*first, *again) == (ExtendOutcome::Extended, ExtendOutcome::AlreadyDone)
            }),
            (Self::Sweep(again), Self::Sweep(_)) => again.is_empty(),
            _ => false,
        }
    }
}

pub(super) fn in_order(mut lapsed: Vec<LapsedHold>) -> Vec<LapsedHold> {
    lapsed.sort_by_key(|hold| (hold.org, hold.hold));
    lapsed
}

/// Makes a command a call.
pub(super) async fn ask_ledger(
    ledger: &(impl Ledger + ?Sized),
    command: &Command,
) -> Result<Answer, LedgerUnavailable> {
    Ok(match command {
        Command::Reserve(reserve) => Answer::Reserve(ledger.reserve(reserve).await?),
        Command::Extend { org, holds, number, lease_ms, add } => {
            Answer::Extend(ledger.extend(*org, holds, *number, *lease_ms, *add).await?)
        }
        Command::Settle { org, hold, actual } => Answer::Settle(ledger.settle(*org, *hold, *actual).await?),
        Command::Charge(charge) => Answer::Charge(ledger.charge(charge).await?),
        Command::ApplyLimits { org, changes } => {
            ledger.apply_limits(*org, changes).await?;
            Answer::Done
        }
        Command::Restore(reserve, as_a) => Answer::Reserve(ledger.restore(reserve, *as_a).await?),
        Command::RestoreDone { org, ids } => {
            ledger.restore_done(*org, ids).await?;
            Answer::Done
        }
        Command::Sweep => Answer::Sweep(in_order(ledger.sweep().await?)),
        Command::MoveClock { .. } => Answer::Done,
    })
}
