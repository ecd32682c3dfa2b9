//! An upper bound of what a request can cost, before it is forwarded (design §7).
//!
//! Sound before close. Text: byte-level encodings never make more tokens than the text has UTF-8 bytes, JSON escapes
//! only lengthen, and the framing of a message is shorter than its `{"role":…}`; so the body's length bounds its
//! tokens. What the body does not show (files, server-side state, hosted tools) is bounded by the most it can be, at
//! last by the model's context window, beyond which the provider refuses. `docs/internals/bound.md` has the argument.

mod image;

use crate::{
    attempt::Api,
    cost::CostContext,
    money::Nanos,
    price::{Class, Lookup, Priced, Rates, Tier, TierRates},
    request::{Advisor, CacheAsked, HostedKind, RequestView},
};

/// Where nobody publishes a limit: the largest window of any model.
const UNKNOWN_LIMIT: u64 = 1_050_000;
/// Framing beyond the body's own bytes.
const FRAMING_TOKENS: u64 = 64;
/// Steps of a hosted tool when the request sets no limit. Anthropic pauses after ten; OpenAI names no number, and a
/// longer loop shows as overage.
const DEFAULT_STEPS: u64 = 10;
/// Steps beyond which a request's own limit is not believed to be meant.
const MAX_STEPS: u64 = 1_000;
/// The dearest image of the image generation tool, in pico-dollars.
pub(crate) const IMAGE_FEE_PICO: u64 = 300_000_000_000;
/// A container of the largest size, as a multiple of the smallest.
const LARGEST_CONTAINER: u64 = 64;

/// The bound and what it rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Most tokens of input, over all steps.
    pub input_tokens: u64,
    /// Most tokens of output, over all answers and steps.
    pub output_tokens: u64,
    /// Most it can cost, rounded up.
    pub cost: Nanos,
}

/// Bounds a request's cost from its body alone.
#[must_use]
pub fn bound(priced: &Priced, view: &RequestView) -> Bound {
    bound_of_output(priced, view, output(priced, view, steps(priced, view)))
}

/// The bound of an answer with no more than these tokens of output, over all answers and steps.
#[must_use]
pub fn bound_of_output(priced: &Priced, view: &RequestView, output_tokens: u64) -> Bound {
    let steps = steps(priced, view);
    let input_once = input_once(priced, view);
    let window = window(priced);
    // A further step reads what the step before wrote and what the tools found: at most the window.
    let input_tokens = input_once.saturating_add(window.saturating_mul(steps - 1));
    let tokens = Tokens {
        prompt: input_once.max(if steps > 1 { window } else { 0 }),
        input_tokens,
        audio_in: view.media.audio_tokens.min(input_tokens),
        output_tokens,
    };
    let pico = tokens.dearest(priced, view) + fees(priced, view, steps) + advice(priced, view);
    Bound { input_tokens, output_tokens, cost: Nanos::from_pico_ceil(pico) }
}

/// The largest prompt the model takes.
fn window(priced: &Priced) -> u64 {
    let limits = priced.limits();
    limits.max_input.max(limits.context).unwrap_or(UNKNOWN_LIMIT)
}

/// The longest answer of the model.
fn longest_answer(priced: &Priced) -> u64 {
    let limits = priced.limits();
    limits.max_output.or(limits.context).unwrap_or(UNKNOWN_LIMIT)
}

fn input_once(priced: &Priced, view: &RequestView) -> u64 {
    let window = window(priced);
    if view.server_state || view.media.documents > 0 {
        return window;
    }
    let counted_otherwise = view.media.image_bytes + view.media.audio_bytes + view.counted_off;
    let text = view.body_bytes.saturating_sub(counted_otherwise);
    let images = view.media.images.iter().map(|shown| image::tokens(priced, *shown));
    let all = images
        .fold(text, u64::saturating_add)
        .saturating_add(if normalises(priced) { view.growth_bytes } else { 0 })
        .saturating_add(view.media.audio_tokens)
        .saturating_add(view.hidden_tool_tokens)
        .saturating_add(FRAMING_TOKENS);
    all.min(window)
}

