//! `PriceService`.

mod terms;

use std::sync::Arc;

use nullspend_core::{
    id::{AttemptId, PriceId},
    money::Nanos,
    price::{Explanation, Match, Priced, how_to_add},
};
use nullspend_proto::v1::{self, price_service_server::PriceService};
use prost_types::Timestamp;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{cursor, id, invalid, timestamp, unix_ms},
    status::caller,
};
use crate::{
    app::{
        AppError, ListedPrice, NewPrice, PriceFilter, PriceScope, PriceSource, RerateReport, RerateRequest,
        Rerated,
    },
    store::{Cursor, PriceRecord},
};

#[async_trait]
impl PriceService for Services {
    async fn list_prices(
        &self,
        request: Request<v1::ListPricesRequest>,
    ) -> Result<Response<v1::ListPricesResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let filter = PriceFilter {
            source: source_of(wanted.source()),
            scope: scope_of(wanted.scope())?,
            provider: wanted.provider,
            model: wanted.model,
        };
        let page = self.app.list_prices(&caller, &filter, wanted.limit, place(wanted.cursor)?).await?;
        Ok(Response::new(v1::ListPricesResponse {
            data: page.items.iter().map(listed).collect(),
            cursor: page.next.map(next_price),
        }))
    }

    async fn create_price(
        &self,
        request: Request<v1::CreatePriceRequest>,
    ) -> Result<Response<v1::CreatePriceResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let new = NewPrice {
            scope: scope_of(wanted.scope())?.unwrap_or(PriceScope::Organisation),
            from_ms: wanted.effective_from.as_ref().map(unix_ms),
            until_ms: wanted.effective_until.as_ref().map(unix_ms),
            reason: wanted.reason.clone(),
            terms: terms::read(wanted)?,
        };
        let record = self.app.create_price(&caller, new).await?;
        Ok(Response::new(v1::CreatePriceResponse { data: Some(price(&record)) }))
    }

    async fn get_price(
        &self,
        request: Request<v1::GetPriceRequest>,
    ) -> Result<Response<v1::GetPriceResponse>, Status> {
        let caller = caller(&request)?;
        let price_id: PriceId = id("id", &request.into_inner().id)?;
        let record = self.app.price(&caller, price_id).await?;
        Ok(Response::new(v1::GetPriceResponse { data: Some(price(&record)) }))
    }

    async fn end_price(
        &self,
        request: Request<v1::EndPriceRequest>,
    ) -> Result<Response<v1::EndPriceResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let price_id: PriceId = id("id", &wanted.id)?;
        let until_ms = wanted.effective_until.as_ref().map(unix_ms);
        let record = self.app.end_price(&caller, price_id, until_ms).await?;
        Ok(Response::new(v1::EndPriceResponse { data: Some(price(&record)) }))
    }

    async fn delete_price(
        &self,
        request: Request<v1::DeletePriceRequest>,
    ) -> Result<Response<v1::DeletePriceResponse>, Status> {
        let caller = caller(&request)?;
        let price_id: PriceId = id("id", &request.into_inner().id)?;
        self.app.withdraw_price(&caller, price_id).await?;
        Ok(Response::new(v1::DeletePriceResponse { deleted: true }))
    }

    async fn resolve_price(
        &self,
        request: Request<v1::ResolvePriceRequest>,
    ) -> Result<Response<v1::ResolvePriceResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let at_ms = wanted.at.as_ref().map(unix_ms);
        let names = (wanted.provider.as_str(), wanted.model.as_str());
        let found = self.app.resolve_price(&caller, names, at_ms).await?;
        Ok(Response::new(v1::ResolvePriceResponse { data: Some(resolution(names, &found)) }))
    }

    async fn get_unpriced_policy(
        &self,
        request: Request<v1::GetUnpricedPolicyRequest>,
    ) -> Result<Response<v1::GetUnpricedPolicyResponse>, Status> {
        let hold = self.app.unpriced_hold(&caller(&request)?).await?;
        let hold_microdollars = hold.map(Nanos::microdollars_half_up);
        let data = Some(v1::UnpricedPolicy { hold_microdollars });
        Ok(Response::new(v1::GetUnpricedPolicyResponse { data }))
    }

    async fn set_unpriced_policy(
        &self,
        request: Request<v1::SetUnpricedPolicyRequest>,
    ) -> Result<Response<v1::SetUnpricedPolicyResponse>, Status> {
        let caller = caller(&request)?;
        let hold_microdollars = request.into_inner().hold_microdollars;
        self.app.set_unpriced_hold(&caller, hold_microdollars).await?;
        let data = Some(v1::UnpricedPolicy { hold_microdollars });
        Ok(Response::new(v1::SetUnpricedPolicyResponse { data }))
    }

    async fn rerate_events(
        &self,
        request: Request<v1::RerateEventsRequest>,
    ) -> Result<Response<v1::RerateEventsResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let rerate = rerate(wanted)?;
        // In a task of its own: the ledger hears of an adjustment before it is stored, and a caller who leaves in
        // between must not stop that half way.
        let app = Arc::clone(&self.app);
        let rerating = tokio::spawn(async move { app.rerate(&caller, rerate).await });
        let report =
            rerating.await.map_err(|_| Status::internal("pricing again was not taken to the end"))??;
        Ok(Response::new(v1::RerateEventsResponse { data: Some(rerated(&report)) }))
    }
}

