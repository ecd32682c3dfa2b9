//! Cost events as rows.

use nullspend_core::{
    attempt::{CostParts, Tokens},
    money::Nanos,
};

use super::{EventRecord, Source, codec::Reader, error::StoreError};

/// Columns in the order `bind_event` binds them.
macro_rules! event_columns {
    () => {
        "id, org_id, request_id, key_id, user_id, provider, model, served_model, api, upstream, source, event_type, \
         input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens, cost_nanos, \
         has_parts, input_nanos, cached_nanos, output_nanos, fees_nanos, reasoning_nanos, tool_definition_nanos, \
         held_nanos, duration_ms, upstream_ms, ttfb_ms, overhead_us, started_at_ms, ended_at_ms, ingested_at_ms, \
         trace_id, session_id, customer_id, action_id, tags, budget_status, stop_reason, measurement, ending, \
         status_code, stream, unpriced, revision, price_id, price_version, tool_name, tool_server, charges, \
         dataplane_id, detail, adjusts_event_id"
    };
}
pub(super) use event_columns;

/// Binds one event's row, in the order of `event_columns`.
macro_rules! bind_event {
    ($row:ident, $event:ident) => {{
        let parts = $event.parts.unwrap_or_default();
        $row.push_bind($event.id.bare())
            .push_bind($event.org.bare())
            .push_bind($event.request_id.clone())
            .push_bind($event.key.map(|id| id.bare()))
            .push_bind($event.user.map(|id| id.bare()))
            .push_bind($event.provider.clone())
            .push_bind($event.model.clone())
            .push_bind($event.served_model.clone())
            .push_bind($event.api.clone())
            .push_bind($event.upstream.clone())
            .push_bind($event.source.as_str())
            .push_bind($event.event_type.clone())
            .push_bind($event.tokens.input)
            .push_bind($event.tokens.output)
            .push_bind($event.tokens.cached_input)
            .push_bind($event.tokens.cache_write)
            .push_bind($event.tokens.reasoning)
            .push_bind($event.cost.0)
            .push_bind($event.parts.is_some())
            .push_bind(parts.input.0)
            .push_bind(parts.cached.0)
            .push_bind(parts.output.0)
            .push_bind(parts.fees.0)
            .push_bind(parts.reasoning.0)
            .push_bind(parts.tool_definition.0)
            .push_bind($event.held.map(|held| held.0))
            .push_bind($event.duration_ms)
            .push_bind($event.upstream_ms)
            .push_bind($event.ttfb_ms)
            .push_bind($event.overhead_us)
            .push_bind($event.started_at_ms)
            .push_bind($event.ended_at_ms)
            .push_bind($event.ingested_at_ms)
            .push_bind($event.trace_id.clone())
            .push_bind($event.session_id.clone())
            .push_bind($event.customer.clone())
            .push_bind($event.action.map(|id| id.bare()))
            .push_bind(map_json(&$event.tags))
            .push_bind($event.budget_status.clone())
            .push_bind($event.stop_reason.clone())
            .push_bind($event.measurement.clone())
            .push_bind($event.ending.clone())
            .push_bind($event.status_code)
            .push_bind($event.stream)
            .push_bind($event.unpriced)
            .push_bind($event.revision)
            .push_bind($event.price_id.clone())
            .push_bind($event.price_version.clone())
            .push_bind($event.tool_name.clone())
            .push_bind($event.tool_server.clone())
            .push_bind(charges_json(&$event.charges))
            .push_bind($event.dataplane_id.clone())
            .push_bind($event.detail.clone())
            .push_bind($event.adjusts.map(|id| id.bare()));
    }};
}
pub(super) use bind_event;

