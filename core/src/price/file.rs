//! The catalogue file as written (`core/catalogue/README.md` describes it) and the checks it must pass.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::{
    CatalogueError, Fees, Limits, Model, Modifiers,
    model::Period,
    rates::{Class, Rates, Tier, TierRates},
};

/// The dearest rate that is believed: 10 000 dollars per million tokens. A higher one is a unit mistake.
const ABSURD_RATE: u64 = 10_000_000_000;
/// The dearest fee that is believed: 100 dollars per call.
const ABSURD_FEE: u64 = 100_000_000_000_000;
/// The only schema this program reads.
const SCHEMA: &str = "nullspend.prices/1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema: String,
    version: String,
    unit: String,
    #[serde(default)]
    force: bool,
    models: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    provider: String,
    id: String,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    patterns: Vec<String>,
    context: Option<u64>,
    max_input: Option<u64>,
    max_output: Option<u64>,
    image_tokens: Option<u64>,
    image_tiles: Option<[u64; 2]>,
    #[serde(default)]
    reasoning: bool,
    retires: Option<String>,
    #[serde(default)]
    web_search_block_tokens: u64,
    prices: Vec<Price>,
    #[serde(default)]
    modifiers: Modifiers,
    #[serde(default)]
    fees: Fees,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    from: Option<String>,
    until: Option<String>,
    tiers: BTreeMap<Tier, TierRates>,
}

/// What a valid file holds.
pub(super) struct Parsed {
    pub version: String,
    /// Changes of more than a factor of three are meant.
    pub forced: bool,
    pub models: Vec<Model>,
    /// (provider, id or alias) → index of its model.
    pub names: HashMap<String, HashMap<String, usize>>,
    /// (provider, pattern) → index of its model.
    pub patterns: Vec<(String, String, usize)>,
}

pub(super) fn parse(text: &str) -> Result<Parsed, CatalogueError> {
    let file: File = serde_json::from_str(text).map_err(CatalogueError::Shape)?;
    if file.schema != SCHEMA || file.unit != "pico_usd" {
        return Err(CatalogueError::Schema { schema: file.schema, unit: file.unit });
    }
    let mut parsed = Parsed {
        version: file.version,
        forced: file.force,
        models: Vec::new(),
        names: HashMap::new(),
        patterns: Vec::new(),
    };
    for entry in file.models {
        add(entry, &mut parsed)?;
    }
    Ok(parsed)
}

fn add(entry: Entry, parsed: &mut Parsed) -> Result<(), CatalogueError> {
    let name = format!("{}/{}", entry.provider, entry.id);
    let invalid = |what: String| CatalogueError::Model { model: name.clone(), what };
    if entry.provider.is_empty() || entry.id.is_empty() {
        return Err(invalid("provider and id must not be empty".to_owned()));
    }
    let index = parsed.models.len();
    let names = parsed.names.entry(entry.provider.clone()).or_default();
    for spelling in std::iter::once(&entry.id).chain(&entry.aliases) {
        if names.insert(spelling.clone(), index).is_some() {
            return Err(invalid(format!("`{spelling}` names two models of this provider")));
        }
    }
    check_patterns(&entry.patterns).map_err(invalid)?;
    for pattern in entry.patterns {
        parsed.patterns.push((entry.provider.clone(), pattern, index));
    }
    let mut periods = Vec::with_capacity(entry.prices.len());
    for price in entry.prices {
        periods.push(period(price).map_err(invalid)?);
    }
    for pair in periods.windows(2) {
        if pair[0].until_ms != pair[1].from_ms || pair[0].until_ms.is_none() {
            return Err(invalid(
                "prices must follow each other without overlap or gap, oldest first".to_owned(),
            ));
        }
    }
    check_modifiers(&entry.modifiers).and_then(|()| check_fees(&entry.fees)).map_err(invalid)?;
    parsed.models.push(Model {
        name,
        provider: entry.provider,
        id: entry.id,
        limits: Limits {
            context: entry.context,
            max_input: entry.max_input,
            max_output: entry.max_output,
            image_tokens: entry.image_tokens,
            image_tiles: entry.image_tiles,
        },
        reasoning: entry.reasoning,
        retires: entry.retires,
        web_search_block_tokens: entry.web_search_block_tokens,
        periods,
        modifiers: entry.modifiers,
        fees: entry.fees,
        row_version: None,
    });
    Ok(())
}

