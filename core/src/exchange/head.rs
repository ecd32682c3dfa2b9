//! What a request's headers say: route, caller's key, trace, tags, session, customer (contract §2.1 and §2.3).

use std::collections::BTreeMap;

use crate::{attempt::Api, id::ActionId, policy::KeyIdentity};

/// Longest session id, in characters.
pub const SESSION_MAX_CHARS: usize = 256;
/// Most tags a request carries, not counting an injected `customer`.
pub const TAGS_MAX: usize = 10;
/// The one supported version of the wire contract.
pub const API_VERSION: &str = "2026-04-01";

/// Header names (lower case, as Envoy gives them) and their values.
#[derive(Clone, Default)]
pub struct Headers(pub Vec<(String, Vec<u8>)>);

impl std::fmt::Debug for Headers {
    /// Names only: values may be credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Headers {
    /// The first value of a header, if it is text.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.raw(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of a header.
    #[must_use]
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_slice())
    }

    /// All values of a header that is a list, joined as HTTP allows; what is no text becomes unknown words.
    #[must_use]
    pub fn list(&self, name: &str) -> String {
        let values = self.0.iter().filter(|(n, _)| n == name);
        values.map(|(_, value)| String::from_utf8_lossy(value)).collect::<Vec<_>>().join(",")
    }

    /// Bytes of all names and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// How often a header occurs.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.0.iter().filter(|(n, _)| n == name).count()
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One of the provider APIs.
    Llm(Api),
    /// `GET /health`.
    Health,
    /// `GET /health/ready`.
    Ready,
    /// Anything else: 404 before authentication, a wrong method on a known path included.
    Unknown,
}

/// Finds the route of a method and `:path`.
#[must_use]
pub fn route(method: &str, path: &str) -> Route {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    match (method, path) {
        ("POST", "/v1/chat/completions") => Route::Llm(Api::OpenAiChat),
        ("POST", "/v1/responses") => Route::Llm(Api::OpenAiResponses),
        // The Anthropic SDKs append /v1/messages to a base URL that our own users are told ends in /v1 (contract §0.3-3).
        ("POST", "/v1/messages" | "/v1/v1/messages") => Route::Llm(Api::AnthropicMessages),
        ("GET" | "HEAD", "/health") => Route::Health,
        ("GET" | "HEAD", "/health/ready") => Route::Ready,
        _ => Route::Unknown,
    }
}

/// The trace id: `traceparent`, else `X-NullSpend-Trace-Id` (or the spelling `TraceId`), else `fresh`.
#[must_use]
pub fn trace_id(headers: &Headers, fresh: impl FnOnce() -> String) -> String {
    if let Some(id) = headers.get("traceparent").and_then(trace_of_traceparent) {
        return id.to_owned();
    }
    ["x-nullspend-trace-id", "x-nullspend-traceid"]
        .into_iter()
        .filter_map(|name| headers.get(name))
        .find(|id| is_lower_hex(id, 32))
        .map_or_else(fresh, ToOwned::to_owned)
}

/// W3C: `version-trace-parent-flags`; version `ff` and all-zero ids are invalid.
fn trace_of_traceparent(value: &str) -> Option<&str> {
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let valid = is_lower_hex(version, 2)
        && version != "ff"
        && (version != "00" || parts.next().is_none())
        && is_lower_hex(trace, 32)
        && is_lower_hex(parent, 16)
        && is_lower_hex(flags, 2)
        && trace.bytes().any(|b| b != b'0')
        && parent.bytes().any(|b| b != b'0');
    valid.then_some(trace)
}

fn is_lower_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// `X-NullSpend-Action-Id` (or `ActionId`); anything else counts as absent (contract §2.3).
#[must_use]
pub fn action_id(headers: &Headers) -> Option<ActionId> {
    ["x-nullspend-action-id", "x-nullspend-actionid"]
        .into_iter()
        .filter_map(|name| headers.get(name))
        .find(|value| value.starts_with(ActionId::PREFIX))
        .and_then(|value| value.parse().ok())
}

/// The caller's session.
///
/// # Errors
/// The header is longer than [`SESSION_MAX_CHARS`], untrimmed.
pub fn session_id(headers: &Headers) -> Result<Option<String>, String> {
    let Some(value) = headers.get("x-nullspend-session") else { return Ok(None) };
    if value.chars().count() > SESSION_MAX_CHARS {
        return Err(format!(
            "X-NullSpend-Session is longer than {SESSION_MAX_CHARS} characters; send a shorter id"
        ));
    }
    let trimmed = value.trim();
    Ok((!trimmed.is_empty()).then(|| trimmed.to_owned()))
}

/// Whether a stream ends with its cost in a comment (`X-NullSpend-Stream-Cost: 1`).
///
/// # Errors
/// The header holds anything but `1` or `0`.
pub fn stream_cost(headers: &Headers) -> Result<bool, String> {
    match headers.raw("x-nullspend-stream-cost").map(<[u8]>::trim_ascii) {
        None | Some(b"" | b"0") => Ok(false),
        Some(b"1") => Ok(true),
        Some(_) => Err("X-NullSpend-Stream-Cost must be 1 or 0".to_owned()),
    }
}

