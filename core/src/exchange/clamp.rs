//! `clampOutput`: a call whose bound does not fit asks for less output, instead of being denied (design §7).

use std::sync::Arc;

use super::admit::Admitted;
use crate::{
    attempt::Api,
    bound::{Bound, bound},
    ledger::Balance,
    money::Nanos,
    policy::{BudgetRule, Enforcement},
    price::Priced,
    request::{OutputLimit, RequestView},
    trail::Step,
};

/// With less an answer is of no use, and OpenAI Responses accepts no less.
const LEAST_OUTPUT_TOKENS: u64 = 16;
/// The ledger decides what fits; others may take it between its denial and the next try.
const TRIES_MAX: u8 = 2;

/// An output limit that was lowered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clamp {
    /// The caller's own limit.
    pub(super) asked: Option<u64>,
    /// The bound of what was asked for.
    pub(super) full: Nanos,
    /// What the provider is told.
    pub(super) limit: OutputLimit,
    tries: u8,
}

impl Admitted {
    /// Lowers the output limit until the bound fits what the budgets that denied it have left. False, and nothing
    /// changed, where one of them does not allow that, or hardly any output would be left.
    pub(super) fn clamp(&mut self, rules: &[Arc<BudgetRule>], balances: &[Balance]) -> bool {
        let tries = self.clamp.map_or(0, |clamp| clamp.tries);
        let (Some(price), Some(bound)) = (&self.price, &self.bound) else { return false };
        let Some((room, true)) = lacking(rules, balances, self.hold, self.call.finalize) else {
            return false;
        };
        if tries >= TRIES_MAX {
            return false;
        }
        let Some((tokens, lowered)) = most_output(price, &self.view, bound, room) else { return false };
        let limit = OutputLimit { name: limit_name(self.call.api, price.provider()), tokens };
        self.clamp = Some(match self.clamp {
            Some(before) => Clamp { limit, tries: tries + 1, ..before },
            None => Clamp { asked: self.view.max_output, full: bound.cost, limit, tries: 1 },
        });
        self.call.steps.note(Step::Clamp);
        self.view.max_output = Some(tokens);
        self.hold = lowered.cost;
        self.paid = None;
        self.bound = Some(lowered);
        true
    }
}

/// The least that the call may use of the budgets that lack room for `hold`, and whether all of them allow clamping; `None`
/// where none lacks it.
pub(super) fn lacking(
    rules: &[Arc<BudgetRule>],
    balances: &[Balance],
    hold: Nanos,
    finalize: bool,
) -> Option<(Nanos, bool)> {
    let binding = rules.iter().zip(balances).filter(|(rule, _)| rule.enforcement == Enforcement::StrictBlock);
    binding
        .map(|(rule, balance)| (rule.usable(balance.remaining(), finalize), rule.output.clamp))
        .filter(|(usable, _)| *usable < hold)
        .reduce(|(least, clamps), (usable, clamp)| (least.min(usable), clamps && clamp))
}

/// The highest output limit whose bound fits into `room`, with that bound. Bounds rise with the limit, so halving finds it.
fn most_output(price: &Priced, view: &RequestView, full: &Bound, room: Nanos) -> Option<(u64, Bound)> {
    // Anthropic refuses a limit that leaves nothing beyond what the model may think with.
    let thinking = view.thinking_budget.map_or(0, |tokens| tokens.saturating_add(1));
    let (mut low, mut high) = (LEAST_OUTPUT_TOKENS.max(thinking), full.output_tokens);
    let mut view = view.clone();
    let mut at = |tokens| {
        view.max_output = Some(tokens);
        bound(price, &view)
    };
    let mut best = None;
    while low < high {
        let middle = low + (high - low) / 2;
        let lowered = at(middle);
        if lowered.cost <= room {
            best = Some((middle, lowered));
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    best
}

fn limit_name(api: Api, provider: &str) -> &'static str {
    match api {
        // OpenAI's reasoning models refuse the older name, and others may not know the newer one.
        Api::OpenAiChat if matches!(provider, "openai" | "azure") => "max_completion_tokens",
        Api::OpenAiChat | Api::AnthropicMessages => "max_tokens",
        Api::OpenAiResponses => "max_output_tokens",
    }
}
