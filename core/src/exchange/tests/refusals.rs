//! What is refused by its headers alone.

use super::*;

#[test]
fn headers_alone_can_refuse() {
    let viewer = KeyIdentity { role: Role::Owner, ..identity() };
    let no_provider = KeyIdentity { allowed_providers: Some(vec!["anthropic".into()]), ..identity() };
    let cases: [(Policy, Headers, (u16, &str)); 11] = [
        (
            policy_with(identity()),
            headers(CHAT, &[("authorization", &format!("Bearer {KEY}"))]),
            (400, "bad_request"),
        ),
        (policy_with(identity()), headers(CHAT, &[("x", &"x".repeat(70_000))]), (431, "headers_too_large")),
        (policy_with(identity()), headers("/v1/embeddings", &[]), (404, "not_found")),
        (Policy::default(), headers(CHAT, &[]), (401, "unauthorized")),
        (policy_with(identity()), headers(CHAT, &[("x-nullspend-key", KEY)]), (401, "unauthorized")),
        (policy_with(viewer), headers(CHAT, &[]), (403, "forbidden")),
        (policy_with(no_provider), headers(CHAT, &[]), (403, "mandate_violation")),
        (
            policy_with(identity()),
            headers(CHAT, &[("content-encoding", "gzip")]),
            (415, "unsupported_media_type"),
        ),
        (
            policy_with(identity()),
            headers(CHAT, &[("content-length", "2000000")]),
            (413, "payload_too_large"),
        ),
        (
            policy_with(identity()),
            headers(CHAT, &[("x-nullspend-upstream", "http://10.0.0.1")]),
            (400, "invalid_upstream"),
        ),
        (
            policy_with(identity()),
            headers(CHAT, &[("x-nullspend-session", &"s".repeat(300))]),
            (400, "bad_request"),
        ),
    ];
    for (policy, headers, expected) in cases {
        let answered = start(policy, &headers).expect_err("refused");
        assert_eq!(code(&answered), expected);
        assert!(
            answered.answer.headers.iter().any(|(name, _)| *name == "x-nullspend-trace-id"),
            "{expected:?}"
        );
    }
}

#[test]
fn without_a_policy_nothing_is_decided() {
    match begin(None, &headers(CHAT, &[]), AttemptId(Uuid::from_u128(7)), NOW) {
        Begin::Answer(answered) => assert_eq!(code(&answered), (503, "service_unavailable")),
        other => panic!("{other:?}"),
    }
}
