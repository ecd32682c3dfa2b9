//! Why calls were denied, as sentences: what said no, with its numbers, since when, and what helps.

use nullspend_core::{
    id::FreezeId,
    ledger::Why,
    money::Nanos,
    trail::{BudgetSeen, Trail},
    window::Interval,
};
use serde_json::Value;

use super::words::{NO_TRAIL, Said, price};
use crate::store::{DenialRecord, FreezeRecord};

/// A freeze that stopped a call, and when it was lifted since.
pub(super) type Stopped = (FreezeRecord, Option<i64>);

/// Why a call was denied; `stopped` is the freeze that its denial names.
pub(super) fn of_denial(denial: &DenialRecord, trail: Option<&Trail>, stopped: Option<&Stopped>) -> Said {
    let details: Value = serde_json::from_str(&denial.details).unwrap_or_default();
    let (why, denied) = denied(denial, &details, trail, stopped);
    let mut unknown = Vec::new();
    if trail.is_none() {
        unknown.push(NO_TRAIL.to_owned());
    }
    let told = |name: &str| details[name].as_str().map(str::to_owned);
    let summary =
        format!("Denied with {}: {denied}. Nothing was forwarded and nothing was spent", denial.code);
    Said {
        summary,
        denied,
        why,
        freeze: told("freeze_id").filter(|_| why == "freeze"),
        budget: told("budgetId").filter(|_| why == "loop"),
        retry_after_ms: details["windowSeconds"].as_i64().map(|s| s * 1000).filter(|_| why == "loop"),
        price: trail.and_then(|trail| price(trail, &denial.model, "and the call was refused")),
        cost: String::new(),
        unknown,
    }
}

/// The freeze that a denial names.
pub(super) fn freeze_of(denial: &DenialRecord) -> Option<FreezeId> {
    let details: Value = serde_json::from_str(&denial.details).ok()?;
    details["freeze_id"].as_str()?.parse().ok()
}

fn denied(
    denial: &DenialRecord,
    details: &Value,
    trail: Option<&Trail>,
    stopped: Option<&Stopped>,
) -> (&'static str, String) {
    let asked = Nanos(denial.estimated_nanos);
    let by = trail.and_then(|trail| {
        let by = trail.denied_by?;
        Some((by, trail.budgets.get(by.place)?, trail.finalize))
    });
    if let Some((by, seen, finalize)) = by {
        return match by.why {
            Why::Budget => ("budget", over_budget(seen, asked, finalize)),
            Why::Session { spend } => ("session", over_session(seen, denial, spend, asked)),
            Why::Velocity { rate } => ("velocity", too_fast(seen, rate, asked)),
        };
    }
    match denial.code.as_str() {
        "frozen" => ("freeze", frozen(details, stopped)),
        "loop_detected" => ("loop", looping(details)),
        "mandate_violation" => {
            let of = |name: &str| details[name].as_str().unwrap_or("?").to_owned();
            let text = format!("the key's {} do not include {:?}", of("mandate"), of("requested"));
            ("mandate", format!("{text}; they are {}", details["allowed"]))
        }
        "invalid_model" => {
            let text = "has no price, and the organisation refuses such calls";
            ("no_price", format!("{:?} of {} {text}", denial.model, denial.provider))
        }
        "session_limit_exceeded" => ("session", format!("a session's limit would be passed: {details}")),
        "velocity_exceeded" => ("velocity", format!("a spend rate's limit would be passed: {details}")),
        code if code.ends_with("budget_exceeded") => {
            ("budget", format!("a budget had no room for {asked}: {details}"))
        }
        _ => ("other", format!("the facts of its answer are {details}")),
    }
}

fn frozen(details: &Value, stopped: Option<&Stopped>) -> String {
    let of = |name: &str| details[name].as_str().unwrap_or("?");
    let id = of("freeze_id");
    let (by, now) = match stopped {
        Some((freeze, None)) => (
            format!(" by {}", freeze.created_by),
            format!("is in force: an administrator lifts it with DELETE /api/freezes/{id}"),
        ),
        Some((freeze, Some(at_ms))) => {
            (format!(" by {}", freeze.created_by), format!("was lifted at {}", iso(*at_ms)))
        }
        None => (String::new(), "is not known any more".to_owned()),
    };
    let reason = match of("reason") {
        "" => "without a reason".to_owned(),
        reason => format!("with the reason {reason:?}"),
    };
    let (kind, target, since) = (of("entity_type"), of("entity_id"), of("since"));
    format!("calls of {kind} {target} were frozen{by} at {since}, {reason}; the freeze {id} {now}")
}

fn looping(details: &Value) -> String {
    let text = |name: &str| details[name].as_str().unwrap_or("?");
    let number = |name: &str| details[name].as_i64().unwrap_or_default();
    let (calls, window) = (number("callCount"), number("windowSeconds"));
    let what = match text("type") {
        "aggregate" => {
            format!("the key sent this request and others in turn {calls} times together within {window} s")
        }
        _ => format!("the key sent this very request {calls} times within {window} s"),
    };
    format!(
        "{what}, and the {} budget {} of {} allows {} (loopMaxCalls); any other request passes, this one again after a pause of \
         {window} s, or once loopMaxCalls is raised",
        text("entityType"),
        text("budgetId"),
        text("entityId"),
        number("maxCalls"),
    )
}

fn iso(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms).map_or_else(|_| unix_ms.to_string(), |at| format!("{at:.3}"))
}

/// `the monthly org budget "name" of ns_org_…`.
fn named(seen: &BudgetSeen) -> String {
    let interval = match seen.interval {
        Interval::None => String::new(),
        interval => format!("{} ", interval.as_str()),
    };
    let name = if seen.name.is_empty() { String::new() } else { format!(" {:?}", seen.name) };
    format!("the {interval}{} budget{name} of {}", seen.entity.kind(), seen.entity.shown_id())
}

fn over_budget(seen: &BudgetSeen, asked: Nanos, finalize: bool) -> String {
    let left = seen.limit - seen.settled - seen.held;
    let back = if finalize { Nanos::ZERO } else { seen.kept_back };
    let kept = if back > Nanos::ZERO {
        format!(", of which {back} are kept back for final answers")
    } else {
        String::new()
    };
    format!(
        "{} has a limit of {}, of which {} are spent and {} are held by other calls; {left} are left{kept}, and this call \
         may cost up to {asked}",
        named(seen),
        seen.limit,
        seen.settled,
        seen.held,
    )
}

fn over_session(seen: &BudgetSeen, denial: &DenialRecord, spend: Nanos, asked: Nanos) -> String {
    format!(
        "{} allows one session {}; the session {:?} has spent and holds {spend}, and this call may cost up to {asked}",
        named(seen),
        seen.session_limit.unwrap_or_default(),
        denial.session_id.as_deref().unwrap_or_default(),
    )
}

fn too_fast(seen: &BudgetSeen, rate: Nanos, asked: Nanos) -> String {
    let (limit, window_ms) =
        seen.velocity.map_or((Nanos::ZERO, 0), |velocity| (velocity.limit, velocity.window_ms));
    format!(
        "{} may be spent no faster than {limit} in {} s; {rate} were, and this call may cost up to {asked}, or the cool-down \
         of an earlier one was not over",
        named(seen),
        window_ms / 1000,
    )
}
