//! What the store takes and gives: domain types, no rows and no protocol messages.

use std::collections::BTreeMap;

use nullspend_core::{
    attempt::{BudgetCharge, CostParts, Tokens},
    freeze::Freeze,
    id::{ActionId, AttemptId, BudgetId, FreezeId, KeyId, OrgId, UserId},
    money::Nanos,
    policy::{BudgetRule, Entity, KeyIdentity, OrgRule, Role},
    price::PriceRow,
};

use super::StoredCatalogue;
use super::thresholds::Crossing;

/// Hex SHA-256 of a raw key, as the database holds it.
pub type KeyHash = [u8; 32];

/// An API key with what only administration needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// What the data plane knows of it too.
    pub identity: KeyIdentity,
    /// The first 19 characters of the raw key.
    pub prefix: String,
    /// When it last called the API, to the minute.
    pub last_used_at_ms: Option<i64>,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it was revoked.
    pub revoked_at_ms: Option<i64>,
}

/// A key found by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAuth {
    /// Who it is.
    pub identity: KeyIdentity,
    /// What its owner may do in the organisation; `None` when no longer a member.
    pub owner_role: Option<Role>,
    /// When it last called the API.
    pub last_used_at_ms: Option<i64>,
}

/// A budget with what only administration needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRecord {
    /// What is enforced.
    pub rule: BudgetRule,
    /// Percentages at which to notify.
    pub thresholds: Vec<i32>,
    /// The window of a spend rate, also while the rule limits none.
    pub velocity_window_s: i32,
    /// The cool-down of its breaker, likewise.
    pub velocity_cooldown_s: i32,
    /// When the generation began: spend before it does not count.
    pub generation_started_at_ms: i64,
    /// When it was made.
    pub created_at_ms: i64,
    /// When it last changed.
    pub updated_at_ms: i64,
}

/// What identifies a live budget to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPlace {
    /// The organisation.
    pub org: OrgId,
    /// What it binds.
    pub entity: Entity,
    /// '' by default.
    pub name: String,
}

/// Where an event came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Through Envoy.
    Proxy,
    /// Reported by an SDK.
    Api,
    /// Reported by the MCP proxy.
    Mcp,
    /// Made by pricing an event again.
    Adjustment,
}

impl Source {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Api => "api",
            Self::Mcp => "mcp",
            Self::Adjustment => "adjustment",
        }
    }

    /// The source a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Proxy, Self::Api, Self::Mcp, Self::Adjustment]
            .into_iter()
            .find(|source| source.as_str() == word)
    }
}

/// One cost event (or, where listed with `budgetStatus=denied`, one denial) as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The attempt's id.
    pub id: AttemptId,
    /// The organisation.
    pub org: OrgId,
    /// The provider's request id, or what the reporter called it.
    pub request_id: String,
    /// The calling key.
    pub key: Option<KeyId>,
    /// The key's owner.
    pub user: Option<UserId>,
    /// Name of the key now; read only.
    pub key_name: Option<String>,
    /// Provider id.
    pub provider: String,
    /// The model as requested.
    pub model: String,
    /// The model named in the answer.
    pub served_model: Option<String>,
    /// The API spoken.
    pub api: Option<String>,
    /// Name of the upstream.
    pub upstream: Option<String>,
    /// Where the event came from.
    pub source: Source,
    /// `llm`, `tool` or `custom`.
    pub event_type: String,
    /// Token counts.
    pub tokens: Tokens,
    /// What it cost.
    pub cost: Nanos,
    /// Parts of the cost; `None` when the reporter gave none.
    pub parts: Option<CostParts>,
    /// What was held for it.
    pub held: Option<Nanos>,
    /// From the request to the end of the answer.
    pub duration_ms: Option<i64>,
    /// From forwarding to the answer's end.
    pub upstream_ms: Option<i64>,
    /// From forwarding to the answer's first byte.
    pub ttfb_ms: Option<i64>,
    /// Time spent in the product before forwarding, in microseconds.
    pub overhead_us: Option<i64>,
    /// When the call began.
    pub started_at_ms: i64,
    /// When it ended: the wire's `createdAt`.
    pub ended_at_ms: i64,
    /// When the store took it.
    pub ingested_at_ms: i64,
    /// 32 lower-case hex digits.
    pub trace_id: Option<String>,
    /// The caller's session.
    pub session_id: Option<String>,
    /// The resolved customer.
    pub customer: Option<String>,
    /// The action it belongs to.
    pub action: Option<ActionId>,
    /// Effective tags and `_ns_*` tags.
    pub tags: BTreeMap<String, String>,
    /// `skipped`, `approved`, `exceeded` or `denied`.
    pub budget_status: Option<String>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// `exact`, `estimated` or `lapsed`.
    pub measurement: String,
    /// How the call ended.
    pub ending: Option<String>,
    /// HTTP status of the provider's answer.
    pub status_code: Option<i64>,
    /// The caller asked for a stream.
    pub stream: bool,
    /// The model has no price.
    pub unpriced: bool,
    /// 1, or more when it replaced a lapsed event.
    pub revision: i64,
    /// The price row.
    pub price_id: Option<String>,
    /// The catalogue's version.
    pub price_version: Option<String>,
    /// Tool of a tool event.
    pub tool_name: Option<String>,
    /// Server of a tool event.
    pub tool_server: Option<String>,
    /// The budget windows it counts towards.
    pub charges: Vec<BudgetCharge>,
    /// Which data plane reported it.
    pub dataplane_id: Option<String>,
    /// The cost line by line, as JSON.
    pub detail: Option<String>,
    /// The event that this one adjusts.
    pub adjusts: Option<AttemptId>,
}

