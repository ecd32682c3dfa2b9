//! What this data plane may spend of each budget while the ledger does not answer (`outageCreditMicrodollars`).
//!
//! A call on credit takes its whole bound out of the credit of every budget it matches, or is refused. The credit comes back when the
//! ledger has been told the cost and has granted a call of that budget that was sent afterwards, which shows that it has room: so a limit
//! is passed by no more than the credit, however long or often the ledger is away. A restart counts what it finds unsettled in the spool.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nullspend_core::{
    id::{AttemptId, BudgetId},
    money::Nanos,
};

use crate::spool::Replay;

/// Credit that is taken, by attempt and by budget.
#[derive(Debug, Default)]
pub(crate) struct Credit {
    taken: Mutex<Taken>,
    /// Whether anything is taken, for the many calls that are granted while nothing is.
    any: AtomicBool,
    /// How many costs the ledger has been told.
    told: AtomicU64,
}

/// When a reserve was sent: after so many costs were told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent(u64);

#[derive(Debug, Default)]
struct Taken {
    attempts: HashMap<AttemptId, OnCredit>,
    budgets: HashMap<BudgetId, Nanos>,
}

#[derive(Debug)]
struct OnCredit {
    amount: Nanos,
    budgets: Vec<BudgetId>,
    /// The ledger knows its cost, as this one of all that it was told.
    told: Option<u64>,
}

impl Credit {
    /// What the last run's calls have taken, whose cost the ledger has not been told.
    pub(crate) fn of(replay: &Replay) -> Self {
        let credit = Self::default();
        let ends = replay.unsettled.iter().filter_map(|closed| closed.stub.as_ref());
        for stub in replay.unclosed.iter().chain(ends).filter(|stub| stub.on_credit) {
            let budgets = stub.charges.iter().filter_map(|charge| charge.budget_id.parse().ok());
            if let Ok(attempt) = stub.attempt_id.parse() {
                credit.taken().note(attempt, Nanos(stub.held_nanos), budgets.collect());
                credit.any.store(true, Ordering::Release);
            }
        }
        credit
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an amount out of the credit of every budget, or out of none: false then. A budget without credit has none to
    /// take.
    pub(crate) fn take(&self, attempt: AttemptId, amount: Nanos, credits: &[(BudgetId, Nanos)]) -> bool {
        let mut taken = self.taken();
        let fits = |(budget, credit): &(BudgetId, Nanos)| {
            let used = taken.budgets.get(budget).copied().unwrap_or(Nanos::ZERO);
            *credit > Nanos::ZERO && used + amount <= *credit
        };
        if !credits.iter().all(fits) {
            return false;
        }
        taken.note(attempt, amount, credits.iter().map(|(budget, _)| *budget).collect());
        self.any.store(true, Ordering::Release);
        true
    }

    /// The ledger has been told the attempt's cost.
    pub(crate) fn told(&self, attempt: AttemptId) {
        if let Some(call) = self.taken().attempts.get_mut(&attempt) {
            call.told = Some(self.told.fetch_add(1, Ordering::AcqRel) + 1);
        }
    }

    /// A reserve is about to be sent.
    pub(crate) fn sending(&self) -> Sent {
        Sent(self.told.load(Ordering::Acquire))
    }

    /// The ledger has granted a call of these budgets: what it had been told when that was sent fits them. What it was told
    /// meanwhile it may have heard of later.
    pub(crate) fn granted(&self, sent: Sent, granted: impl Iterator<Item = BudgetId>) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut taken = self.taken();
        let Taken { attempts, budgets } = &mut *taken;
        for budget in granted {
            let mut freed = Nanos::ZERO;
            for call in attempts.values_mut().filter(|call| call.told_before(sent)) {
                let before = call.budgets.len();
                call.budgets.retain(|of| *of != budget);
                if call.budgets.len() < before {
                    freed = freed + call.amount;
                }
            }
            let left = budgets.remove(&budget).unwrap_or(Nanos::ZERO) - freed;
            if left > Nanos::ZERO {
                budgets.insert(budget, left);
            }
        }
        attempts.retain(|_, call| !(call.told_before(sent) && call.budgets.is_empty()));
        self.any.store(!attempts.is_empty(), Ordering::Release);
    }

