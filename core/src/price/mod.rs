//! The price catalogue: which rates a model has at an instant.

pub mod rates;

mod file;
mod resolve;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock},
};

use serde::Deserialize;

pub(crate) use file::day;
pub use rates::{Above, Class, Rates, Tier, TierRates};
pub use resolve::Match;

/// A catalogue file that is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not JSON, or not of the catalogue's shape: an unknown field, a rate that is negative or not whole.
    #[error("the price catalogue is not of the expected shape")]
    Shape(#[source] serde_json::Error),
    /// Another schema or unit.
    #[error(
        "the price catalogue says schema `{schema}` and unit `{unit}`; expected `nullspend.prices/1` and `pico_usd`"
    )]
    Schema {
        /// What it says.
        schema: String,
        /// What it says.
        unit: String,
    },
    /// One model's entry is wrong.
    #[error("price catalogue, {model}: {what}")]
    Model {
        /// Provider and id.
        model: String,
        /// What to change.
        what: String,
    },
}

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
}

/// Multipliers on all token charges, in percent of the rate; never on fees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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
    fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
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
    fn all(&self) -> [(&'static str, u64); 8] {
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
struct Period {
    from_ms: Option<i64>,
    until_ms: Option<i64>,
    /// `Tier::Standard` is always among them, and first.
    tiers: Vec<(Tier, TierRates)>,
}

impl Period {
    fn holds(&self, at_ms: i64) -> bool {
        self.from_ms.is_none_or(|from| from <= at_ms) && self.until_ms.is_none_or(|until| at_ms < until)
    }
}

/// A model of the catalogue.
#[derive(Clone, Debug)]
pub struct Model {
    name: String,
    provider: String,
    id: String,
    limits: Limits,
    reasoning: bool,
    retires: Option<String>,
    web_search_block_tokens: u64,
    periods: Vec<Period>,
    modifiers: Modifiers,
    fees: Fees,
}

impl Model {
    /// `provider/id`: the name of its price row.
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

/// All prices of one version; immutable.
#[derive(Debug)]
pub struct Catalogue {
    version: String,
    models: Vec<Arc<Model>>,
    names: HashMap<String, HashMap<String, usize>>,
    patterns: Vec<(String, String, usize)>,
}

/// The answer to a look-up: never a number that could hide a zero (design law 4).
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The model has a price at that instant.
    Priced(Priced),
    /// It has none, or is unknown.
    Unpriced,
}

/// A model with its price at an instant; cheap to clone.
#[derive(Clone)]
pub struct Priced {
    catalogue: Arc<Catalogue>,
    model: Arc<Model>,
    period: usize,
    at_ms: i64,
    matched: Match,
}

static SHIPPED: LazyLock<Arc<Catalogue>> = LazyLock::new(|| {
    // A test parses this very text, so the empty catalogue (everything unpriced, all refused) is never what ships.
    Arc::new(Catalogue::parse(include_str!("../../catalogue/prices.json")).unwrap_or_else(|_| Catalogue {
        version: "unreadable".to_owned(),
        models: Vec::new(),
        names: HashMap::new(),
        patterns: Vec::new(),
    }))
});

impl Catalogue {
    /// The catalogue that comes with the program.
    #[must_use]
    pub fn shipped() -> Arc<Self> {
        Arc::clone(&SHIPPED)
    }

    /// Reads and checks a catalogue file.
    ///
    /// # Errors
    /// [`CatalogueError`] names the entry and what to change.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let parsed = file::parse(text)?;
        Ok(Self {
            version: parsed.version,
            models: parsed.models.into_iter().map(Arc::new).collect(),
            names: parsed.names,
            patterns: parsed.patterns,
        })
    }

    /// Its version, stored with every event it priced.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Every model, priced or not.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.models.iter().map(Arc::as_ref)
    }

    /// Every model of a provider that has a price at `at_ms`.
    pub fn priced_at(self: &Arc<Self>, provider: &str, at_ms: i64) -> impl Iterator<Item = Priced> {
        self.models
            .iter()
            .filter(move |model| model.provider == provider)
            .filter_map(move |model| self.price(model, at_ms, Match::Exact))
    }

    /// The price of `model` at the instant a request started.
    ///
    /// Ids and aliases come first, then anchored patterns; then a fine-tune or a dated snapshot that the catalogue
    /// does not list falls back to its base model (design §9). A leading `provider/` is tolerated.
    #[must_use]
    pub fn lookup(self: &Arc<Self>, provider: &str, model: &str, at_ms: i64) -> Lookup {
        let bare = model.strip_prefix(provider).and_then(|rest| rest.strip_prefix('/')).unwrap_or(model);
        let found = self.find(provider, bare).or_else(|| {
            let base = resolve::fine_tuned(bare)?;
            self.find(provider, base).map(|(index, _)| (index, Match::FineTune))
        });
        found
            .and_then(|(index, matched)| self.price(self.models.get(index)?, at_ms, matched))
            .map_or(Lookup::Unpriced, Lookup::Priced)
    }

    fn find(&self, provider: &str, name: &str) -> Option<(usize, Match)> {
        let names = self.names.get(provider)?;
        if let Some(index) = names.get(name) {
            return Some((*index, Match::Exact));
        }
        let fitting = |(owner, pattern, _): &&(String, String, usize)| {
            owner == provider && resolve::fits(pattern, name)
        };
        if let Some((_, _, index)) = self.patterns.iter().find(fitting) {
            return Some((*index, Match::Pattern));
        }
        names.get(resolve::undated(name)?).map(|index| (*index, Match::Snapshot))
    }

    fn price(self: &Arc<Self>, model: &Arc<Model>, at_ms: i64, matched: Match) -> Option<Priced> {
        let period = model.periods.iter().position(|period| period.holds(at_ms))?;
        Some(Priced { catalogue: Arc::clone(self), model: Arc::clone(model), period, at_ms, matched })
    }
}

