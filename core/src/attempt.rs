//! One attempt at a provider: what is known before the answer, and how it ended.

use std::collections::BTreeMap;

use crate::{
    cost::Detail,
    id::{ActionId, AttemptId, KeyId, OrgId, UserId},
    ledger::{CounterKey, Scope},
    money::Nanos,
    policy::Enforcement,
    trail::Trail,
};

/// The provider API spoken by a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `POST /v1/chat/completions`.
    OpenAiChat,
    /// `POST /v1/responses`.
    OpenAiResponses,
    /// `POST /v1/messages`.
    AnthropicMessages,
}

impl Api {
    /// The name in events, configuration and test vectors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "chat.completions",
            Self::OpenAiResponses => "responses",
            Self::AnthropicMessages => "messages",
        }
    }
}

/// How the cost was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Measurement {
    /// From the provider's own usage.
    Exact,
    /// From what was seen of the answer, or the whole hold.
    Estimated,
    /// The data plane died with the call in flight: the whole hold.
    Lapsed,
}

impl Measurement {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Estimated => "estimated",
            Self::Lapsed => "lapsed",
        }
    }
}

/// How the attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// The provider's answer was delivered whole.
    Complete,
    /// The provider answered with a status that is not 2xx.
    ProviderError,
    /// The stream broke before its end: the client left or the provider reset (Envoy shows both alike), or no more could
    /// be held for it.
    Aborted,
    /// The provider gave no answer: Envoy could not connect, or was reset or timed out before headers.
    Unreachable,
    /// Our process died.
    Crashed,
}

impl Ending {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ProviderError => "provider_error",
            Self::Aborted => "aborted",
            Self::Unreachable => "unreachable",
            Self::Crashed => "crashed",
        }
    }
}

/// What the matched budgets said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BudgetStatus {
    /// No budget matched.
    Skipped,
    /// All allowed it.
    Approved,
    /// A `soft_block` budget was exceeded and let it pass.
    Exceeded,
}

impl BudgetStatus {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Approved => "approved",
            Self::Exceeded => "exceeded",
        }
    }
}

/// A budget window that the attempt's cost counts towards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetCharge {
    /// The counter.
    pub counter: CounterKey,
    /// When its window ends.
    pub window_end_ms: Option<i64>,
    /// Whether it counts towards the caller's session of this budget too.
    pub of_session: bool,
}

impl BudgetCharge {
    /// What a call of that session charges to a scope.
    #[must_use]
    pub fn to_scope(scope: &Scope, session: Option<&str>) -> Self {
        let of_session = scope.session_limit.is_some() && session.is_some();
        Self { counter: scope.counter, window_end_ms: scope.window_end_ms, of_session }
    }

    /// The scope again, to charge it without knowing its limits: the ledger keeps those of the highest revision, so these
    /// never replace any.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope {
            counter: self.counter,
            window_end_ms: self.window_end_ms,
            limit: Nanos::ZERO,
            revision: 0,
            enforcement: Enforcement::Warn,
            // What matters to a charge is that there is one.
            session_limit: self.of_session.then_some(Nanos::ZERO),
            velocity: None,
            finalization_reserve: Nanos::ZERO,
        }
    }
}

/// What is known of an attempt before its answer: enough to write its event whatever happens after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptStub {
    /// The attempt, its hold and its event.
    pub attempt: AttemptId,
    /// Whose it is.
    pub org: OrgId,
    /// The calling key.
    pub key: KeyId,
    /// The key's owner.
    pub user: UserId,
    /// Provider id of the price catalogue.
    pub provider: String,
    /// The model as requested.
    pub model: String,
    /// The API spoken.
    pub api: Api,
    /// Name of the upstream in the configuration.
    pub upstream: String,
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// The caller's session.
    pub session_id: Option<String>,
    /// The resolved customer.
    pub customer: Option<String>,
    /// The action it belongs to.
    pub action: Option<ActionId>,
    /// Effective tags.
    pub tags: BTreeMap<String, String>,
    /// When the request's headers came; chooses price and window.
    pub started_at_ms: i64,
    /// Upper bound of the cost: what is held.
    pub held: Nanos,
    /// The budget windows it counts towards.
    pub charges: Vec<BudgetCharge>,
    /// What they said.
    pub budget_status: BudgetStatus,
    /// The caller asked for a stream.
    pub stream: bool,
    /// The model has no price.
    pub unpriced: bool,
    /// Nothing is held for it: the ledger did not answer, and its budgets allow it credit.
    pub on_credit: bool,
    /// It may use what budgets keep back for final answers.
    pub finalize: bool,
    /// The price row, e.g. `openai/gpt-4o`.
    pub price_id: Option<String>,
    /// Version of the catalogue that priced it.
    pub price_version: Option<String>,
}

/// Token counts of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// All of the prompt, cache reads and writes included.
    pub input: i64,
    /// All of the answer, reasoning included.
    pub output: i64,
    /// Read from the provider's cache.
    pub cached_input: i64,
    /// Written to the provider's cache.
    pub cache_write: i64,
    /// Part of `output`.
    pub reasoning: i64,
}

/// Parts of an event's cost: input + cached + output + fees make the whole, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostParts {
    /// Uncached input.
    pub input: Nanos,
    /// Cache reads and writes.
    pub cached: Nanos,
    /// Output, reasoning included.
    pub output: Nanos,
    /// Per-call tool fees.
    pub fees: Nanos,
    /// Part of `output`.
    pub reasoning: Nanos,
    /// Part of `input`.
    pub tool_definition: Nanos,
}

/// The end of an attempt: with its stub, the whole event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closing {
    /// When the answer ended.
    pub ended_at_ms: i64,
    /// What it cost.
    pub cost: Nanos,
    /// How that was found.
    pub measurement: Measurement,
    /// How it ended.
    pub ending: Ending,
    /// HTTP status of the answer; 0 when there was none.
    pub status_code: u16,
    /// The provider's own request id.
    pub provider_request_id: Option<String>,
    /// The model named in the answer.
    pub served_model: Option<String>,
    /// The price row that priced the answer, when it differs from the stub's.
    pub price_id: Option<String>,
    /// Its version.
    pub price_version: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// Token counts.
    pub tokens: Tokens,
    /// Parts of the cost.
    pub parts: CostParts,
    /// The cost line by line.
    pub detail: Detail,
    /// From forwarding to the answer's end.
    pub upstream_ms: i64,
    /// From forwarding to the answer's first byte.
    pub ttfb_ms: Option<i64>,
    /// Time spent in the product before forwarding, in microseconds.
    pub overhead_us: i64,
    /// `_ns_*` tags of contract §3.4.
    pub system_tags: BTreeMap<String, String>,
    /// How it was decided, to its end.
    pub trail: Trail,
}

/// A refused request, kept for explaining; not an event (design §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The attempt that was refused.
    pub attempt: AttemptId,
    /// Whose it was.
    pub org: OrgId,
    /// The calling key.
    pub key: KeyId,
    /// When.
    pub at_ms: i64,
    /// The error code of the answer.
    pub code: &'static str,
    /// Provider id of the price catalogue.
    pub provider: String,
    /// The model as requested; empty when the body was not read.
    pub model: String,
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// The caller's session.
    pub session_id: Option<String>,
    /// The resolved customer.
    pub customer: Option<String>,
    /// Effective tags.
    pub tags: BTreeMap<String, String>,
    /// Upper bound of the cost that was asked for.
    pub estimated: Nanos,
    /// The answer's `details`, as JSON.
    pub details_json: String,
    /// How it was decided.
    pub trail: Trail,
}
