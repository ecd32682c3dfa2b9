//! The ledger: one set of operations through which all spend is held, settled and charged (design §6).
//!
//! Every operation is idempotent by an id the caller makes, and all-or-nothing over its scopes. "No" is a value;
//! an error means only that the ledger could not be reached.
//!
//! A reserve asks, in this order: session limits of its scopes, spend rates of its scopes, limits of its scopes; then it
//! holds. A session counter belongs to (budget, generation, session); it takes and gives what the window counter does,
//! for calls that name a session and scopes that limit sessions, and starts again at nothing after a day without use. A
//! rate belongs to (budget, generation); it counts what reserves hold, then what was settled instead (`rate.rs` has the
//! formula). Both deny whatever the budget's enforcement. Part of a strict limit may be kept back for finalizing calls.

mod books;
mod by_id;
mod counter;
pub mod law;
pub mod misuse;
mod rate;
mod remembered;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    id::{AttemptId, BudgetId, OrgId},
    money::Nanos,
    policy::{BudgetRule, Enforcement, Velocity},
    window::{Window, window_at},
};

/// Most scopes one operation may name.
pub const MAX_SCOPES: usize = 32;
/// How long settled and charged ids are remembered, on the ledger's clock.
pub const REMEMBER_DONE_MS: i64 = 3_600_000;
/// How long a lapse waits for its owner to tell the truth. Its charge stands after that, and the ledger forgets the id.
pub const LAPSE_KEPT_MS: i64 = 30 * 86_400_000;
/// A session that was not used for so long, and that no hold names, starts again at nothing.
pub const SESSION_IDLE_MS: i64 = 86_400_000;
/// The highest limit of a spend rate: 1 000 000 dollars in one window.
pub const MAX_VELOCITY: Nanos = Nanos(1_000_000_000_000_000);
/// The longest window, and the longest cool-down, of a spend rate.
pub const MAX_VELOCITY_MS: i64 = 3_600_000;

/// Whether a spend rate can be enforced: its limit from 0 to [`MAX_VELOCITY`], its window from 1 ms and its cool-down from
/// 0, both to [`MAX_VELOCITY_MS`].
#[must_use]
pub fn is_velocity(velocity: &Velocity) -> bool {
    (Nanos::ZERO..=MAX_VELOCITY).contains(&velocity.limit)
        && (1..=MAX_VELOCITY_MS).contains(&velocity.window_ms)
        && (0..=MAX_VELOCITY_MS).contains(&velocity.cooldown_ms)
}

/// A counter: one window of one generation of one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CounterKey {
    /// The budget.
    pub budget: BudgetId,
    /// Its generation (raised by resets).
    pub generation: u32,
    /// The window's start, which is its id.
    pub window_start_ms: i64,
}

/// A budget window that an operation touches, with the limit the caller knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The counter.
    pub counter: CounterKey,
    /// Exclusive end of the window; `None` never ends.
    pub window_end_ms: Option<i64>,
    /// The limit in force, as far as the caller knows.
    pub limit: Nanos,
    /// Orders limits: the ledger keeps the highest revision it has seen.
    pub revision: u64,
    /// Whether the limit denies.
    pub enforcement: Enforcement,
    /// Limit of one session. `Some` makes the call count towards its session's counter.
    pub session_limit: Option<Nanos>,
    /// Limit of the spend rate. `Some` makes the call count towards the rate.
    pub velocity: Option<Velocity>,
    /// Part of a strict limit that only finalizing calls may use.
    pub finalization_reserve: Nanos,
}

impl Scope {
    /// A budget's scope in a window that the caller has at hand.
    #[must_use]
    pub fn in_window(rule: &BudgetRule, window: &Window) -> Self {
        let counter =
            CounterKey { budget: rule.budget, generation: rule.generation, window_start_ms: window.start_ms };
        Self {
            counter,
            window_end_ms: window.end_ms,
            limit: rule.limit,
            revision: rule.revision,
            enforcement: rule.enforcement,
            session_limit: rule.session_limit,
            velocity: rule.velocity,
            finalization_reserve: rule.finalization_reserve,
        }
    }
}

/// A budget's scope in its window at an instant.
#[must_use]
pub fn scope_for(rule: &BudgetRule, now_ms: i64) -> Scope {
    Scope::in_window(rule, &window_at(rule.interval, &rule.time_zone, now_ms))
}

