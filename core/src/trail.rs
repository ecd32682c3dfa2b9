//! How an attempt was decided: what whoever asks why is told (design law 8).
//!
//! The data plane collects it while it decides; it travels in the records beside the event and is only ever read by
//! people. Nothing is decided by it.

use crate::{
    id::BudgetId,
    ledger::Why,
    money::Nanos,
    policy::{Enforcement, Entity, Velocity},
    price::{Layer, Match, Rates},
    window::Interval,
};

/// How an attempt was decided, as far as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// The price; `None` where the model has none, or nobody came to look.
    pub price: Option<PriceFound>,
    /// What was held, or would have been; `None` where nobody came so far.
    pub bound: Option<Bounded>,
    /// The matched budgets, in the order they were decided.
    pub budgets: Vec<BudgetSeen>,
    /// Which of them said no.
    pub denied_by: Option<DeniedBy>,
    /// Whether the call might use what budgets keep back for final answers.
    pub finalize: bool,
    /// What was done, in order.
    pub steps: Steps,
    /// How often the hold grew with its stream.
    pub extensions: u32,
    /// Why we ended its stream, if we did.
    pub cut: Option<CutShort>,
    /// What the cost rests on; `None` while it is not known.
    pub basis: Option<Basis>,
}

/// The price of an attempt and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceFound {
    /// The row: `openai/gpt-4o` of the catalogue, an id of an operator's.
    pub id: String,
    /// Version of the row, which is the catalogue's where the row is.
    pub version: String,
    /// The model the name led to.
    pub model: String,
    /// Whose row it is.
    pub layer: Layer,
    /// How the name led there.
    pub matched: Match,
    /// Rates of the standard tier below its long-context threshold, in pico-dollars per token.
    pub rates: Rates,
}

/// The upper bound of an attempt's cost, and what was held of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// Most tokens of input and of output; `None` for a flat hold, where there is no price.
    pub tokens: Option<(u64, u64)>,
    /// The bound.
    pub cost: Nanos,
    /// What was asked of the budgets at first: the bound, or its first slice.
    pub hold: Nanos,
    /// The text was counted, or that was tried.
    pub counted: bool,
    /// The output limit that was lowered to fit.
    pub clamp: Option<Clamped>,
    /// Output tokens that the first slice paid for, where the hold grows with the stream.
    pub slice_tokens: Option<u64>,
}

/// An output limit that was lowered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamped {
    /// The caller's own limit, in tokens.
    pub asked: Option<u64>,
    /// What the provider was told.
    pub applied: u64,
    /// The bound of what was asked for.
    pub full: Nanos,
}

/// A matched budget with its numbers before the hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetSeen {
    /// The budget.
    pub budget: BudgetId,
    /// What it binds.
    pub entity: Entity,
    /// Distinguishes budgets of one entity.
    pub name: String,
    /// What happens at its limit.
    pub enforcement: Enforcement,
    /// The window's length.
    pub interval: Interval,
    /// Its beginning, in Unix milliseconds.
    pub window_start_ms: i64,
    /// Its exclusive end; `None` never ends.
    pub window_end_ms: Option<i64>,
    /// Raised by resets.
    pub generation: u32,
    /// Of its settings.
    pub revision: u64,
    /// The limit the ledger held.
    pub limit: Nanos,
    /// Spent before the hold.
    pub settled: Nanos,
    /// Taken by other calls before the hold.
    pub held: Nanos,
    /// Limit of one session, where the call named one.
    pub session_limit: Option<Nanos>,
    /// Limit of the spend rate.
    pub velocity: Option<Velocity>,
    /// Part of the limit that only finalizing calls may use.
    pub kept_back: Nanos,
}

/// A budget's no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedBy {
    /// Its place among [`Trail::budgets`].
    pub place: usize,
    /// What of it.
    pub why: Why,
    /// Milliseconds until trying again makes sense.
    pub retry_after_ms: Option<i64>,
}

/// A stream that we ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CutShort {
    /// `budget_exceeded` or `budget_unavailable`.
    pub code: &'static str,
    /// The budget that had no more to give.
    pub budget: Option<BudgetId>,
}

impl CutShort {
    /// Every code there is.
    pub const CODES: [&'static str; 2] = ["budget_exceeded", "budget_unavailable"];
}

/// Something that was done with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key was found.
    Authenticate,
    /// The key's providers were asked.
    ProviderMandate,
    /// A freeze stopped it.
    Freeze,
    /// The body came and was read.
    Body,
    /// The key's models were asked.
    ModelMandate,
    /// The price was looked for.
    Price,
    /// The cost was bounded.
    Bound,
    /// Budgets were matched.
    Match,
    /// Its repeats were counted.
    Loop,
    /// The ledger asked the limits of sessions.
    Session,
    /// The ledger asked the limits of spend rates.
    Velocity,
    /// The ledger asked the limits of budgets.
    Budget,
    /// The ledger held the amount in all of them.
    Reserve,
    /// The ledger did not answer: it was taken out of what its budgets allow on credit.
    Credit,
    /// The ledger knew a later limit: the policy was waited for.
    Refresh,
    /// The ledger's clock stood in another window.
    Rewindow,
    /// The text was counted, for a lower bound.
    Count,
    /// The output limit was lowered to fit.
    Clamp,
    /// The record of the hold was written.
    Open,
    /// Envoy was told to forward it.
    Forward,
    /// The answer's headers came.
    Answer,
    /// The first byte of its body came.
    FirstByte,
    /// We ended the stream.
    Cut,
    /// The cost was known; it is settled next.
    Close,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 24] = [
        Self::Authenticate,
        Self::ProviderMandate,
        Self::Freeze,
        Self::Body,
        Self::ModelMandate,
        Self::Price,
        Self::Bound,
        Self::Match,
        Self::Loop,
        Self::Session,
        Self::Velocity,
        Self::Budget,
        Self::Reserve,
        Self::Credit,
        Self::Refresh,
        Self::Rewindow,
        Self::Count,
        Self::Clamp,
        Self::Open,
        Self::Forward,
        Self::Answer,
        Self::FirstByte,
        Self::Cut,
        Self::Close,
    ];

    /// The word in explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authenticate => "authenticate",
            Self::ProviderMandate => "provider_mandate",
            Self::Freeze => "freeze",
            Self::Body => "body",
            Self::ModelMandate => "model_mandate",
            Self::Price => "price",
            Self::Bound => "bound",
            Self::Match => "match",
            Self::Loop => "loop",
            Self::Session => "session",
            Self::Velocity => "velocity",
            Self::Budget => "budget",
            Self::Reserve => "reserve",
            Self::Credit => "credit",
            Self::Refresh => "refresh",
            Self::Rewindow => "rewindow",
            Self::Count => "count",
            Self::Clamp => "clamp",
            Self::Open => "open",
            Self::Forward => "forward",
            Self::Answer => "answer",
            Self::FirstByte => "first_byte",
            Self::Cut => "cut",
            Self::Close => "close",
        }
    }

    /// The step of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }
}

