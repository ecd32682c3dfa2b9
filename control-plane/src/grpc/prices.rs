//! `PriceService`.

use std::collections::BTreeMap;

use nullspend_core::{
    id::{AttemptId, PriceId},
    money::Nanos,
    price::{Above, Candidate, Class, Fees, Limits, Match, Priced, Rates, Terms, Tier, TierRates},
};
use nullspend_proto::v1::{self, price_service_server::PriceService};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{id, invalid, timestamp, unix_ms},
    status::caller,
};
use crate::{
    app::{AppError, NewPrice, PriceFilter, PriceScope, RerateReport, RerateRequest},
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
        let filter =
            PriceFilter { scope: scope_of(wanted.scope()), provider: wanted.provider, model: wanted.model };
        let records = self.app.list_prices(&caller, &filter).await?;
        Ok(Response::new(v1::ListPricesResponse { data: records.iter().map(price).collect() }))
    }

    async fn create_price(
        &self,
        request: Request<v1::CreatePriceRequest>,
    ) -> Result<Response<v1::CreatePriceResponse>, Status> {
        let caller = caller(&request)?;
        let record = self.app.create_price(&caller, new_price(request.into_inner())?).await?;
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
        let name = (wanted.provider.as_str(), wanted.model.as_str());
        let at_ms = wanted.at.as_ref().map(unix_ms);
        let found = self.app.resolve_price(&caller, name, at_ms).await?;
        let explanation = match &found.answer {
            Some(priced) => told(priced),
            None => how_to_price(&wanted.provider, &wanted.model),
        };
        let data = v1::PriceResolution {
            priced: found.answer.is_some(),
            explanation,
            price: found.answer.as_ref().map(resolved),
            candidates: found.candidates.iter().map(candidate).collect(),
        };
        Ok(Response::new(v1::ResolvePriceResponse { data: Some(data) }))
    }

    async fn get_unpriced_policy(
        &self,
        request: Request<v1::GetUnpricedPolicyRequest>,
    ) -> Result<Response<v1::GetUnpricedPolicyResponse>, Status> {
        let hold = self.app.unpriced_hold(&caller(&request)?).await?;
        Ok(Response::new(v1::GetUnpricedPolicyResponse { data: Some(unpriced(hold)) }))
    }

    async fn set_unpriced_policy(
        &self,
        request: Request<v1::SetUnpricedPolicyRequest>,
    ) -> Result<Response<v1::SetUnpricedPolicyResponse>, Status> {
        let caller = caller(&request)?;
        let hold = self.app.set_unpriced_hold(&caller, request.into_inner().hold_microdollars).await?;
        Ok(Response::new(v1::SetUnpricedPolicyResponse { data: Some(unpriced(hold)) }))
    }

    async fn rerate_events(
        &self,
        request: Request<v1::RerateEventsRequest>,
    ) -> Result<Response<v1::RerateEventsResponse>, Status> {
        let caller = caller(&request)?;
        let request = rerate_request(request.into_inner())?;
        // In a task of its own: the ledger hears of an adjustment before it is stored, and a caller who leaves in
        // between must not stop that half way.
        let app = std::sync::Arc::clone(&self.app);
        let rerating = tokio::spawn(async move { app.rerate(&caller, request).await });
        let report =
            rerating.await.map_err(|_| Status::internal("pricing again was not taken to the end"))??;
        Ok(Response::new(v1::RerateEventsResponse { data: Some(rerating_of(report)) }))
    }
}

fn scope_of(scope: v1::PriceScope) -> Option<PriceScope> {
    match scope {
        v1::PriceScope::Unspecified => None,
        v1::PriceScope::Organization => Some(PriceScope::Organisation),
        v1::PriceScope::Global => Some(PriceScope::Global),
    }
}