fn period(price: Price) -> Result<Period, String> {
    let from_ms = price.from.as_deref().map(day).transpose()?;
    let until_ms = price.until.as_deref().map(day).transpose()?;
    if let (Some(from), Some(until)) = (from_ms, until_ms)
        && from >= until
    {
        return Err("a price must start before it ends".to_owned());
    }
    check_tiers(&price.tiers)?;
    Ok(Period { from_ms, until_ms, tiers: price.tiers.into_iter().collect() })
}

pub(super) fn check_patterns(patterns: &[String]) -> Result<(), String> {
    match patterns.iter().find(|pattern| !super::resolve::is_pattern(pattern)) {
        None => Ok(()),
        Some(bad) => Err(format!("pattern `{bad}` must hold {{yyyy-mm-dd}}, {{yyyymmdd}} or {{mm-dd}} once")),
    }
}

pub(super) fn check_modifiers(modifiers: &Modifiers) -> Result<(), String> {
    match modifiers.named().find(|(_, percent)| !(1..=1000).contains(percent)) {
        None => Ok(()),
        Some((what, _)) => Err(format!("modifier {what} must be 1 to 1000 percent")),
    }
}

pub(super) fn check_fees(fees: &Fees) -> Result<(), String> {
    match fees.all().into_iter().find(|(_, fee)| *fee > ABSURD_FEE) {
        None => Ok(()),
        Some((what, fee)) => Err(format!("fee {what} of {fee} pico-dollars per call is absurd")),
    }
}

pub(super) fn check_tiers(tiers: &BTreeMap<Tier, TierRates>) -> Result<(), String> {
    if !tiers.contains_key(&Tier::Standard) {
        return Err("every price needs the tier `standard`".to_owned());
    }
    for (tier, rates) in tiers {
        check_rates(&rates.rates).map_err(|what| format!("tier {}: {what}", tier.as_str()))?;
        if let Some(above) = &rates.above {
            check_rates(&above.rates).map_err(|what| format!("tier {} above: {what}", tier.as_str()))?;
            if above.tokens == 0 {
                return Err(format!("tier {}: the threshold must be above 0", tier.as_str()));
            }
        }
    }
    Ok(())
}

fn check_rates(rates: &Rates) -> Result<(), String> {
    for class in [Class::Input, Class::Output] {
        if rates.own(class).is_none() {
            return Err(format!("the rate of `{}` is missing", class.as_str()));
        }
    }
    for (class, rate) in rates.iter() {
        if rate > ABSURD_RATE {
            return Err(format!(
                "`{}` of {rate} pico-dollars per token is absurd: is it per million tokens?",
                class.as_str()
            ));
        }
    }
    let (input, _) = rates.billed(Class::Input);
    // One nano-dollar per million tokens: a rate in dollars per million written as pico-dollars per token.
    for class in [Class::Input, Class::Output] {
        let (rate, _) = rates.billed(class);
        if rate != 0 && rate < 1000 {
            return Err(format!("`{}` of {rate} pico-dollars per token is absurdly small", class.as_str()));
        }
    }
    if rates.own(Class::CachedInput).is_some_and(|cached| cached > input) {
        return Err("`cached_input` must not be dearer than `input`".to_owned());
    }
    Ok(())
}

/// Midnight UTC of an ISO date, in Unix milliseconds.
pub(crate) fn day(text: &str) -> Result<i64, String> {
    let date: jiff::civil::Date =
        text.parse().map_err(|_| format!("`{text}` must be a date like 2026-11-23"))?;
    let zoned =
        date.to_zoned_datetime(jiff::tz::TimeZone::UTC).map_err(|_| format!("`{text}` is out of range"))?;
    Ok(zoned.timestamp().as_millisecond())
}
