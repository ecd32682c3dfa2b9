//! The control plane's price rows and catalogue, understood.

use std::{collections::BTreeMap, sync::Arc};

use nullspend_core::price::{self, Catalogue, PriceRow, Terms};
use nullspend_proto::internal as wire;

/// Every row as received, and what was understood of it.
#[derive(Default)]
pub(super) struct Prices {
    pub(super) rows: BTreeMap<String, wire::PriceRow>,
    pub(super) understood: BTreeMap<String, PriceRow>,
    /// `None`: the program's own.
    pub(super) catalogue: Option<wire::PriceCatalogue>,
}

/// Prices that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the catalogue cannot be read: {0}")]
    Catalogue(#[from] price::CatalogueError),
    #[error("a price row contradicts another: {0}")]
    Rows(#[from] price::RowError),
}

impl Prices {
    /// All of it as one.
    pub(super) fn together(&self) -> Result<price::Prices, Unusable> {
        let catalogue = match &self.catalogue {
            None => Catalogue::shipped(),
            Some(sent) if sent.text == Catalogue::shipped_text() => Catalogue::shipped(),
            Some(sent) => Arc::new(Catalogue::parse(&sent.text)?),
        };
        let rows: Vec<PriceRow> = self.understood.values().cloned().collect();
        Ok(price::Prices::new(catalogue, &rows)?)
    }
}

pub(super) fn row(row: &wire::PriceRow) -> Result<PriceRow, &'static str> {
    let org = match row.org_id.as_str() {
        "" => None,
        id => Some(id.parse().map_err(|_| "org_id is no UUID")?),
    };
    Ok(PriceRow {
        id: row.price_id.parse().map_err(|_| "price_id is no UUID")?,
        version: row.version,
        org,
        from_ms: row.from_ms,
        until_ms: row.until_ms,
        terms: Terms::parse(&row.terms_json).map_err(|_| "terms_json is no price")?,
    })
}
