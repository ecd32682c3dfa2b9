//! Cost events: spend reported from elsewhere, and reading all of it back.

use std::collections::{BTreeMap, HashSet};

use nullspend_core::{
    attempt::{BudgetCharge, CostParts, Tokens},
    id::{AttemptId, KeyId, OrgId},
    ledger::{Balance, Charge, ChargeOutcome, MAX_SCOPES, Scope, scope_for},
    money::{MAX_EVENT, Nanos},
    policy::{KeyIdentity, Policy, Role},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    App, AppError, Caller, Page,
    check::{Checks, MAX_TAGS, SYSTEM_TAG_PREFIX, is_trace, page_size},
};
use crate::store::{Cursor, EventFilter, EventRecord, Source, StoreError};

/// How often storing charged events is tried when another writer is in the way.
const WRITE_ATTEMPTS: u32 = 3;

const MAX_BATCH: usize = 100;
/// Type of the events that pricing again makes; nobody reports them.
pub const ADJUSTMENT: &str = "adjustment";
/// Counts beyond this are a mistake of the reporter, and would not survive JSON.
const MAX_COUNT: i64 = 1 << 53;

/// Spend that happened elsewhere, as reported.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    /// 1 to 100 characters.
    pub provider: String,
    /// 1 to 200 characters.
    pub model: String,
    /// Token counts.
    pub tokens: Tokens,
    /// Whole micro-dollars.
    pub cost_microdollars: i64,
    /// Input, output, cached, reasoning, tool definition; whole micro-dollars.
    pub parts: Option<ReportedParts>,
    /// How long the call took.
    pub duration_ms: Option<i64>,
    /// The session.
    pub session_id: Option<String>,
    /// 32 lower-case hex digits.
    pub trace_id: Option<String>,
    /// `llm`, `tool` or `custom`.
    pub event_type: Option<&'static str>,
    /// Tool of a tool event.
    pub tool_name: Option<String>,
    /// Server of a tool event.
    pub tool_server: Option<String>,
    /// Makes repeats harmless; becomes the event's request id.
    pub request_id: Option<String>,
    /// The reporter's tags, `_ns_*` allowed.
    pub tags: BTreeMap<String, String>,
    /// The customer; else the tag `customer` names it.
    pub customer: Option<String>,
}

/// Parts of a reported cost in whole micro-dollars.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportedParts {
    /// Uncached input.
    pub input: i64,
    /// Output.
    pub output: i64,
    /// Cached input.
    pub cached: i64,
    /// Part of output.
    pub reasoning: i64,
    /// Part of input.
    pub tool_definition: i64,
}

/// An event in the answer to its report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The event.
    pub id: AttemptId,
    /// Its `createdAt`.
    pub created_at_ms: i64,
    /// False when the request id was known already.
    pub new: bool,
}

impl App {
    /// Records reported spend and charges it to the matching budgets; one answer for each report, in order.
    ///
    /// # Errors
    /// `validation_error` for all reports at once; `service_unavailable` when the ledger or the database is away, and
    /// then repeating with the same request ids is safe.
    pub async fn ingest(
        &self,
        caller: &Caller,
        reports: Vec<Reported>,
        batch: bool,
    ) -> Result<Vec<Recorded>, AppError> {
        check_reports(&reports, batch)?;
        let policy = self.policy().await?;
        let now_ms = self.clock.now_ms();
        let mut events: Vec<(EventRecord, Vec<Scope>)> =
            reports.into_iter().map(|report| self.event_of(caller, &policy, report, now_ms)).collect();
        let ids: Vec<AttemptId> = events.iter().map(|(event, _)| event.id).collect();
        let known = self.store.event_times(caller.org, &ids).await?;
        // The ledger comes first: refused there, nothing is stored and the report can come again with the same id,
        // which makes charging it twice impossible. The other order could store spend that no budget ever sees.
        let _charging = self.charging.read().await;
        let mut fresh = BTreeMap::new();
        let mut charged = Ok(());
        for (event, scopes) in &mut events {
            if !known.contains_key(&event.id) && !fresh.contains_key(&event.id) {
                charged = self.charge(event, scopes).await;
                if charged.is_err() {
                    break;
                }
                fresh.insert(event.id, event.clone());
            }
        }
        // What was charged before the ledger went away is stored, whether or not the report comes again.
        let mut inserted = self.write_charged(fresh.into_values().collect()).await?;
        charged?;
        Ok(events
            .iter()
            .map(|(event, _)| Recorded {
                id: event.id,
                created_at_ms: known.get(&event.id).copied().unwrap_or(event.ended_at_ms),
                // The first of two equal reports in one batch is the new one.
                new: inserted.remove(&event.id),
            })
            .collect())
    }