/// What makes a call meaningless. A mistake in the calling program, told as a value: nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// More than [`MAX_SCOPES`].
    #[error("names more than {MAX_SCOPES} scopes")]
    TooManyScopes,
    /// A budget has one window at any instant, so a call may name it once.
    #[error("names a budget twice")]
    BudgetTwice,
    /// Amounts lie between 0 and [`MAX_EVENT`](crate::money::MAX_EVENT). A charge may take as much back, under an id that
    /// no hold has.
    #[error("has an amount outside 0 to 1 000 000 dollars")]
    AmountOutOfRange,
    /// A lease is at least a millisecond.
    #[error("has a lease that is not positive")]
    LeaseNotPositive,
    /// See [`is_velocity`].
    #[error("has a velocity limit, window or cool-down that is out of range")]
    VelocityOutOfRange,
}

/// Takes `amount` out of every scope, or out of none.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// The hold's id: the attempt's.
    pub hold: AttemptId,
    /// Whose budgets these are.
    pub org: OrgId,
    /// At most [`MAX_SCOPES`].
    pub scopes: Vec<Scope>,
    /// The caller's session.
    pub session: Option<Arc<str>>,
    /// Whether the call may use what budgets keep back for final answers.
    pub finalize: bool,
    /// Upper bound of the cost.
    pub amount: Nanos,
    /// How long the hold lives without renewal, on the ledger's clock.
    pub lease_ms: i64,
    /// Opaque: what whoever sweeps the hold needs to write its event.
    pub stub: Bytes,
}

/// A counter's state. `settled + held <= limit` for every `StrictBlock` counter, at every instant, unless something
/// that was already spent pushed it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// The limit the ledger holds.
    pub limit: Nanos,
    /// Spent.
    pub settled: Nanos,
    /// Taken by open holds.
    pub held: Nanos,
}

impl Balance {
    /// What is left, negative when overspent.
    #[must_use]
    pub fn remaining(&self) -> Nanos {
        self.limit - self.settled - self.held
    }
}

/// Why a reserve was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The budget's limit, less what is kept back for finalizing calls.
    Budget,
    /// The session's limit.
    Session {
        /// What the session has settled and holds.
        spend: Nanos,
    },
    /// The limit of the spend rate would be passed, or was and the cool-down is not over.
    Velocity {
        /// The rate without the call.
        rate: Nanos,
    },
}

/// Answer to [`Ledger::reserve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReserveOutcome {
    /// Held in every scope. Balances are after the hold, in the order of the scopes; `exceeded` lists the
    /// `SoftBlock` scopes (by index) that are now over their limit.
    Reserved {
        /// One for each scope.
        balances: Vec<Balance>,
        /// Indexes of soft scopes that are over.
        exceeded: Vec<usize>,
    },
    /// Held nowhere. The first scope that says no, and every scope's untouched balance.
    Denied {
        /// Index of the scope.
        scope: usize,
        /// Why.
        why: Why,
        /// One for each scope.
        balances: Vec<Balance>,
        /// When trying again makes sense: the time to the window's end, or to the end of the cool-down. `None` for a
        /// session.
        retry_after_ms: Option<i64>,
    },
    /// This hold exists already, lapsed, was settled or charged; nothing changed.
    AlreadyDone,
    /// The caller's limit of this scope (by index) is older than the ledger's: refresh the policy, then retry once.
    StalePolicy {
        /// Index of the scope.
        scope: usize,
        /// The revision the ledger has.
        revision: u64,
    },
    /// The ledger's clock lies outside the scope's window: recompute windows at `now_ms` and retry once. Looked at
    /// after `StalePolicy`, so a call may meet both.
    WrongWindow {
        /// The ledger's time.
        now_ms: i64,
    },
    /// The call makes no sense.
    Invalid(Misuse),
}

/// Answer to [`Ledger::extend`] for one hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendOutcome {
    /// The lease runs anew, and the extra amount is held.
    Extended,
    /// The extra amount does not fit (lease renewed all the same). The number is not used up: a repeat asks again.
    Denied {
        /// Index of the scope, as in the reserve.
        scope: usize,
    },
    /// This extension number was applied before, or the hold is settled.
    AlreadyDone,
    /// The hold lapsed.
    Lapsed,
    /// No such hold.
    Unknown,
    /// The call makes no sense.
    Invalid(Misuse),
}

