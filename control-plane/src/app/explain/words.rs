//! What events cost, and how prices were found, as sentences.

use nullspend_core::{
    price::{Layer, Match},
    trail::{Basis, PriceFound, Step, Trail},
};

use super::Outcome;
use crate::store::{EventRecord, EventRevision, Source};

/// What an explanation says in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The answer in one or two sentences.
    pub summary: String,
    /// Why it was denied; empty for an event.
    pub denied: String,
    /// `budget`, `session`, `velocity`, `loop`, `freeze`, `mandate`, `no_price` or `other`; empty for an event.
    pub why: &'static str,
    /// The freeze that stopped it.
    pub freeze: Option<String>,
    /// The budget that said no without its numbers being asked.
    pub budget: Option<String>,
    /// Milliseconds until trying again made sense, where no budget's numbers say so.
    pub retry_after_ms: Option<i64>,
    /// How the price was found, or what was done without one; `None` when nobody came to look, or told.
    pub price: Option<String>,
    /// What the cost rests on; empty for a denial.
    pub cost: String,
    /// Parts that are not known.
    pub unknown: Vec<String>,
}

pub(super) const NO_TRAIL: &str = "price search, bound, the budgets' numbers and the order of decisions: this call was recorded \
                        by a version that did not tell them, or its hold was swept by another data plane than its own";

pub(super) fn price(trail: &Trail, asked: &str, without: &str) -> Option<String> {
    match &trail.price {
        Some(found) => Some(found_by(found, asked)),
        None if trail.steps.has(Step::Price) => Some(format!("the model has no price, {without}")),
        None => None,
    }
}

/// Whether a name that an id or alias led to is an alias.
pub(crate) fn is_alias(found: &PriceFound, asked: &str) -> bool {
    found.matched == Match::Exact && asked.rsplit_once('/').map_or(asked, |(_, bare)| bare) != found.model
}

fn found_by(found: &PriceFound, asked: &str) -> String {
    let row = match found.layer {
        Layer::Organisation => "the organisation's own row",
        Layer::Global => "the operator's row for all organisations",
        Layer::Catalogue => "the catalogue's row",
    };
    let way = match found.matched {
        Match::Exact if is_alias(found, asked) => "the name is one of its aliases",
        Match::Exact => "the name is its model's id",
        Match::Pattern => "the name fits one of its patterns",
        Match::Snapshot => "nothing lists this dated snapshot, so its base model's price holds",
        Match::FineTune => "a fine-tune has its base model's price",
    };
    format!("{row} {} of version {} answers: {way}", found.id, found.version)
}

/// What an event cost, and why.
pub(super) fn of_event(
    event: &EventRecord,
    outcome: Outcome,
    trail: Option<&Trail>,
    revisions: &[EventRevision],
) -> Said {
    let mut unknown = Vec::new();
    let proxied = event.source == Source::Proxy;
    if trail.is_none() {
        unknown.push(if proxied { NO_TRAIL.to_owned() } else { no_decision(event.source) });
    }
    if event.revision > 1 && revisions.is_empty() {
        let text = "what the event said before it was corrected: both records came at once, or an earlier version took them";
        unknown.push(text.to_owned());
    }
    let on_credit = trail.is_some_and(|trail| trail.steps.has(Step::Credit));
    if on_credit {
        unknown.push("the budgets' numbers: the ledger did not answer".to_owned());
    }
    let basis = trail.and_then(|trail| trail.basis);
    let cost = rests_on(event, outcome, basis);
    if cost.is_empty() {
        unknown.push("what the cost rests on: the record does not say".to_owned());
    }
    let price = trail.and_then(|trail| price(trail, &event.model, "and a flat amount was held"));
    let said = match outcome {
        Outcome::Settled => format!("Cost {}", event.cost),
        Outcome::Lapsed => format!("Lapsed at {}", event.cost),
        Outcome::Corrected => format!("Corrected to {} after a lapse", event.cost),
        Outcome::Denied => "Denied".to_owned(),
        Outcome::Reported => format!("Reported at {}", event.cost),
        Outcome::Adjusted => format!("Adjusted by {}", event.cost),
    };
    let cut = trail.and_then(|trail| trail.cut.as_ref()).map(|cut| match cut.code {
        "budget_exceeded" => "; the stream was ended early, since a budget had no more to give",
        _ => "; the stream was ended early, since nothing more could be held for it",
    });
    let credit = match on_credit {
        true => {
            "; the ledger did not answer, so nothing was held and the call went on its budgets' outageCreditMicrodollars"
        }
        false => "",
    };
    let how = if cost.is_empty() { String::new() } else { format!(": {cost}") };
    let summary = format!("{said}{how}{}{credit}", cut.unwrap_or_default());
    Said { summary, price, cost, unknown, ..Said::default() }
}

