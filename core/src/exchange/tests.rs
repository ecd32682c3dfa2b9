//! The machine driven without any network: what it asks for, and what it settles.

mod answers;
mod beside;
mod clamp;
mod frozen;
mod increments;
mod last_words;
mod limits;
mod looping;
mod refusals;
mod tighten;
mod trail;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    Admission, Answered, AwaitingBody, Begin, End, Forward, Forwarded, Known, Moment, Opening, Origin,
    Reserving, Settings, Verdict, begin,
    head::{API_VERSION, Headers},
    upstream::{Dialect, Upstream, Upstreams},
};
use crate::{
    attempt::{BudgetStatus, Closing, Ending, Measurement},
    id::{AttemptId, BudgetId, KeyId, OrgId, UserId},
    ledger::{Balance, LedgerUnavailable, ReserveOutcome, Why},
    loops::Fingerprints,
    money::Nanos,
    policy::{BudgetRule, Enforcement, Entity, KeyIdentity, OrgRule, OutputPolicy, Policy, Role},
    window::{Interval, TimeZone},
};

const KEY: &str = "ns_live_sk_00000000000000000000000000000001";
const NOW: Moment = Moment { ms: 1_795_000_000_000, us: 0 };
const ORG: OrgId = OrgId(Uuid::from_u128(1));

fn settings() -> Settings {
    let row = |name, url, dialect| Upstream::parse(name, url, dialect, name, true).unwrap();
    let upstreams = Upstreams(vec![
        row("openai", "https://api.openai.com", Dialect::OpenAi),
        row("anthropic", "https://api.anthropic.com", Dialect::Anthropic),
    ]);
    Settings { upstreams, lease_ms: 30_000, max_body_bytes: 1 << 20, fingerprints: Fingerprints::default() }
}

fn identity() -> KeyIdentity {
    KeyIdentity {
        key: KeyId(Uuid::from_u128(2)),
        org: ORG,
        user: UserId(Uuid::from_u128(3)),
        name: "agent".into(),
        role: Role::Agent,
        default_tags: BTreeMap::new(),
        locked_tags: vec![],
        required_tags: vec![],
        allowed_models: None,
        allowed_providers: None,
        api_version: API_VERSION.into(),
    }
}

fn policy_with(identity: KeyIdentity) -> Policy {
    let mut policy = Policy::default();
    policy.put_key(Sha256::digest(KEY).into(), identity);
    policy
}

fn budget(enforcement: Enforcement) -> BudgetRule {
    BudgetRule {
        budget: BudgetId(Uuid::from_u128(9)),
        org: ORG,
        entity: Entity::Org(ORG),
        name: String::new(),
        limit: Nanos(1_000_000_000),
        enforcement,
        output: OutputPolicy::default(),
        interval: Interval::None,
        time_zone: TimeZone::utc(),
        generation: 1,
        revision: 1,
        session_limit: None,
        velocity: None,
        finalization_reserve: Nanos::ZERO,
        loop_max_calls: None,
        outage_credit: Nanos::ZERO,
    }
}

fn headers(path: &str, more: &[(&str, &str)]) -> Headers {
    let fixed = [
        (":method", "POST"),
        (":path", path),
        ("x-nullspend-key", KEY),
        ("content-type", "application/json"),
    ];
    let all = fixed.iter().chain(more);
    Headers(all.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect())
}

fn start(policy: Policy, headers: &Headers) -> Result<Box<AwaitingBody>, Box<Answered>> {
    known(policy, headers)?.accept(&settings(), headers)
}

fn known(policy: Policy, headers: &Headers) -> Result<Box<Known>, Box<Answered>> {
    match begin(Some(Arc::new(policy)), headers, AttemptId(Uuid::from_u128(7)), NOW) {
        Begin::Known(known) => Ok(known),
        Begin::Answer(answered) => Err(answered),
        Begin::Health | Begin::Ready => panic!("not a health route"),
    }
}

fn admit(policy: Policy, path: &str, body: &[u8]) -> Admission {
    let awaiting = start(policy, &headers(path, &[])).expect("accepted");
    awaiting.body(&settings(), body, NOW)
}

