//! What a call costs, exactly: sums in pico-dollars, rounded once (design law 5).

use std::collections::BTreeSet;

use crate::{
    attempt::{Api, CostParts, Tokens},
    bound,
    money::{MAX_EVENT, Nanos},
    price::{Class, Lookup, Priced, Rates, Tier, TierRates},
    request::{HostedKind, RequestView},
    usage::{Counts, ServedTier, Usage},
};

/// What the request, not the answer, says about the price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostContext {
    /// A line of a batch; its answer does not say so.
    pub batch: bool,
    /// OpenAI's decisions endpoint.
    pub decisions: bool,
    /// A regional OpenAI host.
    pub regional_host: bool,
    /// `background_options.completion_window`, in hours (2 or 8).
    pub completion_window_h: Option<u64>,
    /// The preview of the web search tool was offered.
    pub web_search_preview: bool,
    /// Chat with `web_search_options`: one search, which the usage does not show.
    pub chat_search: bool,
    /// Tokens of the tool definitions, for the breakdown only.
    pub tool_definition_tokens: u64,
}

impl CostContext {
    /// From the request's body.
    #[must_use]
    pub fn of(view: &RequestView) -> Self {
        Self {
            regional_host: view.regional_host,
            web_search_preview: view.hosted.iter().any(|tool| tool.kind == HostedKind::WebSearchPreview),
            chat_search: view.web_search_options
                || (view.api == Api::OpenAiChat && view.model.contains("-search-")),
            tool_definition_tokens: view.tool_definition_tokens(),
            ..Self::default()
        }
    }
}

/// A cost and how it came about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Exact, in pico-dollars.
    pub pico: i128,
    /// Rounded half up, once; at most [`MAX_EVENT`].
    pub nanos: Nanos,
    /// Token counts of the event.
    pub tokens: Tokens,
    /// Parts that add up to `nanos` exactly: each is rounded on its own, and the difference goes to the largest.
    pub parts: CostParts,
    /// Exact, by class and in the order of [`Class::ALL`]; then `tool_fees`. Zeros are left out.
    pub breakdown_pico: Vec<(&'static str, i128)>,
    /// The tier it was priced at.
    pub tier: Option<Tier>,
    /// The long-context band held.
    pub long_context: bool,
    /// What was odd; sorted.
    pub flags: BTreeSet<String>,
}

/// Prices a usage.
#[must_use]
pub fn cost(priced: &Priced, usage: &Usage, context: &CostContext) -> Cost {
    let mut sum = Sum { flags: usage.flags.clone(), ..Sum::default() };
    if usage.not_billed {
        return sum.finish(usage, None);
    }
    let tier = choose_tier(priced, usage, context, &mut sum.flags);
    let percents = percents(priced, usage, context, &mut sum.flags);
    if usage.iterations.is_empty() {
        sum.call(priced, tier, &usage.counts, usage.prompt, &percents);
    }
    for step in &usage.iterations {
        match step
            .model
            .as_deref()
            .filter(|model| *model != priced.model().id())
            .map(|model| priced.sibling(model))
        {
            None => sum.call(priced, tier, &step.counts, step.prompt, &percents),
            Some(Lookup::Priced(other)) => sum.call(&other, tier, &step.counts, step.prompt, &percents),
            Some(Lookup::Unpriced) => {
                // Charged like the model that asked, so that it is not free, and told.
                sum.flags.insert("unpriced_iteration".to_owned());
                sum.call(priced, tier, &step.counts, step.prompt, &percents);
            }
        }
    }
    sum.inform(priced, tier, usage, context);
    sum.fees = fees(priced, usage, context, &mut sum.flags);
    sum.finish(usage, Some(tier))
}

/// The cost a provider names itself, where an operator trusts it to (OpenRouter).
#[must_use]
pub fn provider_reported(usage: &Usage) -> Option<Cost> {
    let pico = usage.reported_pico?;
    let mut flags = usage.flags.clone();
    flags.insert("provider_reported_cost".to_owned());
    let nanos = Nanos::from_pico_half_up(pico).min(MAX_EVENT);
    let parts = CostParts { output: nanos, ..CostParts::default() };
    Some(Cost { pico, nanos, tokens: tokens(usage), parts, flags, ..Cost::default() })
}

