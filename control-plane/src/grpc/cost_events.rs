//! `CostEventService`.

use std::sync::Arc;

use nullspend_core::{
    attempt::{CostParts, Tokens},
    id::{AttemptId, KeyId},
    money::Nanos,
};
use nullspend_proto::v1::{self, cost_event_service_server::CostEventService};
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status, async_trait, metadata::MetadataValue};

use super::{
    Services,
    convert::{cursor, id, invalid, timestamp},
    cost_detail::cost_detail,
    status::{caller, header},
};
use crate::{
    app::{ADJUSTMENT, AppError, Caller, Recorded, Reported, ReportedParts},
    store::{Cursor, EventFilter, EventRecord, Source},
};

/// An event has no more tags of a caller's own.
const MAX_TAG_FILTERS: usize = 10;

#[async_trait]
impl CostEventService for Services {
    async fn ingest_cost_event(
        &self,
        request: Request<v1::IngestCostEventRequest>,
    ) -> Result<Response<v1::IngestCostEventResponse>, Status> {
        let caller = caller(&request)?;
        let by_header = header(&request, "idempotency-key").map(str::to_owned);
        let mut report = reported(single(request.into_inner()));
        report.request_id = by_header.or(report.request_id);
        let recorded = self.ingest_to_the_end(caller, vec![report], false).await?;
        let Some(recorded) = recorded.first() else {
            return Err(Status::internal("no answer for the event"));
        };
        let mut response = Response::new(v1::IngestCostEventResponse { data: Some(reference(recorded)) });
        if !recorded.new {
            response.metadata_mut().insert("x-http-status", MetadataValue::from_static("200"));
        }
        Ok(response)
    }

    async fn ingest_cost_events(
        &self,
        request: Request<v1::IngestCostEventsRequest>,
    ) -> Result<Response<v1::IngestCostEventsResponse>, Status> {
        let caller = caller(&request)?;
        let by_header = header(&request, "idempotency-key").map(str::to_owned);
        let reports = request.into_inner().events.into_iter().map(reported).enumerate();
        // A repeat of the whole batch must find the same events, also where an item names no key of its own.
        let reports = reports.map(|(index, report)| Reported {
            request_id: report.request_id.or_else(|| by_header.as_deref().map(|key| item_id(key, index))),
            ..report
        });
        let recorded = self.ingest_to_the_end(caller, reports.collect(), true).await?;
        let ids: Vec<String> =
            recorded.iter().filter(|recorded| recorded.new).map(|recorded| recorded.id.to_string()).collect();
        let inserted = i32::try_from(ids.len()).unwrap_or(i32::MAX);
        Ok(Response::new(v1::IngestCostEventsResponse { inserted, ids }))
    }

    async fn list_cost_events(
        &self,
        request: Request<v1::ListCostEventsRequest>,
    ) -> Result<Response<v1::ListCostEventsResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let limit = request.limit;
        let page = self.app.list_events(&caller, &filter(request)?, limit).await?;
        Ok(Response::new(v1::ListCostEventsResponse {
            cursor: page.next.as_ref().map(next),
            data: page.items.into_iter().map(event).collect(),
        }))
    }

    async fn get_cost_event(
        &self,
        request: Request<v1::GetCostEventRequest>,
    ) -> Result<Response<v1::GetCostEventResponse>, Status> {
        let caller = caller(&request)?;
        let event_id: AttemptId = id("id", &request.into_inner().id)?;
        let found = self.app.event(&caller, event_id).await?;
        let cost_detail = found.detail.as_deref().and_then(cost_detail);
        let data = v1::CostEvent { cost_detail, ..event(found) };
        Ok(Response::new(v1::GetCostEventResponse { data: Some(data) }))
    }
}

/// A single report has the fields of a batch's element.
fn single(request: v1::IngestCostEventRequest) -> v1::IngestedEvent {
    v1::IngestedEvent {
        provider: request.provider,
        model: request.model,
        input_tokens: request.input_tokens,
        output_tokens: request.output_tokens,
        cost_microdollars: request.cost_microdollars,
        cached_input_tokens: request.cached_input_tokens,
        reasoning_tokens: request.reasoning_tokens,
        duration_ms: request.duration_ms,
        cost_breakdown: request.cost_breakdown,
        session_id: request.session_id,
        trace_id: request.trace_id,
        event_type: request.event_type,
        tool_name: request.tool_name,
        tool_server: request.tool_server,
        idempotency_key: request.idempotency_key,
        tags: request.tags,
        customer: request.customer,
    }
}

