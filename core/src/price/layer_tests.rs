use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::id::{OrgId, PriceId};

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;
const DAY: i64 = 86_400_000;
const ACME: OrgId = OrgId(Uuid::from_u128(1));
const OTHER: OrgId = OrgId(Uuid::from_u128(2));

fn row(n: u128, org: Option<OrgId>, model: &str, input: u64) -> PriceRow {
    let terms = format!(
        r#"{{"provider":"openai","model":"{model}","tiers":{{"standard":{{"rates":{{"input":{input},"output":{input}}}}}}}}}"#
    );
    PriceRow {
        id: PriceId(Uuid::from_u128(n)),
        version: 1,
        org,
        from_ms: NOW - DAY,
        until_ms: None,
        terms: Terms::parse(&terms).unwrap(),
    }
}

fn prices(rows: &[PriceRow]) -> Prices {
    Prices::new(Catalogue::shipped(), rows).unwrap()
}

fn input(prices: &Prices, org: OrgId, model: &str, at_ms: i64) -> Option<(u64, Match)> {
    match prices.lookup(Some(org), "openai", model, at_ms) {
        Lookup::Priced(priced) => Some((priced.standard().rates.billed(Class::Input).0, priced.matched())),
        Lookup::Unpriced => None,
    }
}

#[test]
fn an_organisations_row_goes_before_everybodys_and_that_before_the_catalogue() {
    let prices = prices(&[row(1, None, "gpt-4o", 7_000), row(2, Some(ACME), "gpt-4o", 9_000)]);
    assert_eq!(input(&prices, ACME, "gpt-4o", NOW), Some((9_000, Match::Exact)));
    assert_eq!(input(&prices, OTHER, "gpt-4o", NOW), Some((7_000, Match::Exact)));
    assert_eq!(input(&prices, ACME, "gpt-4o-mini", NOW), Some((150_000, Match::Exact)), "the catalogue's");
    let Lookup::Priced(priced) = prices.lookup(Some(ACME), "openai", "gpt-4o", NOW) else { panic!() };
    assert_eq!((priced.id(), priced.version()), (PriceId(Uuid::from_u128(2)).to_string().as_str(), "1"));
    assert_eq!(priced.limits().max_output, Some(16_384), "what the row does not say is as below");
    assert!(priced.fees().web_search_preview > 0);
}

#[test]
fn a_row_prices_every_name_of_its_model() {
    let prices = prices(&[row(1, Some(ACME), "gpt-4o", 9_000)]);
    assert_eq!(
        input(&prices, ACME, "gpt-4o-2024-08-06", NOW),
        Some((9_000, Match::Exact)),
        "the catalogue's alias"
    );
    assert_eq!(input(&prices, ACME, "openai/gpt-4o", NOW), Some((9_000, Match::Exact)));
    assert_eq!(input(&prices, ACME, "gpt-4o-2031-01-02", NOW), Some((9_000, Match::Snapshot)));
    assert_eq!(input(&prices, ACME, "ft:gpt-4o:acme::x", NOW), Some((9_000, Match::FineTune)));
    assert_eq!(
        input(&prices, ACME, "gpt-4o-2024-05-13", NOW),
        Some((5_000_000, Match::Exact)),
        "a snapshot with a price of its own is another model"
    );
}

#[test]
fn the_more_exact_row_wins() {
    let rows = [
        row(1, Some(ACME), "gpt-4o", 9_000),
        row(2, Some(ACME), "gpt-4o-2024-08-06", 8_000),
        row(3, Some(ACME), "ft:gpt-4o:acme::x", 7_000),
    ];
    let prices = prices(&rows);
    assert_eq!(input(&prices, ACME, "gpt-4o-2024-08-06", NOW), Some((8_000, Match::Exact)));
    assert_eq!(input(&prices, ACME, "ft:gpt-4o:acme::x", NOW), Some((7_000, Match::Exact)));
    assert_eq!(input(&prices, ACME, "ft:gpt-4o:acme::y", NOW), Some((9_000, Match::FineTune)));
}

#[test]
fn a_row_holds_from_its_beginning_until_its_end() {
    let mut first = row(1, None, "gpt-4o", 9_000);
    (first.from_ms, first.until_ms) = (NOW, Some(NOW + DAY));
    let mut second = row(2, None, "gpt-4o", 8_000);
    second.from_ms = NOW + DAY;
    let prices = prices(&[second, first]);
    let at = |at_ms| input(&prices, ACME, "gpt-4o", at_ms).map(|found| found.0);
    assert_eq!(at(NOW - 1), Some(2_500_000), "the catalogue's");
    assert_eq!((at(NOW), at(NOW + DAY - 1)), (Some(9_000), Some(9_000)));
    assert_eq!(at(NOW + DAY), Some(8_000));
}

