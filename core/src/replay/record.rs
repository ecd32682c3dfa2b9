//! One recorded answer: a usage object, or a whole stream of events.

use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use crate::{
    cost::CostContext,
    price::{Above, Class, Rates, TierRates, day},
    usage::{BodyKind, Dialect, Meter, Metered, UsageState},
};

/// A line that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadRecord {
    /// Its id, if it could be read.
    pub id: Value,
    /// What to change.
    pub what: String,
}

/// As written. Members that say nothing about money (notes, what a test vector covers or expects) are passed over.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    id: Value,
    provider: String,
    api: String,
    model: String,
    at: Option<String>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
    sse_base64: Option<String>,
    #[serde(default)]
    request: Option<Value>,
    #[serde(default)]
    response: Option<Value>,
    #[serde(default)]
    pricing_override: Option<Value>,
    #[serde(default)]
    cost_policy: Option<String>,
}

/// A recorded answer, ready to be metered and priced.
#[derive(Clone, Debug)]
pub struct Record {
    /// Any JSON value of the caller's.
    pub id: Value,
    /// Whose prices.
    pub provider: String,
    /// The model, as requested.
    pub model: String,
    /// When the request started, in Unix milliseconds.
    pub at_ms: i64,
    /// Rates that stand in for the catalogue's, in pico-dollars.
    pub rates: Option<TierRates>,
    /// The provider's own price counts, where it gives one.
    pub provider_reported: bool,
    /// What the request says about the price.
    pub context: CostContext,
    dialect: Dialect,
    kind: BodyKind,
    bytes: Vec<u8>,
    header_tier: Option<String>,
    long_cache: bool,
}

impl Record {
    /// Reads a line.
    ///
    /// # Errors
    /// [`BadRecord`] says what to change.
    pub fn read(line: &str, now_ms: i64) -> Result<Self, BadRecord> {
        let line: Line<'_> = serde_json::from_str(line).map_err(|error| BadRecord {
            id: id_of(line),
            what: format!("not a line of recorded usage: {error}"),
        })?;
        let id = line.id.clone();
        Self::understand(line, now_ms).map_err(|what| BadRecord { id, what })
    }

    fn understand(line: Line<'_>, now_ms: i64) -> Result<Self, String> {
        let dialect = Dialect::parse(&line.api).ok_or_else(|| {
            format!("api is {:?}; write chat.completions, responses, messages or generateContent", line.api)
        })?;
        let at_ms = at_ms(line.at.as_deref(), now_ms)?;
        let provider_reported = match line.cost_policy.as_deref() {
            // OpenRouter sells many providers' models at prices of its own, and says what each call cost.
            None => line.provider == "openrouter",
            Some("" | "catalogue") => false,
            Some("provider_reported") => true,
            Some(other) => {
                return Err(format!(
                    "cost_policy is {other:?}; write provider_reported or catalogue, or leave it out"
                ));
            }
        };
        let response = line.response.unwrap_or_default();
        let (kind, bytes) = match (&line.sse_base64, line.usage) {
            (Some(_), Some(_)) => return Err("give usage or sse_base64, not both".to_owned()),
            (Some(text), None) => (BodyKind::Sse, base64(text)?),
            (None, usage) => (BodyKind::Json, body(dialect, usage, &response)),
        };
        let request = line.request.unwrap_or_default();
        let sse = kind == BodyKind::Sse;
        Ok(Self {
            rates: line.pricing_override.as_ref().map(own_price).transpose()?,
            context: context(dialect, &request, &response),
            // In a plain answer the tier stands in the body; a stream's own events name it.
            header_tier: header_tier(dialect, &response, sse),
            long_cache: asks_for_long_cache(&request),
            id: line.id,
            provider: line.provider,
            model: line.model,
            at_ms,
            provider_reported,
            dialect,
            kind,
            bytes,
        })
    }

    /// The recorded bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Meters the answer, fed in pieces that end at these offsets: any cutting gives the same.
    #[must_use]
    pub fn meter(&self, cuts: &[usize]) -> Metered {
        let mut meter =
            Meter::new(self.dialect, self.provider.as_str(), self.kind).with_long_cache(self.long_cache);
        if let Some(tier) = &self.header_tier {
            meter.header_tier(tier);
        }
        let mut rest = &self.bytes[..];
        let mut from = 0;
        for cut in cuts {
            let (piece, tail) = rest.split_at((cut - from).min(rest.len()));
            meter.push(piece);
            (rest, from) = (tail, *cut);
        }
        meter.push(rest);
        let mut metered = meter.finish();
        if self.kind == BodyKind::Json && metered.usage.is_some() {
            // Recorded by itself, it is all there is, whatever answer is told beside it.
            metered.usage_state = UsageState::Final;
        }
        metered
    }
}

