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
        let Some(room) = room(rules, balances, self.hold, self.call.finalize).filter(|_| tries < TRIES_MAX)
        else {
            return false;
        };
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

/// The least that is left in a budget that binds, if every budget that lacks room for `hold` allows clamping. What is
/// kept back is left to finalizing calls.
fn room(rules: &[Arc<BudgetRule>], balances: &[Balance], hold: Nanos, finalize: bool) -> Option<Nanos> {
    let usable = |rule: &BudgetRule, balance: &Balance| {
        let kept_back = if finalize { Nanos::ZERO } else { rule.kept_back() };
        balance.remaining() - kept_back
    };
    let binding = rules.iter().zip(balances).filter(|(rule, _)| rule.enforcement == Enforcement::StrictBlock);
    let mut lacking = binding.filter(|(rule, balance)| usable(rule, balance) < hold).peekable();
    lacking.peek()?;
    lacking.try_fold(Nanos(i64::MAX), |least, (rule, balance)| {
        rule.output.clamp.then(|| least.min(usable(rule, balance)))
    })
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
