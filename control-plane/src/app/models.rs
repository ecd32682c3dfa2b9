//! What the price catalogue tells people: providers, and the cheapest models.

use std::collections::{BTreeMap, BTreeSet};

use nullspend_core::{
    id::OrgId,
    price::{Class, Priced, Prices},
};

use super::App;

/// A model with its standard rates, USD per million tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct CheapModel {
    /// Model id.
    pub model: String,
    /// Provider id.
    pub provider: String,
    /// Input rate.
    pub input_per_mtok: f64,
    /// Output rate.
    pub output_per_mtok: f64,
}

/// What models are compared by: input and output rate together (contract §2.10).
pub(super) fn rate(model: &CheapModel) -> f64 {
    model.input_per_mtok + model.output_per_mtok
}

/// Providers that anything is priced for.
pub(super) fn providers_of(prices: &Prices, org: OrgId) -> BTreeSet<&str> {
    prices.providers(Some(org)).collect()
}

impl App {
    /// The cheapest allowed model of each provider.
    pub(super) fn cheapest(
        &self,
        prices: &Prices,
        org: OrgId,
        models: Option<&[String]>,
        providers: Option<&[String]>,
    ) -> BTreeMap<String, CheapModel> {
        let allows =
            |list: Option<&[String]>, name: &str| list.is_none_or(|list| list.iter().any(|x| x == name));
        let now_ms = self.clock.now_ms();
        let mut cheapest: BTreeMap<String, CheapModel> = BTreeMap::new();
        for provider in providers_of(prices, org) {
            if !allows(providers, provider) {
                continue;
            }
            let allowed = prices
                .priced_at(Some(org), provider, now_ms)
                .into_iter()
                .filter(|priced| allows(models, priced.model().id()))
                .map(|priced| cheap_model(&priced));
            if let Some(model) = allowed.min_by(|a, b| rate(a).total_cmp(&rate(b))) {
                cheapest.insert(provider.to_owned(), model);
            }
        }
        cheapest
    }
}

#[expect(clippy::cast_precision_loss, reason = "for display; rates are far below 2^53")]
fn cheap_model(priced: &Priced) -> CheapModel {
    let standard = priced.standard();
    let (rates, _) = standard.band(0);
    // Pico-dollars per token are micro-dollars per million tokens.
    let dollars = |class| rates.billed(class).0 as f64 / 1e6;
    CheapModel {
        model: priced.model().id().to_owned(),
        provider: priced.provider().to_owned(),
        input_per_mtok: dollars(Class::Input),
        output_per_mtok: dollars(Class::Output),
    }
}
