//! A model with its price at an instant.

use std::{fmt, sync::Arc};

use super::{Fees, Layer, Limits, Lookup, Match, Model, Modifiers, Prices, Tier, TierRates, model::Period};
use crate::id::OrgId;

/// A model with its price at an instant; cheap to clone.
#[derive(Clone)]
pub struct Priced {
    pub(super) prices: Prices,
    pub(super) org: Option<OrgId>,
    pub(super) model: Arc<Model>,
    /// Place of the period among the model's.
    pub(super) period: usize,
    pub(super) at_ms: i64,
    pub(super) layer: Layer,
    pub(super) matched: Match,
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
    pub fn flat(provider: &str, id: &str, standard: TierRates) -> Self {
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
            row_version: None,
        });
        let (layer, matched) = (Layer::Global, Match::Exact);
        Self { prices: Prices::default(), org: None, model, period: 0, at_ms: 0, layer, matched }
    }

    /// The price row: `openai/gpt-4o` of the catalogue, `ns_prc_…` of an operator.
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

    /// Version of the row, which is the catalogue's where the row is.
    #[must_use]
    pub fn version(&self) -> &str {
        self.model.row_version.as_deref().unwrap_or_else(|| self.prices.catalogue().version())
    }

    /// Whose row it is.
    #[must_use]
    pub fn layer(&self) -> Layer {
        self.layer
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
        self.model.periods.get(self.period).map(Period::standard).unwrap_or_default()
    }

    /// Every tier offered at that instant.
    pub fn tiers(&self) -> impl Iterator<Item = (Tier, &TierRates)> {
        self.model
            .periods
            .get(self.period)
            .into_iter()
            .flat_map(|period| period.tiers.iter().map(|(t, r)| (*t, r)))
    }

    /// Since and until when the price holds, in Unix milliseconds; `None` is open.
    #[must_use]
    pub fn span_ms(&self) -> (Option<i64>, Option<i64>) {
        self.model.periods.get(self.period).map_or((None, None), |period| (period.from_ms, period.until_ms))
    }

    /// Another model of the same provider at the same instant, for the same caller: advisors and fallbacks have their
    /// own price.
    #[must_use]
    pub fn sibling(&self, model: &str) -> Lookup {
        self.prices.lookup(self.org, &self.model.provider, model, self.at_ms)
    }
}
