//! What a price says: the API's words to the core's and back.

use std::collections::BTreeMap;

use nullspend_core::price::{Above, Class, Fees, Limits, Modifiers, Rates, Terms, Tier, TierRates, usd};
use nullspend_proto::v1;

use crate::{
    app::{AppError, Issue, PathSegment},
    grpc::convert::signed,
};

/// Problems found so far, and where the reading stands.
#[derive(Default)]
struct Issues {
    found: Vec<Issue>,
    at: Vec<PathSegment>,
}

impl Issues {
    fn add(&mut self, path: &[PathSegment], message: impl Into<String>) {
        let path = self.at.iter().chain(path).map(PathSegment::clipped).collect();
        self.found.push(Issue { path, message: message.into() });
    }

    /// A count that must not be negative.
    fn whole(&mut self, field: &str, value: Option<i64>) -> Option<u64> {
        let value = value?;
        let whole = u64::try_from(value).ok();
        if whole.is_none() {
            self.add(&[field.into()], "must be a whole number, 0 or more");
        }
        whole
    }
}

/// The terms of a price that is asked for; every problem of their form is told at once.
pub(super) fn read(wanted: v1::CreatePriceRequest) -> Result<Terms, AppError> {
    let mut issues = Issues::default();
    let tiers = tiers(wanted.tiers, &mut issues);
    let fees: Option<Fees> = named("feesPicodollars", &wanted.fees_picodollars, &mut issues);
    let modifiers: Option<Modifiers> = named("modifiersPercent", &wanted.modifiers_percent, &mut issues);
    issues.at = vec!["limits".into()];
    let limits = wanted.limits.unwrap_or_default();
    let terms = Terms {
        provider: wanted.provider,
        model: wanted.model,
        aliases: wanted.aliases,
        patterns: wanted.patterns,
        tiers,
        context: issues.whole("context", limits.context),
        max_input: issues.whole("maxInput", limits.max_input),
        max_output: issues.whole("maxOutput", limits.max_output),
        image_tokens: issues.whole("imageTokens", limits.image_tokens),
        reasoning: wanted.reasoning,
        fees,
        modifiers,
    };
    if issues.found.is_empty() { Ok(terms) } else { Err(AppError::validation(issues.found)) }
}

fn tiers(given: Vec<v1::PriceTier>, issues: &mut Issues) -> BTreeMap<Tier, TierRates> {
    let mut tiers = BTreeMap::new();
    for (index, wanted) in given.into_iter().enumerate() {
        issues.at = vec!["tiers".into(), index.into()];
        let Some(tier) = Tier::ALL.into_iter().find(|tier| tier.as_str() == wanted.tier) else {
            let words = Tier::ALL.map(Tier::as_str).join(", ");
            issues.add(&["tier".into()], format!("must be one of {words}"));
            continue;
        };
        let rates = rates(&wanted.picodollars_per_token, &wanted.usd_per_million_tokens, issues);
        let above = wanted.above.map(|above| {
            issues.at.push("above".into());
            let tokens = issues.whole("tokens", Some(above.tokens)).unwrap_or_default();
            Above {
                tokens,
                rates: self::rates(&above.picodollars_per_token, &above.usd_per_million_tokens, issues),
            }
        });
        if tiers.insert(tier, TierRates { rates, above }).is_some() {
            issues.add(&["tier".into()], "is given more than once");
        }
    }
    issues.at.clear();
    tiers
}

/// Rates in either unit; a class may be given in both if they say the same, as answers do.
fn rates(pico: &BTreeMap<String, i64>, usd: &BTreeMap<String, String>, issues: &mut Issues) -> Rates {
    let mut rates = Rates::default();
    for (name, value) in pico {
        let path = ["picodollarsPerToken".into(), name.as_str().into()];
        match (Class::parse(name), u64::try_from(*value)) {
            (Some(class), Ok(rate)) => rates.set(class, rate),
            (None, _) => issues.add(&path, class_rule()),
            (_, Err(_)) => issues.add(&path, "must be a whole number of pico-dollars per token, 0 or more"),
        }
    }
    for (name, text) in usd {
        let path = ["usdPerMillionTokens".into(), name.as_str().into()];
        match (Class::parse(name), usd::pico_per_token(text)) {
            (Some(class), Some(rate)) if rates.own(class).is_none_or(|known| known == rate) => {
                rates.set(class, rate);
            }
            (Some(_), Some(_)) => issues.add(&path, "differs from picodollarsPerToken; give one of them"),
            (None, _) => issues.add(&path, class_rule()),
            (_, None) => {
                issues.add(
                    &path,
                    "must be dollars per million tokens with at most 6 decimal places, like \"0.40\"",
                );
            }
        }
    }
    rates
}

fn class_rule() -> String {
    format!("must be named as one of {}", Class::ALL.map(Class::as_str).join(", "))
}

/// Numbers by name, whose names the core knows; `None` when there are none.
fn named<T: serde::de::DeserializeOwned>(
    field: &str,
    given: &BTreeMap<String, i64>,
    issues: &mut Issues,
) -> Option<T> {
    if given.is_empty() {
        return None;
    }
    let read = serde_json::to_value(given).and_then(serde_json::from_value);
    read.map_err(|error| issues.add(&[field.into()], format!("cannot be used: {error}"))).ok()
}

pub(super) fn tier(tier: Tier, of: &TierRates) -> v1::PriceTier {
    let (picodollars_per_token, usd_per_million_tokens) = shown(&of.rates);
    v1::PriceTier {
        tier: tier.as_str().to_owned(),
        picodollars_per_token,
        usd_per_million_tokens,
        above: of.above.as_ref().map(|above| {
            let (picodollars_per_token, usd_per_million_tokens) = shown(&above.rates);
            v1::LongContextPrice {
                tokens: signed(above.tokens),
                picodollars_per_token,
                usd_per_million_tokens,
            }
        }),
    }
}

fn shown(rates: &Rates) -> (BTreeMap<String, i64>, BTreeMap<String, String>) {
    let name = |class: Class| class.as_str().to_owned();
    (
        rates.iter().map(|(class, rate)| (name(class), signed(rate))).collect(),
        rates.iter().map(|(class, rate)| (name(class), usd::usd_per_million(rate))).collect(),
    )
}

pub(super) fn limits_of(terms: &Terms) -> v1::ModelLimits {
    let &Terms { context, max_input, max_output, image_tokens, .. } = terms;
    limits(Limits { context, max_input, max_output, image_tokens, image_tiles: None })
}

pub(super) fn limits(limits: Limits) -> v1::ModelLimits {
    v1::ModelLimits {
        context: limits.context.map(signed),
        max_input: limits.max_input.map(signed),
        max_output: limits.max_output.map(signed),
        image_tokens: limits.image_tokens.map(signed),
    }
}

pub(super) fn fees(fees: Fees) -> BTreeMap<String, i64> {
    let set = fees.named().filter(|(_, fee)| *fee > 0);
    set.map(|(name, fee)| (name.to_owned(), signed(fee))).collect()
}

pub(super) fn modifiers(modifiers: Modifiers) -> BTreeMap<String, i64> {
    modifiers.named().map(|(name, percent)| (name.to_owned(), signed(percent))).collect()
}
