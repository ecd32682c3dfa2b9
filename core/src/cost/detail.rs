//! What a cost is made of, line by line: enough to show it, and to price the same usage again after a price was mended.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::{
    id::OrgId,
    price::{Class, Fees, Lookup, Modifiers, Priced, Prices, Tier},
    usage::{Counts, Usage},
};

/// The whole of a cost. Sums of `cost_pico` over all lines and fees are the cost, unless it was capped at the hold, was
/// the hold itself, or is the provider's own figure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// Model calls; one, but for answers made of several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// Per-call fees of hosted tools.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fees: Vec<FeeLine>,
    /// The cost as the provider itself gave it, in pico-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "decimal_option")]
    pub reported_pico: Option<i128>,
}

/// One model call: one price row, one tier, and one band for all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The model whose price was looked for.
    pub model: String,
    /// The price row; `None` where the model has no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_id: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_version: Option<String>,
    /// The tier it was billed at.
    pub tier: Tier,
    /// The long-context band held.
    #[serde(default, skip_serializing_if = "is_false")]
    pub long_context: bool,
    /// All tokens of the prompt: they choose the band.
    pub prompt_tokens: u64,
    /// Multipliers on the token charges that applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modifiers: Vec<Modifier>,
    /// Tokens by class; classes without any are left out.
    pub lines: Vec<Line>,
}

/// A multiplier on token charges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modifier {
    /// `geo_us`, `data_residency`, `completion_window_2h` or `completion_window_8h`.
    pub name: Cow<'static, str>,
    /// Percent of the rate.
    pub percent: u64,
}

/// Tokens of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The class.
    pub class: Class,
    /// How many.
    pub tokens: u64,
    /// Pico-dollars for each, before multipliers; `None` where the model has no price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_pico: Option<u64>,
    /// What they cost, multipliers included.
    #[serde(with = "decimal")]
    pub cost_pico: i128,
}

/// Calls of a hosted tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeeLine {
    /// The fee, by its name in the catalogue; `web_search_block` and `image` beside those.
    pub name: Cow<'static, str>,
    /// How many calls.
    pub calls: u64,
    /// Pico-dollars of one.
    pub fee_pico: u64,
    /// What they cost.
    #[serde(with = "decimal")]
    pub cost_pico: i128,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl FeeLine {
    pub(super) fn new(name: &'static str, calls: u64, fee_pico: u64) -> Self {
        Self { name: name.into(), calls, fee_pico, cost_pico: i128::from(calls) * i128::from(fee_pico) }
    }
}

impl Step {
    /// Prices one model call.
    pub(super) fn priced(
        priced: &Priced,
        tier: Tier,
        modifiers: &[Modifier],
        counts: &Counts,
        prompt: u64,
    ) -> Self {
        let offered = priced.tier(tier).copied().unwrap_or_else(|| priced.standard());
        let (rates, long_context) = offered.band(prompt);
        let line = |class| {
            let tokens = counts.get(class);
            let (rate, _) = rates.billed(class);
            let cost_pico = scaled(i128::from(tokens) * i128::from(rate), modifiers);
            (tokens > 0).then_some(Line { class, tokens, rate_pico: Some(rate), cost_pico })
        };
        Self {
            model: priced.model().id().to_owned(),
            price_id: Some(priced.id().to_owned()),
            price_version: Some(priced.version().to_owned()),
            tier,
            long_context,
            prompt_tokens: prompt,
            modifiers: modifiers.to_vec(),
            lines: Class::ALL.into_iter().filter_map(line).collect(),
        }
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for line in &self.lines {
            counts.add(line.class, line.tokens);
        }
        counts
    }
}