fn no_decision(source: Source) -> String {
    let text = "price search, bound, steps and the budgets' numbers: nothing was decided here";
    match source {
        Source::Adjustment => format!("{text}, the difference was booked afterwards"),
        Source::Proxy | Source::Api | Source::Mcp => format!("{text}, it was spent elsewhere and reported"),
    }
}

fn rests_on(event: &EventRecord, outcome: Outcome, basis: Option<Basis>) -> String {
    let text = match (outcome, basis) {
        (Outcome::Lapsed, _) => {
            "the data plane died or lost its lease with the call in flight, so the whole hold is charged until the truth arrives"
        }
        (Outcome::Reported, _) => "what its reporter says",
        (Outcome::Adjusted, _) => "the difference between the cost booked and the cost by the mended price",
        (_, Some(basis)) => basis_words(basis),
        (_, None) => without_basis(event),
    };
    text.to_owned()
}

/// What old records let one conclude.
fn without_basis(event: &EventRecord) -> &'static str {
    let tagged = |tag: &str| event.tags.contains_key(tag);
    match (event.measurement.as_str(), event.ending.as_deref()) {
        ("exact", Some("provider_error")) => basis_words(Basis::ProviderError),
        ("exact", Some("unreachable")) => basis_words(Basis::NotSent),
        ("exact", _) if tagged("_ns_provider_cost") => basis_words(Basis::ProviderPrice),
        ("exact", Some("complete")) => basis_words(Basis::Usage),
        ("estimated", _) if event.unpriced => basis_words(Basis::WholeHoldUnpriced),
        ("estimated", Some("unreachable")) => basis_words(Basis::WholeHoldUnreachable),
        ("estimated", _) if tagged("_ns_whole_hold") => {
            "the whole hold, since output may exist that nobody saw"
        }
        _ => "",
    }
}

fn basis_words(basis: Basis) -> &'static str {
    match basis {
        Basis::Usage => "the provider's final usage, at the price of the model that answered",
        Basis::GuessedUsage => {
            "the provider's final usage; some of it has no rate of its own and is priced by another"
        }
        Basis::OtherModel => {
            "the provider's final usage, at the price of the model asked for: the one that answered has none"
        }
        Basis::ProviderPrice => "the provider's own figure of the cost",
        Basis::Counted => {
            "no final usage came, so what was seen of the answer: usage as far as it came, the rest counted from the text"
        }
        Basis::WholeHoldHidden => {
            "no final usage came and output may exist that nobody saw, so the whole hold is charged"
        }
        Basis::WholeHoldUnpriced => "the model has no price, so the flat hold is charged",
        Basis::WholeHoldUnanswered => {
            "the client left before anything was answered and the provider may bill all of it, so the whole hold is charged"
        }
        Basis::WholeHoldUnreachable => {
            "no answer came and the provider may have got the request, so the whole hold is charged"
        }
        Basis::NotForwarded => "it was never forwarded",
        Basis::NotSent => "it did not reach the provider",
        Basis::ProviderError => "the provider refused it with an error status",
    }
}