/// Answer to [`Ledger::settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Charged; the hold is gone. `over_by` is what the cost exceeded the hold by (0 normally).
    Settled {
        /// Overage, not less than 0.
        over_by: Nanos,
    },
    /// Settled before: nothing changed.
    AlreadyDone,
    /// The hold had lapsed and was charged `charged`; counters took the difference, once. Repeats are answered the same, for
    /// a caller who did not hear of it, also after a charge of that id. The caller reports revision 2.
    Lapsed {
        /// What the lapse had charged.
        charged: Nanos,
    },
    /// No such hold: the ledger lost it, or never had it. The caller charges with [`Ledger::charge`], nothing where
    /// nothing was spent: a reserve of that id that is still on its way then holds nothing.
    Unknown,
    /// The call makes no sense.
    Invalid(Misuse),
}

/// Spend that already happened elsewhere (SDK, MCP, replay), or the difference that a mended price makes to it. Never
/// refused. When the id turns out to be that of an open or lapsed hold, the hold is settled instead, in its own windows:
/// an id is spent once.
#[derive(Clone, Debug)]
pub struct Charge {
    /// The event's id, which makes it idempotent.
    pub id: AttemptId,
    /// Whose budgets these are.
    pub org: OrgId,
    /// At most [`MAX_SCOPES`].
    pub scopes: Vec<Scope>,
    /// The session that spent it.
    pub session: Option<Arc<str>>,
    /// What was spent. Less than 0 takes spend back: counters go down to 0 and no further, and rates do not change.
    pub actual: Nanos,
}

/// Answer to [`Ledger::charge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChargeOutcome {
    /// Charged to every scope. Balances after it.
    Charged {
        /// One for each scope.
        balances: Vec<Balance>,
    },
    /// Charged or settled before: nothing changed.
    AlreadyDone,
    /// The call makes no sense.
    Invalid(Misuse),
}

/// A budget's limits as the control plane set them, or its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// The budget.
    pub budget: BudgetId,
    /// Orders changes.
    pub revision: u64,
    /// `None`: the budget is deleted and binds no more.
    pub limits: Option<Limits>,
}

/// What an extension is judged by, and a reserve that does not know better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the window.
    pub limit: Nanos,
    /// Whether it denies.
    pub enforcement: Enforcement,
    /// Of one session.
    pub session_limit: Option<Nanos>,
    /// Part of a strict limit that only finalizing calls may use.
    pub finalization_reserve: Nanos,
}

impl Limits {
    /// A limit that denies, and nothing else.
    #[must_use]
    pub fn strict(limit: Nanos) -> Self {
        let (session_limit, finalization_reserve) = (None, Nanos::ZERO);
        Self { limit, enforcement: Enforcement::StrictBlock, session_limit, finalization_reserve }
    }

    /// Those of a budget.
    #[must_use]
    pub fn of(rule: &BudgetRule) -> Self {
        Self {
            limit: rule.limit,
            enforcement: rule.enforcement,
            session_limit: rule.session_limit,
            finalization_reserve: rule.finalization_reserve,
        }
    }
}

/// What one session has spent of one budget, as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionSpend {
    /// The budget.
    pub budget: BudgetId,
    /// Its generation.
    pub generation: u32,
    /// The session.
    pub session: Arc<str>,
    /// Spent.
    pub settled: Nanos,
    /// When it last spent.
    pub last_used_ms: i64,
}

/// A hold whose lease ran out, charged in full until its owner reports the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapsedHold {
    /// The hold.
    pub hold: AttemptId,
    /// Whose it was.
    pub org: OrgId,
    /// What was charged.
    pub amount: Nanos,
    /// The stub given at reserve.
    pub stub: Bytes,
}

/// Open holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenHolds {
    /// How many.
    pub count: u64,
    /// Age of the oldest.
    pub oldest_ms: i64,
    /// Sum of their amounts, each hold once however many scopes it has.
    pub held: Nanos,
}

/// Why there is no answer from the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It was not asked, or looks at no call (it still loads its data, or is no master now): nothing was carried out.
    NotAsked,
    /// It was asked, and says that it did not carry that out: its memory is full, say.
    Refused,
    /// It was asked. Whether it carried that out, or still will, is not known.
    Unanswered,
    /// Its books of the organisation are lost or were never made: nothing was carried out, and nothing will be until
    /// they are rebuilt.
    Lost,
}

