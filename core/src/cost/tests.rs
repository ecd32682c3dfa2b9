use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    price::Catalogue,
    usage::{Dialect, Extras},
};

/// 2026-11-23.
const NOW: i64 = 1_795_392_000_000;

fn priced(provider: &str, model: &str) -> Priced {
    match Catalogue::shipped().lookup(provider, model, NOW) {
        Lookup::Priced(priced) => priced,
        Lookup::Unpriced => panic!("{model} has no price"),
    }
}

fn usage(dialect: Dialect, raw: &serde_json::Value) -> Usage {
    Usage::from_raw(dialect, "openai", raw, &Extras::default())
}

#[test]
fn the_contracts_worked_checks() {
    let raw = json!({"prompt_tokens": 2000, "completion_tokens": 150, "prompt_tokens_details": {"cached_tokens": 400}});
    let chat = cost(&priced("openai", "gpt-4o"), &usage(Dialect::Chat, &raw), &CostContext::default());
    assert_eq!(chat.nanos, Nanos(6_000_000));
    let part = |input, cached, output| CostParts {
        input: Nanos(input),
        cached: Nanos(cached),
        output: Nanos(output),
        ..CostParts::default()
    };
    assert_eq!(chat.parts, part(4_000_000, 500_000, 1_500_000));
    assert_eq!((chat.tokens.input, chat.tokens.cached_input, chat.tokens.output), (2000, 400, 150));

    let raw = json!({"input_tokens": 1000, "cache_creation_input_tokens": 5000, "cache_read_input_tokens": 20000, "output_tokens": 400});
    let claude = cost(
        &priced("anthropic", "claude-sonnet-4-6"),
        &usage(Dialect::Messages, &raw),
        &CostContext::default(),
    );
    assert_eq!(claude.nanos, Nanos(33_750_000));
    assert_eq!(claude.parts, part(3_000_000, 24_750_000, 6_000_000));
    assert_eq!(
        (claude.tokens.input, claude.tokens.cached_input, claude.tokens.cache_write),
        (26_000, 20_000, 5000)
    );
}

#[test]
fn a_fine_tune_at_its_base_models_price_is_a_guess_and_says_so() {
    let raw = json!({"prompt_tokens": 100, "completion_tokens": 50});
    let of = |model| cost(&priced("openai", model), &usage(Dialect::Chat, &raw), &CostContext::default());
    let (tuned, base) = (of("ft:gpt-4o-mini-2024-07-18:acme::x"), of("gpt-4o-mini"));
    assert_eq!(tuned.pico, base.pico);
    assert!(tuned.is_guessed() && tuned.flags.contains("fine_tune_base_price"));
    assert!(!base.is_guessed() && base.flags.is_empty());
}

#[test]
fn reasoning_and_tool_definitions_inform_and_do_not_add() {
    let raw = json!({"prompt_tokens": 100, "completion_tokens": 50, "completion_tokens_details": {"reasoning_tokens": 20}});
    let context = CostContext { tool_definition_tokens: 30, ..CostContext::default() };
    let cost = cost(&priced("openai", "gpt-5"), &usage(Dialect::Chat, &raw), &context);
    assert_eq!((cost.parts.reasoning, cost.parts.tool_definition), (Nanos(200_000), Nanos(37_500)));
    assert_eq!(cost.parts.input + cost.parts.output, cost.nanos);
    assert_eq!(cost.tokens.reasoning, 20);
}

#[test]
fn a_tier_that_is_unknown_or_not_offered_is_billed_as_standard_and_told() {
    let mut used = usage(Dialect::Chat, &json!({"prompt_tokens": 100, "completion_tokens": 50}));
    let priced = priced("openai", "gpt-4o");
    let standard = cost(&priced, &used, &CostContext::default());
    for (tier, flag) in [
        (ServedTier::Unknown("warp".to_owned()), "unknown_tier:warp"),
        (ServedTier::Known(Tier::Flex), "tier_not_offered:flex"),
    ] {
        used.tier = tier;
        let other = cost(&priced, &used, &CostContext::default());
        assert_eq!(other.pico, standard.pico);
        assert!(other.flags.contains(flag), "{:?}", other.flags);
    }
}

