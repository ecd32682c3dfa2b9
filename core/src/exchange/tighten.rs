//! The second stage of admission (design §7): a call that its loose bound alone would deny has its text counted, and is
//! tried once more.
//!
//! Only where counting is as sound as bytes: the provider publishes the model's encoding, and the body shows the prompt.

use super::{
    Answered, Moment,
    admit::{Admitted, Reserving, Verdict},
    clamp::lacking,
};
use crate::{
    bound::{bound, bound_of_output},
    ledger::{LedgerUnavailable, ReserveOutcome, Why},
    money::Nanos,
    price::Priced,
    request::RequestView,
    tokenizer::{self, Encoding},
    trail::Step,
    usage::Vendor,
};

/// The longest body that is counted: about 50 ms of one core.
const COUNTED_MAX_BYTES: u64 = 1 << 20;

/// A denial that stands unless counting lowers the bound.
#[derive(Debug)]
pub struct Tightening {
    reserving: Box<Reserving>,
    denied: Result<ReserveOutcome, LedgerUnavailable>,
    encoding: Encoding,
}

impl Tightening {
    /// Counts the text of the call's body, which takes too long for an async thread. Then either the hold is lower and
    /// wants to be reserved again, or the denial stands.
    #[must_use]
    pub fn count(self, body: &[u8], now: Moment) -> Verdict {
        let Self { mut reserving, denied, encoding } = self;
        reserving.admitted.call.steps.note(Step::Count);
        if reserving.admitted.tighten(body, encoding) {
            Verdict::Lowered(reserving)
        } else {
            reserving.concluded(denied, now)
        }
    }

    /// The refusal where nobody can count now.
    #[must_use]
    pub fn undecided(&self) -> Box<Answered> {
        self.reserving.undecided()
    }
}

impl Reserving {
    /// Whether the denial is worth counting for; if so, with what.
    pub(super) fn countable(&self, denied: &ReserveOutcome) -> Option<Encoding> {
        let ReserveOutcome::Denied { scope, why, balances, .. } = denied else { return None };
        let encoding = self.admitted.encoding()?;
        let (room, clamps) = match why {
            Why::Budget => {
                let (hold, finalize) = (self.admitted.hold, self.admitted.call.finalize);
                lacking(&self.rules, balances, hold, finalize)?
            }
            Why::Session { spend } => (self.rules.get(*scope)?.session_limit? - *spend, false),
            // Most of these wait for a cool-down, whatever the call costs.
            Why::Velocity { .. } => return None,
        };
        self.admitted.could_fit(room, clamps).then_some(encoding)
    }

    /// Turns a denial over to be counted for.
    pub(super) fn tightening(
        self: Box<Self>,
        denied: Result<ReserveOutcome, LedgerUnavailable>,
        encoding: Encoding,
    ) -> Verdict {
        Verdict::Tighten(Box::new(Tightening { reserving: self, denied, encoding }))
    }
}

impl Admitted {
    /// The encoding this call can be counted with, once.
    fn encoding(&self) -> Option<Encoding> {
        let view = &self.view;
        let hidden = view.server_state || view.media.documents > 0 || view.body_bytes > COUNTED_MAX_BYTES;
        // Another vendor may serve a model of the same name with a template of its own.
        let theirs = matches!(self.call.upstream.vendor, Vendor::OpenAi | Vendor::Azure);
        if self.counted || hidden || !theirs {
            return None;
        }
        tokenizer::published(self.price.as_ref()?)
    }

    /// Whether the call could fit into `room` if its text were nothing, and if it asked for no output where that may be
    /// lowered: if not, counting is in vain.
    fn could_fit(&self, room: Nanos, clamps: bool) -> bool {
        let Some(price) = &self.price else { return false };
        let mut least = self.view.clone();
        least.counted_off = least.body_bytes;
        if clamps {
            least.max_output = Some(0);
            return bound(price, &least).cost <= room;
        }
        self.hold_of(price, &least) <= room
    }

    /// What `view` is held at: all of its bound, or its first slice.
    fn hold_of(&self, price: &Priced, view: &RequestView) -> Nanos {
        self.paid.map_or_else(|| bound(price, view), |tokens| bound_of_output(price, view, tokens)).cost
    }

    /// Takes the counted text for its bytes in the bound; whether that lowers the hold.
    fn tighten(&mut self, body: &[u8], encoding: Encoding) -> bool {
        self.counted = true;
        let Some(price) = &self.price else { return false };
        self.view.count_texts(body, encoding);
        let tight = bound(price, &self.view);
        let hold = self.hold_of(price, &self.view);
        let lower = hold < self.hold;
        if lower {
            (self.hold, self.bound) = (hold, Some(tight));
        }
        lower
    }
}
