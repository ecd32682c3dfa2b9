//! The kill switch on the way of a call: refused after authentication or after the body, before anything is reserved.

use super::*;
use crate::{
    freeze::{Freeze, Target},
    id::FreezeId,
};

pub(super) fn freeze(kind: &str, id: &str) -> Freeze {
    Freeze {
        freeze: FreezeId(Uuid::from_u128(5)),
        org: ORG,
        target: Target::parse(kind, id).unwrap(),
        reason: "stop".into(),
        since_ms: NOW.ms,
    }
}

pub(super) fn frozen_policy(kind: &str, id: &str) -> Policy {
    let mut policy = policy_with(identity());
    policy.put_budget(budget(Enforcement::StrictBlock));
    policy.put_freeze(freeze(kind, id));
    policy
}

#[test]
fn a_frozen_caller_is_refused_by_its_headers_and_leaves_a_denial() {
    let sent = [("x-nullspend-tags", r#"{"team":"a"}"#), ("x-nullspend-customer", "acme")];
    let cases = [
        ("org", ORG.to_string()),
        ("user", UserId(Uuid::from_u128(3)).to_string()),
        ("api_key", KeyId(Uuid::from_u128(2)).bare()),
        ("tag", "team=a".to_owned()),
        ("tag", "customer=acme".to_owned()),
        ("customer", "acme".to_owned()),
    ];
    for (kind, id) in cases {
        let policy = frozen_policy(kind, &id);
        let answered = start(policy, &headers(CHAT, &sent)).expect_err("refused");
        assert_eq!(code(&answered), (403, "frozen"), "{kind}");
        let denial = answered.denial.expect("a denial record");
        assert_eq!((denial.code, denial.key), ("frozen", identity().key));
        let details: Value = serde_json::from_str(&denial.details_json).unwrap();
        assert_eq!(details["entity_type"], kind);
    }
    let thawed = [("tag", "team=b"), ("customer", "acme2"), ("model", "gpt-4o-mini")];
    for (kind, id) in thawed {
        assert!(start(frozen_policy(kind, id), &headers(CHAT, &sent)).is_ok(), "{kind} {id}");
    }
}

#[test]
fn without_a_valid_key_nobody_learns_what_is_frozen() {
    let policy = frozen_policy("org", &ORG.to_string());
    let stranger = headers(CHAT, &[("x-nullspend-key", "ns_live_sk_other")]);
    assert_eq!(code(&start(policy, &stranger).expect_err("refused")), (401, "unauthorized"));
}

#[test]
fn a_frozen_model_is_refused_before_anything_is_reserved() {
    for (frozen, expected) in [("gpt-4o-mini", true), ("openai/gpt-4o-mini", true), ("gpt-4o", false)] {
        let admission = admit(frozen_policy("model", frozen), CHAT, &chat(false));
        if !expected {
            assert!(matches!(admission, Admission::Reserve(_)), "{frozen}");
            continue;
        }
        let answered = refused(admission);
        assert_eq!(code(&answered), (403, "frozen"), "{frozen}");
        assert_eq!(answered.denial.expect("a denial record").model, "gpt-4o-mini");
    }
    // A model without a price is frozen like any other.
    let body = json!({"model": "house-model", "max_tokens": 5, "messages": []}).to_string();
    let answered = refused(admit(frozen_policy("model", "house-model"), CHAT, body.as_bytes()));
    assert_eq!(code(&answered), (403, "frozen"));
}

#[test]
fn a_model_that_only_advises_is_frozen_too() {
    let advisor = json!({"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-5"});
    let body = json!({"model": "claude-haiku-4-5", "max_tokens": 50, "tools": [advisor],
        "messages": [{"role": "user", "content": "hello"}]});
    let policy = frozen_policy("model", "claude-opus-5");
    let answered = refused(admit(policy, "/v1/messages", body.to_string().as_bytes()));
    assert_eq!(code(&answered), (403, "frozen"));
}

#[test]
fn what_is_frozen_while_the_body_comes_does_not_pass() {
    for (kind, id) in [("org", ORG.to_string()), ("model", "gpt-4o-mini".to_owned())] {
        let awaiting = start(policy_with(identity()), &headers(CHAT, &[])).expect("accepted");
        let awaiting = awaiting.under(Arc::new(frozen_policy(kind, &id)));
        assert_eq!(code(&refused(awaiting.body(&settings(), &chat(false), NOW))), (403, "frozen"), "{kind}");
    }
}

#[test]
fn what_is_frozen_while_it_is_decided_does_not_leave() {
    let opening = opened(admit(policy_with(identity()), CHAT, &chat(false)));
    assert!(opening.refused(&policy_with(identity()), NOW).is_none());
    for (kind, id) in [("api_key", identity().key.bare()), ("model", "gpt-4o-mini".to_owned())] {
        let answered = opening.refused(&frozen_policy(kind, &id), NOW).expect("refused");
        assert_eq!(code(&answered), (403, "frozen"), "{kind}");
        assert!(answered.denial.is_some());
    }
}

/// Policies under which `identity()` may not call `gpt-4o-mini` any more.
fn narrowed() -> [(Policy, (u16, &'static str)); 3] {
    let models = KeyIdentity { allowed_models: Some(vec!["gpt-4o".into()]), ..identity() };
    let providers = KeyIdentity { allowed_providers: Some(vec!["anthropic".into()]), ..identity() };
    [
        (Policy::default(), (401, "unauthorized")),
        (policy_with(models), (403, "mandate_violation")),
        (policy_with(providers), (403, "mandate_violation")),
    ]
}

#[test]
fn a_key_that_is_revoked_or_narrowed_while_the_body_comes_does_not_pass() {
    for (policy, expected) in narrowed() {
        let awaiting = start(policy_with(identity()), &headers(CHAT, &[])).expect("accepted");
        let answered = refused(awaiting.under(Arc::new(policy)).body(&settings(), &chat(false), NOW));
        assert_eq!(code(&answered), expected);
        assert_eq!(answered.denial.is_some(), expected.0 == 403, "of an unknown key nothing is kept");
    }
}

#[test]
fn a_key_that_is_revoked_or_narrowed_while_its_call_is_decided_does_not_leave() {
    let opening = opened(admit(policy_with(identity()), CHAT, &chat(false)));
    for (policy, expected) in narrowed() {
        assert_eq!(code(&opening.refused(&policy, NOW).expect("refused")), expected);
    }
}