fn reported(event: v1::IngestedEvent) -> Reported {
    let event_type = match event.event_type() {
        v1::CostEventType::Unspecified => None,
        v1::CostEventType::Llm => Some("llm"),
        v1::CostEventType::Tool => Some("tool"),
        v1::CostEventType::Custom => Some("custom"),
        v1::CostEventType::Adjustment => Some(ADJUSTMENT),
    };
    Reported {
        provider: event.provider,
        model: event.model,
        tokens: Tokens {
            input: event.input_tokens,
            output: event.output_tokens,
            cached_input: event.cached_input_tokens,
            cache_write: 0,
            reasoning: event.reasoning_tokens,
        },
        cost_microdollars: event.cost_microdollars,
        parts: event.cost_breakdown.map(|parts| ReportedParts {
            input: parts.input,
            output: parts.output,
            cached: parts.cached,
            reasoning: parts.reasoning.unwrap_or(0),
            tool_definition: parts.tool_definition.unwrap_or(0),
        }),
        duration_ms: event.duration_ms,
        session_id: event.session_id,
        trace_id: event.trace_id,
        event_type,
        tool_name: event.tool_name,
        tool_server: event.tool_server,
        request_id: event.idempotency_key,
        tags: event.tags,
        customer: event.customer,
    }
}

fn filter(request: v1::ListCostEventsRequest) -> Result<EventFilter, AppError> {
    let source = match request.source() {
        v1::CostEventSource::Unspecified => None,
        v1::CostEventSource::Proxy => Some(Source::Proxy),
        v1::CostEventSource::Api => Some(Source::Api),
        v1::CostEventSource::Mcp => Some(Source::Mcp),
        v1::CostEventSource::Adjustment => Some(Source::Adjustment),
    };
    let budget_status = match request.budget_status() {
        v1::EventBudgetStatus::Unspecified => None,
        v1::EventBudgetStatus::Skipped => Some("skipped".to_owned()),
        v1::EventBudgetStatus::Approved => Some("approved".to_owned()),
        v1::EventBudgetStatus::Denied => Some("denied".to_owned()),
        v1::EventBudgetStatus::Exceeded => Some("exceeded".to_owned()),
    };
    let texts =
        [&request.request_id, &request.model, &request.provider, &request.trace_id, &request.session_id];
    if request.tags.len() > MAX_TAG_FILTERS {
        return Err(invalid("tags", "must have at most 10 filters"));
    }
    let tags = request.tags.iter().flat_map(|(name, value)| [name, value]);
    if texts.into_iter().flatten().chain(tags).any(|text| text.contains('\0')) {
        return Err(invalid("query", "must not contain NUL"));
    }
    Ok(EventFilter {
        cursor: cursor::<AttemptId>(request.cursor, AttemptId::bare)?,
        request_id: request.request_id,
        key: request.api_key_id.map(|text| id::<KeyId>("apiKeyId", &text)).transpose()?,
        model: request.model,
        provider: request.provider,
        source,
        budget_status,
        trace_id: request.trace_id,
        session_id: request.session_id,
        tags: request.tags,
    })
}

impl Services {
    /// In a task of its own: the ledger is charged before the events are stored, and a caller who leaves in between
    /// must not stop that half way.
    async fn ingest_to_the_end(
        &self,
        caller: Caller,
        reports: Vec<Reported>,
        batch: bool,
    ) -> Result<Vec<Recorded>, Status> {
        let app = Arc::clone(&self.app);
        let ingesting = tokio::spawn(async move { app.ingest(&caller, reports, batch).await });
        let recorded =
            ingesting.await.map_err(|_| Status::internal("the events were not taken to the end"))?;
        Ok(recorded?)
    }
}

/// The request id of a batch's item that has none: the same for every repeat of the batch.
fn item_id(idempotency_key: &str, index: usize) -> String {
    let digest = Sha256::digest(format!("{index}:{idempotency_key}"));
    format!("sdk_{}", hex::encode(digest))
}

fn reference(recorded: &Recorded) -> v1::IngestedRef {
    v1::IngestedRef { id: recorded.id.to_string(), created_at: Some(timestamp(recorded.created_at_ms)) }
}

fn next(cursor: &Cursor) -> v1::Cursor {
    v1::Cursor {
        created_at: Some(timestamp(cursor.at_ms)),
        id: format!("{}{}", AttemptId::PREFIX, cursor.id),
    }
}

/// Parts rounded so that input + output + cached is the event's cost as shown, fees within output.
fn breakdown(parts: &CostParts, cost: Nanos) -> v1::CostBreakdown {
    let whole = (parts.input + parts.cached + parts.output + parts.fees) == cost;
    let cached = parts.cached.microdollars_half_up();
    let output = (parts.output + parts.fees).microdollars_half_up();
    let total = cost.microdollars_half_up();
    let (input, output) = match total - cached - output {
        // A reporter's own parts need not add up; they are shown as they came.
        _ if !whole => (parts.input.microdollars_half_up(), output),
        input if input >= 0 => (input, output),
        // Both others were rounded up.
        short => (0, output + short),
    };
    let part = |nanos: Nanos| (nanos != Nanos::ZERO).then(|| nanos.microdollars_half_up());
    v1::CostBreakdown {
        input,
        output,
        cached,
        reasoning: part(parts.reasoning),
        tool_definition: part(parts.tool_definition),
    }
}

