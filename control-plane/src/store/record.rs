//! Spool records as domain values. A record that makes no sense is answered with the reason, never dropped.

use std::{collections::BTreeMap, str::FromStr};

use nullspend_core::{
    attempt::{BudgetCharge, CostParts, Tokens},
    id::AttemptId,
    ledger::CounterKey,
    money::{MAX_EVENT, Nanos},
};
use nullspend_proto::internal::{self as proto, AttemptStub, Closed, Denied};

use prost::Message as _;

use super::{EventRecord, Source, ingest::DenialRecord, rebuilds::UnderWay};

/// Longest stored text in bytes. PostgreSQL refuses index entries above a third of a page, and a provider's request id
/// may be as long as a header.
const MAX_TEXT: usize = 1024;

/// Text that both databases accept: short enough to index, and without NUL, which PostgreSQL refuses.
pub(super) fn clean(text: &str) -> String {
    let mut text = without_nul(text);
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

fn without_nul(text: &str) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text.to_owned() }
}

fn clean_option(text: Option<&String>) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(|text| clean(text))
}

fn id<T: FromStr>(field: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{field} is no UUID"))
}

fn optional_id<T: FromStr>(field: &str, text: &str) -> Result<Option<T>, String> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

fn amount(field: &str, nanos: i64) -> Result<Nanos, String> {
    if (0..=MAX_EVENT.0).contains(&nanos) {
        Ok(Nanos(nanos))
    } else {
        Err(format!("{field} is {nanos}, not within 0 and {}", MAX_EVENT.0))
    }
}

/// A Unix time that can be shown: from 1970 to 9999.
fn time(field: &str, unix_ms: i64) -> Result<i64, String> {
    const LAST_MS: i64 = 253_402_300_799_999;
    if (0..=LAST_MS).contains(&unix_ms) {
        Ok(unix_ms)
    } else {
        Err(format!("{field} is {unix_ms}, no Unix time in ms"))
    }
}

fn charges(stub: &AttemptStub) -> Result<Vec<BudgetCharge>, String> {
    stub.charges
        .iter()
        .map(|charge| {
            Ok(BudgetCharge {
                counter: CounterKey {
                    budget: id("charges.budget_id", &charge.budget_id)?,
                    generation: charge.generation,
                    window_start_ms: charge.window_start_ms,
                },
                window_end_ms: (charge.window_end_ms != 0).then_some(charge.window_end_ms),
                of_session: charge.of_session,
            })
        })
        .collect()
}

fn tags(maps: [&BTreeMap<String, String>; 2]) -> BTreeMap<String, String> {
    maps.into_iter().flatten().map(|(name, value)| (clean(name), clean(value))).collect()
}

/// A call under way. One that makes no sense is refused: a rebuild must know of all.
pub(super) fn under_way(stub: &AttemptStub) -> Result<UnderWay, String> {
    Ok(UnderWay {
        attempt: id("attempt_id", &stub.attempt_id)?,
        held: amount("held_nanos", stub.held_nanos)?,
        charges: charges(stub)?,
        session_id: stub.session_id.clone(),
        finalize: stub.finalize,
        stub: stub.encode_to_vec().into(),
    })
}