/// `X-NullSpend-Finalize: 1`: the caller wants what budgets keep back for final answers.
#[must_use]
pub fn finalize(headers: &Headers) -> bool {
    headers.get("x-nullspend-finalize").is_some_and(|value| value.trim() == "1")
}

/// The contract version of the answer: header, else the key's, else the default; unsupported ones are ignored.
#[must_use]
pub fn version<'a>(headers: &'a Headers, key: &'a KeyIdentity) -> &'a str {
    [headers.get("nullspend-version"), Some(key.api_version.as_str())]
        .into_iter()
        .flatten()
        .find(|version| *version == API_VERSION)
        .unwrap_or(API_VERSION)
}

/// A warning for `X-NullSpend-Warning`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The customer is not 1 to 256 of `[A-Za-z0-9._:-]` and was ignored.
    InvalidCustomer,
    /// Some tags were dropped.
    InvalidTags,
    /// A `soft_block` budget is exceeded.
    BudgetExceeded,
    /// The ledger does not answer; the call is on its budgets' credit.
    OnCredit,
}

impl Warning {
    /// The word of the header.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidCustomer => "invalid_customer",
            Self::InvalidTags => "invalid_tags",
            Self::BudgetExceeded => "budget_exceeded",
            Self::OnCredit => "on_credit",
        }
    }
}

/// Who the spend is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// Effective tags, the resolved customer among them.
    pub tags: BTreeMap<String, String>,
    /// The resolved customer.
    pub customer: Option<String>,
    /// What was ignored on the way.
    pub warnings: Vec<Warning>,
}

/// Resolves tags and customer. The key's default tags come first in the cap of ten, so a caller cannot push them out;
/// locked ones cannot be overridden (design §9).
///
/// # Errors
/// A tag that the key requires is missing; the message names it.
pub fn attribution(headers: &Headers, key: &KeyIdentity) -> Result<Attribution, String> {
    let mut warnings = Vec::new();
    let mut tags = key.default_tags.clone();
    let locked = |name: &str| key.locked_tags.iter().any(|l| l == name);
    let (sent, mut dropped) = headers.raw("x-nullspend-tags").map_or((Vec::new(), false), parse_tags);
    for (name, value) in sent {
        if locked(&name) {
            dropped |= tags.get(&name) != Some(&value);
        } else if tags.contains_key(&name) || tags.len() < TAGS_MAX {
            tags.insert(name, value);
        } else {
            dropped = true;
        }
    }
    if dropped {
        warnings.push(Warning::InvalidTags);
    }
    let customer = resolve_customer(headers, &mut tags, locked("customer"), &mut warnings);
    if let Some(missing) = key.required_tags.iter().find(|name| !tags.contains_key(*name)) {
        return Err(format!(
            "this key requires the tag {missing:?}; send it in X-NullSpend-Tags, e.g. {{\"{missing}\":\"value\"}}"
        ));
    }
    Ok(Attribution { tags, customer, warnings })
}

fn resolve_customer(
    headers: &Headers,
    tags: &mut BTreeMap<String, String>,
    locked: bool,
    warnings: &mut Vec<Warning>,
) -> Option<String> {
    let from_header = headers.raw("x-nullspend-customer").filter(|_| !locked);
    if let Some(raw) = from_header {
        match std::str::from_utf8(raw).ok().map(str::trim).filter(|id| is_customer(id)) {
            Some(id) => {
                tags.insert("customer".to_owned(), id.to_owned());
                return Some(id.to_owned());
            }
            None => warnings.push(Warning::InvalidCustomer),
        }
    }
    let tagged = tags.get("customer")?;
    if is_customer(tagged) {
        return Some(tagged.clone());
    }
    if !warnings.contains(&Warning::InvalidCustomer) {
        warnings.push(Warning::InvalidCustomer);
    }
    None
}

fn is_customer(id: &str) -> bool {
    (1..=256).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// The valid entries in the order sent, and whether anything was dropped.
fn parse_tags(raw: &[u8]) -> (Vec<(String, String)>, bool) {
    let Ok(serde_json::Value::Object(entries)) = serde_json::from_slice(raw) else {
        return (Vec::new(), true);
    };
    let total = entries.len();
    let valid: Vec<_> = entries
        .into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(value) if is_tag(&name, &value) => Some((name, value)),
            _ => None,
        })
        .take(TAGS_MAX)
        .collect();
    let dropped = valid.len() < total;
    (valid, dropped)
}

/// Names `[A-Za-z0-9_-]{1,64}` not beginning with `_ns_`; values of at most 256 characters without NUL.
#[must_use]
pub fn is_tag(name: &str, value: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with("_ns_")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        && value.chars().count() <= 256
        && !value.contains('\0')
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
