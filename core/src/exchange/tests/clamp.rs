//! `clampOutput`: what a call that does not fit is told, and when it is denied all the same.

use super::*;

/// Nano-dollars of one output token of gpt-4o-mini.
const OUTPUT: i64 = 600;

fn clamping(enforcement: Enforcement) -> BudgetRule {
    BudgetRule { output: OutputPolicy { clamp: true, incremental: false }, ..budget(enforcement) }
}

fn policy(rules: impl IntoIterator<Item = BudgetRule>) -> Policy {
    let mut policy = policy_with(identity());
    rules.into_iter().for_each(|rule| policy.put_budget(rule));
    policy
}

fn body(more: &Value) -> Vec<u8> {
    let mut body = json!({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn stage(policy: &Policy, path: &str, body: &[u8]) -> Box<Reserving> {
    reserving(admit(policy.clone(), path, body))
}

fn held(stage: &Reserving) -> Nanos {
    stage.reserve(30_000, |_| Default::default()).amount
}

/// The ledger's no, with `left` of each budget.
fn denied(stage: Box<Reserving>, left: &[i64]) -> Verdict {
    let balance = |left: &i64| Balance { limit: Nanos(*left), settled: Nanos::ZERO, held: Nanos::ZERO };
    let balances = left.iter().map(balance).collect();
    let denied = ReserveOutcome::Denied { scope: 0, why: Why::Budget, balances, retry_after_ms: None };
    match stage.reserved(Ok(denied), NOW) {
        // Counting comes first; here it finds nothing.
        Verdict::Tighten(tightening) => tightening.count(b"", NOW),
        other => other,
    }
}

fn clamped(verdict: Verdict) -> Box<Reserving> {
    match verdict {
        Verdict::Lowered(stage) => stage,
        other => panic!("not clamped: {other:?}"),
    }
}

fn refused(verdict: Verdict) -> (u16, &'static str) {
    match verdict {
        Verdict::Answer(answered) => code(&answered),
        other => panic!("not refused: {other:?}"),
    }
}

/// What the provider gets once the clamped bound was held.
fn sent(stage: Box<Reserving>, body: &[u8]) -> (Value, String, BTreeMap<String, String>) {
    let balance = Balance { limit: Nanos(1), settled: Nanos::ZERO, held: Nanos::ZERO };
    let outcome = ReserveOutcome::Reserved { balances: vec![balance], exceeded: vec![] };
    let Verdict::Open(opening) = stage.reserved(Ok(outcome), NOW) else { panic!("not open") };
    let (forward, mut forwarded) = opening.opened(body.to_vec(), NOW);
    let head = forwarded.response_head(&response("500", "application/json"), Origin::Provider, later(1));
    let told = head.set.iter().find(|(name, _)| *name == "x-nullspend-max-tokens-applied");
    let told = told.map(|(_, value)| value.clone()).unwrap_or_default();
    let tags = close(forwarded, End::Complete).system_tags;
    (serde_json::from_slice(&forward.body.expect("changed")).unwrap(), told, tags)
}

#[test]
fn a_call_without_a_limit_gets_the_most_that_fits() {
    let (policy, body) = (policy([clamping(Enforcement::StrictBlock)]), body(&json!({"temperature": 0.5})));
    let full = held(&stage(&policy, CHAT, &body));
    let left = full.0 / 2;
    let stage = clamped(denied(stage(&policy, CHAT, &body), &[left]));
    let hold = held(&stage);
    assert!(hold.0 <= left && left - hold.0 < OUTPUT, "the most that fits: {hold} of {left}");
    let (sent, told, tags) = sent(stage, &body);
    assert_eq!(sent["max_completion_tokens"].to_string(), told);
    assert_eq!((sent["temperature"].as_f64(), sent["max_tokens"].is_null()), (Some(0.5), true));
    assert_eq!((tags.get("_ns_max_tokens_applied"), tags.get("_ns_max_tokens")), (Some(&told), None));
}

#[test]
fn every_api_is_told_in_its_own_field_and_never_more_than_it_asked_for() {
    for (path, model, asked, applied) in [
        (CHAT, "gpt-4o-mini", "max_tokens", "max_tokens"),
        (CHAT, "gpt-4o-mini", "max_completion_tokens", "max_completion_tokens"),
        ("/v1/responses", "gpt-4o-mini", "max_output_tokens", "max_output_tokens"),
        ("/v1/messages", "claude-haiku-4-5", "max_tokens", "max_tokens"),
    ] {
        let policy = policy([clamping(Enforcement::StrictBlock)]);
        let body = body(&json!({"model": model, asked: 1000}));
        let full = held(&stage(&policy, path, &body));
        let (sent, told, tags) = sent(clamped(denied(stage(&policy, path, &body), &[full.0 - 1])), &body);
        assert_eq!(sent[applied], 999, "{path} {asked}: one token less fits");
        assert_eq!((told.as_str(), tags["_ns_max_tokens"].as_str()), ("999", "1000"));
    }
}

#[test]
fn choices_share_what_is_left() {
    let policy = policy([clamping(Enforcement::StrictBlock)]);
    let body = body(&json!({"n": 4, "max_tokens": 1000}));
    let full = held(&stage(&policy, CHAT, &body));
    let stage = clamped(denied(stage(&policy, CHAT, &body), &[full.0 - 1]));
    assert_eq!(held(&stage), Nanos(full.0 - 4 * OUTPUT));
    assert_eq!(sent(stage, &body).0["max_tokens"], 999);
}

#[test]
fn too_little_for_an_answer_is_a_denial_that_names_what_was_asked_for() {
    let (policy, body) = (policy([clamping(Enforcement::StrictBlock)]), body(&json!({"max_tokens": 1000})));
    let full = held(&stage(&policy, CHAT, &body));
    let least = full.0 - (1000 - 16) * OUTPUT;
    assert_eq!(held(&clamped(denied(stage(&policy, CHAT, &body), &[least]))), Nanos(least));
    let Verdict::Answer(answered) = denied(stage(&policy, CHAT, &body), &[least - 1]) else {
        panic!("clamped")
    };
    assert_eq!(code(&answered), (429, "budget_exceeded"));
    let shown = answered.answer.details["estimated_cost_microdollars"].as_i64();
    assert_eq!(shown, Some((full.0 + 999) / 1000));
}

#[test]
fn a_race_is_clamped_once_more_and_then_denied() {
    let (policy, body) = (policy([clamping(Enforcement::StrictBlock)]), body(&json!({"max_tokens": 1000})));
    let full = held(&stage(&policy, CHAT, &body));
    let first = clamped(denied(stage(&policy, CHAT, &body), &[full.0 - 100 * OUTPUT]));
    let second = clamped(denied(first, &[full.0 - 200 * OUTPUT]));
    assert_eq!(held(&second), Nanos(full.0 - 200 * OUTPUT));
    assert_eq!(refused(denied(second, &[full.0 - 300 * OUTPUT])), (429, "budget_exceeded"));
}

#[test]
fn every_budget_that_lacks_room_must_allow_it() {
    let other = |rule: BudgetRule| BudgetRule {
        budget: BudgetId(Uuid::from_u128(10)),
        entity: Entity::ApiKey(identity().key),
        ..rule
    };
    let strict = Enforcement::StrictBlock;
    let body = body(&json!({"max_tokens": 1000}));
    let both = policy([clamping(strict), other(clamping(strict))]);
    let full = held(&stage(&both, CHAT, &body));
    let (some, less) = (full.0 - 10 * OUTPUT, full.0 - 20 * OUTPUT);
    assert_eq!(held(&clamped(denied(stage(&both, CHAT, &body), &[some, less]))), Nanos(less));

    let one = policy([clamping(strict), other(budget(strict))]);
    assert_eq!(held(&clamped(denied(stage(&one, CHAT, &body), &[less, full.0]))), Nanos(less), "it has room");
    assert_eq!(refused(denied(stage(&one, CHAT, &body), &[less, some])), (429, "budget_exceeded"));

    let soft = policy([clamping(strict), other(budget(Enforcement::SoftBlock))]);
    assert_eq!(held(&clamped(denied(stage(&soft, CHAT, &body), &[less, 0]))), Nanos(less), "it never denies");
}

#[test]
fn what_is_kept_back_for_final_answers_is_not_given_to_others() {
    let kept = BudgetRule { finalization_reserve: Nanos(5 * OUTPUT), ..clamping(Enforcement::StrictBlock) };
    let (policy, body) = (policy([kept]), body(&json!({"max_tokens": 1000})));
    let full = held(&stage(&policy, CHAT, &body));
    assert_eq!(held(&clamped(denied(stage(&policy, CHAT, &body), &[full.0]))), Nanos(full.0 - 5 * OUTPUT));
}

#[test]
fn what_the_model_may_think_with_is_not_clamped_away() {
    let thinking = json!({"type": "enabled", "budget_tokens": 500});
    let policy = policy([clamping(Enforcement::StrictBlock)]);
    let body = body(&json!({"model": "claude-haiku-4-5", "max_tokens": 1000, "thinking": thinking}));
    let path = "/v1/messages";
    let full = held(&stage(&policy, path, &body));
    let token = 5_000;
    let least = full.0 - (1000 - 501) * token;
    assert_eq!(sent(clamped(denied(stage(&policy, path, &body), &[least])), &body).0["max_tokens"], 501);
    assert_eq!(refused(denied(stage(&policy, path, &body), &[least - 1])), (429, "budget_exceeded"));
}

#[test]
fn a_flat_hold_cannot_be_clamped() {
    let mut policy = policy([clamping(Enforcement::StrictBlock)]);
    let flat = OrgRule { unpriced_hold: Some(Nanos(5)) };
    policy.put_org(ORG, flat);
    let body = body(&json!({"model": "gpt-9-imaginary"}));
    assert_eq!(refused(denied(stage(&policy, CHAT, &body), &[4])), (429, "budget_exceeded"));
}

proptest! {
    #[test]
    fn a_clamped_hold_fits_what_was_left_and_no_more_would(
        asked in proptest::option::of(1_u64..200_000), n in 1_u64..5, left in 0_i64..20_000_000
    ) {
        let policy = policy([clamping(Enforcement::StrictBlock)]);
        let body = match asked {
            Some(asked) => body(&json!({"n": n, "max_tokens": asked})),
            None => body(&json!({"n": n})),
        };
        let full = held(&stage(&policy, CHAT, &body));
        prop_assume!(full.0 > left);
        match denied(stage(&policy, CHAT, &body), &[left]) {
            Verdict::Lowered(stage) => {
                let hold = held(&stage).0;
                let step = i64::try_from(n).unwrap() * OUTPUT;
                prop_assert!(hold <= left && left < hold + step, "{hold} of {left}");
                let (sent, told, _) = sent(stage, &body);
                let applied = sent["max_tokens"].as_u64().or(sent["max_completion_tokens"].as_u64());
                prop_assert_eq!(applied.map(|tokens| tokens.to_string()), Some(told));
                prop_assert!(applied >= Some(16) && asked.is_none_or(|asked| applied < Some(asked)));
            }
            Verdict::Answer(_) => {
                let input = full.0 - i64::try_from(asked.unwrap_or(16_384).min(16_384) * n).unwrap() * OUTPUT;
                let least = input + 16 * i64::try_from(n).unwrap() * OUTPUT;
                prop_assert!(left < least || asked.is_some_and(|asked| asked <= 16), "{left} of {least}");
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}