    /// Stores events whose spend the ledger has: another writer in the way is no reason to leave it unexplained.
    pub(super) async fn write_charged(
        &self,
        events: Vec<EventRecord>,
    ) -> Result<HashSet<AttemptId>, AppError> {
        let mut attempt = 1;
        loop {
            match self.store.write_events(events.clone()).await {
                Err(StoreError::Conflict { .. }) if attempt < WRITE_ATTEMPTS => attempt += 1,
                written => {
                    let written = written?;
                    self.crossed(&written.crossed);
                    return Ok(written.inserted);
                }
            }
        }
    }

    /// Events of the organisation, newest first.
    ///
    /// # Errors
    /// `validation_error`.
    pub async fn list_events(
        &self,
        caller: &Caller,
        filter: &EventFilter,
        limit: Option<i32>,
    ) -> Result<Page<EventRecord>, AppError> {
        let limit = page_size(limit, 25)?;
        let events = self.store.list_events(caller.org, filter, limit + 1).await?;
        Ok(Page::cut(events, limit, |event| Cursor { at_ms: event.ended_at_ms, id: event.id.bare() }))
    }

    /// One event.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn event(&self, caller: &Caller, id: AttemptId) -> Result<EventRecord, AppError> {
        caller.require(Role::Viewer)?;
        self.store.event(caller.org, id).await?.ok_or_else(|| AppError::not_found("Cost event"))
    }

    /// The event of a report, and the budget windows it is charged to. Windows are those of now, not of the time the
    /// reporter says the call began: a made-up duration must not move spend into a window that is over.
    fn event_of(
        &self,
        caller: &Caller,
        policy: &Policy,
        report: Reported,
        now_ms: i64,
    ) -> (EventRecord, Vec<Scope>) {
        let request_id = report.request_id.clone().unwrap_or_else(|| format!("sdk_{}", self.ids.v4()));
        let key = caller.key.clone().unwrap_or_else(|| keyless(caller));
        let (tags, customer) = effective_tags(&key, &report);
        let rules = policy.budgets_for(&key, &tags, customer.as_deref());
        let scopes: Vec<Scope> = rules.iter().map(|rule| scope_for(rule, now_ms)).collect();
        let session_id = report.session_id.filter(|session| !session.is_empty());
        let charge = |scope| BudgetCharge::to_scope(scope, session_id.as_deref());
        let charges = scopes.iter().map(charge).collect();
        let flagged = |tag: &str| tags.get(tag).is_some_and(|value| value != "false");
        let measurement = if flagged("_ns_estimated") { "estimated" } else { "exact" };
        let unpriced = flagged("_ns_unpriced");
        let micro = Nanos::from_microdollars;
        let event = EventRecord {
            id: report_id(caller.org, &report.provider, &request_id, 0),
            org: caller.org,
            request_id,
            key: caller.key_id(),
            user: Some(caller.user),
            key_name: None,
            provider: report.provider,
            model: report.model,
            served_model: None,
            api: None,
            upstream: None,
            source: Source::Api,
            event_type: report.event_type.unwrap_or("custom").to_owned(),
            tokens: report.tokens,
            cost: micro(report.cost_microdollars),
            parts: report.parts.map(|parts| CostParts {
                input: micro(parts.input),
                cached: micro(parts.cached),
                output: micro(parts.output),
                fees: Nanos::ZERO,
                reasoning: micro(parts.reasoning),
                tool_definition: micro(parts.tool_definition),
            }),
            held: None,
            duration_ms: report.duration_ms,
            upstream_ms: None,
            ttfb_ms: None,
            overhead_us: None,
            started_at_ms: now_ms.saturating_sub(report.duration_ms.unwrap_or(0)).max(0),
            ended_at_ms: now_ms,
            ingested_at_ms: now_ms,
            trace_id: report.trace_id,
            session_id,
            customer,
            action: None,
            tags,
            budget_status: None,
            stop_reason: None,
            measurement: measurement.to_owned(),
            ending: None,
            status_code: None,
            stream: false,
            unpriced,
            revision: 1,
            price_id: None,
            price_version: None,
            tool_name: report.tool_name,
            tool_server: report.tool_server,
            charges,
            dataplane_id: None,
            detail: None,
            adjusts: None,
        };
        (event, scopes)
    }

    /// Charges an event to its scopes and notes what they said.
    async fn charge(&self, event: &mut EventRecord, scopes: &[Scope]) -> Result<(), AppError> {
        let mut status = if scopes.is_empty() { "skipped" } else { "approved" };
        for (part, scopes) in scopes.chunks(MAX_SCOPES).enumerate() {
            let id = match part {
                0 => event.id,
                _ => report_id(event.org, &event.provider, &event.request_id, part),
            };
            let charge = Charge {
                id,
                org: event.org,
                scopes: scopes.to_vec(),
                session: event.session_id.as_deref().map(Into::into),
                actual: event.cost,
            };
            match self.ledger.charge(&charge).await? {
                ChargeOutcome::Charged { balances } if balances.iter().any(over) => status = "exceeded",
                ChargeOutcome::Charged { .. } | ChargeOutcome::AlreadyDone => {}
                ChargeOutcome::Invalid(misuse) => {
                    return Err(AppError::internal("The charge makes no sense to the ledger", misuse));
                }
            }
        }
        event.budget_status = Some(status.to_owned());
        Ok(())
    }
}

