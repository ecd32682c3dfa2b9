//! From the answer's end to the attempt's one event (design §5.7).

use std::collections::BTreeMap;

use super::{Forwarded, Moment, Origin, admit::Admitted, increments::Increments};
use crate::{
    attempt::{Closing, Ending, Measurement},
    cost::{Cost, Detail, provider_reported},
    price::{Lookup, Priced},
    settle::{Charge, prompt_tokens, settle, unseen},
    trail::{Basis, Step},
    usage::{Metered, Terminal, UsageState},
};

/// How the host saw the request end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer's last byte passed.
    Complete,
    /// The data plane ended it, since no more could be held.
    Cut,
    /// The stream of messages broke before the answer's end: the client left, or the provider reset.
    Broken,
    /// The host knows that the request was never forwarded.
    NotForwarded,
}

/// Text of a provider's choosing, kept short: an event must fit its record and the database's indexes.
fn short(text: String) -> String {
    if text.len() <= PROVIDER_TEXT_MAX_CHARS {
        text
    } else {
        text.chars().take(PROVIDER_TEXT_MAX_CHARS).collect()
    }
}

const PROVIDER_TEXT_MAX_CHARS: usize = 200;

/// What the attempt comes to.
struct Outcome {
    ending: Ending,
    charge: Charge,
    metered: Option<Metered>,
    /// The row that priced it, and its version.
    price: Option<(String, String)>,
    /// Another model answered than the one priced.
    served_unpriced: bool,
    /// What the cost rests on.
    basis: Basis,
}

impl Outcome {
    /// Costs nothing: it did not reach the provider, or the provider refused it.
    fn free(ending: Ending, basis: Basis) -> Self {
        let charge = Charge { cost: Cost::default(), measurement: Measurement::Exact, whole_hold: false };
        Self { ending, charge, metered: None, price: None, served_unpriced: false, basis }
    }
}

fn row(priced: &Priced) -> (String, String) {
    (priced.id().to_owned(), priced.version().to_owned())
}

/// What the charge of a measured answer rests on.
fn basis(charge: &Charge, metered: &Metered) -> Basis {
    match (charge.whole_hold, metered.usage_state, charge.measurement) {
        (true, _, _) => Basis::WholeHoldHidden,
        (false, UsageState::Final, Measurement::Exact) => Basis::Usage,
        (false, UsageState::Final, _) => Basis::GuessedUsage,
        (false, _, _) => Basis::Counted,
    }
}

impl Forwarded {
    /// Settles the attempt: together with [`Forwarded::stub`], its event.
    #[must_use]
    pub fn close(mut self, end: End, now: Moment) -> Closing {
        let outcome = self.outcome(end);
        let system_tags = self.system_tags(end, &outcome);
        self.took(Step::Close, now);
        self.trail.basis = Some(outcome.basis);
        let received = self.received;
        let Outcome { ending, charge, metered, price, .. } = outcome;
        let ms_since_forward =
            |at: Moment| i64::try_from(at.us_since(self.forwarded_at) / 1000).unwrap_or(i64::MAX);
        let (served_model, stop_reason) =
            metered.map(|m| (m.served_model.map(short), m.stop_reason.map(short))).unwrap_or_default();
        let (price_id, price_version) = price.unzip();
        let overhead_us = self.admitted.call.head_us + self.forwarded_at.us_since(self.admitted.body_at);
        Closing {
            ended_at_ms: now.ms.max(self.stub.started_at_ms),
            cost: charge.cost.nanos,
            measurement: charge.measurement,
            ending,
            status_code: received.as_ref().map_or(0, |r| r.status),
            provider_request_id: received.as_ref().and_then(|r| r.provider_request_id.clone()),
            served_model,
            price_id,
            price_version,
            stop_reason,
            tokens: charge.cost.tokens,
            parts: charge.cost.parts,
            detail: charge.cost.detail,
            upstream_ms: ms_since_forward(now),
            ttfb_ms: self.first_byte_at.map(ms_since_forward),
            overhead_us: i64::try_from(overhead_us).unwrap_or(i64::MAX),
            system_tags,
            trail: self.trail,
        }
    }

    fn outcome(&mut self, end: End) -> Outcome {
        if end == End::NotForwarded {
            return Outcome::free(Ending::Aborted, Basis::NotForwarded);
        }
        let Some(received) = &self.received else {
            // The client left while the provider was silent: it may go on and bill all of it.
            let whole = self.whole_hold(None, Basis::WholeHoldUnanswered);
            return Outcome { ending: Ending::Aborted, ..whole };
        };
        match received.origin {
            Origin::NotSent => return Outcome::free(Ending::Unreachable, Basis::NotSent),
            Origin::MaybeSent => {
                let whole = self.whole_hold(None, Basis::WholeHoldUnreachable);
                return Outcome { ending: Ending::Unreachable, ..whole };
            }
            Origin::Provider => {}
        }
        let Some(mut meter) = self.meter.take() else {
            return Outcome::free(Ending::ProviderError, Basis::ProviderError);
        };
        if let Some(increments) = &mut self.increments {
            // What came was generated, whether or not it passed.
            meter.push(&increments.take_unread());
        }
        let metered = meter.finish();
        let ending = if end == End::Complete { Ending::Complete } else { Ending::Aborted };
        self.metered(ending, metered)
    }