fn new_price(request: v1::CreatePriceRequest) -> Result<NewPrice, AppError> {
    let mut tiers = BTreeMap::new();
    for (index, tier) in request.tiers.iter().enumerate() {
        let field = |name: &str| format!("tiers[{index}].{name}");
        let name = Tier::parse(&tier.tier).ok_or_else(|| {
            let all = Tier::ALL.map(Tier::as_str).join(", ");
            invalid(&field("tier"), format!("must be one of {all}"))
        })?;
        let rates =
            rates(&field("picodollarsPerToken"), &tier.picodollars_per_token, &tier.usd_per_million_tokens)?;
        let above = tier.above.as_ref().map(|above| above_of(&field("above"), above)).transpose()?;
        if tiers.insert(name, TierRates { rates, above }).is_some() {
            return Err(invalid(&field("tier"), "must be given once"));
        }
    }
    let limits = request.limits.unwrap_or_default();
    let terms = Terms {
        provider: request.provider,
        model: request.model,
        aliases: request.aliases,
        patterns: request.patterns,
        tiers,
        context: limit("limits.context", limits.context)?,
        max_input: limit("limits.maxInput", limits.max_input)?,
        max_output: limit("limits.maxOutput", limits.max_output)?,
        image_tokens: limit("limits.imageTokens", limits.image_tokens)?,
        reasoning: request.reasoning,
        fees: fees(&request.fees_picodollars)?,
        modifiers: None,
    };
    Ok(NewPrice {
        scope: scope_of(v1::PriceScope::try_from(request.scope).unwrap_or_default())
            .unwrap_or(PriceScope::Organisation),
        from_ms: request.effective_from.as_ref().map(unix_ms),
        until_ms: request.effective_until.as_ref().map(unix_ms),
        terms,
        reason: request.reason,
    })
}

fn above_of(field: &str, above: &v1::LongContextPrice) -> Result<Above, AppError> {
    let tokens = u64::try_from(above.tokens).map_err(|_| invalid(field, "must have tokens of 1 or more"))?;
    Ok(Above { tokens, rates: rates(field, &above.picodollars_per_token, &above.usd_per_million_tokens)? })
}

/// Rates in either of their two writings.
fn rates(
    field: &str,
    pico: &std::collections::BTreeMap<String, i64>,
    usd: &std::collections::BTreeMap<String, String>,
) -> Result<Rates, AppError> {
    if pico.is_empty() == usd.is_empty() {
        return Err(invalid(field, "must be given, or usdPerMillionTokens instead, not both"));
    }
    let mut rates = Rates::default();
    let mut set = |name: &str, rate: Option<u64>| {
        let class = Class::parse(name).ok_or_else(|| {
            let all = Class::ALL.map(Class::as_str).join(", ");
            invalid(&format!("{field}.{name}"), format!("is no token class; write one of {all}"))
        })?;
        let rate = rate.ok_or_else(|| {
            let rule = "must be dollars per million tokens of 0 or more, with at most six decimals";
            invalid(&format!("{field}.{name}"), rule)
        })?;
        rates.set(class, rate);
        Ok::<(), AppError>(())
    };
    for (name, rate) in pico {
        set(name, u64::try_from(*rate).ok())?;
    }
    for (name, text) in usd {
        set(name, pico_of_usd(text))?;
    }
    Ok(rates)
}

