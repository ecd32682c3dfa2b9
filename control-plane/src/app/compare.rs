//! Whether the ledger and the store say the same of what was spent (design §6).
//!
//! A cost reaches the one a little before the other, so that under load they differ at any instant. What is on its way
//! arrives: the ledger is read after the store, until it has everything that the store had, and the store after that, until
//! it has everything that the ledger had. What is missing then is not on its way.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nullspend_core::{
    id::OrgId,
    ledger::{CounterKey, LedgerUnavailable, Silence},
    money::Nanos,
};

use super::{App, AppError};

/// Between two looks at the side that is behind.
const PAUSE: Duration = Duration::from_millis(100);

/// One window's settled spend, from both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Whose.
    pub org: OrgId,
    /// Which window of which budget.
    pub counter: CounterKey,
    /// What the events summed to before the ledger was asked.
    pub before: Nanos,
    /// What decisions are made by.
    pub ledger: Nanos,
    /// What the events summed to afterwards.
    pub after: Nanos,
}

impl Totals {
    /// By how much the ledger is above everything that the store said meanwhile, or below it (negative). A drift is seen as
    /// far as it is larger than what was spent meanwhile.
    #[must_use]
    pub fn drift(&self) -> Nanos {
        let (least, most) = (self.before.min(self.after), self.before.max(self.after));
        self.ledger - self.ledger.clamp(least, most)
    }

    /// What was spent, or taken back, meanwhile.
    #[must_use]
    pub fn moved(&self) -> Nanos {
        self.before.max(self.after) - self.before.min(self.after)
    }
}

/// Every window that has not ended, from both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// By organisation and window.
    pub totals: Vec<Totals>,
    /// Organisations whose books in the ledger are lost.
    pub lost: BTreeSet<OrgId>,
}

type Settled = BTreeMap<(OrgId, CounterKey), Nanos>;

#[derive(Clone, Copy)]
enum Side {
    Ledger,
    Store,
}

impl App {
    /// Compares the settled totals of every window that has not ended. Each side may take `patience` to catch up with the
    /// other.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn compare_ledger(&self, patience: Duration) -> Result<Compared, AppError> {
        let mut before = Settled::new();
        for org in self.store.org_ids().await? {
            before.extend(with_org(org, self.store.list_settled(org, self.clock.now_ms()).await?));
        }
        let ledger = self.caught_up(Side::Ledger, &before, patience).await?;
        let after = self.caught_up(Side::Store, &ledger, patience).await?;
        let seen = ledger.keys().map(|(org, _)| *org).collect();
        let asked: BTreeSet<OrgId> = before.keys().map(|(org, _)| *org).collect();
        let totals = ledger.iter().filter_map(|(key, ledger)| {
            let (before, after) = (*before.get(key)?, *after.get(key)?);
            Some(Totals { org: key.0, counter: key.1, before, ledger: *ledger, after })
        });
        Ok(Compared { totals: totals.collect(), lost: &asked - &seen })
    }

    /// What a side has of these counters, once it has no less than `with` says or has had the time to.
    async fn caught_up(&self, side: Side, with: &Settled, patience: Duration) -> Result<Settled, AppError> {
        let mut settled = self.read(side, with).await?;
        let mut waited = Duration::ZERO;
        loop {
            let is_behind = |key, than| settled.get(key).is_some_and(|nanos| nanos < than);
            let behind: Settled = with
                .iter()
                .filter(|(key, than)| is_behind(key, *than))
                .map(|(key, than)| (*key, *than))
                .collect();
            if behind.is_empty() || waited >= patience {
                return Ok(settled);
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
            settled.extend(self.read(side, &behind).await?);
        }
    }

    /// What a side has of these counters, but for those that are gone.
    async fn read(&self, side: Side, of: &Settled) -> Result<Settled, AppError> {
        let mut counters = BTreeMap::<OrgId, Vec<CounterKey>>::new();
        for (org, counter) in of.keys() {
            counters.entry(*org).or_default().push(*counter);
        }
        let mut settled = Settled::new();
        for (org, counters) in counters {
            settled.extend(match side {
                Side::Ledger => self.in_ledger(org, &counters).await?,
                Side::Store => with_org(org, self.store.settled_of(&counters).await?),
            });
        }
        Ok(settled)
    }

    /// Nothing where the books are lost.
    async fn in_ledger(&self, org: OrgId, counters: &[CounterKey]) -> Result<Settled, AppError> {
        let balances = match self.ledger.balances(org, counters).await {
            Err(LedgerUnavailable { silence: Silence::Lost, .. }) => return Ok(Settled::new()),
            answered => answered?,
        };
        let settled = counters.iter().copied().zip(balances.iter().map(|balance| balance.settled));
        Ok(with_org(org, settled))
    }
}

fn with_org(org: OrgId, settled: impl IntoIterator<Item = (CounterKey, Nanos)>) -> Settled {
    settled.into_iter().map(|(counter, nanos)| ((org, counter), nanos)).collect()
}

#[cfg(test)]
mod tests {
    use nullspend_core::id::BudgetId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_what_the_store_never_said_is_drift() {
        for (before, ledger, after, drift) in [
            (10, 10, 10, 0),
            (10, 15, 20, 0),
            (10, 25, 20, 5),
            (10, 7, 20, -3),
            (20, 15, 10, 0),
            (20, 5, 10, -5),
            (20, 21, 10, 1),
        ] {
            let counter = CounterKey { budget: BudgetId(Uuid::nil()), generation: 1, window_start_ms: 0 };
            let [before, ledger, after] = [before, ledger, after].map(Nanos);
            let totals = Totals { org: OrgId(Uuid::nil()), counter, before, ledger, after };
            assert_eq!(totals.drift(), Nanos(drift), "{totals:?}");
        }
    }
}
