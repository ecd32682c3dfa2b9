//! Prices: which rates a model has at an instant, for whom, and why.
//!
//! A [`Catalogue`] ships with the program or comes from a file. Operators lay [`PriceRow`]s over it, for everybody or for
//! one organisation; [`Prices`] are the layers together, and the only thing that is asked for a price.

pub mod rates;
pub mod usd;

mod catalogue;
mod file;
mod how;
mod layers;
mod model;
mod names;
mod priced;
mod resolve;
mod row;

pub use catalogue::{Catalogue, CatalogueError, Change};
pub(crate) use file::day;
pub use how::{add_price_call, how_to_add};
pub use layers::{Candidate, Explanation, Layer, Lookup, Prices, Verdict};
pub use model::{Fees, Limits, Model, Modifiers};
pub use priced::Priced;
pub use rates::{Above, Class, Rates, Tier, TierRates};
pub use resolve::Match;
pub use row::{PriceRow, RowError, Terms};

#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod tests;