#[test]
fn web_search_fees_follow_the_tool_that_was_offered() {
    let mut used = usage(Dialect::Responses, &json!({"input_tokens": 0, "output_tokens": 0}));
    used.tools.web_searches = 2;
    let fee = |model: &str, preview| {
        let context = CostContext { web_search_preview: preview, ..CostContext::default() };
        cost(&priced("openai", model), &used, &context).nanos
    };
    assert_eq!(fee("gpt-4o", false), Nanos(20_000_000));
    assert_eq!(fee("gpt-4o", true), Nanos(50_000_000));
    // A fixed block of 8 000 input tokens with every search.
    assert_eq!(fee("gpt-4o-mini", false), Nanos(20_000_000 + 2 * 8000 * 150));
}

#[test]
fn a_step_by_a_model_without_a_price_is_not_free() {
    let raw = json!({"input_tokens": 1, "output_tokens": 1, "iterations": [
        {"type": "message", "input_tokens": 10, "output_tokens": 10},
        {"type": "advisor_message", "model": "claude-imaginary", "input_tokens": 10, "output_tokens": 10}]});
    let cost = cost(
        &priced("anthropic", "claude-sonnet-5"),
        &usage(Dialect::Messages, &raw),
        &CostContext::default(),
    );
    assert_eq!(cost.nanos, Nanos(2 * (10 * 2000 + 10 * 10_000)));
    assert!(cost.flags.contains("unpriced_iteration"));
    assert_eq!(cost.tokens.input, 20);
}

#[test]
fn one_event_costs_at_most_a_million_dollars() {
    let raw = json!({"prompt_tokens": i64::MAX, "completion_tokens": i64::MAX});
    let cost = cost(&priced("openai", "o1-pro"), &usage(Dialect::Chat, &raw), &CostContext::default());
    assert_eq!(cost.nanos, MAX_EVENT);
    assert_eq!(cost.parts.input + cost.parts.cached + cost.parts.output + cost.parts.fees, MAX_EVENT);
    assert!(cost.pico > i128::from(MAX_EVENT.0) * 1000);
}

fn any_priced() -> impl Strategy<Value = Priced> {
    let all: Vec<_> = ["openai", "anthropic", "google"]
        .iter()
        .flat_map(|p| Catalogue::shipped().priced_at(p, NOW).collect::<Vec<_>>())
        .collect();
    prop::sample::select(all)
}

proptest! {
    #[test]
    fn parts_and_breakdown_add_up(priced in any_priced(), counts in prop::collection::vec(0..2_000_000_u64, Class::COUNT), searches in 0..5_u64, geo in any::<bool>(), informed in prop::collection::vec(0..3_000_000_u64, 2), tier in 0..Tier::ALL.len()) {
        let mut used = Usage { geo_us: geo, ..Usage::default() };
        for (class, tokens) in Class::ALL.into_iter().zip(counts) {
            used.counts.add(class, tokens);
        }
        used.prompt = used.counts.sum(Class::is_input);
        used.tools.web_searches = searches;
        used.reasoning = informed[0];
        used.tier = ServedTier::Known(Tier::ALL[tier]);
        let context = CostContext { tool_definition_tokens: informed[1], ..CostContext::default() };
        let cost = cost(&priced, &used, &context);
        prop_assert!(cost.parts.reasoning <= cost.parts.output && cost.parts.tool_definition <= cost.parts.input);
        prop_assert_eq!(cost.parts.input + cost.parts.cached + cost.parts.output + cost.parts.fees, cost.nanos);
        prop_assert_eq!(cost.breakdown_pico.iter().map(|(_, pico)| pico).sum::<i128>(), cost.pico);
        prop_assert_eq!(cost.nanos, Nanos::from_pico_half_up(cost.pico));
    }

    #[test]
    fn more_tokens_never_cost_less(priced in any_priced(), counts in prop::collection::vec(0..400_000_u64, 2), class in 0..Class::COUNT, more in 1..300_000_u64) {
        let mut used = Usage::default();
        used.counts.add(Class::Input, counts[0]);
        used.counts.add(Class::Output, counts[1]);
        used.prompt = counts[0];
        let before = cost(&priced, &used, &CostContext::default()).pico;
        let class = Class::ALL[class];
        used.counts.add(class, more);
        used.prompt += if class.is_input() { more } else { 0 };
        prop_assert!(cost(&priced, &used, &CostContext::default()).pico >= before);
    }
}

