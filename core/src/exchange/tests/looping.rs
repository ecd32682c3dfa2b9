//! Repeats of a request on the way of a call: refused before anything is reserved, where a budget asks for it.

use super::*;
use crate::loops::Loops;

fn policy(rules: impl IntoIterator<Item = (u128, Entity, Option<u32>)>) -> Policy {
    let mut policy = policy_with(identity());
    for (id, entity, loop_max_calls) in rules {
        let budget = BudgetId(Uuid::from_u128(id));
        policy.put_budget(BudgetRule { budget, entity, loop_max_calls, ..super::budget(Enforcement::Warn) });
    }
    policy
}

/// Sends bodies in turn; what each was told.
fn send(
    settings: &Settings,
    policy: &Policy,
    more: &[(&str, &str)],
    bodies: &[&[u8]],
) -> Vec<Option<Box<Answered>>> {
    let mut loops = Loops::default();
    let sent = bodies.iter().map(|body| {
        let awaiting = start(policy.clone(), &headers(CHAT, more)).expect("accepted");
        reserving(awaiting.body(settings, body, NOW)).looping(&mut loops, NOW)
    });
    sent.collect()
}

#[test]
fn the_same_request_once_too_often_is_denied_with_the_contracts_details() {
    let (body, policy) = (chat(false), policy([(9, Entity::Org(ORG), Some(2))]));
    let told = send(&settings(), &policy, &[], &[&body, &body, &body]);
    assert!(told[0].is_none() && told[1].is_none());
    let answered = told[2].as_ref().expect("refused");
    assert_eq!(code(answered), (429, "loop_detected"));
    for header in [("x-nullspend-denied", "1"), ("x-should-retry", "false"), ("retry-after", "60")] {
        assert!(answered.answer.headers.contains(&(header.0, header.1.to_owned())), "{header:?}");
    }
    let body: Value = serde_json::from_slice(&answered.answer.body).unwrap();
    let details = json!({"type": "per_key", "model": "gpt-4o-mini", "callCount": 3, "windowSeconds": 60, "maxCalls": 2,
        "entityType": "org", "entityId": ORG.to_string(), "budgetId": BudgetId(Uuid::from_u128(9)).to_string()});
    assert_eq!((&body["error"]["details"], &body["error"]["type"]), (&details, &json!("insufficient_quota")));
    let denial = answered.denial.as_ref().expect("a denial record");
    assert_eq!((denial.code, denial.model.as_str()), ("loop_detected", "gpt-4o-mini"));
}

#[test]
fn what_differs_in_a_byte_or_goes_elsewhere_is_no_repeat() {
    let policy = policy([(9, Entity::Org(ORG), Some(1))]);
    let mut other = chat(false);
    other.push(b' ');
    assert!(send(&settings(), &policy, &[], &[&chat(false), &other]).iter().all(Option::is_none));
    let long = |end: &str| {
        let text = "x".repeat(100_000) + end;
        json!({"model": "gpt-4o-mini", "max_tokens": 9, "messages": [{"role": "user", "content": text}]})
            .to_string()
    };
    let told =
        send(&settings(), &policy, &[], &[long("a").as_bytes(), long("b").as_bytes(), long("a").as_bytes()]);
    assert_eq!(told.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn only_budgets_of_the_call_that_ask_for_it_count() {
    let body = chat(false);
    let red = [("x-nullspend-tags", r#"{"team":"red"}"#)];
    let policy = policy([(9, Entity::Org(ORG), None), (10, Entity::Tag("team=red".into()), Some(1))]);
    assert!(send(&settings(), &policy, &[], &[&body[..]; 5]).iter().all(Option::is_none));
    assert!(!reserving(admit(policy.clone(), CHAT, &body)).may_loop(), "no fingerprint is taken in vain");
    let told = send(&settings(), &policy, &red, &[&body[..]; 2]);
    assert_eq!(told[1].as_ref().expect("refused").answer.details["entityId"], "team=red");
}

#[test]
fn a_call_counts_under_every_budget_also_when_one_refuses_it() {
    let body = chat(false);
    let policy = policy([(9, Entity::Org(ORG), Some(1)), (10, Entity::ApiKey(identity().key), Some(3))]);
    let mut loops = Loops::default();
    let settings = settings();
    let mut send = |policy: &Policy| {
        let awaiting = start(policy.clone(), &headers(CHAT, &[])).expect("accepted");
        let told = reserving(awaiting.body(&settings, &body, NOW)).looping(&mut loops, NOW);
        told.map(|answered| answered.answer.details["maxCalls"].as_u64().unwrap())
    };
    assert_eq!([send(&policy), send(&policy), send(&policy)], [None, Some(1), Some(1)]);
    let mut without = policy.clone();
    without.remove_budget(BudgetId(Uuid::from_u128(9)));
    assert_eq!(send(&without), Some(3), "the fourth of those the key's budget saw");
}