fn refused(admission: Admission) -> Box<Answered> {
    match admission {
        Admission::Answer(answered) => answered,
        other => panic!("not refused: {other:?}"),
    }
}

fn opened(admission: Admission) -> Box<Opening> {
    match admission {
        Admission::Open(opening) => opening,
        other => panic!("not open: {other:?}"),
    }
}

fn reserving(admission: Admission) -> Box<Reserving> {
    match admission {
        Admission::Reserve(reserving) => reserving,
        other => panic!("not reserving: {other:?}"),
    }
}

const CHAT: &str = "/v1/chat/completions";

fn chat(stream: bool) -> Vec<u8> {
    json!({"model": "gpt-4o-mini", "stream": stream, "max_tokens": 100,
        "messages": [{"role": "user", "content": "hello"}]})
    .to_string()
    .into_bytes()
}

fn forward(body: &[u8]) -> (Forward, Forwarded) {
    opened(admit(policy_with(identity()), CHAT, body)).opened(body.to_vec(), NOW)
}

fn later(ms: u64) -> Moment {
    Moment { ms: NOW.ms + i64::try_from(ms).unwrap(), us: ms * 1000 }
}

fn response(status: &str, kind: &str) -> Headers {
    Headers(vec![(":status".into(), status.into()), ("content-type".into(), kind.into())])
}

fn code(answered: &Answered) -> (u16, &'static str) {
    (answered.answer.status, answered.answer.code)
}

fn close(forwarded: Forwarded, end: End) -> Closing {
    forwarded.close(end, later(50))
}