/// A position in a list ordered newest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The last item's time.
    pub at_ms: i64,
    /// The last item's bare id.
    pub id: String,
}

/// Which events to list. All given conditions hold at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only after this position.
    pub cursor: Option<Cursor>,
    /// Equal request id.
    pub request_id: Option<String>,
    /// Equal key.
    pub key: Option<KeyId>,
    /// Equal model.
    pub model: Option<String>,
    /// Equal provider.
    pub provider: Option<String>,
    /// Equal source.
    pub source: Option<Source>,
    /// Equal budget status; `denied` lists denials instead of events.
    pub budget_status: Option<String>,
    /// Equal trace.
    pub trace_id: Option<String>,
    /// Equal session.
    pub session_id: Option<String>,
    /// All present on the event.
    pub tags: BTreeMap<String, String>,
}

/// What became of one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestReport {
    /// Events that are new.
    pub inserted: u64,
    /// Events that replaced a lapsed one.
    pub replaced: u64,
    /// Events that were known already.
    pub duplicates: u64,
    /// Denials written.
    pub denials: u64,
    /// Records that could not be understood and were set aside with the reason.
    pub quarantined: u64,
    /// The highest sequence number of the batch: acknowledge up to it.
    pub acked_seq: u64,
    /// Thresholds that windows have reached by the batch.
    pub crossed: Vec<Crossing>,
}

/// Policy, whole or changed since a revision.
#[derive(Clone, Debug, Default)]
pub struct PolicyDelta {
    /// Where policy stands after it.
    pub revision: u64,
    /// Which history the revision belongs to.
    pub history_id: String,
    /// True: replaces everything held.
    pub snapshot: bool,
    /// Organisations, new or changed.
    pub orgs: Vec<(OrgId, OrgRule)>,
    /// Keys, new or changed.
    pub keys: Vec<(KeyHash, KeyIdentity)>,
    /// Budgets, new or changed.
    pub budgets: Vec<BudgetRule>,
    /// Price rows, new or changed.
    pub prices: Vec<PriceRow>,
    /// The price catalogue, when another is in force.
    pub catalogue: Option<StoredCatalogue>,
    /// Keys revoked.
    pub revoked_keys: Vec<KeyId>,
    /// Budgets deleted.
    pub deleted_budgets: Vec<BudgetId>,
    /// Freezes, new.
    pub freezes: Vec<Freeze>,
    /// Freezes lifted.
    pub lifted_freezes: Vec<FreezeId>,
}

/// Where policy stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPosition {
    /// Rises by one with every change.
    pub revision: u64,
    /// Which history that is; changes when the database is replaced.
    pub history_id: String,
}

/// Answer to `idempotency_begin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdempotencyBegin {
    /// Nobody used this key: run the call, then `idempotency_finish` or `idempotency_abandon`.
    Fresh,
    /// The first call's answer.
    Replay {
        /// Encoded response.
        response: Vec<u8>,
        /// What the handler stored beside it.
        http_status: i64,
    },
    /// The first call is still running.
    InProgress,
    /// The key was used for another request.
    Mismatch,
}

/// Names one idempotent call.
#[derive(Clone, Copy, Debug)]
pub struct IdempotencyKey<'a> {
    /// The organisation.
    pub org: OrgId,
    /// gRPC method path.
    pub method: &'a str,
    /// What the caller sent.
    pub key: &'a str,
}