fn scope_of(scope: v1::PriceScope) -> Result<Option<PriceScope>, AppError> {
    match scope {
        v1::PriceScope::Unspecified => Ok(None),
        v1::PriceScope::Organization => Ok(Some(PriceScope::Organisation)),
        v1::PriceScope::Global => Ok(Some(PriceScope::Global)),
        v1::PriceScope::Catalogue => Err(invalid("scope", "must be organization or global")),
    }
}

fn source_of(source: v1::PriceSource) -> PriceSource {
    match source {
        v1::PriceSource::Unspecified | v1::PriceSource::Operator => PriceSource::Operator,
        v1::PriceSource::Catalogue => PriceSource::Catalogue,
        v1::PriceSource::All => PriceSource::All,
    }
}

/// The place a list goes on from: a row's, or that of a price of the catalogue, which has no time.
fn place(given: Option<v1::Cursor>) -> Result<Option<Cursor>, AppError> {
    match given {
        Some(given) if given.id.parse::<PriceId>().is_err() => {
            let at_ms = given.created_at.as_ref().map(unix_ms).unwrap_or_default();
            Ok(Some(Cursor { at_ms, id: given.id }))
        }
        given => cursor::<PriceId>(given, PriceId::bare),
    }
}

fn next_price(cursor: Cursor) -> v1::Cursor {
    let id = if cursor.at_ms == 0 { cursor.id } else { format!("{}{}", PriceId::PREFIX, cursor.id) };
    v1::Cursor { created_at: Some(timestamp(cursor.at_ms)), id }
}

fn rerate(wanted: v1::RerateEventsRequest) -> Result<RerateRequest, AppError> {
    let at = |field: &str, time: Option<&Timestamp>| {
        time.map(unix_ms).ok_or_else(|| invalid(field, "must be a time like 2026-11-01T00:00:00.000Z"))
    };
    let mut events = Vec::with_capacity(wanted.event_ids.len());
    for (index, text) in wanted.event_ids.iter().enumerate() {
        events.push(id(&format!("eventIds[{index}]"), text)?);
    }
    Ok(RerateRequest {
        from_ms: at("from", wanted.from.as_ref())?,
        until_ms: at("until", wanted.until.as_ref())?,
        provider: wanted.provider,
        model: wanted.model,
        events,
        dry_run: wanted.dry_run.unwrap_or(true),
        reason: wanted.reason,
        cursor: cursor::<AttemptId>(wanted.cursor, AttemptId::bare)?,
    })
}

fn listed(price: &ListedPrice) -> v1::Price {
    match price {
        ListedPrice::Row(record) => self::price(record),
        ListedPrice::Catalogue(priced) => of_catalogue(priced),
    }
}

fn of_catalogue(priced: &Priced) -> v1::Price {
    let (from_ms, until_ms) = priced.span_ms();
    v1::Price {
        id: priced.id().to_owned(),
        version: priced.version().to_owned(),
        scope: v1::PriceScope::Catalogue.into(),
        provider: priced.provider().to_owned(),
        model: priced.model().id().to_owned(),
        effective_from: from_ms.map(timestamp),
        effective_until: until_ms.map(timestamp),
        tiers: priced.tiers().map(|(tier, rates)| terms::tier(tier, rates)).collect(),
        limits: Some(terms::limits(priced.limits())),
        reasoning: Some(priced.model().reasoning()),
        fees_picodollars: terms::fees(priced.fees()),
        modifiers_percent: terms::modifiers(priced.modifiers()),
        ..v1::Price::default()
    }
}

