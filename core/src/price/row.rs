//! An operator's price: one model, one span of time, for everybody or for one organisation.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Catalogue, Fees, Limits, Model, Modifiers, Tier, TierRates,
    file::{check_fees, check_modifiers, check_patterns, check_tiers},
    model::Period,
};
use crate::id::{OrgId, PriceId};

/// A price row. Its rates never change: a new price is a new row, and a row's end is a new version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRow {
    /// The row.
    pub id: PriceId,
    /// Raised by each change of its end.
    pub version: u32,
    /// Whose it is; `None`: everybody's.
    pub org: Option<OrgId>,
    /// Since when it holds, in Unix milliseconds.
    pub from_ms: i64,
    /// Until when, exclusively; `None`: for ever.
    pub until_ms: Option<i64>,
    /// What it says.
    pub terms: Terms,
}

/// What a row says of its model; the words are those of the catalogue file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Provider id.
    pub provider: String,
    /// Model id.
    pub model: String,
    /// Other exact names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Anchored patterns with one date.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Complete rates by tier; `standard` is required.
    pub tiers: BTreeMap<Tier, TierRates>,
    /// Context window in tokens; absent: that of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
    /// Largest prompt in tokens; absent: that of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input: Option<u64>,
    /// Longest answer in tokens; absent: that of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output: Option<u64>,
    /// The most one image is billed as; absent: that of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_tokens: Option<u64>,
    /// May think without showing it; absent: as the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<bool>,
    /// Fees per call; absent: those of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fees: Option<Fees>,
    /// Multipliers; absent: those of the model below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modifiers: Option<Modifiers>,
}

/// A row, or rows together, that cannot be used; the sentence says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct RowError {
    /// The row at fault, where it is one of several.
    pub row: Option<PriceId>,
    /// The other row, where two do not go together.
    pub other: Option<PriceId>,
    /// What to change.
    pub what: String,
}

impl RowError {
    fn new(what: String) -> Self {
        Self { row: None, other: None, what }
    }
}

impl Terms {
    /// Reads terms as the database and the planes' protocol hold them, and checks them.
    ///
    /// # Errors
    /// [`RowError`] says what to change.
    pub fn parse(json: &str) -> Result<Self, RowError> {
        let terms: Self =
            serde_json::from_str(json).map_err(|error| RowError::new(format!("not a price: {error}")))?;
        terms.check()?;
        Ok(terms)
    }

    /// As the database and the planes' protocol hold them.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Maps of strings and numbers always have a text.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Checks what the catalogue's own entries are checked for.
    ///
    /// # Errors
    /// [`RowError`] says what to change.
    pub fn check(&self) -> Result<(), RowError> {
        for (what, name) in [("provider", &self.provider), ("model", &self.model)] {
            if name.trim().is_empty() || name.len() > 256 {
                return Err(RowError::new(format!("{what} must have 1 to 256 bytes")));
            }
        }
        if self.aliases.iter().any(|alias| alias.trim().is_empty()) {
            return Err(RowError::new("an alias must not be empty".to_owned()));
        }
        check_patterns(&self.patterns)
            .and_then(|()| check_tiers(&self.tiers))
            .and_then(|()| self.fees.as_ref().map_or(Ok(()), check_fees))
            .and_then(|()| self.modifiers.as_ref().map_or(Ok(()), check_modifiers))
            .map_err(RowError::new)
    }
}