    /// All that is outstanding, each call once.
    #[cfg(test)]
    pub(crate) fn outstanding(&self) -> Nanos {
        self.taken().attempts.values().fold(Nanos::ZERO, |sum, call| sum + call.amount)
    }
}

impl OnCredit {
    fn told_before(&self, sent: Sent) -> bool {
        self.told.is_some_and(|told| told <= sent.0)
    }
}

impl Taken {
    fn note(&mut self, attempt: AttemptId, amount: Nanos, budgets: Vec<BudgetId>) {
        for budget in &budgets {
            let used = self.budgets.entry(*budget).or_insert(Nanos::ZERO);
            *used = *used + amount;
        }
        self.attempts.insert(attempt, OnCredit { amount, budgets, told: None });
    }
}

#[cfg(test)]
mod tests {
    use nullspend_proto::internal::{AttemptStub, BudgetCharge, Closed};
    use uuid::Uuid;

    use super::*;

    const fn budget(n: u128) -> BudgetId {
        BudgetId(Uuid::from_u128(n))
    }

    const fn attempt(n: u128) -> AttemptId {
        AttemptId(Uuid::from_u128(n))
    }

    #[test]
    fn what_is_outstanding_never_passes_the_credit_of_any_budget() {
        let (credit, both) = (Credit::default(), [(budget(1), Nanos(100)), (budget(2), Nanos(50))]);
        assert!(credit.take(attempt(1), Nanos(30), &both));
        assert!(credit.take(attempt(2), Nanos(20), &both));
        assert!(!credit.take(attempt(3), Nanos(1), &both), "the second budget has no more");
        assert!(credit.take(attempt(3), Nanos(50), &both[..1]));
        assert!(!credit.take(attempt(4), Nanos(1), &both[..1]));
        assert_eq!(credit.outstanding(), Nanos(100));
        credit.granted(credit.sending(), [budget(1), budget(2)].into_iter());
        let early = credit.sending();
        credit.told(attempt(1));
        assert!(!credit.take(attempt(4), Nanos(1), &both[..1]), "nobody has shown that it fits");
        credit.granted(early, [budget(1), budget(2)].into_iter());
        assert!(
            !credit.take(attempt(4), Nanos(1), &both[..1]),
            "it may have been granted before that was told"
        );
        credit.granted(credit.sending(), [budget(1)].into_iter());
        assert!(!credit.take(attempt(5), Nanos(30), &both), "nor that the second one has room");
        credit.granted(credit.sending(), [budget(1), budget(2)].into_iter());
        assert!(credit.take(attempt(5), Nanos(30), &both));
        assert_eq!(credit.outstanding(), Nanos(100));
    }

    #[test]
    fn a_budget_without_credit_has_none_and_a_restart_counts_what_it_finds() {
        let charge = BudgetCharge { budget_id: budget(1).bare(), ..BudgetCharge::default() };
        let stub = |n, on_credit| AttemptStub {
            attempt_id: attempt(n).bare(),
            held_nanos: 30,
            charges: vec![charge.clone()],
            on_credit,
            ..AttemptStub::default()
        };
        let replay = Replay {
            unclosed: vec![stub(2, true), stub(9, false)],
            unsettled: vec![Closed { stub: Some(stub(3, true)), ..Closed::default() }],
            ..Replay::default()
        };
        let credit = Credit::of(&replay);
        assert!(!credit.take(attempt(1), Nanos(0), &[(budget(2), Nanos::ZERO)]));
        assert!(!credit.take(attempt(4), Nanos(41), &[(budget(1), Nanos(100))]));
        credit.told(attempt(2));
        credit.granted(credit.sending(), [budget(1)].into_iter());
        assert!(credit.take(attempt(4), Nanos(41), &[(budget(1), Nanos(100))]));
    }
}
