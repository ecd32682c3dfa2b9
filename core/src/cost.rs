//! What a call costs, exactly: sums in pico-dollars, rounded once (design law 5).

mod detail;

use std::collections::BTreeSet;

use crate::{
    attempt::{Api, CostParts, Tokens},
    bound,
    money::{MAX_EVENT, Nanos},
    price::{Class, Lookup, Match, Priced, Tier},
    request::{HostedKind, RequestView},
    usage::{Counts, ServedTier, Usage},
};

pub use detail::{Detail, FeeLine, Line, Modifier, Step};

/// Flags of costs that rest on a price which is not the call's own.
const FINE_TUNE_FLAG: &str = "fine_tune_base_price";
const IMAGES_FLAG: &str = "image_generation_estimated";

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
    /// The same line by line.
    pub detail: Detail,
    /// The tier it was priced at.
    pub tier: Option<Tier>,
    /// The long-context band held.
    pub long_context: bool,
    /// What was odd; sorted.
    pub flags: BTreeSet<String>,
}

impl Cost {
    /// Whether a part of it is a guess, however exact the usage: images whose own usage nobody tells, or a fine-tune
    /// at the price of its base model, since its own is in no public table.
    #[must_use]
    pub fn is_guessed(&self) -> bool {
        [IMAGES_FLAG, FINE_TUNE_FLAG].iter().any(|flag| self.flags.contains(*flag))
    }
}