/// Whether the model's tokenizer may normalise text before it counts. OpenAI's are published and do not.
fn normalises(priced: &Priced) -> bool {
    !matches!(priced.provider(), "openai" | "azure")
}

/// How many model calls one request can make.
fn steps(priced: &Priced, view: &RequestView) -> u64 {
    let of_tools = match view.api {
        _ if view.hosted.is_empty() => 0,
        Api::OpenAiChat => 1,
        Api::OpenAiResponses => view.max_tool_calls.unwrap_or(DEFAULT_STEPS),
        Api::AnthropicMessages => {
            view.hosted.iter().map(|tool| tool.max_uses.unwrap_or(DEFAULT_STEPS)).fold(0, u64::saturating_add)
        }
    };
    // What a chat's search finds is read at the model's rate, but for the previews, whose fee includes it.
    let of_search = CostContext::of(view).chat_search && priced.fees().web_search > 0;
    let steps = (1 + compactions(view) + u64::from(of_search)).saturating_add(of_tools);
    steps.min(MAX_STEPS)
}

fn compactions(view: &RequestView) -> u64 {
    if view.compaction { DEFAULT_STEPS } else { 0 }
}

fn output(priced: &Priced, view: &RequestView, steps: u64) -> u64 {
    let most = longest_answer(priced);
    let once = view.max_output.map_or(most, |asked| asked.min(most)).saturating_add(view.prediction_bytes);
    // The limit of Responses holds for the answer as a whole. None holds for what a compaction writes.
    let whole = view.api == Api::OpenAiResponses && view.max_output.is_some();
    let answers = if whole { 1 } else { steps.saturating_sub(compactions(view)).max(1) };
    once.saturating_mul(view.choices)
        .saturating_mul(answers)
        .saturating_add(most.saturating_mul(compactions(view)))
}

/// What advisors can cost, in pico-dollars: each use reads a window and answers, at the advisor's own price.
fn advice(priced: &Priced, view: &RequestView) -> i128 {
    let one = |advisor: &Advisor| {
        let Lookup::Priced(own) = priced.sibling(&advisor.model) else {
            // Charged like the model that asked.
            return advised(priced, view, advisor);
        };
        advised(&own, view, advisor).max(advised(priced, view, advisor))
    };
    view.advisors.iter().map(one).fold(0, i128::saturating_add)
}

fn advised(priced: &Priced, view: &RequestView, advisor: &Advisor) -> i128 {
    let uses = advisor.max_uses.unwrap_or(DEFAULT_STEPS).min(MAX_STEPS);
    let most = longest_answer(priced);
    let tokens = Tokens {
        prompt: window(priced),
        input_tokens: window(priced).saturating_mul(uses),
        audio_in: 0,
        output_tokens: advisor.max_output.map_or(most, |asked| asked.min(most)).saturating_mul(uses),
    };
    tokens.dearest(priced, view)
}

/// The tiers the request can be billed at.
fn tiers<'a>(priced: &'a Priced, view: &'a RequestView) -> impl Iterator<Item = &'a TierRates> {
    let asked = view.service_tier.as_deref();
    priced
        .tiers()
        .filter(move |(tier, _)| match tier {
            Tier::Standard => true,
            Tier::Fast => view.fast,
            Tier::Flex => asked == Some("flex"),
            Tier::Priority => {
                let assumed = view.assume_priority && matches!(asked, None | Some("auto"));
                assumed || matches!(asked, Some("priority" | "fast")) || unknown_tier(asked)
            }
            Tier::Ultrafast => asked == Some("ultrafast") || unknown_tier(asked),
            // Other routes.
            Tier::Batch | Tier::Decisions => false,
        })
        .map(|(_, rates)| rates)
}

/// A word that names no tier we know could be any.
fn unknown_tier(asked: Option<&str>) -> bool {
    !matches!(
        asked,
        None | Some(
            "auto"
                | "default"
                | "standard"
                | "standard_only"
                | "scale"
                | "flex"
                | "priority"
                | "fast"
                | "ultrafast"
        )
    )
}