fn price(record: &PriceRecord) -> v1::Price {
    let row = &record.row;
    let terms = &row.terms;
    let scope = if row.org.is_some() { v1::PriceScope::Organization } else { v1::PriceScope::Global };
    v1::Price {
        id: row.id.to_string(),
        version: row.version.to_string(),
        scope: scope.into(),
        provider: terms.provider.clone(),
        model: terms.model.clone(),
        aliases: terms.aliases.clone(),
        patterns: terms.patterns.clone(),
        effective_from: Some(timestamp(row.from_ms)),
        effective_until: row.until_ms.map(timestamp),
        tiers: terms.tiers.iter().map(|(tier, rates)| terms::tier(*tier, rates)).collect(),
        limits: Some(terms::limits_of(terms)),
        reasoning: terms.reasoning,
        fees_picodollars: terms.fees.map(terms::fees).unwrap_or_default(),
        modifiers_percent: terms.modifiers.map(terms::modifiers).unwrap_or_default(),
        reason: record.reason.clone(),
        created_by: Some(record.created_by.clone()),
        created_at: Some(timestamp(record.created_at_ms)),
        updated_at: Some(timestamp(record.updated_at_ms)),
    }
}

fn resolution((provider, model): (&str, &str), found: &Explanation) -> v1::PriceResolution {
    let explanation = match &found.answer {
        Some(priced) => format!("{} answers: {}", priced.id(), way(priced.matched())),
        None => {
            format!("{model:?} of {provider:?} has no price at that time; {}", how_to_add(provider, model))
        }
    };
    v1::PriceResolution {
        priced: found.answer.is_some(),
        explanation,
        price: found.answer.as_ref().map(resolved),
        candidates: found
            .candidates
            .iter()
            .map(|candidate| v1::PriceCandidate {
                price_id: candidate.price_id.clone(),
                version: candidate.version.clone(),
                layer: candidate.layer.as_str().to_owned(),
                matched: candidate.matched.as_str().to_owned(),
                effective_from: candidate.span_ms.0.map(timestamp),
                effective_until: candidate.span_ms.1.map(timestamp),
                verdict: candidate.verdict.as_str().to_owned(),
            })
            .collect(),
    }
}

fn resolved(priced: &Priced) -> v1::ResolvedPrice {
    let (from_ms, until_ms) = priced.span_ms();
    v1::ResolvedPrice {
        id: priced.id().to_owned(),
        version: priced.version().to_owned(),
        matched: priced.matched().as_str().to_owned(),
        provider: priced.provider().to_owned(),
        model: priced.model().id().to_owned(),
        effective_from: from_ms.map(timestamp),
        effective_until: until_ms.map(timestamp),
        tiers: priced.tiers().map(|(tier, rates)| terms::tier(tier, rates)).collect(),
        limits: Some(terms::limits(priced.limits())),
        fees_picodollars: terms::fees(priced.fees()),
        modifiers_percent: terms::modifiers(priced.modifiers()),
    }
}

/// How a name led to a row.
fn way(how: Match) -> &'static str {
    match how {
        Match::Exact => "the name is its model's id or one of its aliases",
        Match::Pattern => "the name fits one of its patterns",
        Match::Snapshot => "nothing lists this snapshot, so its base model's price holds",
        Match::FineTune => "a fine-tune has its base model's price, and its costs are marked as estimated",
    }
}

fn rerated(report: &RerateReport) -> v1::Rerating {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    v1::Rerating {
        dry_run: report.dry_run,
        examined: count(report.examined),
        adjusted: count(report.adjusted),
        before_nanodollars: report.before.0,
        after_nanodollars: report.after.0,
        difference_nanodollars: (report.after - report.before).0,
        difference_microdollars: (report.after - report.before).microdollars_half_up(),
        skipped: report.skipped.iter().map(|(reason, of)| ((*reason).to_owned(), count(*of))).collect(),
        sample: report.sample.iter().map(line).collect(),
        cursor: report.cursor.as_ref().map(next),
    }
}

fn line(rerated: &Rerated) -> v1::RerateLine {
    v1::RerateLine {
        event_id: rerated.event.to_string(),
        adjustment_id: rerated.adjustment.map(|id| id.to_string()),
        model: rerated.model.clone(),
        before_nanodollars: rerated.before.0,
        after_nanodollars: rerated.after.0,
        price_id: rerated.price.0.clone(),
        price_version: rerated.price.1.clone(),
    }
}

fn next(cursor: &Cursor) -> v1::Cursor {
    v1::Cursor {
        created_at: Some(timestamp(cursor.at_ms)),
        id: format!("{}{}", AttemptId::PREFIX, cursor.id),
    }
}