/// Dollars per million tokens are micro-dollars per token: six decimals are whole pico-dollars.
fn pico_of_usd(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() || !digits(whole) || fraction.len() > 6 || !digits(fraction) {
        return None;
    }
    let millionths: u64 = format!("{fraction:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(millionths)
}

fn usd_of_pico(pico: u64) -> String {
    let (whole, rest) = (pico / 1_000_000, pico % 1_000_000);
    if rest == 0 {
        return whole.to_string();
    }
    format!("{whole}.{rest:06}").trim_end_matches('0').to_owned()
}

fn limit(field: &str, tokens: Option<i64>) -> Result<Option<u64>, AppError> {
    tokens
        .map(|tokens| {
            u64::try_from(tokens)
                .ok()
                .filter(|tokens| *tokens > 0)
                .ok_or_else(|| invalid(field, "must be 1 or more"))
        })
        .transpose()
}

fn fees(given: &std::collections::BTreeMap<String, i64>) -> Result<Option<Fees>, AppError> {
    if given.is_empty() {
        return Ok(None);
    }
    let map: serde_json::Map<String, serde_json::Value> =
        given.iter().map(|(name, fee)| (name.clone(), (*fee).into())).collect();
    let fees = serde_json::from_value(map.into());
    fees.map(Some).map_err(|error| invalid("feesPicodollars", format!("cannot be used: {error}")))
}

fn price(record: &PriceRecord) -> v1::Price {
    let (row, terms) = (&record.row, &record.row.terms);
    let limits = Limits {
        context: terms.context,
        max_input: terms.max_input,
        max_output: terms.max_output,
        image_tokens: terms.image_tokens,
    };
    v1::Price {
        id: row.id.to_string(),
        version: i32::try_from(row.version).unwrap_or(i32::MAX),
        scope: if row.org.is_some() { v1::PriceScope::Organization } else { v1::PriceScope::Global }.into(),
        provider: terms.provider.clone(),
        model: terms.model.clone(),
        aliases: terms.aliases.clone(),
        patterns: terms.patterns.clone(),
        effective_from: Some(timestamp(row.from_ms)),
        effective_until: row.until_ms.map(timestamp),
        tiers: terms.tiers.iter().map(|(tier, rates)| price_tier(*tier, rates)).collect(),
        limits: Some(model_limits(limits)),
        reasoning: terms.reasoning,
        fees_picodollars: terms.fees.map(fee_map).unwrap_or_default(),
        reason: record.reason.clone(),
        created_by: record.created_by.clone(),
        created_at: Some(timestamp(record.created_at_ms)),
        updated_at: Some(timestamp(record.updated_at_ms)),
    }
}

fn price_tier(tier: Tier, rates: &TierRates) -> v1::PriceTier {
    v1::PriceTier {
        tier: tier.as_str().to_owned(),
        picodollars_per_token: pico_map(&rates.rates),
        usd_per_million_tokens: usd_map(&rates.rates),
        above: rates.above.as_ref().map(|above| v1::LongContextPrice {
            tokens: signed(above.tokens),
            picodollars_per_token: pico_map(&above.rates),
            usd_per_million_tokens: usd_map(&above.rates),
        }),
    }
}

fn pico_map(rates: &Rates) -> std::collections::BTreeMap<String, i64> {
    rates.iter().map(|(class, rate)| (class.as_str().to_owned(), signed(rate))).collect()
}

fn usd_map(rates: &Rates) -> std::collections::BTreeMap<String, String> {
    rates.iter().map(|(class, rate)| (class.as_str().to_owned(), usd_of_pico(rate))).collect()
}

fn fee_map(fees: Fees) -> std::collections::BTreeMap<String, i64> {
    fees.named().filter(|(_, fee)| *fee > 0).map(|(name, fee)| (name.to_owned(), signed(fee))).collect()
}

fn model_limits(limits: Limits) -> v1::ModelLimits {
    v1::ModelLimits {
        context: limits.context.map(signed),
        max_input: limits.max_input.map(signed),
        max_output: limits.max_output.map(signed),
        image_tokens: limits.image_tokens.map(signed),
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn matched(how: Match) -> &'static str {
    match how {
        Match::Exact => "exact",
        Match::Pattern => "pattern",
        Match::Snapshot => "snapshot",
        Match::FineTune => "fine_tune",
    }
}

fn resolved(priced: &Priced) -> v1::ResolvedPrice {
    let (from_ms, until_ms) = priced.span_ms();
    v1::ResolvedPrice {
        id: priced.id().to_owned(),
        version: priced.version().to_owned(),
        matched: matched(priced.matched()).to_owned(),
        provider: priced.provider().to_owned(),
        model: priced.model().id().to_owned(),
        effective_from: from_ms.map(timestamp),
        effective_until: until_ms.map(timestamp),
        tiers: priced.tiers().map(|(tier, rates)| price_tier(tier, rates)).collect(),
        limits: Some(model_limits(priced.limits())),
        fees_picodollars: fee_map(priced.fees()),
    }
}

fn candidate(found: &Candidate) -> v1::PriceCandidate {
    v1::PriceCandidate {
        price_id: found.price_id.clone(),
        version: found.version.clone(),
        layer: found.layer.as_str().to_owned(),
        matched: matched(found.matched).to_owned(),
        effective_from: found.span_ms.0.map(timestamp),
        effective_until: found.span_ms.1.map(timestamp),
        verdict: found.verdict.as_str().to_owned(),
    }
}

/// Why a row answers, in a sentence.
fn told(priced: &Priced) -> String {
    let way = match priced.matched() {
        Match::Exact => "the name is its id or one of its aliases",
        Match::Pattern => "the name fits one of its patterns",
        Match::Snapshot => "nothing lists this snapshot, so its base model's price holds",
        Match::FineTune => "a fine-tune has its base model's price, and its costs are marked as estimated",
    };
    format!("{} answers: {way}", priced.id())
}

/// What to do about a model without a price.
fn how_to_price(provider: &str, model: &str) -> String {
    format!(
        "{provider} has no price for {model} at that time: calls are refused with invalid_model, or held flat where the \
         organisation chose so. POST /api/prices adds one, e.g. {{\"provider\":\"{provider}\",\"model\":\"{model}\",\
         \"tiers\":[{{\"tier\":\"standard\",\"usdPerMillionTokens\":{{\"input\":\"1\",\"output\":\"2\"}}}}]}}"
    )
}

fn unpriced(hold: Option<Nanos>) -> v1::UnpricedPolicy {
    v1::UnpricedPolicy { hold_microdollars: hold.map(Nanos::microdollars_half_up) }
}

fn rerate_request(request: v1::RerateEventsRequest) -> Result<RerateRequest, AppError> {
    let cursor = request.cursor.as_deref().map(read_cursor).transpose()?;
    let at = |field: &str, time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .map(unix_ms)
            .ok_or_else(|| invalid(field, "must be an instant such as 2026-11-01T00:00:00Z"))
    };
    Ok(RerateRequest {
        from_ms: at("from", &request.from)?,
        until_ms: at("until", &request.until)?,
        provider: request.provider,
        model: request.model,
        dry_run: request.dry_run.unwrap_or(true),
        reason: request.reason,
        cursor,
    })
}

fn read_cursor(text: &str) -> Result<Cursor, AppError> {
    let bad = || invalid("cursor", "must be the cursor of the last answer");
    let (at_ms, id) = text.split_once(':').ok_or_else(bad)?;
    let id: AttemptId = id.parse().map_err(|_| bad())?;
    Ok(Cursor { at_ms: at_ms.parse().map_err(|_| bad())?, id: id.bare() })
}

fn rerating_of(report: RerateReport) -> v1::Rerating {
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let line = |line: crate::app::Rerated| v1::RerateLine {
        event_id: line.event.to_string(),
        adjustment_id: line.adjustment.map(|id| id.to_string()),
        model: line.model,
        before_nanodollars: line.before.0,
        after_nanodollars: line.after.0,
        price_id: line.price.0,
        price_version: line.price.1,
    };
    v1::Rerating {
        dry_run: report.dry_run,
        examined: count(report.examined),
        adjusted: count(report.adjusted),
        before_nanodollars: report.before.0,
        after_nanodollars: report.after.0,
        difference_nanodollars: (report.after - report.before).0,
        skipped: report.skipped.into_iter().map(|(reason, n)| (reason.to_owned(), count(n))).collect(),
        sample: report.sample.into_iter().map(line).collect(),
        cursor: report.cursor.map(|cursor| format!("{}:{}", cursor.at_ms, cursor.id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_per_million_tokens_are_read_exactly_or_refused() {
        for (text, pico) in
            [("2.50", 2_500_000), ("0", 0), ("0.000001", 1), ("0.1375", 137_500), ("10", 10_000_000)]
        {
            assert_eq!(pico_of_usd(text), Some(pico), "{text}");
            assert_eq!(pico_of_usd(&usd_of_pico(pico)), Some(pico), "{text}");
        }
        for text in ["", ".5", "-1", "1e3", "0.0000001", "1,5", "99999999999999999999"] {
            assert_eq!(pico_of_usd(text), None, "{text}");
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_given() {
        let id = "0193a6ab-0000-7000-8000-000000000001";
        let cursor = read_cursor(&format!("5:{id}")).unwrap();
        assert_eq!((cursor.at_ms, cursor.id.as_str()), (5, id));
        assert!(read_cursor("x").is_err() && read_cursor("5:x").is_err());
    }
}
