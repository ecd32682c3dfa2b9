//! Pricing past events again, after a price was mended.

use std::collections::BTreeMap;

use nullspend_core::{
    attempt::{BudgetCharge, Tokens},
    cost::Detail,
    id::AttemptId,
    ledger::{Charge, ChargeOutcome, MAX_SCOPES, Scope},
    money::{MAX_EVENT, Nanos},
    policy::{Policy, Role},
    price::Prices,
};
use sha2::{Digest, Sha256};

use super::{
    App, AppError, Caller,
    check::Checks,
    events::{ADJUSTMENT, id_of},
};
use crate::store::{Cursor, EventRecord, RerateFilter, Source};

/// Events looked at by one call.
const PAGE: i64 = 2_000;
/// Events named by one request.
const MAX_EVENT_IDS: usize = 500;
/// Adjustments shown in an answer.
const SAMPLE: usize = 20;
/// Longest span of one request.
const MAX_SPAN_MS: i64 = 366 * 86_400_000;

/// Which events to price again.
#[derive(Clone, Debug)]
pub struct RerateRequest {
    /// Since when they ended.
    pub from_ms: i64,
    /// Until when, exclusively.
    pub until_ms: i64,
    /// Equal provider.
    pub provider: Option<String>,
    /// Equal model, as it was requested.
    pub model: Option<String>,
    /// Only these; empty: all.
    pub events: Vec<AttemptId>,
    /// Only say what would be booked.
    pub dry_run: bool,
    /// Why.
    pub reason: String,
    /// Where the last call stopped.
    pub cursor: Option<Cursor>,
}

/// One event whose cost differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rerated {
    /// The event.
    pub event: AttemptId,
    /// What was booked; `None` in a dry run.
    pub adjustment: Option<AttemptId>,
    /// Its model.
    pub model: String,
    /// Its cost, earlier adjustments included.
    pub before: Nanos,
    /// Its cost by today's prices.
    pub after: Nanos,
    /// The row that prices it now, and that row's version.
    pub price: (String, String),
}

/// What pricing again came to.
#[derive(Clone, Debug, Default)]
pub struct RerateReport {
    /// Nothing was booked.
    pub dry_run: bool,
    /// Events looked at.
    pub examined: usize,
    /// Events whose cost differs.
    pub adjusted: usize,
    /// Their costs before.
    pub before: Nanos,
    /// Their costs by today's prices.
    pub after: Nanos,
    /// Events that cannot be priced again, by reason.
    pub skipped: BTreeMap<&'static str, usize>,
    /// The first that differ.
    pub sample: Vec<Rerated>,
    /// Where to go on; `None` when all was looked at.
    pub cursor: Option<Cursor>,
}