#[derive(sqlx::FromRow)]
pub(super) struct EventRow {
    id: String,
    org_id: String,
    request_id: String,
    key_id: Option<String>,
    user_id: Option<String>,
    key_name: Option<String>,
    provider: String,
    model: String,
    served_model: Option<String>,
    api: Option<String>,
    upstream: Option<String>,
    source: String,
    event_type: String,
    input_tokens: i64,
    output_tokens: i64,
    cached_input_tokens: i64,
    cache_write_tokens: i64,
    reasoning_tokens: i64,
    cost_nanos: i64,
    has_parts: bool,
    input_nanos: i64,
    cached_nanos: i64,
    output_nanos: i64,
    fees_nanos: i64,
    reasoning_nanos: i64,
    tool_definition_nanos: i64,
    held_nanos: Option<i64>,
    duration_ms: Option<i64>,
    upstream_ms: Option<i64>,
    ttfb_ms: Option<i64>,
    overhead_us: Option<i64>,
    started_at_ms: i64,
    ended_at_ms: i64,
    ingested_at_ms: i64,
    trace_id: Option<String>,
    session_id: Option<String>,
    customer_id: Option<String>,
    action_id: Option<String>,
    tags: String,
    budget_status: Option<String>,
    stop_reason: Option<String>,
    measurement: String,
    ending: Option<String>,
    status_code: Option<i64>,
    stream: bool,
    unpriced: bool,
    revision: i64,
    price_id: Option<String>,
    price_version: Option<String>,
    tool_name: Option<String>,
    tool_server: Option<String>,
    charges: String,
    dataplane_id: Option<String>,
    detail: Option<String>,
    adjusts_event_id: Option<String>,
}

impl EventRow {
    pub(super) fn into_record(self, op: &'static str) -> Result<EventRecord, StoreError> {
        let read = Reader(op);
        let parts = CostParts {
            input: Nanos(self.input_nanos),
            cached: Nanos(self.cached_nanos),
            output: Nanos(self.output_nanos),
            fees: Nanos(self.fees_nanos),
            reasoning: Nanos(self.reasoning_nanos),
            tool_definition: Nanos(self.tool_definition_nanos),
        };
        Ok(EventRecord {
            id: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            request_id: self.request_id,
            key: read.optional_id("key_id", self.key_id.as_deref())?,
            user: read.optional_id("user_id", self.user_id.as_deref())?,
            key_name: self.key_name,
            provider: self.provider,
            model: self.model,
            served_model: self.served_model,
            api: self.api,
            upstream: self.upstream,
            source: read.word("source", &self.source, Source::parse)?,
            event_type: self.event_type,
            tokens: Tokens {
                input: self.input_tokens,
                output: self.output_tokens,
                cached_input: self.cached_input_tokens,
                cache_write: self.cache_write_tokens,
                reasoning: self.reasoning_tokens,
            },
            cost: Nanos(self.cost_nanos),
            parts: self.has_parts.then_some(parts),
            held: self.held_nanos.map(Nanos),
            duration_ms: self.duration_ms,
            upstream_ms: self.upstream_ms,
            ttfb_ms: self.ttfb_ms,
            overhead_us: self.overhead_us,
            started_at_ms: self.started_at_ms,
            ended_at_ms: self.ended_at_ms,
            ingested_at_ms: self.ingested_at_ms,
            trace_id: self.trace_id,
            session_id: self.session_id,
            customer: self.customer_id,
            action: read.optional_id("action_id", self.action_id.as_deref())?,
            tags: read.json("tags", &self.tags)?,
            budget_status: self.budget_status,
            stop_reason: self.stop_reason,
            measurement: self.measurement,
            ending: self.ending,
            status_code: self.status_code,
            stream: self.stream,
            unpriced: self.unpriced,
            revision: self.revision,
            price_id: self.price_id,
            price_version: self.price_version,
            tool_name: self.tool_name,
            tool_server: self.tool_server,
            charges: read.charges(&self.charges)?,
            dataplane_id: self.dataplane_id,
            detail: self.detail,
            adjusts: read.optional_id("adjusts_event_id", self.adjusts_event_id.as_deref())?,
        })
    }
}