#[test]
fn lines_are_priced_again_by_todays_prices_and_the_same_rules() {
    use crate::{
        id::{OrgId, PriceId},
        price::{PriceRow, Prices, Terms},
    };
    let raw = json!({"input_tokens": 300_000, "output_tokens": 100, "input_tokens_details": {"cached_tokens": 1000}});
    let usage = usage(Dialect::Responses, &raw);
    let before = cost(&priced("openai", "gpt-5.4"), &usage, &CostContext::default());
    let unpriced = Detail::unpriced("gpt-5.4", &usage);
    let org = OrgId(uuid::Uuid::from_u128(1));
    let shipped = Prices::default();
    assert_eq!(before.detail.reprice(&shipped, org, "openai", NOW), Some(before.detail.clone()));
    assert_eq!(
        unpriced.reprice(&shipped, org, "openai", NOW).unwrap().total_pico(),
        before.pico,
        "once there is a price"
    );
    assert_eq!((unpriced.total_pico(), unpriced.steps[0].lines[0].rate_pico), (0, None));

    let terms = r#"{"provider":"openai","model":"gpt-5.4","tiers":{"standard":{"rates":{"input":1000,"output":1000},
        "above":{"tokens":1000,"rates":{"input":2000,"cached_input":500,"output":4000}}}}}"#;
    let row = PriceRow {
        id: PriceId(uuid::Uuid::from_u128(2)),
        version: 3,
        org: Some(org),
        from_ms: 0,
        until_ms: None,
        terms: Terms::parse(terms).unwrap(),
    };
    let mended = Prices::new(Catalogue::shipped(), &[row]).unwrap();
    let after = before.detail.reprice(&mended, org, "openai", NOW).unwrap();
    assert_eq!(after.total_pico(), 299_000 * 2000 + 1000 * 500 + 100 * 4000, "the band of the whole prompt");
    assert_eq!(after.steps[0].price_version.as_deref(), Some("3"));
    let other = OrgId(uuid::Uuid::from_u128(9));
    assert_eq!(before.detail.reprice(&mended, other, "openai", NOW), Some(before.detail.clone()));
    assert_eq!(before.detail.reprice(&mended, org, "mistral", NOW), None, "no price there");
    assert_eq!(Detail::default().reprice(&mended, org, "openai", NOW), None, "nothing was measured");
}

proptest! {
    #[test]
    fn lines_add_up_survive_their_text_and_price_again_to_the_same(priced in any_priced(), counts in prop::collection::vec(0..2_000_000_u64, Class::COUNT), searches in 0..5_u64, geo in any::<bool>()) {
        let mut usage = Usage { geo_us: geo, ..Usage::default() };
        for (class, tokens) in Class::ALL.into_iter().zip(counts) {
            usage.counts.add(class, tokens);
        }
        usage.prompt = usage.counts.sum(Class::is_input);
        usage.tools.web_searches = searches;
        let cost = cost(&priced, &usage, &CostContext::default());
        prop_assert_eq!(cost.detail.total_pico(), cost.pico);
        let text = serde_json::to_string(&cost.detail).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Detail>(&text).unwrap(), &cost.detail);
        let org = crate::id::OrgId(uuid::Uuid::nil());
        let again = cost.detail.reprice(&crate::price::Prices::default(), org, priced.provider(), NOW);
        prop_assert_eq!(again.as_ref(), Some(&cost.detail).filter(|detail| !detail.steps.is_empty()));
    }
}