fn budget_status(word: &str) -> Option<i32> {
    let status = match word {
        "skipped" => v1::EventBudgetStatus::Skipped,
        "approved" => v1::EventBudgetStatus::Approved,
        "denied" => v1::EventBudgetStatus::Denied,
        "exceeded" => v1::EventBudgetStatus::Exceeded,
        _ => return None,
    };
    Some(status.into())
}

pub(super) fn measurement(word: &str) -> v1::Measurement {
    match word {
        "exact" => v1::Measurement::Exact,
        "estimated" => v1::Measurement::Estimated,
        "lapsed" => v1::Measurement::Lapsed,
        _ => v1::Measurement::Unspecified,
    }
}

fn event_type(word: &str) -> v1::CostEventType {
    match word {
        "llm" => v1::CostEventType::Llm,
        "tool" => v1::CostEventType::Tool,
        ADJUSTMENT => v1::CostEventType::Adjustment,
        _ => v1::CostEventType::Custom,
    }
}

pub(super) fn source(source: Source) -> v1::CostEventSource {
    match source {
        Source::Proxy => v1::CostEventSource::Proxy,
        Source::Api => v1::CostEventSource::Api,
        Source::Mcp => v1::CostEventSource::Mcp,
        Source::Adjustment => v1::CostEventSource::Adjustment,
    }
}

fn event(record: EventRecord) -> v1::CostEvent {
    v1::CostEvent {
        id: record.id.to_string(),
        request_id: record.request_id,
        api_key_id: record.key.map(|key| key.to_string()),
        provider: record.provider,
        model: record.model,
        input_tokens: record.tokens.input,
        output_tokens: record.tokens.output,
        cached_input_tokens: record.tokens.cached_input,
        reasoning_tokens: record.tokens.reasoning,
        cost_microdollars: record.cost.microdollars_half_up(),
        cost_nanodollars: record.cost.0,
        duration_ms: record.duration_ms,
        created_at: Some(timestamp(record.ended_at_ms)),
        started_at: Some(timestamp(record.started_at_ms)),
        source: source(record.source).into(),
        event_type: event_type(&record.event_type).into(),
        trace_id: record.trace_id,
        session_id: record.session_id,
        tags: record.tags,
        customer_id: record.customer,
        key_name: record.key_name,
        budget_status: record.budget_status.as_deref().and_then(budget_status),
        stop_reason: record.stop_reason,
        estimated_cost_microdollars: record.held.map(Nanos::microdollars_half_up),
        cost_breakdown: record.parts.as_ref().map(|parts| breakdown(parts, record.cost)),
        tool_name: record.tool_name,
        tool_server: record.tool_server,
        measurement: measurement(&record.measurement).into(),
        unpriced: record.unpriced,
        revision: i32::try_from(record.revision).unwrap_or(i32::MAX),
        status_code: record.status_code.and_then(|status| i32::try_from(status).ok()),
        user_id: record.user.map(|user| user.to_string()),
        action_id: record.action.map(|action| action.to_string()),
        ending: record.ending,
        cache_write_tokens: record.tokens.cache_write,
        price_id: record.price_id,
        price_version: record.price_version,
        adjusts_event_id: record.adjusts.map(|id| id.to_string()),
        cost_detail: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_parts_add_up_to_the_shown_cost() {
        for (input, cached, output, fees) in [
            (0, 500, 500, 0),
            (1_499, 499, 499, 3),
            (500, 500, 500, 500),
            (0, 0, 0, 0),
            (2_500_000, 1, 999, 0),
        ] {
            let parts = CostParts {
                input: Nanos(input),
                cached: Nanos(cached),
                output: Nanos(output),
                fees: Nanos(fees),
                ..CostParts::default()
            };
            let cost = Nanos(input + cached + output + fees);
            let shown = breakdown(&parts, cost);
            assert_eq!(shown.input + shown.cached + shown.output, cost.microdollars_half_up(), "{parts:?}");
            assert!(shown.input >= 0 && shown.output >= 0, "{shown:?}");
        }
    }

    #[test]
    fn a_repeated_batch_names_its_items_alike() {
        assert_eq!(item_id("k", 3), item_id("k", 3));
        assert_ne!(item_id("k", 3), item_id("k", 4));
        assert_ne!(item_id("1:k", 1), item_id("k", 11));
    }

    #[test]
    fn a_list_takes_as_many_tag_filters_as_an_event_has_tags() {
        let tags = |count: usize| (0..count).map(|i| (format!("t{i}"), String::new())).collect();
        let request = |tags| v1::ListCostEventsRequest { tags, ..v1::ListCostEventsRequest::default() };
        assert!(filter(request(tags(10))).is_ok());
        assert!(filter(request(tags(11))).is_err());
        assert!(filter(request([("a\0".to_owned(), String::new())].into())).is_err());
    }
}
