//! Normalised usage, and the lenient reading of counts.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::price::Tier;

use super::{Counts, Dialect, Iteration, ToolCalls, Vendor, gemini, messages, openai};

/// What a call used, in disjoint classes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens by class.
    pub counts: Counts,
    /// All of the prompt; it chooses the long-context band.
    pub prompt: u64,
    /// Output tokens that were reasoning.
    pub reasoning: u64,
    /// Hosted tools that cost a fee.
    pub tools: ToolCalls,
    /// The service tier that was served, as far as prices know it.
    pub tier: ServedTier,
    /// Anthropic fast mode was used.
    pub fast: bool,
    /// Processed in the United States at the caller's wish (Anthropic).
    pub geo_us: bool,
    /// Several model calls, each priced by its own; `counts` is then not priced.
    pub iterations: Vec<Iteration>,
    /// The provider's own price in pico-dollars.
    pub reported_pico: Option<i128>,
    /// Refused before any output: shown, but not billed.
    pub not_billed: bool,
    /// What was odd about it; sorted.
    pub flags: BTreeSet<String>,
}

/// A served tier: known, or a word that no price knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServedTier {
    /// Known.
    Known(Tier),
    /// Billed as standard, and flagged.
    Unknown(String),
}

impl Default for ServedTier {
    fn default() -> Self {
        Self::Known(Tier::Standard)
    }
}

/// What an answer holds beside its usage object that money depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// The tier named in the answer (or in its headers, Gemini).
    pub service_tier: Option<String>,
    /// Hosted tool calls counted from the answer.
    pub tools: ToolCalls,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
    /// The answer has content (Anthropic).
    pub has_content: bool,
    /// The request asked for one-hour caching (Anthropic): the remainder of a split is then billed so.
    pub long_cache: bool,
}

impl Usage {
    /// It counts output, or says why it does not.
    pub(super) fn has_output(&self) -> bool {
        let output = |counts: &Counts| counts.sum(|class| !class.is_input()) > 0;
        self.not_billed || output(&self.counts) || self.iterations.iter().any(|step| output(&step.counts))
    }

    /// Normalises a provider's usage object (`docs/concepts/usage.md`).
    #[must_use]
    pub fn from_raw(dialect: Dialect, vendor: impl Into<Vendor>, raw: &Value, extras: &Extras) -> Self {
        let mut usage = match dialect {
            Dialect::Chat => openai::chat(vendor.into(), raw),
            Dialect::Responses => openai::responses(raw),
            Dialect::Messages => messages::normalise(raw, extras),
            Dialect::Gemini => gemini::normalise(raw),
        };
        if let Some(tier) = &extras.service_tier {
            usage.tier = tier_named(tier);
        }
        let anthropic_searches = usage.tools.web_searches;
        usage.tools = extras.tools.clone();
        usage.tools.web_searches = usage.tools.web_searches.max(anthropic_searches);
        usage
    }
}

impl Usage {
    /// The served tier where it is known, else standard.
    #[must_use]
    pub fn known_tier(&self) -> Tier {
        match &self.tier {
            ServedTier::Known(tier) => *tier,
            ServedTier::Unknown(_) => Tier::Standard,
        }
    }
}

/// The tier behind a provider's word for it.
pub(super) fn tier_named(word: &str) -> ServedTier {
    match word.to_ascii_lowercase().as_str() {
        // Scale and provisioned throughput are capacity bought in advance, at list price per token; auto is what was asked, not what was served.
        ""
        | "default"
        | "standard"
        | "auto"
        | "scale"
        | "standard_only"
        | "on_demand"
        | "provisioned_throughput"
        | "traffic_type_unspecified" => ServedTier::default(),
        "flex" | "on_demand_flex" => ServedTier::Known(Tier::Flex),
        "priority" | "fast" | "on_demand_priority" => ServedTier::Known(Tier::Priority),
        "batch" => ServedTier::Known(Tier::Batch),
        "ultrafast" => ServedTier::Known(Tier::Ultrafast),
        _ => ServedTier::Unknown(word.to_owned()),
    }
}

/// Reads counts leniently: a provider's slip must not lose a charge, and must be seen.
pub(super) struct Reader<'a> {
    raw: &'a Value,
    pub flags: &'a mut BTreeSet<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(raw: &'a Value, flags: &'a mut BTreeSet<String>) -> Self {
        Self { raw, flags }
    }

    /// The value at a path, if it is there and not null.
    pub(super) fn find(&self, path: &[&str]) -> Option<&'a Value> {
        path.iter().try_fold(self.raw, |value, key| value.get(key)).filter(|value| !value.is_null())
    }

    /// A count; 0 when it is missing.
    pub(super) fn count(&mut self, path: &[&str]) -> u64 {
        self.optional(path).unwrap_or(0)
    }

    /// A count, or `None` when it is missing.
    pub(super) fn optional(&mut self, path: &[&str]) -> Option<u64> {
        let value = self.find(path)?;
        Some(read_count(value, path.last().copied().unwrap_or_default(), self.flags))
    }
}

/// Up to here a whole number written with a fraction or an exponent is that number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A count out of a JSON value: whole numbers as they are, negative ones 0, fractions rounded up, digits in a string
/// read, anything else 0; all but the first flagged.
pub(super) fn read_count(value: &Value, name: &str, flags: &mut BTreeSet<String>) -> u64 {
    let mut flag = |what: &str| flags.insert(format!("{what}:{name}"));
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_u64() {
                return whole;
            }
            let number = number.as_f64().unwrap_or(0.0);
            if number < 0.0 {
                flag("negative");
                return 0;
            }
            if number.fract() != 0.0 {
                flag("fraction");
            } else if number > EXACT_MAX {
                flag("inexact");
            }
            // Saturates: beyond 2^64 it is no count of tokens anyway.
            number.ceil() as u64
        }
        Value::String(text) => {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            flag(if digits { "string_number" } else { "malformed" });
            if digits { text.parse().unwrap_or(u64::MAX) } else { 0 }
        }
        Value::Null => 0,
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            flag("malformed");
            0
        }
    }
}

/// Holds numbers, and no other than 0.
pub(super) fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Object(map) => !map.is_empty() && map.values().all(|v| is_zero(v) || v.is_null()),
        Value::Array(_) | Value::String(_) | Value::Bool(_) | Value::Null => false,
    }
}