/// The event of a closed attempt.
pub(super) fn closed_event(closed: &Closed, dataplane_id: &str, now_ms: i64) -> Result<EventRecord, String> {
    let stub = closed.stub.as_ref().ok_or("the stub is missing")?;
    let attempt: AttemptId = id("attempt_id", &stub.attempt_id)?;
    if !["exact", "estimated", "lapsed"].contains(&closed.measurement.as_str()) {
        return Err(format!("measurement is {:?}", closed.measurement));
    }
    let tokens = closed.tokens.unwrap_or_default();
    let started_at_ms = time("started_at_ms", stub.started_at_ms)?;
    let ended_at_ms = time("ended_at_ms", closed.ended_at_ms)?;
    Ok(EventRecord {
        id: attempt,
        org: id("org_id", &stub.org_id)?,
        request_id: clean_option(closed.provider_request_id.as_ref()).unwrap_or_else(|| attempt.bare()),
        key: optional_id("key_id", &stub.key_id)?,
        user: optional_id("user_id", &stub.user_id)?,
        key_name: None,
        provider: clean(&stub.provider),
        model: clean(&stub.model),
        served_model: clean_option(closed.served_model.as_ref()),
        api: clean_option(Some(&stub.api)),
        upstream: clean_option(Some(&stub.upstream)),
        source: Source::Proxy,
        event_type: "llm".to_owned(),
        tokens: Tokens {
            input: tokens.input,
            output: tokens.output,
            cached_input: tokens.cached_input,
            cache_write: tokens.cache_write,
            reasoning: tokens.reasoning,
        },
        cost: amount("cost_nanos", closed.cost_nanos)?,
        parts: closed.breakdown.as_ref().map(parts),
        held: Some(amount("held_nanos", stub.held_nanos)?),
        duration_ms: Some((ended_at_ms - started_at_ms).max(0)),
        upstream_ms: Some(closed.upstream_ms),
        ttfb_ms: closed.ttfb_ms,
        overhead_us: Some(closed.overhead_us),
        started_at_ms,
        ended_at_ms,
        ingested_at_ms: now_ms,
        trace_id: clean_option(Some(&stub.trace_id)),
        session_id: clean_option(stub.session_id.as_ref()),
        customer: clean_option(stub.customer.as_ref()),
        action: optional_id("action_id", stub.action_id.as_deref().unwrap_or_default())?,
        tags: tags([&stub.tags, &closed.system_tags]),
        budget_status: clean_option(Some(&stub.budget_status)),
        stop_reason: clean_option(closed.stop_reason.as_ref()),
        measurement: closed.measurement.clone(),
        ending: clean_option(Some(&closed.ending)),
        status_code: (closed.status_code != 0).then_some(i64::from(closed.status_code)),
        stream: stub.stream,
        unpriced: stub.unpriced,
        revision: i64::from(closed.revision.max(1)),
        price_id: clean_option(stub.price_id.as_ref()),
        price_version: clean_option(stub.price_version.as_ref()),
        tool_name: None,
        tool_server: None,
        charges: charges(stub)?,
        dataplane_id: Some(clean(dataplane_id)),
        detail: Some(without_nul(&closed.cost_detail_json)).filter(|detail| !detail.is_empty()),
        adjusts: None,
    })
}

fn parts(breakdown: &proto::Breakdown) -> CostParts {
    CostParts {
        input: Nanos(breakdown.input_nanos),
        cached: Nanos(breakdown.cached_nanos),
        output: Nanos(breakdown.output_nanos),
        fees: Nanos(breakdown.fees_nanos),
        reasoning: Nanos(breakdown.reasoning_nanos),
        tool_definition: Nanos(breakdown.tool_definition_nanos),
    }
}

/// A denial.
pub(super) fn denial(denied: &Denied) -> Result<DenialRecord, String> {
    Ok(DenialRecord {
        id: id("attempt_id", &denied.attempt_id)?,
        org: id("org_id", &denied.org_id)?,
        key: optional_id("key_id", &denied.key_id)?,
        at_ms: time("at_ms", denied.at_ms)?,
        code: clean(&denied.code),
        provider: clean(&denied.provider),
        model: clean(&denied.model),
        trace_id: clean_option(Some(&denied.trace_id)),
        session_id: clean_option(denied.session_id.as_ref()),
        customer: clean_option(denied.customer.as_ref()),
        tags: tags([&denied.tags, &BTreeMap::new()]),
        estimated_nanos: denied.estimated_nanos,
        details: without_nul(&denied.details_json),
        suppressed: i64::try_from(denied.suppressed).unwrap_or(i64::MAX),
    })
}