    /// An answer that a 2xx status began.
    fn metered(&self, ending: Ending, metered: Metered) -> Outcome {
        let Admitted { call, view, prices, price, bound, .. } = &self.admitted;
        let own = metered.usage.as_ref().and_then(provider_reported);
        if call.upstream.vendor.names_its_price() && metered.usage_state == UsageState::Final {
            // What it says is what it bills, whatever model it chose, with or without a price of ours.
            if let Some(cost) = own {
                let charge = Charge { cost, measurement: Measurement::Exact, whole_hold: false };
                let price = price.as_ref().map(row);
                let (metered, basis) = (Some(metered), Basis::ProviderPrice);
                return Outcome { ending, charge, metered, price, served_unpriced: false, basis };
            }
        }
        let (Some(requested), Some(bound)) = (price, bound) else {
            return Outcome { ending, ..self.whole_hold(Some(metered), Basis::WholeHoldUnpriced) };
        };
        // The model in the answer decides the price, the one in the request the hold.
        let served = metered.served_model.as_deref().and_then(|model| {
            match prices.lookup(Some(call.key.org), &call.upstream.provider, model, call.started.ms) {
                Lookup::Priced(priced) => Some(priced),
                Lookup::Unpriced => None,
            }
        });
        let priced = served.as_ref().unwrap_or(requested);
        let untold = metered.usage.as_ref().is_none_or(|usage| usage.prompt == 0);
        let counted = self.prompt.as_ref().filter(|_| untold);
        let prompt_tokens = counted.and_then(|body| prompt_tokens(priced, view, body));
        let mut charge = settle(priced, view, bound, self.stub.held, &metered, prompt_tokens);
        let mut basis = basis(&charge, &metered);
        // A price that the answer names is not believed of everybody: it can only raise the charge.
        if let Some(own) = own.filter(|own| own.nanos > charge.cost.nanos) {
            charge.cost = own;
            basis = Basis::ProviderPrice;
        }
        let served_unpriced =
            served.is_none() && metered.served_model.as_ref().is_some_and(|model| *model != view.model);
        if served_unpriced {
            // Priced as what was asked for, since what answered has no price: marked, never silent (law 4).
            charge.measurement = Measurement::Estimated;
            if basis == Basis::Usage {
                basis = Basis::OtherModel;
            }
        }
        let price = Some(row(priced));
        Outcome { ending, charge, metered: Some(metered), price, served_unpriced, basis }
    }

    fn whole_hold(&self, metered: Option<Metered>, basis: Basis) -> Outcome {
        let mut charge = unseen(self.stub.held);
        if let Some(usage) = metered.as_ref().and_then(|metered| metered.usage.as_ref()) {
            // Once the model has a price, the event can be priced by what it used.
            charge.cost.detail = Detail::unpriced(&self.admitted.view.model, usage);
        }
        Outcome { ending: Ending::Complete, charge, metered, price: None, served_unpriced: false, basis }
    }

    /// `_ns_*` tags of contract §3.4.
    fn system_tags(&self, end: End, outcome: &Outcome) -> BTreeMap<String, String> {
        let Admitted { view, clamp, .. } = &self.admitted;
        let asked = clamp.map_or(view.max_output, |clamp| clamp.asked);
        let tokens = &outcome.charge.cost.tokens;
        let flag = |set: bool| set.then(|| "true".to_owned());
        let positive = |count: i64| (count > 0).then(|| count.to_string());
        let cut = self.increments.as_ref().and_then(Increments::why_cut);
        let usage_missing = outcome.metered.as_ref().is_some_and(|m| m.usage_state == UsageState::Missing);
        let unread = outcome.metered.as_ref().and_then(|m| m.unread);
        let failed = outcome
            .metered
            .as_ref()
            .is_some_and(|m| matches!(m.terminal, Terminal::Error | Terminal::Failed));
        let candidates = [
            ("_ns_estimated", flag(outcome.charge.measurement == Measurement::Estimated)),
            ("_ns_no_usage", flag(usage_missing)),
            ("_ns_cancelled", flag(end == End::Broken)),
            ("_ns_cut", cut.map(|cut| cut.as_str().to_owned())),
            ("_ns_provider_failed", flag(failed)),
            ("_ns_served_unpriced", flag(outcome.served_unpriced)),
            ("_ns_whole_hold", flag(outcome.charge.whole_hold)),
            ("_ns_provider_cost", flag(outcome.charge.cost.flags.contains("provider_reported_cost"))),
            ("_ns_unread", unread.map(|unread| unread.as_str().to_owned())),
            ("_ns_unpriced", flag(self.stub.unpriced)),
            ("_ns_long_context", flag(outcome.charge.cost.long_context)),
            ("_ns_max_tokens", asked.map(|max| max.to_string())),
            ("_ns_max_tokens_applied", clamp.map(|clamp| clamp.limit.tokens.to_string())),
            ("_ns_temperature", view.temperature.clone()),
            ("_ns_tool_count", positive(i64::try_from(view.tools).unwrap_or(i64::MAX))),
            ("_ns_cache_write_tokens", positive(tokens.cache_write)),
            ("_ns_cache_read_tokens", positive(tokens.cached_input)),
        ];
        let limits =
            self.received.iter().flat_map(|r| &r.rate_limits).map(|(tag, value)| (*tag, Some(value.clone())));
        candidates
            .into_iter()
            .chain(limits)
            .filter_map(|(tag, value)| Some((tag.to_owned(), value?)))
            .collect()
    }
}