fn choose_tier(priced: &Priced, usage: &Usage, context: &CostContext, flags: &mut BTreeSet<String>) -> Tier {
    let wanted = match &usage.tier {
        _ if context.batch => Tier::Batch,
        _ if context.decisions => Tier::Decisions,
        ServedTier::Known(Tier::Batch) => Tier::Batch,
        _ if usage.fast => Tier::Fast,
        ServedTier::Known(tier) => *tier,
        ServedTier::Unknown(word) => {
            flags.insert(format!("unknown_tier:{word}"));
            Tier::Standard
        }
    };
    if priced.tier(wanted).is_none() {
        flags.insert(format!("tier_not_offered:{}", wanted.as_str()));
        return Tier::Standard;
    }
    if wanted == Tier::Fast {
        flags.insert("fast".to_owned());
    }
    wanted
}

/// Multipliers on token charges, in percent.
fn percents(priced: &Priced, usage: &Usage, context: &CostContext, flags: &mut BTreeSet<String>) -> Vec<u64> {
    let modifiers = priced.modifiers();
    let window = match context.completion_window_h {
        Some(2) => modifiers.completion_window_2h,
        Some(8) => modifiers.completion_window_8h,
        _ => None,
    };
    let candidates = [
        ("geo_us", modifiers.inference_geo_us.filter(|_| usage.geo_us)),
        ("data_residency", modifiers.regional_host.filter(|_| context.regional_host)),
        ("completion_window", window),
    ];
    let mut percents = Vec::new();
    for (flag, percent) in candidates {
        if let Some(percent) = percent {
            flags.insert(flag.to_owned());
            percents.push(percent);
        }
    }
    percents
}

fn fees(priced: &Priced, usage: &Usage, context: &CostContext, flags: &mut BTreeSet<String>) -> i128 {
    let fees = priced.fees();
    let tools = &usage.tools;
    let product = |calls: u64, fee: u64| i128::from(calls) * i128::from(fee);
    let (search, block) = if context.web_search_preview {
        (fees.web_search_preview, 0)
    } else {
        let (rate, _) = priced.standard().rates.billed(Class::Input);
        (fees.web_search, product(priced.web_search_block_tokens(), rate))
    };
    let mut total = product(tools.web_searches, search) + i128::from(tools.web_searches) * block;
    total += product(tools.file_searches, fees.file_search);
    total += product(tools.containers, fees.code_container);
    if context.chat_search {
        total += i128::from(fees.web_search_preview);
    }
    if tools.images > 0 {
        // The image model's own usage is not among the prices: the dearest image, and told.
        flags.insert("image_generation_estimated".to_owned());
        total += i128::from(tools.images) * i128::from(bound::IMAGE_FEE_PICO);
    }
    if tools.grounding_queries > 0 {
        total += i128::from(fees.grounded_prompt) + product(tools.grounding_queries, fees.grounding_query);
    }
    total
}

#[derive(Default)]
struct Sum {
    classes: [i128; Class::COUNT],
    fees: i128,
    reasoning: i128,
    tool_definition: i128,
    long_context: bool,
    flags: BTreeSet<String>,
}

impl Sum {
    /// One model call: one tier, and one band for all of it.
    fn call(&mut self, priced: &Priced, tier: Tier, counts: &Counts, prompt: u64, percents: &[u64]) {
        let offered: TierRates = priced.tier(tier).copied().unwrap_or_else(|| priced.standard());
        let (rates, long): (&Rates, bool) = offered.band(prompt);
        if long {
            self.long_context = true;
            self.flags.insert("long_context".to_owned());
        }
        for class in Class::ALL {
            let tokens = counts.get(class);
            if tokens == 0 {
                continue;
            }
            let (rate, lent) = rates.billed(class);
            if lent {
                self.flags.insert(format!("missing_rate:{}", class.as_str()));
            }
            self.classes[class as usize] += scaled(i128::from(tokens) * i128::from(rate), percents);
        }
    }

