//! What the price catalogue tells people: providers, and the cheapest models.

use std::collections::{BTreeMap, BTreeSet};

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

impl App {
    /// Provider ids of the price catalogue.
    #[expect(clippy::unused_self, reason = "asks the catalogue once that has landed")]
    pub(super) fn providers(&self) -> BTreeSet<&str> {
        BTreeSet::from(["anthropic", "gemini", "openai"])
    }

    /// The cheapest allowed model of each provider.
    #[expect(clippy::unused_self, reason = "asks the catalogue once that has landed")]
    pub(super) fn cheapest(
        &self,
        _models: Option<&[String]>,
        _providers: Option<&[String]>,
    ) -> BTreeMap<String, CheapModel> {
        BTreeMap::new()
    }
}