impl App {
    /// Prices past proxied events by today's prices of the instant they began, and books the differences.
    ///
    /// Doing it twice books nothing twice: an adjustment's id follows from what it adjusts, and the second time there is
    /// no difference left.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`; `service_unavailable` when the ledger or the database is away, and then
    /// repeating is safe.
    pub async fn rerate(&self, caller: &Caller, request: RerateRequest) -> Result<RerateReport, AppError> {
        caller.require(Role::Admin)?;
        let mut checks = Checks::default();
        checks.text("reason", &request.reason, 0, 200);
        let span = request.until_ms.saturating_sub(request.from_ms);
        checks.require(span > 0, "until", "must be after from");
        checks.require(span <= MAX_SPAN_MS, "until", "must be at most 366 days after from");
        let few = request.events.len() <= MAX_EVENT_IDS;
        checks.require(few, "eventIds", format!("must have at most {MAX_EVENT_IDS} ids"));
        checks.finish()?;
        let _alone = self.rerating.lock().await;
        let policy = self.policy().await?;
        let prices = policy.prices();
        let filter = RerateFilter {
            from_ms: request.from_ms,
            until_ms: request.until_ms,
            provider: request.provider.clone(),
            model: request.model.clone(),
            events: request.events.clone(),
            after: request.cursor.clone(),
        };
        let mut events = self.store.events_to_rerate(caller.org, &filter, PAGE + 1).await?;
        let mut report = RerateReport { dry_run: request.dry_run, ..RerateReport::default() };
        if events.len() > PAGE as usize {
            events.truncate(PAGE as usize);
            report.cursor =
                events.last().map(|event| Cursor { at_ms: event.ended_at_ms, id: event.id.bare() });
        }
        let ids: Vec<AttemptId> = events.iter().map(|event| event.id).collect();
        let earlier = self.store.adjustments(&ids).await?;
        report.examined = events.len();
        let mut adjustments = Vec::new();
        for event in events {
            let (count, adjusted) = earlier.get(&event.id).copied().unwrap_or_default();
            let before = event.cost + adjusted;
            let (detail, after) = match again(prices, &event) {
                Ok(found) => found,
                Err(reason) => {
                    *report.skipped.entry(reason).or_default() += 1;
                    continue;
                }
            };
            if after == before {
                continue;
            }
            let adjustment =
                adjustment(&event, &detail, after - before, count, &request.reason, self.clock.now_ms());
            report.note(&event, &adjustment, before, after);
            adjustments.push(adjustment);
        }
        if !request.dry_run && !adjustments.is_empty() {
            self.book(adjustments, &policy).await?;
        }
        Ok(report)
    }

    /// The ledger first, then the store: what is refused there leaves nothing behind, and both take an id once.
    async fn book(&self, adjustments: Vec<EventRecord>, policy: &Policy) -> Result<(), AppError> {
        let now_ms = self.clock.now_ms();
        let _charging = self.charging.read().await;
        let mut charged = Vec::with_capacity(adjustments.len());
        let mut outcome = Ok(());
        for adjustment in adjustments {
            outcome = self.charge_adjustment(&adjustment, policy, now_ms).await;
            if outcome.is_err() {
                break;
            }
            charged.push(adjustment);
        }
        // What was charged before the ledger went away is stored, whether or not somebody asks again.
        self.write_charged(charged).await?;
        outcome
    }

    async fn charge_adjustment(
        &self,
        adjustment: &EventRecord,
        policy: &Policy,
        now_ms: i64,
    ) -> Result<(), AppError> {
        let scopes: Vec<Scope> = still_binding(policy, &adjustment.charges, now_ms).collect();
        for (part, scopes) in scopes.chunks(MAX_SCOPES).enumerate() {
            let charge = Charge {
                id: part_id(adjustment.id, part),
                org: adjustment.org,
                scopes: scopes.to_vec(),
                session: adjustment.session_id.as_deref().map(Into::into),
                actual: adjustment.cost,
            };
            if let ChargeOutcome::Invalid(misuse) = self.ledger.charge(&charge).await? {
                return Err(AppError::internal("The adjustment makes no sense to the ledger", misuse));
            }
        }
        Ok(())
    }
}

/// The windows that still bind: in the ledger others matter no more, and the store has them all. They are charged as the
/// event was, whatever their budgets limit by now.
fn still_binding<'a>(
    policy: &'a Policy,
    charges: &'a [BudgetCharge],
    now_ms: i64,
) -> impl Iterator<Item = Scope> + 'a {
    let binds = move |charge: &&BudgetCharge| {
        let generation = policy.budget(charge.counter.budget).map(|rule| rule.generation);
        let ended = charge.window_end_ms.is_some_and(|end| end <= now_ms);
        !ended && generation == Some(charge.counter.generation)
    };
    charges.iter().filter(binds).map(BudgetCharge::scope)
}

impl RerateReport {
    fn note(&mut self, event: &EventRecord, adjustment: &EventRecord, before: Nanos, after: Nanos) {
        self.adjusted += 1;
        self.before = self.before + before;
        self.after = self.after + after;
        if self.sample.len() < SAMPLE {
            self.sample.push(Rerated {
                event: event.id,
                adjustment: (!self.dry_run).then_some(adjustment.id),
                model: event.model.clone(),
                before,
                after,
                price: (
                    adjustment.price_id.clone().unwrap_or_default(),
                    adjustment.price_version.clone().unwrap_or_default(),
                ),
            });
        }
    }
}