#[test]
fn models_and_providers_that_the_catalogue_does_not_know_can_be_priced_even_at_nothing() {
    let mut own = row(1, Some(ACME), "llama", 0);
    own.terms.provider = "vllm".to_owned();
    own.terms.aliases = vec!["llama-latest".to_owned()];
    let prices = prices(&[own]);
    let found = |org, model| prices.lookup(Some(org), "vllm", model, NOW);
    assert!(matches!(found(ACME, "llama-latest"), Lookup::Priced(_)));
    assert!(matches!(found(ACME, "llama"), Lookup::Priced(_)));
    assert!(matches!(found(OTHER, "llama"), Lookup::Unpriced));
    assert!(prices.providers(Some(ACME)).any(|provider| provider == "vllm"));
}

#[test]
fn a_sibling_is_priced_for_the_same_caller() {
    let prices = prices(&[row(1, Some(ACME), "gpt-4o", 9_000)]);
    let Lookup::Priced(mini) = prices.lookup(Some(ACME), "openai", "gpt-4o-mini", NOW) else { panic!() };
    let Lookup::Priced(sibling) = mini.sibling("gpt-4o") else { panic!() };
    assert_eq!(sibling.standard().rates.billed(Class::Input).0, 9_000);
}

#[test]
fn rows_that_contradict_each_other_are_refused_by_name() {
    let refused = |rows: &[PriceRow]| Prices::new(Catalogue::shipped(), rows).unwrap_err();
    let (one, two) = (row(1, Some(ACME), "gpt-4o", 9_000), row(2, Some(ACME), "gpt-4o", 8_000));
    let error = refused(&[one.clone(), two.clone()]);
    assert_eq!((error.row, error.other), (Some(two.id), Some(one.id)));
    assert!(error.what.contains("already prices gpt-4o of openai"), "{error}");
    let mut alias = row(3, Some(ACME), "mine", 9_000);
    alias.terms.aliases = vec!["gpt-4o".to_owned()];
    assert!(refused(&[one.clone(), alias]).what.contains("already names gpt-4o"));
    // Another scope is another layer.
    assert!(Prices::new(Catalogue::shipped(), &[one, row(2, None, "gpt-4o", 8_000)]).is_ok());
}

#[test]
fn terms_are_checked_like_the_catalogue() {
    let refused = |terms: &str| Terms::parse(terms).unwrap_err().what;
    let with = |tiers: &str| format!(r#"{{"provider":"openai","model":"m","tiers":{tiers}}}"#);
    for (terms, expected) in [
        (with("{}"), "needs the tier `standard`"),
        (with(r#"{"standard":{"rates":{"input":1000}}}"#), "`output` is missing"),
        (with(r#"{"standard":{"rates":{"input":2,"output":2}}}"#), "absurdly small"),
        (
            with(r#"{"standard":{"rates":{"input":99000000000000,"output":1000}}}"#),
            "is it per million tokens?",
        ),
        (
            with(r#"{"standard":{"rates":{"input":1000,"output":1000,"cached_input":2000}}}"#),
            "must not be dearer",
        ),
        (with(r#"{"standard":{"rates":{"input":-5,"output":1000}}}"#), "not a price"),
        (with(r#"{"standard":{"rates":{"inputs":5,"output":1000}}}"#), "unknown token class"),
        (r#"{"provider":"","model":"m","tiers":{}}"#.to_owned(), "provider must have"),
    ] {
        assert!(refused(&terms).contains(expected), "{terms}: {}", refused(&terms));
    }
    let terms = row(1, None, "gpt-4o", 9_000).terms;
    assert_eq!(Terms::parse(&terms.to_json()), Ok(terms));
}

#[test]
fn a_look_up_explains_itself() {
    let mut past = row(3, Some(ACME), "gpt-4o", 6_000);
    (past.from_ms, past.until_ms) = (NOW - 3 * DAY, Some(NOW - 2 * DAY));
    let rows = [row(1, None, "gpt-4o", 7_000), row(2, Some(ACME), "gpt-4o", 9_000), past];
    let explained = prices(&rows).explain(Some(ACME), "openai", "gpt-4o-2024-08-06", NOW);
    let told: Vec<_> = explained.candidates.iter().map(|c| (c.layer, c.verdict)).collect();
    assert_eq!(
        told,
        [
            (Layer::Organisation, Verdict::Answers),
            (Layer::Organisation, Verdict::OtherTime),
            (Layer::Global, Verdict::Hidden),
            (Layer::Catalogue, Verdict::Hidden),
        ]
    );
    assert_eq!(explained.answer.unwrap().id(), rows[1].id.to_string());
    let unknown = prices(&rows).explain(Some(ACME), "openai", "gpt-9-imaginary", NOW);
    assert!(unknown.answer.is_none() && unknown.candidates.is_empty());
}

#[test]
fn a_slip_of_a_factor_is_alarming() {
    let text = Catalogue::shipped_text();
    let slipped = text.replacen("\"input\": 2500000", "\"input\": 25000000", 1);
    let before = Catalogue::shipped();
    let changes =
        Arc::new(Catalogue::parse(&slipped.replace("{\"input\":2500000,", "{\"input\":25000000,")).unwrap())
            .changes_from(&before, NOW);
    assert!(!changes.is_empty() && changes.iter().all(Change::is_alarming), "{changes:?}");
    assert!(before.changes_from(&before, NOW).is_empty());
}