fn id_of(line: &str) -> Value {
    let value: Option<Value> = serde_json::from_str(line).ok();
    value.and_then(|value| value.get("id").cloned()).unwrap_or_default()
}

/// An instant as RFC 3339, UTC where it names no zone; or a day, which begins at 00:00 UTC.
pub(super) fn at_ms(text: Option<&str>, now_ms: i64) -> Result<i64, String> {
    let Some(text) = text else { return Ok(now_ms) };
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.as_millisecond());
    }
    if let Ok(at) = text.parse::<jiff::civil::DateTime>()
        && let Ok(at) = at.to_zoned_datetime(jiff::tz::TimeZone::UTC)
    {
        return Ok(at.timestamp().as_millisecond());
    }
    day(text).map_err(|_| format!("at is {text:?}; write an instant such as 2026-11-23T12:00:00Z"))
}

fn base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| format!("sse_base64 is not standard base64: {error}"))
}

/// The plain answer that had this usage, and whatever else is known of it.
fn body(dialect: Dialect, usage: Option<&RawValue>, response: &Value) -> Vec<u8> {
    let mut body: Map<String, Value> = response.as_object().cloned().unwrap_or_default();
    let name = if dialect == Dialect::Gemini {
        let grounding = body.remove("groundingMetadata").unwrap_or_default();
        body.entry("candidates")
            .or_insert_with(|| json!([{ "finishReason": "STOP", "groundingMetadata": grounding }]));
        "usageMetadata"
    } else {
        "usage"
    };
    body.remove(name);
    let rest = Value::Object(body).to_string();
    let usage = usage.map_or("null", RawValue::get);
    let comma = if rest == "{}" { "" } else { "," };
    // The usage's own text: a number that 64 bits cannot hold must reach the reader as it was written.
    format!("{{\"{name}\":{usage}{comma}{}", &rest[1..]).into_bytes()
}

fn context(dialect: Dialect, request: &Value, response: &Value) -> CostContext {
    let text = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let host = text(request, "host");
    let window = request.pointer("/background_options/completion_window");
    let window = window.or_else(|| request.get("completion_window")).and_then(Value::as_str);
    let window = window.unwrap_or_default().trim_end_matches('h').parse().ok();
    // Responses repeat the tools that were offered.
    let mut tools = [request, response].into_iter().filter_map(|side| side["tools"].as_array()).flatten();
    let preview =
        |tool: &Value| tool["type"].as_str().is_some_and(|kind| kind.starts_with("web_search_preview"));
    CostContext {
        batch: request["processing"] == "batch",
        decisions: text(response, "model_endpoint").ends_with("/decisions")
            || text(request, "endpoint").ends_with("/decisions"),
        regional_host: host.contains(".api.openai.com"),
        completion_window_h: window,
        web_search_preview: tools.any(preview),
        // A record that does not show the request shows no search either.
        chat_search: dialect == Dialect::Chat && request["web_search_options"].is_object(),
        tool_definition_tokens: 0,
    }
}

