//! What is charged for an answer, however it ended (design §5.7).

use crate::{
    attempt::{CostParts, Measurement, Tokens},
    bound::Bound,
    cost::{Cost, CostContext, cost},
    money::Nanos,
    price::{Class, Priced},
    request::RequestView,
    tokenizer,
    usage::{Metered, Terminal, Usage, UsageState},
};

/// Framing around each answer and tool call.
pub(crate) const FRAMING_TOKENS: u64 = 8;

/// The longest body that is tokenised: about 50 ms of one core.
const MAX_COUNTED_BYTES: usize = 1 << 20;

/// An upward count of the prompt from the body, for [`settle`] without usage: the whole JSON text is counted, which
/// is more than its strings alone. `None` where the body does not show the prompt, or is too long to count.
///
/// Costs about 50 ns per byte: call it only once a stream was cut.
#[must_use]
pub fn prompt_tokens(priced: &Priced, view: &RequestView, body: &[u8]) -> Option<u64> {
    if view.server_state || !view.media.is_empty() || body.len() > MAX_COUNTED_BYTES {
        return None;
    }
    let text = std::str::from_utf8(body).ok()?;
    Some(tokenizer::scale(priced, tokenizer::count(text)).saturating_add(view.hidden_tool_tokens))
}

/// A charge and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The cost.
    pub cost: Cost,
    /// Exact, or estimated.
    pub measurement: Measurement,
    /// The whole hold was charged.
    pub whole_hold: bool,
}

/// Charges an answer that a 2xx status began.
///
/// With its final usage: exactly that. Without: what was seen when that is all there can be, never less than the
/// usage that did come proves and never more than `held`; else the whole hold, since there may be output that nobody
/// saw (hidden reasoning, hosted tools, audio, an answer that was to come in one piece).
///
/// `input_tokens` is a count of the prompt ([`prompt_tokens`]), where there is one; else the bound's is taken.
#[must_use]
pub fn settle(
    priced: &Priced,
    view: &RequestView,
    bound: &Bound,
    held: Nanos,
    metered: &Metered,
    input_tokens: Option<u64>,
) -> Charge {
    let context = CostContext::of(view);
    match &metered.usage {
        Some(usage) if metered.usage_state == UsageState::Final => {
            let cost = cost(priced, usage, &context);
            let measurement = if cost.is_guessed() { Measurement::Estimated } else { Measurement::Exact };
            Charge { cost, measurement, whole_hold: false }
        }
        _ if may_hide_output(priced, view, metered) => whole_hold(held, metered),
        usage => {
            let usage = estimate(priced, view, bound, usage.as_ref(), metered, input_tokens);
            let mut estimated = cost(priced, &usage, &context);
            if !usage.iterations.is_empty() {
                // The steps that were told are priced without what was seen, and the whole without the steps.
                let whole = cost(priced, &Usage { iterations: Vec::new(), ..usage }, &context);
                estimated = if whole.nanos > estimated.nanos { whole } else { estimated };
            }
            if estimated.nanos > held {
                cap(&mut estimated, held);
            }
            Charge { cost: estimated, measurement: Measurement::Estimated, whole_hold: false }
        }
    }
}

/// The charge of an attempt of whose answer nothing is known.
#[must_use]
pub fn unseen(held: Nanos) -> Charge {
    let mut cost = Cost::default();
    cap(&mut cost, held);
    Charge { cost, measurement: Measurement::Estimated, whole_hold: true }
}

/// Whether more may have been generated than was seen.
#[must_use]
pub fn may_hide_output(priced: &Priced, view: &RequestView, metered: &Metered) -> bool {
    let broken = !matches!(metered.terminal, Terminal::Complete | Terminal::Incomplete);
    // An answer in one piece that broke off was generated whole, or went on.
    let in_one_piece = !view.stream && broken;
    hides_by_request(priced, view)
        || in_one_piece
        || metered.hides_output
        || metered.unread.is_some()
        || !metered.visible_output
}

/// Whether what was asked for makes output that no stream shows.
#[must_use]
pub fn hides_by_request(priced: &Priced, view: &RequestView) -> bool {
    let thinks = view.thinking || (priced.model().reasoning() && !view.reasoning_off);
    let tools = !view.hosted.is_empty() || view.compaction || view.web_search_options;
    thinks || tools || view.background || view.audio_output
}

fn whole_hold(held: Nanos, metered: &Metered) -> Charge {
    let mut charge = unseen(held);
    if let Some(usage) = &metered.usage {
        let whole = |tokens| i64::try_from(tokens).unwrap_or(i64::MAX);
        charge.cost.tokens = Tokens {
            input: whole(usage.counts.sum(Class::is_input)),
            cached_input: whole(usage.counts.get(Class::CachedInput)),
            ..Tokens::default()
        };
    }
    charge
}

fn estimate(
    priced: &Priced,
    view: &RequestView,
    bound: &Bound,
    partial: Option<&Usage>,
    metered: &Metered,
    input_tokens: Option<u64>,
) -> Usage {
    let mut usage = partial.cloned().unwrap_or_default();
    if usage.prompt == 0 {
        usage.prompt = input_tokens.map_or(bound.input_tokens, |tokens| tokens.min(bound.input_tokens));
        usage.counts.add(Class::Input, usage.prompt);
    }
    let pieces = view.choices.min(1_000) + metered.tool_calls.len() as u64;
    let counted = tokenizer::scale(priced, metered.seen.tokens()) + pieces * FRAMING_TOKENS;
    let seen = usage.counts.get(Class::Output);
    let output = counted.min(bound.output_tokens).max(seen);
    usage.counts.add(Class::Output, output - seen);
    usage
}

/// Sets a cost to `held`; the parts follow.
fn cap(cost: &mut Cost, held: Nanos) {
    let over = cost.nanos - held;
    cost.nanos = held;
    cost.pico = i128::from(held.0) * 1000;
    let parts = &mut cost.parts;
    let mut rest = over;
    for part in [&mut parts.output, &mut parts.input, &mut parts.cached, &mut parts.fees] {
        let take = rest.min(*part);
        *part = *part - take;
        rest = rest - take;
    }
    let CostParts { input, output, .. } = *parts;
    parts.reasoning = parts.reasoning.min(output);
    parts.tool_definition = parts.tool_definition.min(input);
}

#[cfg(test)]
mod tests;
