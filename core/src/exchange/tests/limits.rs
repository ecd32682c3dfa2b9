//! Rate limits on the way of a call.

use std::num::NonZeroU32;

use super::{super::limit_client, *};
use crate::rate_limit::RateLimiter;

fn limiter(ip: u32, key: u32) -> RateLimiter {
    RateLimiter::new(NonZeroU32::new(ip), NonZeroU32::new(key))
}

fn by_client(limiter: &mut RateLimiter, headers: &Headers, client: &str) -> Option<Box<Answered>> {
    limit_client(limiter, headers, client, AttemptId(Uuid::from_u128(7)), NOW)
}

fn assert_limited(answered: &Answered, who: &str) {
    assert_eq!(code(answered), (429, "rate_limited"));
    let names: Vec<&str> = answered.answer.headers.iter().map(|(name, _)| *name).collect();
    assert!(answered.answer.headers.contains(&("retry-after", "60".to_owned())));
    assert!(names.contains(&"x-nullspend-trace-id"));
    for other in ["x-nullspend-denied", "x-should-retry"] {
        assert!(!names.contains(&other), "{other}: nothing is denied, and waiting helps");
    }
    assert!(answered.denial.is_none());
    let body: Value = serde_json::from_slice(&answered.answer.body).unwrap();
    assert_eq!(body["error"]["type"], "requests");
    assert!(body["error"]["message"].as_str().unwrap().contains(who));
}

#[test]
fn a_client_is_known_by_its_connection_not_by_what_it_says() {
    let mut limiter = limiter(1, 0);
    let spoofed = |address: &str| headers(CHAT, &[("x-forwarded-for", address), ("x-real-ip", address)]);
    assert!(by_client(&mut limiter, &spoofed("198.51.100.1"), "203.0.113.9:1").is_none());
    for (said, port) in [("198.51.100.2", "2"), ("203.0.113.7", "3")] {
        let answered = by_client(&mut limiter, &spoofed(said), &format!("203.0.113.9:{port}"));
        assert_limited(&answered.expect("refused"), "client address");
    }
    assert!(by_client(&mut limiter, &headers(CHAT, &[]), "203.0.113.10:1").is_none());
    assert!(by_client(&mut limiter, &headers(CHAT, &[]), "").is_none(), "none to count by");
}

#[test]
fn only_provider_routes_are_counted() {
    let mut limiter = limiter(1, 0);
    for path in ["/v1/embeddings", "/health", "/v1/embeddings"] {
        assert!(by_client(&mut limiter, &headers(path, &[]), "203.0.113.9:1").is_none(), "{path}");
    }
    assert!(by_client(&mut limiter, &headers(CHAT, &[]), "203.0.113.9:1").is_none());
    assert!(by_client(&mut limiter, &headers("/v1/messages", &[]), "203.0.113.9:1").is_some());
}

#[test]
fn a_key_is_limited_wherever_it_calls_from() {
    let mut limiter = limiter(0, 1);
    let first = known(policy_with(identity()), &headers(CHAT, &[])).expect("known");
    assert!(first.limit_key(&mut limiter, NOW).is_none());
    assert_limited(&first.limit_key(&mut limiter, NOW).expect("refused"), "key");
    let other = KeyIdentity { key: KeyId(Uuid::from_u128(99)), ..identity() };
    let other = known(policy_with(other), &headers(CHAT, &[])).expect("known");
    assert!(other.limit_key(&mut limiter, NOW).is_none());
}

#[test]
fn whoever_is_known_is_counted_whatever_is_refused() {
    let viewer = KeyIdentity { role: Role::Viewer, ..identity() };
    let mandated = KeyIdentity { allowed_providers: Some(vec!["anthropic".to_owned()]), ..identity() };
    let tagged = KeyIdentity { required_tags: vec!["team".to_owned()], ..identity() };
    let mut frozen = policy_with(identity());
    frozen.put_freeze(super::frozen::freeze("api_key", &identity().key.bare()));
    let packed: &[(&str, &str)] = &[("content-encoding", "gzip")];
    for (policy, more) in [
        (policy_with(viewer), [].as_slice()),
        (policy_with(mandated), &[]),
        (policy_with(tagged), &[]),
        (frozen, &[]),
        (policy_with(identity()), packed),
    ] {
        let (mut limiter, headers) = (limiter(0, 1), headers(CHAT, more));
        let known = known(policy, &headers).expect("known");
        assert!(known.limit_key(&mut limiter, NOW).is_none());
        assert_limited(&known.limit_key(&mut limiter, NOW).expect("counted"), "key");
        assert!(known.accept(&settings(), &headers).is_err());
    }
}