impl PriceRow {
    /// Whether both hold at some instant.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.until_ms.is_none_or(|until| other.from_ms < until)
            && other.until_ms.is_none_or(|until| self.from_ms < until)
    }

    fn same_model(&self, other: &Self) -> bool {
        self.terms.provider == other.terms.provider && self.terms.model == other.terms.model
    }

    /// The model it makes of the one below.
    fn model(&self, below: Option<&Model>) -> Model {
        let (terms, limits) = (&self.terms, below.map(Model::limits).unwrap_or_default());
        let period = Period {
            from_ms: Some(self.from_ms),
            until_ms: self.until_ms,
            tiers: terms.tiers.iter().map(|(tier, rates)| (*tier, *rates)).collect(),
        };
        Model {
            name: self.id.to_string(),
            provider: terms.provider.clone(),
            id: terms.model.clone(),
            limits: Limits {
                context: terms.context.or(limits.context),
                max_input: terms.max_input.or(limits.max_input),
                max_output: terms.max_output.or(limits.max_output),
                image_tokens: terms.image_tokens.or(limits.image_tokens),
                // A cap of the operator's own says nothing of tiles.
                image_tiles: limits.image_tiles.filter(|_| terms.image_tokens.is_none()),
            },
            reasoning: terms.reasoning.unwrap_or_else(|| below.is_some_and(Model::reasoning)),
            retires: below.and_then(Model::retires).map(str::to_owned),
            web_search_block_tokens: below.map_or(0, |model| model.web_search_block_tokens),
            periods: vec![period],
            modifiers: terms
                .modifiers
                .unwrap_or_else(|| below.map(|model| model.modifiers).unwrap_or_default()),
            fees: terms.fees.unwrap_or_else(|| below.map(|model| model.fees).unwrap_or_default()),
            row_version: Some(self.version.to_string()),
        }
    }
}

/// One layer of rows over others, given from the top. Aliases lead to a model and never to another alias, so they cannot
/// go round in circles; an alias that is another model's own id in the same layer is refused.
pub(super) fn layer(rows: Vec<&PriceRow>, below: &[&Catalogue]) -> Result<Catalogue, RowError> {
    let mut layer = Catalogue::default();
    let mut owners: Vec<Vec<&PriceRow>> = Vec::new();
    for row in rows {
        if row.until_ms.is_some_and(|until| until <= row.from_ms) {
            // Ended before it began: it never holds.
            continue;
        }
        let entry = match owners.iter().position(|of| of[0].same_model(row)) {
            Some(entry) => entry,
            None => {
                owners.push(Vec::new());
                layer.models.push(Vec::new());
                owners.len() - 1
            }
        };
        if let Some(other) = owners[entry].iter().find(|other| other.overlaps(row)) {
            return Err(RowError {
                row: Some(row.id),
                other: Some(other.id),
                what: format!(
                    "{} already prices {} of {} in a part of that time; end it first",
                    other.id, row.terms.model, row.terms.provider
                ),
            });
        }
        owners[entry].push(row);
        let under = below.iter().find_map(|under| {
            let (entry, _) = under.find(&row.terms.provider, &row.terms.model)?;
            under.models.get(entry)?.first()
        });
        layer.models[entry].push(Arc::new(row.model(under.map(Arc::as_ref))));
        claim(&mut layer, &owners, row, entry)?;
    }
    Ok(layer)
}

/// Enters the names of a row; every name belongs to one model.
fn claim(
    layer: &mut Catalogue,
    owners: &[Vec<&PriceRow>],
    row: &PriceRow,
    entry: usize,
) -> Result<(), RowError> {
    let terms = &row.terms;
    let names = layer.names.entry(terms.provider.clone()).or_default();
    for name in std::iter::once(&terms.model).chain(&terms.aliases) {
        if let Some(owner) = names.insert(name.clone(), entry).filter(|owner| *owner != entry) {
            let other = owners.get(owner).and_then(|of| of.first()).map(|other| other.id);
            let model = owners.get(owner).and_then(|of| of.first()).map_or("another", |of| &of.terms.model);
            let what = format!("`{name}` already names {model} of {}; leave it out", terms.provider);
            return Err(RowError { row: Some(row.id), other, what });
        }
    }
    for pattern in &terms.patterns {
        layer.patterns.push((terms.provider.clone(), pattern.clone(), entry));
    }
    Ok(())
}