impl fmt::Debug for Priced {
    /// Names the price; the catalogue behind it is large.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Priced")
            .field("id", &self.id())
            .field("version", &self.version())
            .finish_non_exhaustive()
    }
}

impl Priced {
    /// A price given by an operator: standard rates only, no limits, no fees.
    #[must_use]
    pub fn flat(provider: &str, id: &str, rates: Rates) -> Self {
        let standard = TierRates { rates, above: None };
        let model = Arc::new(Model {
            name: format!("{provider}/{id}"),
            provider: provider.to_owned(),
            id: id.to_owned(),
            limits: Limits::default(),
            reasoning: false,
            retires: None,
            web_search_block_tokens: 0,
            periods: vec![Period { from_ms: None, until_ms: None, tiers: vec![(Tier::Standard, standard)] }],
            modifiers: Modifiers::default(),
            fees: Fees::default(),
        });
        Self { catalogue: Catalogue::shipped(), model, period: 0, at_ms: 0, matched: Match::Exact }
    }

    /// The price row, e.g. `openai/gpt-4o`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.model.name()
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> &str {
        &self.model.provider
    }

    /// The model's limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.model.limits
    }

    /// Version of the catalogue it is from.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.catalogue.version
    }

    /// How the name led here.
    #[must_use]
    pub fn matched(&self) -> Match {
        self.matched
    }

    /// Multipliers on token charges.
    #[must_use]
    pub fn modifiers(&self) -> Modifiers {
        self.model.modifiers
    }

    /// Fees per call.
    #[must_use]
    pub fn fees(&self) -> Fees {
        self.model.fees
    }

    /// Input tokens billed with every web search, instead of what the search found.
    #[must_use]
    pub fn web_search_block_tokens(&self) -> u64 {
        self.model.web_search_block_tokens
    }

    /// Rates of a tier, if it is offered at that instant.
    #[must_use]
    pub fn tier(&self, tier: Tier) -> Option<&TierRates> {
        self.tiers().find(|(name, _)| *name == tier).map(|(_, rates)| rates)
    }

    /// Rates of the standard tier.
    #[must_use]
    pub fn standard(&self) -> TierRates {
        let empty = TierRates { rates: Rates::default(), above: None };
        self.tier(Tier::Standard).copied().unwrap_or(empty)
    }

    /// Every tier offered at that instant.
    pub fn tiers(&self) -> impl Iterator<Item = (Tier, &TierRates)> {
        self.model
            .periods
            .get(self.period)
            .into_iter()
            .flat_map(|period| period.tiers.iter().map(|(t, r)| (*t, r)))
    }

    /// Another model of the same provider at the same instant: advisors and fallbacks have their own price.
    #[must_use]
    pub fn sibling(&self, model: &str) -> Lookup {
        self.catalogue.lookup(&self.model.provider, model, self.at_ms)
    }
}

#[cfg(test)]
mod tests;
