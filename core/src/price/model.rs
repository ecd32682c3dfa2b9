//! A model as prices know it.

use serde::{Deserialize, Serialize};

use super::rates::{Tier, TierRates};

/// What a model accepts and answers at most, in tokens; `None` where nobody publishes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Context window.
    pub context: Option<u64>,
    /// Largest prompt.
    pub max_input: Option<u64>,
    /// Longest answer, reasoning included.
    pub max_output: Option<u64>,
    /// The most one image can be billed as.
    pub image_tokens: Option<u64>,
    /// Where images are billed by tiles of 512 × 512: tokens of an image, and of each of its tiles.
    pub image_tiles: Option<[u64; 2]>,
}

/// Multipliers on all token charges, in percent of the rate; never on fees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Modifiers {
    /// Anthropic `inference_geo: us`.
    pub inference_geo_us: Option<u64>,
    /// OpenAI's regional hosts.
    pub regional_host: Option<u64>,
    /// OpenAI background work within 2 hours.
    pub completion_window_2h: Option<u64>,
    /// OpenAI background work within 8 hours.
    pub completion_window_8h: Option<u64>,
}

impl Modifiers {
    /// Those there are, with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("inference_geo_us", self.inference_geo_us),
            ("regional_host", self.regional_host),
            ("completion_window_2h", self.completion_window_2h),
            ("completion_window_8h", self.completion_window_8h),
        ]
        .into_iter()
        .filter_map(|(name, percent)| Some((name, percent?)))
    }
}

/// Fees in pico-dollars per call; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fees {
    /// One web search.
    pub web_search: u64,
    /// One web search by the preview tool.
    pub web_search_preview: u64,
    /// One file search.
    pub file_search: u64,
    /// One code interpreter container.
    pub code_container: u64,
    /// One prompt grounded by Google search (Gemini 2.x).
    pub grounded_prompt: u64,
    /// One query of grounding (Gemini 3.x).
    pub grounding_query: u64,
    /// One prompt grounded by maps (Gemini 2.x).
    pub maps_prompt: u64,
    /// One maps query (Gemini 3.x).
    pub maps_query: u64,
}

impl Fees {
    /// Every fee with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.all().into_iter()
    }

    pub(crate) fn all(&self) -> [(&'static str, u64); 8] {
        [
            ("web_search", self.web_search),
            ("web_search_preview", self.web_search_preview),
            ("file_search", self.file_search),
            ("code_container", self.code_container),
            ("grounded_prompt", self.grounded_prompt),
            ("grounding_query", self.grounding_query),
            ("maps_prompt", self.maps_prompt),
            ("maps_query", self.maps_query),
        ]
    }
}

/// Prices of one span of time, half-open.
#[derive(Clone, Debug)]
pub(super) struct Period {
    pub(super) from_ms: Option<i64>,
    pub(super) until_ms: Option<i64>,
    /// `Tier::Standard` is always among them, and first.
    pub(super) tiers: Vec<(Tier, TierRates)>,
}

impl Period {
    /// Rates of the standard tier.
    pub(super) fn standard(&self) -> TierRates {
        let standard = self.tiers.iter().find(|(tier, _)| *tier == Tier::Standard);
        standard.map(|(_, rates)| *rates).unwrap_or_default()
    }

    pub(super) fn holds(&self, at_ms: i64) -> bool {
        self.from_ms.is_none_or(|from| from <= at_ms) && self.until_ms.is_none_or(|until| at_ms < until)
    }
}

/// A model of the catalogue.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) name: String,
    pub(super) provider: String,
    pub(super) id: String,
    pub(super) limits: Limits,
    pub(super) reasoning: bool,
    pub(super) retires: Option<String>,
    pub(super) web_search_block_tokens: u64,
    pub(super) periods: Vec<Period>,
    pub(super) modifiers: Modifiers,
    pub(super) fees: Fees,
    /// Version of the operator's row it is from; `None` for the catalogue's own.
    pub(super) row_version: Option<String>,
}

impl Model {
    /// The name of its price row: `provider/id` in the catalogue, `ns_prc_…` of an operator's.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// The id, without the provider.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// It may think before it answers without showing it.
    #[must_use]
    pub fn reasoning(&self) -> bool {
        self.reasoning
    }

    /// The day the provider retires it, as an ISO date.
    #[must_use]
    pub fn retires(&self) -> Option<&str> {
        self.retires.as_deref()
    }
}
