//! The request machine's words as records of the planes' own protocol.

use bytes::Bytes;
use nullspend_core::{
    attempt::{AttemptStub, BudgetCharge, Closing, CostParts, Denial, Tokens},
    cost::Detail,
    id::AttemptId,
    trail::Trail,
};
use nullspend_proto::internal::{self as wire, SpoolRecord, spool_record::Kind};
use prost::Message as _;

use crate::trail::trail;

/// The stub of an attempt.
#[must_use]
pub fn stub(stub: &AttemptStub) -> wire::AttemptStub {
    wire::AttemptStub {
        attempt_id: stub.attempt.bare(),
        org_id: stub.org.bare(),
        key_id: stub.key.bare(),
        user_id: stub.user.bare(),
        provider: stub.provider.clone(),
        model: stub.model.clone(),
        api: stub.api.as_str().to_owned(),
        upstream: stub.upstream.clone(),
        trace_id: stub.trace_id.clone(),
        session_id: stub.session_id.clone(),
        customer: stub.customer.clone(),
        action_id: stub.action.map(|action| action.bare()),
        tags: stub.tags.clone(),
        started_at_ms: stub.started_at_ms,
        held_nanos: stub.held.0,
        charges: stub.charges.iter().map(charge).collect(),
        budget_status: stub.budget_status.as_str().to_owned(),
        stream: stub.stream,
        unpriced: stub.unpriced,
        on_credit: stub.on_credit,
        finalize: stub.finalize,
        price_id: stub.price_id.clone(),
        price_version: stub.price_version.clone(),
        trail: Bytes::new(),
    }
}

/// The stub as a hold carries it in the ledger: whoever sweeps the hold writes its event from these bytes.
#[must_use]
pub fn stub_bytes(of: &AttemptStub) -> Bytes {
    stub(of).encode_to_vec().into()
}

/// The record written before Envoy may forward the request.
#[must_use]
pub fn opened(of: &AttemptStub, decided: &Trail) -> SpoolRecord {
    let stub = wire::AttemptStub { trail: trail(decided).to_bytes(), ..stub(of) };
    record(Kind::Opened(wire::Opened { stub: Some(stub) }))
}

/// The record of an attempt's end: its event. `revision` is 1, or 2 when it corrects a lapsed one.
#[must_use]
pub fn closed(of: &AttemptStub, closing: &Closing, revision: u32) -> SpoolRecord {
    let mut stub = wire::AttemptStub { trail: trail(&closing.trail).to_bytes(), ..stub(of) };
    // The event names the row that priced the answer.
    if closing.price_id.is_some() {
        stub.price_id.clone_from(&closing.price_id);
        stub.price_version.clone_from(&closing.price_version);
    }
    record(Kind::Closed(wire::Closed {
        stub: Some(stub),
        revision,
        ended_at_ms: closing.ended_at_ms,
        cost_nanos: closing.cost.0,
        measurement: closing.measurement.as_str().to_owned(),
        ending: closing.ending.as_str().to_owned(),
        status_code: u32::from(closing.status_code),
        provider_request_id: closing.provider_request_id.clone(),
        served_model: closing.served_model.clone(),
        stop_reason: closing.stop_reason.clone(),
        tokens: Some(tokens(closing.tokens)),
        breakdown: Some(breakdown(closing.parts)),
        upstream_ms: closing.upstream_ms,
        ttfb_ms: closing.ttfb_ms,
        overhead_us: closing.overhead_us,
        system_tags: closing.system_tags.clone(),
        cost_detail_json: detail(&closing.detail),
        swept: false,
    }))
}

fn detail(detail: &Detail) -> String {
    if *detail == Detail::default() {
        return String::new();
    }
    // Maps of strings and numbers always have a text.
    serde_json::to_string(detail).unwrap_or_default()
}

/// The record that an attempt's cost has reached the ledger.
#[must_use]
pub fn settled(attempt: AttemptId) -> SpoolRecord {
    record(Kind::Settled(wire::Settled { attempt_id: attempt.bare() }))
}

/// The record of a refused request. `suppressed` counts further denials of the key that got no record of their own
/// ([`crate::report::Denials`]).
#[must_use]
pub fn denied(denial: &Denial, suppressed: u64) -> SpoolRecord {
    record(Kind::Denied(wire::Denied {
        attempt_id: denial.attempt.bare(),
        org_id: denial.org.bare(),
        key_id: denial.key.bare(),
        at_ms: denial.at_ms,
        code: denial.code.to_owned(),
        provider: denial.provider.clone(),
        model: denial.model.clone(),
        trace_id: denial.trace_id.clone(),
        session_id: denial.session_id.clone(),
        customer: denial.customer.clone(),
        tags: denial.tags.clone(),
        estimated_nanos: denial.estimated.0,
        details_json: denial.details_json.clone(),
        suppressed,
        trail: trail(&denial.trail).to_bytes(),
    }))
}

fn record(kind: Kind) -> SpoolRecord {
    SpoolRecord { kind: Some(kind) }
}

fn charge(charge: &BudgetCharge) -> wire::BudgetCharge {
    wire::BudgetCharge {
        budget_id: charge.counter.budget.bare(),
        generation: charge.counter.generation,
        window_start_ms: charge.counter.window_start_ms,
        window_end_ms: charge.window_end_ms.unwrap_or(0),
        of_session: charge.of_session,
    }
}

fn tokens(tokens: Tokens) -> wire::Tokens {
    let Tokens { input, output, cached_input, cache_write, reasoning } = tokens;
    wire::Tokens { input, output, cached_input, cache_write, reasoning }
}

fn breakdown(parts: CostParts) -> wire::Breakdown {
    wire::Breakdown {
        input_nanos: parts.input.0,
        cached_nanos: parts.cached.0,
        output_nanos: parts.output.0,
        fees_nanos: parts.fees.0,
        reasoning_nanos: parts.reasoning.0,
        tool_definition_nanos: parts.tool_definition.0,
    }
}
