use super::*;
use crate::{
    id::{KeyId, OrgId, UserId},
    policy::Role,
};

fn headers(pairs: &[(&str, &str)]) -> Headers {
    Headers(pairs.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect())
}

fn key() -> KeyIdentity {
    let id = uuid::Uuid::from_u128(7);
    KeyIdentity {
        key: KeyId(id),
        org: OrgId(id),
        user: UserId(id),
        name: "k".into(),
        role: Role::Agent,
        default_tags: BTreeMap::new(),
        locked_tags: vec![],
        required_tags: vec![],
        allowed_models: None,
        allowed_providers: None,
        api_version: API_VERSION.into(),
    }
}

fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn routes_are_exact_and_wrong_methods_are_unknown() {
    for (method, path, expected) in [
        ("POST", "/v1/chat/completions", Route::Llm(Api::OpenAiChat)),
        ("POST", "/v1/chat/completions?x=1", Route::Llm(Api::OpenAiChat)),
        ("POST", "/v1/responses", Route::Llm(Api::OpenAiResponses)),
        ("POST", "/v1/messages", Route::Llm(Api::AnthropicMessages)),
        ("POST", "/v1/v1/messages", Route::Llm(Api::AnthropicMessages)),
        ("GET", "/v1/chat/completions", Route::Unknown),
        ("POST", "/v1/chat/completions/", Route::Unknown),
        ("POST", "/v1/embeddings", Route::Unknown),
        ("GET", "/health", Route::Health),
        ("GET", "/health/ready", Route::Ready),
        ("POST", "/health", Route::Unknown),
    ] {
        assert_eq!(route(method, path), expected, "{method} {path}");
    }
}

#[test]
fn trace_comes_from_traceparent_then_ours_then_fresh() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let ours = "11111111111111111111111111111111";
    let fresh = || "fresh".to_owned();
    for (given, expected) in [
        (
            headers(&[("traceparent", parent), ("x-nullspend-trace-id", ours)]),
            "0af7651916cd43dd8448eb211c80319c",
        ),
        (headers(&[("traceparent", &parent.replace("00-", "ff-")), ("x-nullspend-trace-id", ours)]), ours),
        (headers(&[("traceparent", &parent.to_uppercase()), ("x-nullspend-traceid", ours)]), ours),
        (headers(&[("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01")]), "fresh"),
        (headers(&[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01")]), "fresh"),
        (headers(&[("x-nullspend-trace-id", "ABC")]), "fresh"),
    ] {
        assert_eq!(trace_id(&given, fresh), expected);
    }
}

#[test]
fn sessions_are_trimmed_and_limited_untrimmed() {
    assert_eq!(session_id(&headers(&[("x-nullspend-session", "  s1 ")])), Ok(Some("s1".into())));
    assert_eq!(session_id(&headers(&[("x-nullspend-session", "   ")])), Ok(None));
    assert_eq!(session_id(&headers(&[])), Ok(None));
    assert!(session_id(&headers(&[("x-nullspend-session", &"é".repeat(256))])).is_ok());
    assert!(session_id(&headers(&[("x-nullspend-session", &" ".repeat(257))])).is_err());
}

#[test]
fn request_tags_override_defaults_but_not_locked_ones_and_cannot_push_them_out() {
    let mut key = key();
    key.default_tags = tags(&[("team", "core"), ("env", "prod")]);
    key.locked_tags = vec!["team".into()];
    let many: String = (0..12).map(|i| format!(",\"t{i}\":\"v\"")).collect();
    let sent = format!("{{\"team\":\"evil\",\"env\":\"dev\"{many}}}");
    let found = attribution(&headers(&[("x-nullspend-tags", &sent)]), &key).unwrap();
    assert_eq!(found.tags["team"], "core");
    assert_eq!(found.tags["env"], "dev");
    assert_eq!(found.tags.len(), TAGS_MAX);
    assert_eq!(found.warnings, [Warning::InvalidTags]);
}

#[test]
fn bad_tags_are_dropped_and_told() {
    for sent in
        ["nonsense", "[1]", "{\"a\":1}", "{\"_ns_x\":\"1\"}", "{\"sp ace\":\"1\"}", "{\"a\":\"\\u0000\"}"]
    {
        let found = attribution(&headers(&[("x-nullspend-tags", sent)]), &key()).unwrap();
        assert!(found.tags.is_empty(), "{sent}");
        assert_eq!(found.warnings, [Warning::InvalidTags], "{sent}");
    }
}

#[test]
fn the_customer_comes_from_the_header_then_the_tag_and_is_written_back() {
    let given =
        headers(&[("x-nullspend-customer", " acme "), ("x-nullspend-tags", "{\"customer\":\"other\"}")]);
    let found = attribution(&given, &key()).unwrap();
    assert_eq!((found.customer.as_deref(), found.tags["customer"].as_str()), (Some("acme"), "acme"));

    let tagged = attribution(&headers(&[("x-nullspend-tags", "{\"customer\":\"other\"}")]), &key()).unwrap();
    assert_eq!(tagged.customer.as_deref(), Some("other"));

    let bad = attribution(&headers(&[("x-nullspend-customer", "a b")]), &key()).unwrap();
    assert_eq!((bad.customer, bad.warnings), (None, vec![Warning::InvalidCustomer]));
}

#[test]
fn a_locked_customer_cannot_be_replaced_by_the_header() {
    let mut key = key();
    key.default_tags = tags(&[("customer", "acme")]);
    key.locked_tags = vec!["customer".into()];
    let found = attribution(&headers(&[("x-nullspend-customer", "rich")]), &key).unwrap();
    assert_eq!(found.customer.as_deref(), Some("acme"));
}

#[test]
fn a_missing_required_tag_is_named() {
    let mut key = key();
    key.required_tags = vec!["team".into()];
    assert!(attribution(&headers(&[]), &key).unwrap_err().contains("\"team\""));
    assert!(attribution(&headers(&[("x-nullspend-tags", "{\"team\":\"a\"}")]), &key).is_ok());
}

#[test]
fn an_action_id_must_be_prefixed() {
    let id = "ns_act_00000000-0000-0000-0000-000000000007";
    assert!(action_id(&headers(&[("x-nullspend-actionid", id)])).is_some());
    assert!(action_id(&headers(&[("x-nullspend-action-id", &id[7..])])).is_none());
}