#[test]
fn a_body_that_cannot_be_bounded_is_refused() {
    for (body, expected) in [
        (b"{".to_vec(), (400, "bad_request")),
        (br#"{"model":"gpt-4o","max_tokens":-1}"#.to_vec(), (400, "bad_request")),
        (br#"{"model":"gpt-9-imaginary","messages":[]}"#.to_vec(), (400, "invalid_model")),
        (vec![b' '; (1 << 20) + 1], (413, "payload_too_large")),
    ] {
        assert_eq!(code(&refused(admit(policy_with(identity()), CHAT, &body))), expected);
    }
}

#[test]
fn a_mandate_is_checked_before_the_price_and_leaves_a_denial() {
    let key = KeyIdentity { allowed_models: Some(vec!["gpt-4o".into()]), ..identity() };
    let answered = refused(admit(policy_with(key), CHAT, br#"{"model":"nonsense","messages":[]}"#));
    assert_eq!(code(&answered), (403, "mandate_violation"));
    assert_eq!(answered.denial.map(|denial| denial.model), Some("nonsense".into()));
}

#[test]
fn an_organisation_may_hold_a_flat_amount_for_models_without_price() {
    let mut policy = policy_with(identity());
    policy.put_org(ORG, OrgRule { unpriced_hold: Some(Nanos(5)) });
    let body = br#"{"model":"gpt-9-imaginary","messages":[]}"#;
    let opening = opened(admit(policy, CHAT, body));
    assert_eq!((opening.stub.held, opening.stub.unpriced), (Nanos(5), true));
    let (_, mut forwarded) = opening.opened(body.to_vec(), NOW);
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, later(10));
    forwarded.response_body(
        br#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#.to_vec(),
        true,
        later(11),
    );
    let closing = close(forwarded, End::Complete);
    assert_eq!((closing.cost, closing.measurement), (Nanos(5), Measurement::Estimated));
    assert_eq!(closing.system_tags["_ns_unpriced"], "true");
}

#[test]
fn a_matched_budget_is_reserved_and_answers_in_headers() {
    let mut policy = policy_with(identity());
    policy.put_budget(budget(Enforcement::SoftBlock));
    let body = chat(false);
    let stage = reserving(admit(policy, CHAT, &body));
    let reserve = stage.reserve(30_000, |_| Bytes::new());
    assert_eq!((reserve.scopes.len(), reserve.lease_ms), (1, 30_000));
    assert!(reserve.amount > Nanos::ZERO);
    let balance =
        Balance { limit: Nanos(1_000_000_000), settled: Nanos(1_000_000_000), held: reserve.amount };
    let outcome = Ok(ReserveOutcome::Reserved { balances: vec![balance], exceeded: vec![0] });
    let Verdict::Open(opening) = stage.reserved(outcome, NOW) else { panic!("not open") };
    assert_eq!((opening.stub.budget_status, opening.stub.charges.len()), (BudgetStatus::Exceeded, 1));
    let (_, mut forwarded) = opening.opened(body, NOW);
    let head = forwarded.response_head(&response("200", "application/json"), Origin::Provider, later(1));
    let header = |name: &str| head.set.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
    assert_eq!(header("x-nullspend-warning"), Some("budget_exceeded"));
    assert_eq!(header("x-nullspend-budget-remaining"), Some("0"));
    assert_eq!(header("x-nullspend-budget-limit"), Some("1000000"));
}

#[test]
fn a_denial_names_its_budget_and_leaves_a_record() {
    let mut policy = policy_with(identity());
    policy.put_budget(budget(Enforcement::StrictBlock));
    let stage = reserving(admit(policy, CHAT, &chat(false)));
    let balance = Balance { limit: Nanos(1_000_000_000), settled: Nanos(1_000_000_000), held: Nanos::ZERO };
    let denied =
        ReserveOutcome::Denied { scope: 0, why: Why::Budget, balances: vec![balance], retry_after_ms: None };
    let Verdict::Answer(answered) = stage.reserved(Ok(denied), NOW) else { panic!("not denied") };
    assert_eq!(code(&answered), (429, "budget_exceeded"));
    assert!(
        answered.answer.headers.iter().any(|(name, value)| *name == "x-nullspend-denied" && value == "1")
    );
    assert!(answered.denial.is_some());
}

#[test]
fn an_organisation_with_a_budget_nobody_can_read_is_refused_not_passed() {
    let mut policy = policy_with(identity());
    policy.set_unenforceable([ORG].into());
    let answered = refused(admit(policy, CHAT, &chat(false)));
    assert_eq!(code(&answered), (503, "budget_unavailable"));
}

#[test]
fn a_ledger_that_cannot_decide_fails_closed() {
    let mut policy = policy_with(identity());
    policy.put_budget(budget(Enforcement::StrictBlock));
    let stage = reserving(admit(policy.clone(), CHAT, &chat(false)));
    let Verdict::Answer(answered) = stage.reserved(Err(LedgerUnavailable::unanswered("gone")), NOW) else {
        panic!()
    };
    assert_eq!(code(&answered), (503, "budget_unavailable"));

    let mut admission = admit(policy.clone(), CHAT, &chat(false));
    for _ in 0..2 {
        let stale = Ok(ReserveOutcome::StalePolicy { scope: 0, revision: 5 });
        let Verdict::Refresh { reserving, revision: 5 } = reserving(admission).reserved(stale, NOW) else {
            panic!()
        };
        admission = reserving.again(&policy, NOW.ms);
    }
    let stale = Ok(ReserveOutcome::StalePolicy { scope: 0, revision: 5 });
    let Verdict::Answer(answered) = reserving(admission).reserved(stale, NOW) else { panic!("still asking") };
    assert_eq!(code(&answered), (503, "budget_unavailable"));
}

#[test]
fn forwarding_strips_what_is_ours_and_asks_for_usage() {
    let body = chat(true);
    let awaiting =
        start(policy_with(identity()), &headers(CHAT, &[("x-nullspend-tags", "{}"), ("cookie", "a=b")]));
    let admission = awaiting.unwrap().body(&settings(), &body, NOW);
    let (forward, _) = opened(admission).opened(body, NOW);
    assert_eq!(forward.cluster, "openai");
    assert_eq!(forward.remove_headers, ["cookie", "x-nullspend-key", "x-nullspend-tags"]);
    let sent: Value = serde_json::from_slice(&forward.body.expect("changed")).unwrap();
    assert_eq!(sent["stream_options"]["include_usage"], true);
    let (plain, _) = forward_of(false);
    assert!(plain.body.is_none(), "only streams are changed");
}

fn forward_of(stream: bool) -> (Forward, Forwarded) {
    forward(&chat(stream))
}

#[test]
fn every_ending_costs_what_it_may_have_cost() {
    let usage = br#"{"model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":10}}"#;
    let hold = forward_of(false).1.stub().held;
    type Case<'a> = (&'a str, Origin, &'a [u8], End, Ending, Measurement, Nanos);
    let cases: [Case<'_>; 7] = [
        // 1000 x 150 + 10 x 600 nano-dollars
        ("200", Origin::Provider, usage, End::Complete, Ending::Complete, Measurement::Exact, Nanos(156_000)),
        ("200", Origin::Provider, usage, End::Broken, Ending::Aborted, Measurement::Exact, Nanos(156_000)),
        ("200", Origin::Provider, b"{\"choi", End::Broken, Ending::Aborted, Measurement::Estimated, hold),
        (
            "429",
            Origin::Provider,
            b"{}",
            End::Complete,
            Ending::ProviderError,
            Measurement::Exact,
            Nanos::ZERO,
        ),
        ("503", Origin::NotSent, b"", End::Complete, Ending::Unreachable, Measurement::Exact, Nanos::ZERO),
        ("503", Origin::MaybeSent, b"", End::Complete, Ending::Unreachable, Measurement::Estimated, hold),
        ("200", Origin::Provider, b"", End::NotForwarded, Ending::Aborted, Measurement::Exact, Nanos::ZERO),
    ];
    for (status, origin, body, end, ending, measurement, cost) in cases {
        let (_, mut forwarded) = forward_of(false);
        forwarded.response_head(&response(status, "application/json"), origin, later(10));
        forwarded.response_body(body.to_vec(), end == End::Complete, later(20));
        let closing = close(forwarded, end);
        assert_eq!(
            (closing.ending, closing.measurement, closing.cost),
            (ending, measurement, cost),
            "{status} {end:?}"
        );
    }
    let silent = close(forward_of(false).1, End::Broken);
    assert_eq!(
        (silent.ending, silent.measurement, silent.cost),
        (Ending::Aborted, Measurement::Estimated, hold)
    );
}

fn answered_by(model: &str, usage: &Value) -> Closing {
    let (_, mut forwarded) = forward_of(false);
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, later(10));
    let body = json!({"model": model, "choices": [{"finish_reason": "s".repeat(5000)}], "usage": usage});
    forwarded.response_body(body.to_string().into_bytes(), true, later(11));
    close(forwarded, End::Complete)
}

#[test]
fn another_model_that_has_no_price_is_marked_and_a_routers_own_price_is_the_least() {
    let usage = json!({"prompt_tokens": 1000, "completion_tokens": 10});
    let stranger = answered_by("vendor/dearer-model", &usage);
    assert_eq!(stranger.measurement, Measurement::Estimated);
    assert_eq!(stranger.system_tags["_ns_served_unpriced"], "true");
    let snapshot = answered_by("gpt-4o-mini-2024-07-18", &usage);
    assert_eq!((snapshot.measurement, snapshot.cost), (Measurement::Exact, Nanos(156_000)));
    let routed = answered_by(
        "vendor/dearer-model",
        &json!({"prompt_tokens": 1000, "completion_tokens": 10, "cost": 0.5}),
    );
    assert!(routed.cost >= Nanos(156_000));
}

#[test]
fn nothing_a_caller_or_provider_writes_makes_an_event_long() {
    let long = format!("0.{}", "7".repeat(100_000));
    let body = format!(r#"{{"model":"gpt-4o-mini","temperature":{long},"max_tokens":5,"messages":[]}}"#);
    let (_, mut forwarded) = forward(body.as_bytes());
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, later(10));
    let model = "m".repeat(100_000);
    forwarded.response_body(json!({"model": model, "usage": {}}).to_string().into_bytes(), true, later(11));
    let closing = close(forwarded, End::Complete);
    assert!(!closing.system_tags.contains_key("_ns_temperature"));
    assert!(closing.served_model.is_some_and(|model| model.len() <= 200));
    let stop = answered_by("gpt-4o-mini", &json!({"prompt_tokens": 1, "completion_tokens": 1})).stop_reason;
    assert!(stop.is_some_and(|reason| reason.len() <= 200));
}

#[test]
fn a_list_of_stand_in_models_is_refused() {
    let body = br#"{"model":"gpt-4o-mini","models":["anthropic/claude-opus-4.1"],"messages":[]}"#;
    assert_eq!(code(&refused(admit(policy_with(identity()), CHAT, body))), (400, "bad_request"));
}

#[test]
fn a_provider_cannot_pass_for_us() {
    let (_, mut forwarded) = forward_of(false);
    let mut headers = response("429", "application/json");
    headers.0.push(("x-nullspend-denied".into(), b"1".to_vec()));
    headers.0.push(("x-nullspend-trace-id".into(), b"theirs".to_vec()));
    let head = forwarded.response_head(&headers, Origin::Provider, later(1));
    assert_eq!(head.remove, ["x-nullspend-denied"]);
    assert!(head.set.iter().any(|(name, value)| *name == "x-nullspend-trace-id" && value != "theirs"));
}

#[test]
fn an_answer_of_envoys_own_is_replaced_by_one_in_our_shape() {
    let (_, mut forwarded) = forward_of(false);
    let head = forwarded.response_head(&response("503", "text/plain"), Origin::NotSent, later(1));
    assert!(head.set.contains(&("content-type", "application/json".into())));
    let body = forwarded.response_body(b"upstream connect error".to_vec(), true, later(2));
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(error["error"]["code"], "upstream_error");
}

const STREAM: &str = "data: {\"model\":\"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hé\"}}],\"usage\":null}\n\n\
    data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n\
    data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3}}\n\n\
    data: [DONE]\n\n";

fn watch(cuts: &[usize]) -> (String, Closing) {
    let (_, mut forwarded) = forward_of(true);
    forwarded.response_head(&response("200", "text/event-stream; charset=utf-8"), Origin::Provider, later(5));
    let mut out = Vec::new();
    let mut from = 0;
    for &cut in cuts.iter().chain([&STREAM.len()]) {
        let cut = cut.clamp(from, STREAM.len());
        out.extend(forwarded.response_body(STREAM.as_bytes()[from..cut].to_vec(), false, later(6)));
        from = cut;
    }
    out.extend(forwarded.response_body(Vec::new(), true, later(7)));
    (String::from_utf8(out).unwrap(), close(forwarded, End::Complete))
}

proptest! {
    #[test]
    fn any_chunking_of_a_stream_gives_the_same_bytes_and_the_same_event(
        mut cuts in proptest::collection::vec(0..STREAM.len(), 0..40)
    ) {
        cuts.sort_unstable();
        let (whole, expected) = watch(&[]);
        let (pieces, closing) = watch(&cuts);
        prop_assert_eq!(&pieces, &whole);
        prop_assert_eq!(closing, expected);
        prop_assert!(!pieces.contains("prompt_tokens"), "the frame we asked for is taken out again");
        prop_assert!(pieces.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn a_stream_cut_anywhere_costs_at_most_its_hold_and_never_nothing(cut in 1..STREAM.len()) {
        let (_, mut forwarded) = forward_of(true);
        let hold = forwarded.stub().held;
        forwarded.response_head(&response("200", "text/event-stream"), Origin::Provider, later(5));
        forwarded.response_body(STREAM.as_bytes()[..cut].to_vec(), false, later(6));
        let closing = close(forwarded, End::Broken);
        prop_assert!(closing.cost > Nanos::ZERO && closing.cost <= hold, "{} of {hold}", closing.cost);
    }

    #[test]
    fn no_body_panics_the_machine(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = admit(policy_with(identity()), CHAT, &body);
    }
}