fn over(balance: &Balance) -> bool {
    balance.settled > balance.limit
}

/// The id of a reported event follows from what makes reports equal, so that a repeat has the same id everywhere.
fn report_id(org: OrgId, provider: &str, request_id: &str, part: usize) -> AttemptId {
    let mut hash = Sha256::new();
    for text in [&org.bare(), provider, request_id, &part.to_string()] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text.as_bytes());
    }
    id_of(&hash.finalize().into())
}

/// An id that follows from a hash.
pub(super) fn id_of(digest: &[u8; 32]) -> AttemptId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    AttemptId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// A person reporting without a key: no key budget and no default tags.
fn keyless(caller: &Caller) -> KeyIdentity {
    KeyIdentity {
        key: KeyId(Uuid::nil()),
        org: caller.org,
        user: caller.user,
        name: String::new(),
        role: caller.role,
        default_tags: BTreeMap::new(),
        locked_tags: Vec::new(),
        required_tags: Vec::new(),
        allowed_models: None,
        allowed_providers: None,
        api_version: String::new(),
    }
}

/// As for proxied calls (design §9): the key's default tags come first in the cap, locked ones win; the customer is
/// written back as a tag, even as an eleventh.
fn effective_tags(key: &KeyIdentity, report: &Reported) -> (BTreeMap<String, String>, Option<String>) {
    let mut tags = key.default_tags.clone();
    for (name, value) in &report.tags {
        let known = tags.contains_key(name);
        if known && key.locked_tags.contains(name) {
            continue;
        }
        let own = tags.keys().filter(|name| !name.starts_with(SYSTEM_TAG_PREFIX)).count();
        if known || own < MAX_TAGS || name.starts_with(SYSTEM_TAG_PREFIX) {
            tags.insert(name.clone(), value.clone());
        }
    }
    let locked = key.locked_tags.iter().any(|name| name == "customer");
    let named = report.customer.clone().filter(|customer| !customer.is_empty() && !locked);
    let customer = named.or_else(|| tags.get("customer").cloned());
    if let Some(customer) = &customer {
        tags.insert("customer".to_owned(), customer.clone());
    }
    (tags, customer)
}

fn check_reports(reports: &[Reported], batch: bool) -> Result<(), AppError> {
    let mut checks = Checks::default();
    if batch {
        let count = reports.len();
        let message = format!("must have 1 to {MAX_BATCH} events; it has {count}");
        checks.require((1..=MAX_BATCH).contains(&count), "events", message);
    }
    for (index, report) in reports.iter().take(MAX_BATCH).enumerate() {
        if batch {
            checks.enter("events", index);
        }
        check_report(&mut checks, report);
    }
    checks.finish()
}

fn check_report(checks: &mut Checks, report: &Reported) {
    checks.text("provider", &report.provider, 1, 100);
    checks.text("model", &report.model, 1, 200);
    let tokens = &report.tokens;
    for (field, count) in [
        ("inputTokens", tokens.input),
        ("outputTokens", tokens.output),
        ("cachedInputTokens", tokens.cached_input),
        ("reasoningTokens", tokens.reasoning),
        ("durationMs", report.duration_ms.unwrap_or(0)),
    ] {
        checks.require((0..=MAX_COUNT).contains(&count), field, "must be a whole number, 0 or more");
    }
    let most = MAX_EVENT.0 / 1000;
    let amount = |checks: &mut Checks, path: &[super::PathSegment], value: i64| {
        if !(0..=most).contains(&value) {
            checks.add(path, format!("must be a whole number of micro-dollars from 0 to {most}"));
        }
    };
    amount(checks, &["costMicrodollars".into()], report.cost_microdollars);
    if let Some(parts) = &report.parts {
        for (field, value) in [
            ("input", parts.input),
            ("output", parts.output),
            ("cached", parts.cached),
            ("reasoning", parts.reasoning),
            ("toolDefinition", parts.tool_definition),
        ] {
            amount(checks, &["costBreakdown".into(), field.into()], value);
        }
    }
    checks.require(report.event_type != Some(ADJUSTMENT), "eventType", "must be llm, tool or custom");
    checks.optional_text("sessionId", report.session_id.as_deref(), 256);
    checks.optional_text("toolName", report.tool_name.as_deref(), 200);
    checks.optional_text("toolServer", report.tool_server.as_deref(), 200);
    checks.optional_text("customer", report.customer.as_deref(), 256);
    if let Some(request_id) = &report.request_id {
        checks.text("idempotencyKey", request_id, 1, 255);
    }
    if let Some(trace) = &report.trace_id {
        checks.require(is_trace(trace), "traceId", "must be 32 lower-case hex digits");
    }
    checks.tags("tags", &report.tags, true);
}
