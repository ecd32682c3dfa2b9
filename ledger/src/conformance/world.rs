//! A ledger with a clock moved by hand, and short words for what it is asked.

use std::{any::Any, sync::Arc};

use nullspend_core::{
    clock::{Clock, ManualClock},
    id::{AttemptId, BudgetId, OrgId},
    ledger::{
        Charge, ChargeOutcome, CounterKey, ExtendOutcome, LapsedHold, Ledger, LedgerUnavailable, LimitChange,
        Limits, Reserve, ReserveOutcome, Scope, SettleOutcome, Why,
    },
    money::Nanos,
    policy::{Enforcement, Velocity},
};
use uuid::Uuid;

/// A ledger under test. Its clock must be the given one, and nobody else may use either.
#[derive(Clone)]
pub struct World {
    /// The ledger, empty.
    pub ledger: Arc<dyn Ledger>,
    /// The clock the ledger goes by.
    pub clock: Arc<ManualClock>,
    /// What must live as long as the ledger is used: its server.
    pub server: Option<Arc<dyn Any + Send + Sync>>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// The window of every scope that does not say otherwise: `[0, DAY_MS)`.
pub(super) const DAY_MS: i64 = 86_400_000;
/// The lease of every hold that does not say otherwise.
pub(super) const LEASE_MS: i64 = 1_000;

pub(super) fn org(n: u128) -> OrgId {
    OrgId(Uuid::from_u128(n))
}

pub(super) fn id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

pub(super) fn budget(n: u128) -> BudgetId {
    BudgetId(Uuid::from_u128(n))
}

/// Budget `n`, strict, at revision 1, on the first day.
pub(super) fn strict(n: u128, limit: i64) -> Scope {
    Scope {
        counter: CounterKey { budget: budget(n), generation: 0, window_start_ms: 0 },
        window_end_ms: Some(DAY_MS),
        limit: Nanos(limit),
        revision: 1,
        enforcement: Enforcement::StrictBlock,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
    }
}

pub(super) fn soft(n: u128, limit: i64) -> Scope {
    Scope { enforcement: Enforcement::SoftBlock, ..strict(n, limit) }
}

pub(super) fn at_revision(revision: u64, mut scope: Scope) -> Scope {
    scope.revision = revision;
    scope
}

pub(super) fn in_window(start_ms: i64, end_ms: Option<i64>, mut scope: Scope) -> Scope {
    (scope.counter.window_start_ms, scope.window_end_ms) = (start_ms, end_ms);
    scope
}

pub(super) fn reserve_of(n: u128, amount: i64, scopes: &[Scope]) -> Reserve {
    Reserve {
        hold: id(n),
        org: org(1),
        scopes: scopes.to_vec(),
        session: None,
        finalize: false,
        amount: Nanos(amount),
        lease_ms: LEASE_MS,
        stub: n.to_be_bytes().to_vec().into(),
    }
}

/// A budget that limits each session too.
pub(super) fn per_session(session_limit: i64, mut scope: Scope) -> Scope {
    scope.session_limit = Some(Nanos(session_limit));
    scope
}

/// A budget that limits its spend rate too, over a second, with a cool-down of 300 ms.
pub(super) fn no_faster(limit: i64, mut scope: Scope) -> Scope {
    scope.velocity = Some(Velocity { limit: Nanos(limit), window_ms: 1_000, cooldown_ms: 300 });
    scope
}

/// What a test cannot go on without.
pub(super) fn answered<T>(answer: Result<T, LedgerUnavailable>) -> T {
    match answer {
        Ok(outcome) => outcome,
        Err(error) => panic!("{error}"),
    }
}

impl World {
    pub(super) async fn reserve(&self, n: u128, amount: i64, scopes: &[Scope]) -> ReserveOutcome {
        answered(self.ledger.reserve(&reserve_of(n, amount, scopes)).await)
    }

    /// Reserves for a session: granted, or why not and when to try again.
    pub(super) async fn ask(
        &self,
        session: &str,
        n: u128,
        amount: i64,
        scopes: &[Scope],
    ) -> Result<(), (usize, Why, Option<i64>)> {
        let session = (!session.is_empty()).then(|| session.into());
        let reserve = Reserve { session, ..reserve_of(n, amount, scopes) };
        match answered(self.ledger.reserve(&reserve).await) {
            ReserveOutcome::Reserved { .. } => Ok(()),
            ReserveOutcome::Denied { scope, why, retry_after_ms, .. } => Err((scope, why, retry_after_ms)),
            other => panic!("neither granted nor denied: {other:?}"),
        }
    }