impl Detail {
    /// The usage of a model without a price: its tokens, to be priced once there is one.
    #[must_use]
    pub fn unpriced(model: &str, usage: &Usage) -> Self {
        let tier = usage.known_tier();
        let step = |model: &str, counts: &Counts, prompt: u64| {
            let line = |class| {
                let tokens = counts.get(class);
                (tokens > 0).then_some(Line { class, tokens, rate_pico: None, cost_pico: 0 })
            };
            Step {
                model: model.to_owned(),
                price_id: None,
                price_version: None,
                tier,
                long_context: false,
                prompt_tokens: prompt,
                modifiers: Vec::new(),
                lines: Class::ALL.into_iter().filter_map(line).collect(),
            }
        };
        let steps = if usage.iterations.is_empty() {
            vec![step(model, &usage.counts, usage.prompt)]
        } else {
            let of = |one: &crate::usage::Iteration| {
                step(one.model.as_deref().unwrap_or(model), &one.counts, one.prompt)
            };
            usage.iterations.iter().map(of).collect()
        };
        Self { steps, fees: Vec::new(), reported_pico: usage.reported_pico }
    }

    /// The sum of all lines and fees, in pico-dollars.
    #[must_use]
    pub fn total_pico(&self) -> i128 {
        let lines = self.steps.iter().flat_map(|step| &step.lines).map(|line| line.cost_pico);
        lines.chain(self.fees.iter().map(|fee| fee.cost_pico)).sum()
    }

    /// The same usage at the prices that `prices` have for that instant: the same tiers and bands, by the same rules.
    /// `None` where a model still has none, or nothing was measured.
    #[must_use]
    pub fn reprice(&self, prices: &Prices, org: OrgId, provider: &str, at_ms: i64) -> Option<Self> {
        if self.steps.is_empty() {
            return None;
        }
        let mut first = None;
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let Lookup::Priced(priced) = prices.lookup(Some(org), provider, &step.model, at_ms) else {
                return None;
            };
            let tier = if priced.tier(step.tier).is_some() { step.tier } else { Tier::Standard };
            let modifiers: Vec<Modifier> =
                step.modifiers.iter().filter_map(|modifier| renewed(modifier, priced.modifiers())).collect();
            let again = Step::priced(&priced, tier, &modifiers, &step.counts(), step.prompt_tokens);
            // The name that was asked for finds the same model the next time, too.
            steps.push(Step { model: step.model.clone(), ..again });
            first.get_or_insert(priced);
        }
        let fees = first.map(|priced| priced.fees()).unwrap_or_default();
        let fees = self.fees.iter().map(|line| {
            let fee_pico = fee_named(fees, &line.name).unwrap_or(line.fee_pico);
            let cost_pico = i128::from(line.calls) * i128::from(fee_pico);
            FeeLine { fee_pico, cost_pico, ..line.clone() }
        });
        Some(Self { steps, fees: fees.collect(), reported_pico: self.reported_pico })
    }
}

fn fee_named(fees: Fees, name: &str) -> Option<u64> {
    fees.all().into_iter().find(|(known, _)| *known == name).map(|(_, fee)| fee)
}

/// The multiplier of the same name as a model has it now.
fn renewed(modifier: &Modifier, now: Modifiers) -> Option<Modifier> {
    let percent = match modifier.name.as_ref() {
        "geo_us" => now.inference_geo_us,
        "data_residency" => now.regional_host,
        "completion_window_2h" => now.completion_window_2h,
        "completion_window_8h" => now.completion_window_8h,
        _ => None,
    }?;
    Some(Modifier { name: modifier.name.clone(), percent })
}

fn scaled(pico: i128, modifiers: &[Modifier]) -> i128 {
    let (mut product, mut divisor) = (pico, 1_i128);
    for modifier in modifiers {
        product *= i128::from(modifier.percent);
        divisor *= 100;
    }
    (product + divisor / 2).div_euclid(divisor)
}

/// Big integers as decimal strings: JSON numbers lose digits on the way through many readers.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(value: &i128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod decimal_option {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "serde calls it so")]
    pub fn serialize<S: Serializer>(value: &Option<i128>, serializer: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i128>, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