/// The largest multiplier that can apply, in percent.
fn percent(priced: &Priced, view: &RequestView) -> u64 {
    let modifiers = priced.modifiers();
    // A workspace can set its own default, so only a request that says otherwise is safe from it.
    let geo = match view.inference_geo.as_deref() {
        Some(geo) if geo != "us" => None,
        _ => modifiers.inference_geo_us,
    };
    let region = modifiers.regional_host.filter(|_| view.regional_host);
    geo.unwrap_or(100).max(100).max(region.unwrap_or(100))
}

struct Tokens {
    /// Of the largest step.
    prompt: u64,
    input_tokens: u64,
    audio_in: u64,
    output_tokens: u64,
}

impl Tokens {
    /// In pico-dollars, at the dearest rates and multiplier the request can be billed with.
    fn dearest(&self, priced: &Priced, view: &RequestView) -> i128 {
        let pico = tiers(priced, view).map(|rates| self.cost(rates, view)).max().unwrap_or(0);
        (pico.saturating_mul(i128::from(percent(priced, view))) + 99) / 100
    }

    fn cost(&self, tier: &TierRates, view: &RequestView) -> i128 {
        let low = self.at(&tier.rates, view);
        match &tier.above {
            // The usage of several steps is one total, and that total chooses the band.
            Some(above) if self.prompt.max(self.input_tokens) > above.tokens => {
                low.max(self.at(&above.rates, view))
            }
            _ => low,
        }
    }

    fn at(&self, rates: &Rates, view: &RequestView) -> i128 {
        let text = dearest_input(rates, view);
        let audio = rates.billed(Class::AudioInput).0.max(text);
        let output = rates.billed(Class::Output).0;
        let output = if view.audio_output { rates.billed(Class::AudioOutput).0.max(output) } else { output };
        let product = |tokens: u64, rate: u64| i128::from(tokens) * i128::from(rate);
        product(self.input_tokens - self.audio_in, text)
            + product(self.audio_in, audio)
            + product(self.output_tokens, output)
    }
}

/// The dearest class a token of the prompt can be billed in.
fn dearest_input(rates: &Rates, view: &RequestView) -> u64 {
    let mut classes = vec![Class::Input, Class::CachedInput];
    match view.api {
        Api::OpenAiChat | Api::OpenAiResponses => {
            // Newer models write to their cache unasked, and bill it.
            classes.push(Class::CacheWrite30m);
            if view.cache == CacheAsked::Long {
                classes.push(Class::CacheWrite12h);
            }
        }
        Api::AnthropicMessages if view.cache != CacheAsked::No => {
            classes.push(Class::CacheWrite5m);
            if view.cache == CacheAsked::Long {
                classes.push(Class::CacheWrite1h);
            }
        }
        Api::AnthropicMessages => {}
    }
    classes.into_iter().map(|class| rates.billed(class).0).max().unwrap_or(0)
}

/// Fees of hosted tools, in pico-dollars.
fn fees(priced: &Priced, view: &RequestView, steps: u64) -> i128 {
    let fees = priced.fees();
    let (input_rate, _) = priced.standard().rates.billed(Class::Input);
    let block = i128::from(priced.web_search_block_tokens()) * i128::from(input_rate);
    let calls = i128::from(steps.saturating_sub(1).max(1));
    let mut total = 0;
    if CostContext::of(view).chat_search {
        total += i128::from(fees.web_search.max(fees.web_search_preview)) + block;
    }
    for tool in &view.hosted {
        let uses = tool.max_uses.map_or(calls, |uses| i128::from(uses.min(MAX_STEPS)));
        total += match tool.kind {
            HostedKind::WebSearch | HostedKind::WebSearchPreview => {
                uses * (i128::from(fees.web_search.max(fees.web_search_preview)) + block)
            }
            HostedKind::FileSearch => uses * i128::from(fees.file_search),
            HostedKind::CodeContainer { sized } => {
                i128::from(fees.code_container) * i128::from(if sized { LARGEST_CONTAINER } else { 1 })
            }
            HostedKind::ImageGeneration => uses * i128::from(IMAGE_FEE_PICO),
            HostedKind::Advisor | HostedKind::Other => 0,
        };
    }
    total
}

#[cfg(test)]
mod tests;