/// An event's lines at today's prices, and their sum.
fn again(prices: &Prices, event: &EventRecord) -> Result<(Detail, Nanos), &'static str> {
    if event.measurement == "lapsed" {
        return Err("lapsed");
    }
    let Some(text) = &event.detail else { return Err("no_detail") };
    let detail: Detail = serde_json::from_str(text).map_err(|_| "no_detail")?;
    if detail.reported_pico.is_some() {
        return Err("provider_reported");
    }
    if detail.steps.is_empty() {
        return Err("no_usage");
    }
    // A whole hold, or a cost capped by it, does not follow from the lines, except where the price alone was missing.
    if !event.unpriced && cost_of(&detail) != event.cost {
        return Err("estimated");
    }
    let repriced =
        detail.reprice(prices, event.org, &event.provider, event.started_at_ms).ok_or("unpriced")?;
    let cost = cost_of(&repriced);
    Ok((repriced, cost))
}

fn cost_of(detail: &Detail) -> Nanos {
    Nanos::from_pico_half_up(detail.total_pico()).min(MAX_EVENT)
}

/// The event of a difference: everything that attributes the original, and nothing that counts twice.
fn adjustment(
    event: &EventRecord,
    detail: &Detail,
    difference: Nanos,
    earlier: u32,
    reason: &str,
    now_ms: i64,
) -> EventRecord {
    let first = detail.steps.first();
    let mut tags: BTreeMap<String, String> = event
        .tags
        .iter()
        .filter(|(name, _)| !name.starts_with("_ns_"))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    tags.insert("_ns_adjusts".to_owned(), event.id.to_string());
    if !reason.is_empty() {
        tags.insert("_ns_reason".to_owned(), reason.to_owned());
    }
    EventRecord {
        id: adjustment_id(event.id, earlier, difference),
        tokens: Tokens::default(),
        cost: difference,
        parts: None,
        held: None,
        duration_ms: None,
        upstream_ms: None,
        ttfb_ms: None,
        overhead_us: None,
        ended_at_ms: now_ms.max(event.started_at_ms),
        ingested_at_ms: now_ms,
        source: Source::Adjustment,
        event_type: ADJUSTMENT.to_owned(),
        tags,
        stop_reason: None,
        ending: None,
        status_code: None,
        unpriced: false,
        budget_status: Some(if event.charges.is_empty() { "skipped" } else { "approved" }.to_owned()),
        measurement: event.measurement.clone(),
        // Which adjustment of the event it is: two runs at once cannot both be the same one.
        revision: i64::from(earlier) + 1,
        price_id: first.and_then(|step| step.price_id.clone()),
        price_version: first.and_then(|step| step.price_version.clone()),
        dataplane_id: None,
        detail: serde_json::to_string(detail).ok(),
        adjusts: Some(event.id),
        ..event.clone()
    }
}

/// Two runs at once make the same adjustment, and one of them is the duplicate.
fn adjustment_id(event: AttemptId, earlier: u32, difference: Nanos) -> AttemptId {
    let mut hash = Sha256::new();
    hash.update(b"adjustment");
    hash.update(event.0.as_bytes());
    hash.update(earlier.to_be_bytes());
    hash.update(difference.0.to_be_bytes());
    id_of(&hash.finalize().into())
}

/// The id of a charge's further parts: the ledger takes so many scopes at once.
fn part_id(adjustment: AttemptId, part: usize) -> AttemptId {
    if part == 0 {
        return adjustment;
    }
    let mut hash = Sha256::new();
    hash.update(adjustment.0.as_bytes());
    hash.update((part as u64).to_be_bytes());
    id_of(&hash.finalize().into())
}