    /// Charges for a session.
    pub(super) async fn charge_in(&self, session: &str, n: u128, actual: i64, scopes: &[Scope]) {
        let (scopes, actual) = (scopes.to_vec(), Nanos(actual));
        let charge = Charge { id: id(n), org: org(1), scopes, session: Some(session.into()), actual };
        let outcome = answered(self.ledger.charge(&charge).await);
        assert!(matches!(outcome, ChargeOutcome::Charged { .. }), "{outcome:?}");
    }

    /// Reserves, which must be granted.
    pub(super) async fn hold(&self, n: u128, amount: i64, scopes: &[Scope]) {
        let outcome = self.reserve(n, amount, scopes).await;
        assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
    }

    /// Whether a reserve is granted; it must be that or denied.
    pub(super) async fn grants(&self, n: u128, amount: i64, scopes: &[Scope]) -> bool {
        match self.reserve(n, amount, scopes).await {
            ReserveOutcome::Reserved { .. } => true,
            ReserveOutcome::Denied { .. } => false,
            other => panic!("neither granted nor denied: {other:?}"),
        }
    }

    pub(super) async fn extend(&self, n: u128, number: u64, add: i64) -> ExtendOutcome {
        answered(self.ledger.extend(org(1), &[id(n)], number, LEASE_MS, Nanos(add)).await)[0]
    }

    pub(super) async fn settle(&self, n: u128, actual: i64) -> SettleOutcome {
        answered(self.ledger.settle(org(1), id(n), Nanos(actual)).await)
    }

    pub(super) async fn charge(&self, n: u128, actual: i64, scopes: &[Scope]) -> ChargeOutcome {
        let charge =
            Charge { id: id(n), org: org(1), scopes: scopes.to_vec(), session: None, actual: Nanos(actual) };
        answered(self.ledger.charge(&charge).await)
    }

    pub(super) async fn set_limit(&self, n: u128, revision: u64, limit: Option<i64>) {
        self.set_limits(n, revision, limit.map(|limit| Limits::strict(Nanos(limit)))).await;
    }

    pub(super) async fn set_limits(&self, n: u128, revision: u64, limits: Option<Limits>) {
        let change = LimitChange { budget: budget(n), revision, limits };
        answered(self.ledger.apply_limits(org(1), &[change]).await);
    }

    pub(super) async fn load(&self, scope: &Scope, settled: i64) {
        answered(self.ledger.load(org(1), &[(scope.counter, Nanos(settled))]).await);
    }

    pub(super) async fn sweep(&self) -> Vec<LapsedHold> {
        answered(self.ledger.sweep().await)
    }

    pub(super) async fn open_count(&self) -> u64 {
        answered(self.ledger.open_holds().await).count
    }

    /// Limit, settled and held.
    pub(super) async fn balance(&self, scope: &Scope) -> (i64, i64, i64) {
        let balance = answered(self.ledger.balances(org(1), &[scope.counter]).await)[0];
        (balance.limit.0, balance.settled.0, balance.held.0)
    }

    /// Moves the clock, backwards too.
    pub(super) fn at(&self, now_ms: i64) -> &Self {
        self.clock.advance_ms(now_ms - self.clock.now_ms());
        self
    }
}

pub(super) mod seeded {
    /// Numbers that look random and repeat exactly for a seed (the splitmix64 sequence).
    #[derive(Clone, Debug)]
    pub struct Random(u64);

    impl Random {
        /// Starts the sequence of a seed.
        #[must_use]
        pub fn seeded(seed: u64) -> Self {
            Self(seed)
        }

        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        /// A number below `bound` (0 when that is 0).
        pub fn below(&mut self, bound: u64) -> u64 {
            self.next().checked_rem(bound).unwrap_or(0)
        }

        /// A number of an inclusive range.
        pub fn between(&mut self, low: i64, high: i64) -> i64 {
            low.saturating_add_unsigned(self.below(high.abs_diff(low) + 1))
        }

        /// True once in `one_in` times.
        pub fn chance(&mut self, one_in: u64) -> bool {
            self.below(one_in) == 0
        }

        /// One of several.
        pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
            let index = usize::try_from(self.below(of.len() as u64)).unwrap_or(0);
            &of[index]
        }
    }
}