/// A step and when it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What was done.
    pub step: Step,
    /// Microseconds since the request began; `None` when nobody looked at the clock any more.
    pub at_us: Option<u64>,
}

/// Steps in order. The clock is read where the host reads it, so steps that are taken in one go share a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    began_us: u64,
    taken: Vec<Stamp>,
}

/// Steps of an ordinary call.
const USUAL: usize = 16;

impl Steps {
    /// None yet, of a request that began at this monotonic instant.
    #[must_use]
    pub fn since(began_us: u64) -> Self {
        Self { began_us, taken: Vec::with_capacity(USUAL) }
    }

    /// Notes a step; its time follows with the next [`Steps::stamp`].
    pub fn note(&mut self, step: Step) {
        self.taken.push(Stamp { step, at_us: None });
    }

    /// Gives the steps noted since the last time this monotonic instant.
    pub fn stamp(&mut self, now_us: u64) {
        let at_us = Some(now_us.saturating_sub(self.began_us));
        for stamp in self.taken.iter_mut().rev().take_while(|stamp| stamp.at_us.is_none()) {
            stamp.at_us = at_us;
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Stamp> + '_ {
        self.taken.iter().copied()
    }

    /// Whether a step was taken.
    #[must_use]
    pub fn has(&self, step: Step) -> bool {
        self.taken.iter().any(|stamp| stamp.step == step)
    }
}

impl FromIterator<Stamp> for Steps {
    fn from_iter<I: IntoIterator<Item = Stamp>>(stamps: I) -> Self {
        Self { began_us: 0, taken: stamps.into_iter().collect() }
    }
}

/// What a cost rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The provider's final usage.
    Usage,
    /// The provider's final usage, parts of which are priced by another rate than their own.
    GuessedUsage,
    /// The provider's final usage, at the price of the model asked for: the one that answered has none.
    OtherModel,
    /// The provider's own figure of the cost.
    ProviderPrice,
    /// What was seen of the answer: usage as far as it came, the rest counted from the text.
    Counted,
    /// The whole hold: what was asked for makes output that nobody sees, or the answer showed none.
    WholeHoldHidden,
    /// The whole hold: the model has no price.
    WholeHoldUnpriced,
    /// The whole hold: the client left before anything was answered.
    WholeHoldUnanswered,
    /// The whole hold: no answer came, and the provider may have got the request.
    WholeHoldUnreachable,
    /// Nothing: it never left.
    NotForwarded,
    /// Nothing: it did not reach the provider.
    NotSent,
    /// Nothing: the provider refused it.
    ProviderError,
}

impl Basis {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Usage,
        Self::GuessedUsage,
        Self::OtherModel,
        Self::ProviderPrice,
        Self::Counted,
        Self::WholeHoldHidden,
        Self::WholeHoldUnpriced,
        Self::WholeHoldUnanswered,
        Self::WholeHoldUnreachable,
        Self::NotForwarded,
        Self::NotSent,
        Self::ProviderError,
    ];

    /// The word in explanations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::GuessedUsage => "guessed_usage",
            Self::OtherModel => "other_model",
            Self::ProviderPrice => "provider_price",
            Self::Counted => "counted",
            Self::WholeHoldHidden => "whole_hold_hidden",
            Self::WholeHoldUnpriced => "whole_hold_unpriced",
            Self::WholeHoldUnanswered => "whole_hold_unanswered",
            Self::WholeHoldUnreachable => "whole_hold_unreachable",
            Self::NotForwarded => "not_forwarded",
            Self::NotSent => "not_sent",
            Self::ProviderError => "provider_error",
        }
    }

    /// The basis of that word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_taken_in_one_go_share_a_time_and_earlier_ones_keep_theirs() {
        let mut steps = Steps::since(100);
        steps.note(Step::Authenticate);
        steps.stamp(103);
        steps.note(Step::Price);
        steps.note(Step::Bound);
        steps.stamp(110);
        steps.note(Step::Reserve);
        let times: Vec<_> = steps.iter().map(|stamp| stamp.at_us).collect();
        assert_eq!(times, [Some(3), Some(10), Some(10), None]);
        assert!(steps.has(Step::Bound) && !steps.has(Step::Clamp));
    }

    #[test]
    fn every_word_is_read_back() {
        assert!(Step::ALL.into_iter().all(|step| Step::parse(step.as_str()) == Some(step)));
        assert!(Basis::ALL.into_iter().all(|basis| Basis::parse(basis.as_str()) == Some(basis)));
    }
}