/// The tier that a response's headers name (Gemini), or that is known of a stream beside its events.
fn header_tier(dialect: Dialect, response: &Value, sse: bool) -> Option<String> {
    let header = response.pointer("/headers/x-gemini-service-tier").and_then(Value::as_str);
    let beside = response["service_tier"].as_str().filter(|_| sse || dialect == Dialect::Gemini);
    header.or(beside).map(str::to_owned)
}

/// A `ttl` of an hour anywhere in the request.
fn asks_for_long_cache(request: &Value) -> bool {
    match request {
        Value::Object(members) => {
            members.iter().any(|(name, value)| name == "ttl" && value == "1h" || asks_for_long_cache(value))
        }
        Value::Array(items) => items.iter().any(asks_for_long_cache),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// `{"rates": {…}}`, and where the price has a long-context band
/// `"long_context": {"threshold_tokens", "comparison": ">" or ">=", "rates": {…}}`.
fn own_price(price: &Value) -> Result<TierRates, String> {
    let band = &price["long_context"];
    let above = if band.is_null() { None } else { Some(own_band(band)?) };
    Ok(TierRates { rates: rates(price)?, above })
}

fn own_band(band: &Value) -> Result<Above, String> {
    let threshold = band["threshold_tokens"].as_u64();
    let threshold =
        threshold.ok_or("pricing_override: long_context needs threshold_tokens, a whole number")?;
    let tokens = match band["comparison"].as_str() {
        None | Some(">") => threshold,
        Some(">=") => threshold.saturating_sub(1),
        Some(other) => return Err(format!("pricing_override: comparison is {other:?}; write > or >=")),
    };
    Ok(Above { tokens, rates: rates(band)? })
}

/// `{class: nano-dollars per token}`; up to three decimals.
fn rates(price: &Value) -> Result<Rates, String> {
    let listed =
        price["rates"].as_object().ok_or("pricing_override needs rates, an object of token classes")?;
    let mut rates = Rates::default();
    for (name, value) in listed {
        let class =
            Class::parse(name).ok_or_else(|| format!("pricing_override: {name:?} is no token class"))?;
        let pico = pico(value).ok_or_else(|| {
            format!("pricing_override: {name} is {value}; write nano-dollars per token, with at most three decimals")
        })?;
        rates.set(class, pico);
    }
    Ok(rates)
}

/// Pico-dollars of a decimal number of nano-dollars, exactly or not at all.
fn pico(nanos: &Value) -> Option<u64> {
    let text = match nanos {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> BadRecord {
        Record::read(line, 0).map(|_| ()).unwrap_err()
    }

    #[test]
    fn a_line_that_cannot_be_used_says_what_to_change() {
        assert!(refused("{").what.contains("not a line of recorded usage"));
        let line = r#"{"id":7,"provider":"openai","api":"soap","model":"m","usage":{}}"#;
        assert_eq!(
            (refused(line).id, refused(line).what.contains("write chat.completions")),
            (json!(7), true)
        );
        let missing = refused(r#"{"id":"a","api":"messages","model":"m"}"#);
        assert_eq!((missing.id, missing.what.contains("missing field `provider`")), (json!("a"), true));
        let at = r#"{"provider":"openai","api":"messages","model":"m","at":"soon","usage":{}}"#;
        assert!(refused(at).what.contains("write an instant such as"));
        let base = r#"{"provider":"openai","api":"messages","model":"m","sse_base64":"*"}"#;
        assert!(refused(base).what.contains("standard base64"));
    }

    #[test]
    fn rates_are_taken_exactly_or_refused() {
        assert_eq!(pico(&json!(280)), Some(280_000));
        assert_eq!(pico(&json!(62.5)), Some(62_500));
        assert_eq!(pico(&json!("0.125")), Some(125));
        assert_eq!((pico(&json!("0.1255")), pico(&json!(-1)), pico(&json!("1e3"))), (None, None, None));
    }

    #[test]
    fn days_begin_at_midnight_utc() {
        assert_eq!(at_ms(Some("2026-11-23"), 0), at_ms(Some("2026-11-23T00:00:00Z"), 1));
        assert_eq!(at_ms(None, 5), Ok(5));
    }
}