/// The ledger gave no answer. The operation may be repeated with the same id.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the ledger cannot be reached: {cause}")]
pub struct LedgerUnavailable {
    /// What is known of the operation.
    pub silence: Silence,
    /// The reason, for logs.
    pub cause: String,
}

impl LedgerUnavailable {
    /// Asked in vain.
    #[must_use]
    pub fn unanswered(cause: impl Into<String>) -> Self {
        Self { silence: Silence::Unanswered, cause: cause.into() }
    }
}

/// What a rebuild puts back of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Its hold: taken out of every scope again, whatever limits and windows say.
    Held,
    /// A lapse: the settled totals that were loaded have its amount already, until its owner tells the truth.
    Lapsed,
}

/// The port. Two mechanisms implement it: process memory and Redis.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Takes the bound out of every scope before the request is forwarded.
    async fn reserve(&self, reserve: &Reserve) -> Result<ReserveOutcome, LedgerUnavailable>;

    /// Renews the leases of open holds, and takes `add` more for each. `number` (from 1, rising for each hold) makes
    /// repeats harmless. One outcome for each hold, in order.
    async fn extend(
        &self,
        org: OrgId,
        holds: &[AttemptId],
        number: u64,
        lease_ms: i64,
        add: Nanos,
    ) -> Result<Vec<ExtendOutcome>, LedgerUnavailable>;

    /// Replaces the hold by what the call really cost.
    async fn settle(
        &self,
        org: OrgId,
        hold: AttemptId,
        actual: Nanos,
    ) -> Result<SettleOutcome, LedgerUnavailable>;

    /// Records spend that happened elsewhere, or takes some back.
    async fn charge(&self, charge: &Charge) -> Result<ChargeOutcome, LedgerUnavailable>;

    /// State of counters; one that was never touched has zeros and its budget's last known limit (0 when unknown or
    /// deleted).
    async fn balances(&self, org: OrgId, counters: &[CounterKey]) -> Result<Vec<Balance>, LedgerUnavailable>;

    /// Sets limits and deletions ahead of the data planes' own knowledge.
    async fn apply_limits(&self, org: OrgId, changes: &[LimitChange]) -> Result<(), LedgerUnavailable>;

    /// Ends holds whose lease ran out, charging each in full. Gives up lapses of [`LAPSE_KEPT_MS`] ago.
    async fn sweep(&self) -> Result<Vec<LapsedHold>, LedgerUnavailable>;

    /// Sets the settled side of counters from the store, in a rebuild, before the first decision.
    async fn load(&self, org: OrgId, settled: &[(CounterKey, Nanos)]) -> Result<(), LedgerUnavailable>;

    /// Sets the settled side of sessions, likewise.
    async fn load_sessions(&self, org: OrgId, sessions: &[SessionSpend]) -> Result<(), LedgerUnavailable>;

    /// Begins to make an organisation's books again from what the store and the data planes know, unless they are whole:
    /// then false, and there is nothing to do. Else limits, `load`s and `restore`s follow, then `finish_rebuild`. Only one
    /// rebuild can finish: a later one takes over, and the calls of the earlier one fail.
    async fn begin_rebuild(&self, org: OrgId) -> Result<bool, LedgerUnavailable>;

    /// Puts back what an owner still holds, or what lapsed under it. Never `Denied`, `StalePolicy` or `WrongWindow`, and nothing
    /// is told to be exceeded: it was when it was reserved.
    async fn restore(&self, reserve: &Reserve, as_a: Restored) -> Result<ReserveOutcome, LedgerUnavailable>;

    /// Remembers ids whose cost is in the totals that were loaded, as if they had been settled now.
    async fn restore_done(&self, org: OrgId, ids: &[AttemptId]) -> Result<(), LedgerUnavailable>;

    /// The books are whole: decisions may begin.
    async fn finish_rebuild(&self, org: OrgId) -> Result<(), LedgerUnavailable>;

    /// Whether an organisation's books are lost or were never made. Changes nothing.
    async fn is_lost(&self, org: OrgId) -> Result<bool, LedgerUnavailable>;

    /// Gives an organisation's books up, on an operator's word: nothing is decided until they are rebuilt.
    async fn give_up(&self, org: OrgId) -> Result<(), LedgerUnavailable>;

    /// Open holds now.
    async fn open_holds(&self) -> Result<OpenHolds, LedgerUnavailable>;
}
