use std::sync::Arc;

use super::*;

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

fn find(provider: &str, model: &str, at_ms: i64) -> Option<Priced> {
    match Catalogue::shipped().lookup(provider, model, at_ms) {
        Lookup::Priced(priced) => Some(priced),
        Lookup::Unpriced => None,
    }
}

fn id(provider: &str, model: &str) -> Option<(String, Match)> {
    find(provider, model, NOW).map(|priced| (priced.id().to_owned(), priced.matched()))
}

#[test]
fn the_shipped_catalogue_is_valid_and_complete() {
    let catalogue = Catalogue::parse(include_str!("../../catalogue/prices.json")).unwrap();
    assert_eq!(catalogue.models().count(), 136);
    assert_eq!(catalogue.version(), Catalogue::shipped().version());
    let catalogue = Arc::new(catalogue);
    for model in catalogue.models() {
        let priced = catalogue.lookup(model.provider(), model.id(), NOW);
        let unpriced = model.id() == "gpt-6.2-astra-law";
        assert_eq!(matches!(priced, Lookup::Unpriced), unpriced, "{}", model.name());
    }
}

#[test]
fn names_resolve_to_the_model_that_prices_them() {
    let expected = |id: &str, matched| Some((format!("openai/{id}"), matched));
    for (name, wanted) in [
        ("gpt-4o", expected("gpt-4o", Match::Exact)),
        ("gpt-4o-2024-08-06", expected("gpt-4o", Match::Exact)),
        ("gpt-4o-2024-05-13", expected("gpt-4o-2024-05-13", Match::Exact)),
        ("openai/gpt-4o", expected("gpt-4o", Match::Exact)),
        ("gpt-4o-2031-01-02", expected("gpt-4o", Match::Snapshot)),
        ("gpt-5.6-sol-2026-10-01", expected("gpt-5.6-sol", Match::Pattern)),
        ("ft:gpt-4o-mini-2024-07-18:acme:support:abc123", expected("gpt-4o-mini", Match::FineTune)),
        ("ft:gpt-4o:acme::x", expected("gpt-4o", Match::FineTune)),
        ("gpt-4o-2031-1-2", None),
        ("gpt-4o-", None),
        ("xgpt-4o", None),
        ("gpt-9-imaginary", None),
        ("ft::x", None),
        ("anthropic/gpt-4o", None),
        ("", None),
    ] {
        assert_eq!(id("openai", name), wanted, "{name}");
    }
    assert_eq!(
        id("anthropic", "claude-haiku-3.5").map(|m| m.0).as_deref(),
        Some("anthropic/claude-3-5-haiku-20241022")
    );
    assert_eq!(id("anthropic", "claude-opus-5-20270101").map(|m| m.1), Some(Match::Pattern));
    assert_eq!(id("anthropic", "gpt-4o"), None);
}

#[test]
fn prices_change_at_midnight_utc_of_their_day() {
    let day = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    for (model, provider, at, input) in [
        ("o3", "openai", "2025-06-09T23:59:59.999Z", 10_000_000),
        ("o3", "openai", "2025-06-10T00:00:00Z", 2_000_000),
        ("gemini-4-argon", "google", "2026-11-30T23:59:59Z", 2_000_000),
        ("gemini-4-argon", "google", "2026-12-01T00:00:00Z", 4_000_000),
    ] {
        let priced = find(provider, model, day(at)).unwrap();
        assert_eq!(priced.standard().rates.own(Class::Input), Some(input), "{model} at {at}");
    }
    let fast = |at| find("anthropic", "claude-opus-4-8", day(at)).unwrap().tier(Tier::Fast).is_some();
    assert!(fast("2026-11-29T00:00:00Z") && !fast("2026-11-30T00:00:00Z"));
}

#[test]
fn a_missing_rate_is_lent_by_what_it_is_a_variant_of() {
    let mut rates = Rates::default();
    rates.set(Class::Input, 10);
    rates.set(Class::Output, 20);
    rates.set(Class::CacheWrite5m, 12);
    assert_eq!(rates.billed(Class::CachedInput), (10, true));
    assert_eq!(rates.billed(Class::CacheWrite1h), (12, true));
    assert_eq!(rates.billed(Class::CacheWrite12h), (10, true));
    assert_eq!(rates.billed(Class::AudioOutput), (20, true));
    assert_eq!(rates.billed(Class::CacheWrite5m), (12, false));
}

fn file(models: &str) -> Result<Catalogue, CatalogueError> {
    Catalogue::parse(&format!(
        r#"{{"schema":"nullspend.prices/1","version":"t","unit":"pico_usd","models":[{models}]}}"#
    ))
}

fn model(id: &str, rest: &str, prices: &str) -> String {
    format!(r#"{{"provider":"p","id":"{id}"{rest},"prices":[{prices}]}}"#)
}

const PRICE: &str = r#"{"tiers":{"standard":{"rates":{"input":2000000,"output":8000000}}}}"#;

#[test]
fn mistakes_in_a_catalogue_are_refused_with_what_to_change() {
    assert!(file(&model("a", "", PRICE)).is_ok());
    let rate = |input: &str| {
        format!(r#"{{"tiers":{{"standard":{{"rates":{{"input":{input},"output":8000000}}}}}}}}"#)
    };
    let span =
        |from: &str, until: &str| PRICE.replacen('{', &format!(r#"{{"from":"{from}","until":"{until}","#), 1);
    let cases = [
        (model("a", "", &rate("-1")), "expected shape"),
        (model("a", "", &rate("0.5")), "expected shape"),
        (model("a", "", &rate("2000000000000")), "per million"),
        (model("a", "", &rate("2")), "absurdly small"),
        (model("a", r#","colour":"red""#, PRICE), "expected shape"),
        (model("a", "", &PRICE.replace("output", "outptu")), "expected shape"),
        (model("a", "", &PRICE.replace("standard", "flex")), "needs the tier `standard`"),
        (model("a", "", r#"{"tiers":{"standard":{"rates":{"input":2000000}}}}"#), "`output` is missing"),
        (model("a", "", &format!("{},{PRICE}", span("2026-01-01", "2026-02-01"))), "without overlap or gap"),
        (
            model(
                "a",
                "",
                &format!("{},{}", span("2026-01-01", "2026-02-01"), span("2026-01-15", "2026-03-01")),
            ),
            "without overlap or gap",
        ),
        (model("a", "", &span("2026-02-01", "2026-01-01")), "start before it ends"),
        (model("a", "", &span("soon", "2026-01-01")), "must be a date"),
        (model("a", r#","aliases":["a"]"#, PRICE), "names two models"),
        (
            format!(
                "{},{}",
                model("a", r#","aliases":["c"]"#, PRICE),
                model("b", r#","aliases":["c"]"#, PRICE)
            ),
            "names two models",
        ),
        (model("a", r#","patterns":["a-.*"]"#, PRICE), "pattern"),
        (model("a", r#","fees":{"web_search":10000000000000000}"#, PRICE), "absurd"),
        (model("a", r#","modifiers":{"regional_host":0}"#, PRICE), "percent"),
        (model("", "", PRICE), "must not be empty"),
    ];
    for (text, words) in cases {
        let message = file(&text).map(drop).unwrap_err().to_string();
        assert!(message.contains(words), "{message} lacks {words}");
    }
    assert!(matches!(Catalogue::parse("{"), Err(CatalogueError::Shape(_))));
}
