//! A ledger of one organisation with a clock moved by hand, and short words for what it is asked.

use nullspend_core::{
    id::{AttemptId, BudgetId, OrgId},
    ledger::{
        Charge, ChargeOutcome, CounterKey, ExtendOutcome, LimitChange, Limits, Reserve, ReserveOutcome,
        Scope, SettleOutcome, law::State,
    },
    money::Nanos,
    policy::{Enforcement, Velocity},
};
use uuid::Uuid;

/// The window of every scope that does not say otherwise: `[0, DAY_MS)`.
pub const DAY_MS: i64 = 86_400_000;
/// The lease of every hold that does not say otherwise.
pub const LEASE_MS: i64 = 1_000;

pub fn org() -> OrgId {
    OrgId(Uuid::from_u128(1))
}

pub fn id(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(n))
}

pub fn budget(n: u128) -> BudgetId {
    BudgetId(Uuid::from_u128(n))
}

/// Budget `n`, strict, at revision 1, today.
pub fn strict(n: u128, limit: i64) -> Scope {
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

pub fn soft(n: u128, limit: i64) -> Scope {
    Scope { enforcement: Enforcement::SoftBlock, ..strict(n, limit) }
}

pub fn warn(n: u128, limit: i64) -> Scope {
    Scope { enforcement: Enforcement::Warn, ..strict(n, limit) }
}

pub fn at_revision(revision: u64, mut scope: Scope) -> Scope {
    scope.revision = revision;
    scope
}

/// A budget that limits each session too.
pub fn per_session(session_limit: i64, mut scope: Scope) -> Scope {
    scope.session_limit = Some(Nanos(session_limit));
    scope
}

/// A budget that limits its spend rate too.
pub fn no_faster(limit: i64, window_ms: i64, cooldown_ms: i64, mut scope: Scope) -> Scope {
    scope.velocity = Some(Velocity { limit: Nanos(limit), window_ms, cooldown_ms });
    scope
}

/// Who reserves or charges, where that matters.
#[derive(Clone, Copy, Default)]
pub struct Caller {
    pub session: Option<&'static str>,
    pub finalize: bool,
}

pub fn session(id: &'static str) -> Caller {
    Caller { session: Some(id), ..Caller::default() }
}

pub struct Book {
    pub state: State,
    pub now_ms: i64,
}

impl Book {
    pub fn new() -> Self {
        Self { state: State::new(org()), now_ms: 0 }
    }

    /// A budget with some of its limit spent and some held.
    pub fn with(scope: &Scope, settled: i64, held: i64) -> Self {
        let mut book = Self::new();
        book.charge(9_001, settled, std::slice::from_ref(scope));
        let free = Scope { enforcement: Enforcement::Warn, ..scope.clone() };
        book.reserve(9_002, held, &[free]);
        book
    }

    fn checked<T>(&self, outcome: T) -> T {
        assert_eq!(self.state.invariants(), Ok(()));
        outcome
    }

    pub fn at(&mut self, now_ms: i64) -> &mut Self {
        self.now_ms = now_ms;
        self
    }

    pub fn reserve(&mut self, n: u128, amount: i64, scopes: &[Scope]) -> ReserveOutcome {
        self.reserve_as(Caller::default(), n, amount, scopes)
    }

    pub fn reserve_as(&mut self, caller: Caller, n: u128, amount: i64, scopes: &[Scope]) -> ReserveOutcome {
        let reserve = Reserve {
            hold: id(n),
            org: org(),
            scopes: scopes.to_vec(),
            session: caller.session.map(Into::into),
            finalize: caller.finalize,
            amount: Nanos(amount),
            lease_ms: LEASE_MS,
            stub: n.to_be_bytes().to_vec().into(),
        };
        let outcome = self.state.reserve(self.now_ms, &reserve);
        self.checked(outcome)
    }

    /// Reserves, which must be granted.
    pub fn hold(&mut self, n: u128, amount: i64, scopes: &[Scope]) {
        let outcome = self.reserve(n, amount, scopes);
        assert!(matches!(outcome, ReserveOutcome::Reserved { .. }), "{outcome:?}");
    }

    pub fn grants(&mut self, n: u128, amount: i64, scopes: &[Scope]) -> bool {
        match self.reserve(n, amount, scopes) {
            ReserveOutcome::Reserved { .. } => true,
            ReserveOutcome::Denied { .. } => false,
            other => panic!("neither granted nor denied: {other:?}"),
        }
    }

    pub fn extend(&mut self, n: u128, number: u64, add: i64) -> ExtendOutcome {
        let outcome = self.state.extend(self.now_ms, &[id(n)], number, LEASE_MS, Nanos(add));
        self.checked(outcome[0])
    }

    pub fn settle(&mut self, n: u128, actual: i64) -> SettleOutcome {
        let outcome = self.state.settle(self.now_ms, id(n), Nanos(actual));
        self.checked(outcome)
    }

    pub fn charge(&mut self, n: u128, actual: i64, scopes: &[Scope]) -> ChargeOutcome {
        self.charge_as(Caller::default(), n, actual, scopes)
    }

    pub fn charge_as(&mut self, caller: Caller, n: u128, actual: i64, scopes: &[Scope]) -> ChargeOutcome {
        let charge = Charge {
            id: id(n),
            org: org(),
            scopes: scopes.to_vec(),
            session: caller.session.map(Into::into),
            actual: Nanos(actual),
        };
        let outcome = self.state.charge(self.now_ms, &charge);
        self.checked(outcome)
    }

    pub fn set_limit(&mut self, n: u128, revision: u64, limit: Option<i64>) {
        let limits = limit.map(|limit| Limits::strict(Nanos(limit)));
        self.state.apply_limits(&[LimitChange { budget: budget(n), revision, limits }]);
        self.checked(());
    }

    /// The ids that lapsed, with what each was charged.
    pub fn sweep(&mut self) -> Vec<(u128, i64)> {
        let lapsed = self.state.sweep(self.now_ms);
        for hold in &lapsed {
            assert_eq!(hold.stub, hold.hold.0.as_u128().to_be_bytes().to_vec(), "the stub comes back");
            assert_eq!(hold.org, org());
        }
        self.checked(lapsed.iter().map(|hold| (hold.hold.0.as_u128(), hold.amount.0)).collect())
    }

    /// Limit, settled and held of a scope's counter.
    pub fn balance(&self, scope: &Scope) -> (i64, i64, i64) {
        let balance = self.state.balances(&[scope.counter])[0];
        (balance.limit.0, balance.settled.0, balance.held.0)
    }
}