/// Prices a usage.
#[must_use]
pub fn cost(priced: &Priced, usage: &Usage, context: &CostContext) -> Cost {
    let mut sum = Sum { flags: usage.flags.clone(), ..Sum::default() };
    if usage.not_billed {
        return sum.finish(usage, None);
    }
    if priced.matched() == Match::FineTune {
        sum.flags.insert(FINE_TUNE_FLAG.to_owned());
    }
    let tier = choose_tier(priced, usage, context, &mut sum.flags);
    let modifiers = modifiers(priced, usage, context, &mut sum.flags);
    if usage.iterations.is_empty() {
        sum.call(priced, tier, &usage.counts, usage.prompt, &modifiers);
    }
    for step in &usage.iterations {
        match step
            .model
            .as_deref()
            .filter(|model| *model != priced.model().id())
            .map(|model| priced.sibling(model))
        {
            None => sum.call(priced, tier, &step.counts, step.prompt, &modifiers),
            Some(Lookup::Priced(other)) => sum.call(&other, tier, &step.counts, step.prompt, &modifiers),
            Some(Lookup::Unpriced) => {
                // Charged like the model that asked, so that it is not free, and told.
                sum.flags.insert("unpriced_iteration".to_owned());
                sum.call(priced, tier, &step.counts, step.prompt, &modifiers);
            }
        }
    }
    sum.inform(priced, tier, usage, context);
    sum.detail.fees = fees(priced, usage, context, &mut sum.flags);
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
    let detail = Detail { reported_pico: Some(pico), ..Detail::default() };
    Some(Cost { pico, nanos, tokens: tokens(usage), parts, detail, flags, ..Cost::default() })
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

/// Multipliers on token charges.
fn modifiers(
    priced: &Priced,
    usage: &Usage,
    context: &CostContext,
    flags: &mut BTreeSet<String>,
) -> Vec<Modifier> {
    let known = priced.modifiers();
    let (window, percent) = match context.completion_window_h {
        Some(2) => ("completion_window_2h", known.completion_window_2h),
        Some(8) => ("completion_window_8h", known.completion_window_8h),
        _ => ("completion_window", None),
    };
    let candidates = [
        ("geo_us", "geo_us", known.inference_geo_us.filter(|_| usage.geo_us)),
        ("data_residency", "data_residency", known.regional_host.filter(|_| context.regional_host)),
        (window, "completion_window", percent),
    ];
    let mut found = Vec::new();
    for (name, flag, percent) in candidates {
        if let Some(percent) = percent {
            flags.insert(flag.to_owned());
            found.push(Modifier { name: name.into(), percent });
        }
    }
    found
}

fn fees(priced: &Priced, usage: &Usage, context: &CostContext, flags: &mut BTreeSet<String>) -> Vec<FeeLine> {
    let fees = priced.fees();
    let tools = &usage.tools;
    let mut lines = Vec::new();
    let mut add = |name, calls: u64, fee: u64| {
        if calls > 0 && fee > 0 {
            lines.push(FeeLine::new(name, calls, fee));
        }
    };
    if context.web_search_preview {
        add("web_search_preview", tools.web_searches, fees.web_search_preview);
    } else {
        add("web_search", tools.web_searches, fees.web_search);
        let (rate, _) = priced.standard().rates.billed(Class::Input);
        add("web_search_block", tools.web_searches, priced.web_search_block_tokens().saturating_mul(rate));
    }
    add("file_search", tools.file_searches, fees.file_search);
    add("code_container", tools.containers, fees.code_container);
    add("web_search_preview", u64::from(context.chat_search), fees.web_search_preview);
    if tools.images > 0 {
        // The image model's own usage is not among the prices: the dearest image, and told.
        flags.insert(IMAGES_FLAG.to_owned());
        add("image", tools.images, bound::IMAGE_FEE_PICO);
    }
    add("grounded_prompt", u64::from(tools.grounding_queries > 0), fees.grounded_prompt);
    add("grounding_query", tools.grounding_queries, fees.grounding_query);
    lines
}

#[derive(Default)]
struct Sum {
    classes: [i128; Class::COUNT],
    detail: Detail,
    reasoning: i128,
    tool_definition: i128,
    long_context: bool,
    flags: BTreeSet<String>,
}

impl Sum {
    /// One model call: one tier, and one band for all of it.
    fn call(&mut self, priced: &Priced, tier: Tier, counts: &Counts, prompt: u64, modifiers: &[Modifier]) {
        let step = Step::priced(priced, tier, modifiers, counts, prompt);
        if step.long_context {
            self.long_context = true;
            self.flags.insert("long_context".to_owned());
        }
        let offered = priced.tier(tier).copied().unwrap_or_else(|| priced.standard());
        let (rates, _) = offered.band(prompt);
        for line in &step.lines {
            if rates.own(line.class).is_none() {
                self.flags.insert(format!("missing_rate:{}", line.class.as_str()));
            }
            self.classes[line.class as usize] += line.cost_pico;
        }
        self.detail.steps.push(step);
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
        let fees = self.detail.fees.iter().map(|fee| fee.cost_pico).sum::<i128>();
        let pico = self.classes.iter().sum::<i128>() + fees;
        let nanos = Nanos::from_pico_half_up(pico).min(MAX_EVENT);
        let mut breakdown_pico: Vec<_> = Class::ALL
            .into_iter()
            .map(|class| (class.as_str(), self.classes[class as usize]))
            .chain([("tool_fees", fees)])
            .collect();
        breakdown_pico.retain(|(_, pico)| *pico != 0);
        let tokens = if usage.not_billed { Tokens::default() } else { tokens(usage) };
        let parts = self.parts(nanos, fees);
        Cost {
            pico,
            nanos,
            tokens,
            parts,
            breakdown_pico,
            detail: self.detail,
            tier,
            long_context: self.long_context,
            flags: self.flags,
        }
    }

    fn parts(&self, whole: Nanos, fees: i128) -> CostParts {
        let of = |classes: &[Class]| classes.iter().map(|class| self.classes[*class as usize]).sum::<i128>();
        let input = of(&[Class::Input, Class::AudioInput]);
        let output = of(&[Class::Output, Class::AudioOutput, Class::ImageOutput, Class::VideoOutput]);
        let cached = self.classes.iter().sum::<i128>() - input - output;
        // Ties go to output, then input, then cached (contract §3.1).
        let raw = [output, input, cached, fees];
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