    /// Subsets for the breakdown; nothing is added to the total.
    fn inform(&mut self, priced: &Priced, tier: Tier, usage: &Usage, context: &CostContext) {
        let offered = priced.tier(tier).copied().unwrap_or_else(|| priced.standard());
        let (rates, _) = offered.band(usage.prompt);
        let product = |tokens: u64, class| i128::from(tokens) * i128::from(rates.billed(class).0);
        self.reasoning = product(usage.reasoning, Class::Output).min(self.classes[Class::Output as usize]);
        self.tool_definition =
            product(context.tool_definition_tokens, Class::Input).min(self.classes[Class::Input as usize]);
    }

    fn finish(self, usage: &Usage, tier: Option<Tier>) -> Cost {
        let pico = self.classes.iter().sum::<i128>() + self.fees;
        let nanos = Nanos::from_pico_half_up(pico).min(MAX_EVENT);
        let mut breakdown_pico: Vec<_> = Class::ALL
            .into_iter()
            .map(|class| (class.as_str(), self.classes[class as usize]))
            .chain([("tool_fees", self.fees)])
            .collect();
        breakdown_pico.retain(|(_, pico)| *pico != 0);
        let tokens = if usage.not_billed { Tokens::default() } else { tokens(usage) };
        let parts = self.parts(nanos);
        Cost {
            pico,
            nanos,
            tokens,
            parts,
            breakdown_pico,
            tier,
            long_context: self.long_context,
            flags: self.flags,
        }
    }

    fn parts(&self, whole: Nanos) -> CostParts {
        let of = |classes: &[Class]| classes.iter().map(|class| self.classes[*class as usize]).sum::<i128>();
        let input = of(&[Class::Input, Class::AudioInput]);
        let output = of(&[Class::Output, Class::AudioOutput, Class::ImageOutput, Class::VideoOutput]);
        let cached = self.classes.iter().sum::<i128>() - input - output;
        // Ties go to output, then input, then cached (contract §3.1).
        let raw = [output, input, cached, self.fees];
        let mut rounded = raw.map(|pico| Nanos::from_pico_half_up(pico).min(MAX_EVENT));
        let mut largest = 0;
        for (index, pico) in raw.iter().enumerate() {
            if *pico > raw[largest] {
                largest = index;
            }
        }
        let rest = whole - rounded.iter().copied().sum::<Nanos>();
        rounded[largest] = rounded[largest] + rest;
        let [output, input, cached, fees] = rounded;
        CostParts {
            input,
            cached,
            output,
            fees,
            reasoning: Nanos::from_pico_half_up(self.reasoning).min(output),
            tool_definition: Nanos::from_pico_half_up(self.tool_definition).min(input),
        }
    }
}

fn scaled(pico: i128, percents: &[u64]) -> i128 {
    let (mut product, mut divisor) = (pico, 1_i128);
    for percent in percents {
        product *= i128::from(*percent);
        divisor *= 100;
    }
    (product + divisor / 2).div_euclid(divisor)
}

fn tokens(usage: &Usage) -> Tokens {
    let whole = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    let of = |classes: &dyn Fn(Class) -> bool| {
        if usage.iterations.is_empty() {
            return whole(usage.counts.sum(classes));
        }
        whole(usage.iterations.iter().fold(0_u64, |sum, step| sum.saturating_add(step.counts.sum(classes))))
    };
    Tokens {
        input: of(&Class::is_input),
        output: of(&|class| !class.is_input()),
        cached_input: of(&|class| matches!(class, Class::CachedInput | Class::CachedAudioInput)),
        cache_write: of(&|class| {
            use Class::{CacheWrite1h, CacheWrite5m, CacheWrite12h, CacheWrite30m};
            matches!(class, CacheWrite5m | CacheWrite1h | CacheWrite30m | CacheWrite12h)
        }),
        reasoning: whole(usage.reasoning),
    }
}

#[cfg(test)]
mod tests;
