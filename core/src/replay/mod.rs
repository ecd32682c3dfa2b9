//! Prices what was recorded: one JSON line in, one JSON line out (`nullspend cost` and `nullspend bound`).
//!
//! The same readers, prices and sums that the data plane uses, with nothing between: what these lines say is what a
//! call costs. `docs/reference/cost-and-bound.md` describes both formats.

mod bound;
mod record;
mod write;

use std::sync::Arc;

use serde_json::{Value, json, value::RawValue};

use crate::{
    cost::{self, Cost},
    price::{Catalogue, Lookup, Priced},
    usage::{Metered, UsageState},
};

pub use bound::bound_line;
pub use record::{BadRecord, Record};

/// What a recorded answer costs.
#[derive(Clone, Debug)]
pub struct Costed {
    /// The cost, where there is one.
    pub cost: Option<Cost>,
    /// What was odd; sorted. Says why there is no cost.
    pub flags: Vec<String>,
    /// The price row and its version.
    pub price: Option<(String, String)>,
}

/// Prices a recorded answer.
#[must_use]
pub fn cost(catalogue: &Arc<Catalogue>, record: &Record, metered: &Metered) -> Costed {
    let priced = priced(catalogue, record);
    let price = priced.as_ref().map(|priced| (priced.id().to_owned(), priced.version().to_owned()));
    let none = |why: &str| Costed { cost: None, flags: vec![why.to_owned()], price: price.clone() };
    let Some(usage) = &metered.usage else { return none("usage_missing") };
    let found = if record.provider_reported { cost::provider_reported(usage) } else { None };
    let found = match (found, &priced) {
        (Some(own), _) => own,
        (None, Some(priced)) => cost::cost(priced, usage, &record.context),
        (None, None) => return none("unpriced_model"),
    };
    Costed { flags: found.flags.iter().cloned().collect(), cost: Some(found), price }
}

fn priced(catalogue: &Arc<Catalogue>, record: &Record) -> Option<Priced> {
    if let Some(rates) = record.rates {
        return Some(Priced::flat(&record.provider, &record.model, rates));
    }
    match catalogue.lookup(&record.provider, &record.model, record.at_ms) {
        Lookup::Priced(priced) => Some(priced),
        Lookup::Unpriced => None,
    }
}

/// Answers one line of recorded usage; a line that cannot be read gets `{"id","error"}`. `now_ms` is the instant of a
/// record that names none.
#[must_use]
pub fn cost_line(catalogue: &Arc<Catalogue>, line: &str, now_ms: i64) -> String {
    let record = match Record::read(line, now_ms) {
        Ok(record) => record,
        Err(error) => return error_line(&error),
    };
    let metered = record.meter(&[]);
    let costed = cost(catalogue, &record, &metered);
    let partial = metered.usage_state == UsageState::Partial;
    let mut out = vec![("id", raw(&record.id))];
    if partial {
        out.extend(write::amounts(None));
        out.push(("breakdown_pico", raw(&json!({}))));
        out.push(("flags", raw(&json!([]))));
        let mut bound = write::amounts(costed.cost.as_ref());
        bound.push(("breakdown_pico", write::breakdown(costed.cost.as_ref())));
        bound.push(("flags", raw(&json!(costed.flags))));
        out.push(("lower_bound_cost", write::raw_text(write::object(&bound))));
    } else {
        out.extend(write::amounts(costed.cost.as_ref()));
        out.push(("breakdown_pico", write::breakdown(costed.cost.as_ref())));
        out.push(("flags", raw(&json!(costed.flags))));
    }
    out.push(("usage_state", raw(&json!(metered.usage_state.as_str()))));
    out.push(("terminal", raw(&json!(metered.terminal.as_str()))));
    let price = costed.price.map(|(id, version)| json!({ "id": id, "version": version }));
    out.push(("price", raw(&price.unwrap_or_default())));
    write::object(&out)
}

/// The answer to a line that cannot be used.
fn error_line(error: &BadRecord) -> String {
    write::object(&[("id", raw(&error.id)), ("error", raw(&json!(error.what)))])
}

fn raw(value: &Value) -> Box<RawValue> {
    write::raw_text(value.to_string())
}
