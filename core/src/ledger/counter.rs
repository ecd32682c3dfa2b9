//! The money of one counter: of a budget's window, or of a session within a budget.

use crate::money::{MAX_TOTAL_NANOS, Nanos};

/// What was settled and what open holds have taken.
#[derive(Clone, Debug, Default)]
pub(super) struct Counter {
    /// Spent; 0 to [`MAX_TOTAL_NANOS`].
    pub(super) settled: Nanos,
    /// Sum of the open holds that name it. Exact, since releasing takes out what holding put in.
    pub(super) held: i128,
    /// Open and lapsed holds that name it: it is kept for them, however old it is.
    pub(super) named_by: u32,
}

impl Counter {
    /// Takes `amount` for a hold that names this counter from now on.
    pub(super) fn hold(&mut self, amount: Nanos) {
        self.named_by += 1;
        self.held += i128::from(amount.0);
    }

    /// Takes more for a hold that names this counter already.
    pub(super) fn hold_more(&mut self, add: Nanos) {
        self.held += i128::from(add.0);
    }

    /// Ends a hold, charging what the call really cost.
    pub(super) fn settle(&mut self, held: Nanos, actual: Nanos) {
        self.lapse(held, actual);
        self.named_by -= 1;
    }

    /// Ends a hold whose owner is silent, charging an amount that may be corrected later.
    pub(super) fn lapse(&mut self, held: Nanos, charged: Nanos) {
        self.held -= i128::from(held.0);
        debug_assert!(self.held >= 0, "more released than held");
        self.spend(charged);
    }

    /// Replaces what a lapse charged by the truth.
    pub(super) fn correct(&mut self, charged: Nanos, actual: Nanos) {
        self.settled = (self.settled - charged).max(Nanos::ZERO);
        self.spend(actual);
        self.named_by -= 1;
    }

    /// Records spend, or takes some back, down to nothing. Totals saturate (design law 5).
    pub(super) fn spend(&mut self, actual: Nanos) {
        self.settled = (self.settled + actual).max(Nanos::ZERO);
    }

    /// Sets what the store says was spent.
    pub(super) fn load(&mut self, settled: Nanos) {
        self.settled = Nanos(settled.0.clamp(0, MAX_TOTAL_NANOS));
    }

    /// Settled and held, exactly.
    pub(super) fn committed(&self) -> i128 {
        i128::from(self.settled.0) + self.held
    }

    /// What open holds have taken, as far as a total can tell.
    pub(super) fn held_nanos(&self) -> Nanos {
        let held = self.held.min(i128::from(MAX_TOTAL_NANOS));
        Nanos(i64::try_from(held).unwrap_or(MAX_TOTAL_NANOS))
    }

    /// Settled and held, as far as a total can tell.
    pub(super) fn committed_nanos(&self) -> Nanos {
        self.settled + self.held_nanos()
    }
}
