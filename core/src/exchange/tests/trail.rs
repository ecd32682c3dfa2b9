//! What the machine notes for whoever asks why: every number that decided, in the order it decided.

use super::*;
use crate::{
    exchange::Cut,
    ledger::Why,
    policy::Velocity,
    price::{Layer, Match},
    trail::{Basis, DeniedBy, Step, Trail},
};

const SESSION: (&str, &str) = ("x-nullspend-session", "s-1");

fn at(us: u64) -> Moment {
    Moment { us, ..NOW }
}

fn numbered(number: u128, rule: BudgetRule) -> BudgetRule {
    BudgetRule { budget: BudgetId(Uuid::from_u128(number)), name: format!("b{number}"), ..rule }
}

fn policy(rules: impl IntoIterator<Item = BudgetRule>) -> Policy {
    let mut policy = policy_with(identity());
    rules.into_iter().for_each(|rule| policy.put_budget(rule));
    policy
}

/// The stage of a call as a host drives it: headers took 3 us, the body came after 10, and was decided by 14.
fn stage(policy: Policy, more: &[(&str, &str)], body: &[u8]) -> Box<Reserving> {
    let mut awaiting = start(policy, &headers(CHAT, more)).expect("accepted");
    awaiting.headers_took(at(3));
    let mut admission = awaiting.body(&settings(), body, at(10));
    admission.took(at(14));
    reserving(admission)
}

fn balance(settled: i64, held: i64) -> Balance {
    Balance { limit: Nanos(1_000_000_000), settled: Nanos(settled), held: Nanos(held) }
}

fn denied_by(why: Why, balances: Vec<Balance>) -> ReserveOutcome {
    ReserveOutcome::Denied { scope: 0, why, balances, retry_after_ms: Some(9) }
}

fn trail_of(verdict: Verdict) -> Trail {
    match verdict {
        Verdict::Answer(answered) => answered.denial.expect("a denial").trail,
        other => panic!("not denied: {other:?}"),
    }
}

fn opening(verdict: Verdict) -> Box<Opening> {
    match verdict {
        Verdict::Open(opening) => opening,
        other => panic!("not open: {other:?}"),
    }
}

fn steps(trail: &Trail) -> Vec<(Step, Option<u64>)> {
    trail.steps.iter().map(|stamp| (stamp.step, stamp.at_us)).collect()
}

fn words(trail: &Trail) -> Vec<&'static str> {
    trail.steps.iter().map(|stamp| stamp.step.as_str()).collect()
}

#[test]
fn a_call_of_three_budgets_has_its_numbers_before_the_hold_and_every_step_with_its_time() {
    let velocity = Velocity { limit: Nanos(1_000_000), window_ms: 60_000, cooldown_ms: 60_000 };
    let rules = [
        numbered(1, budget(Enforcement::StrictBlock)),
        numbered(2, BudgetRule { session_limit: Some(Nanos(5_000_000)), ..budget(Enforcement::SoftBlock) }),
        numbered(3, BudgetRule { velocity: Some(velocity), revision: 8, ..budget(Enforcement::Warn) }),
    ];
    let stage = stage(policy(rules), &[SESSION], &chat(false));
    let reserve = stage.reserve(30_000, |_| Bytes::new());
    let hold = reserve.amount;
    // The ledger answers in the order it was asked, with what is held including this call.
    let numbers = [(11, 5), (22, 0), (33, 7)];
    let after = numbers.map(|(settled, held)| balance(settled, held + hold.0)).to_vec();
    let opening =
        opening(stage.reserved(Ok(ReserveOutcome::Reserved { balances: after, exceeded: vec![] }), at(30)));
    let (_, mut forwarded) = opening.opened(chat(false), at(40));
    let open = forwarded.trail().clone();
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, at(90));
    let answer = json!({"model": "gpt-4o-mini", "usage": {"prompt_tokens": 9, "completion_tokens": 3}});
    forwarded.response_body(answer.to_string().into_bytes(), true, at(95));
    let trail = forwarded.close(End::Complete, at(99)).trail;

    let seen: Vec<_> = trail.budgets.iter().map(|seen| (seen.settled.0, seen.held.0)).collect();
    assert_eq!(seen, numbers);
    let counters: Vec<_> = trail.budgets.iter().map(|seen| seen.budget).collect();
    assert_eq!(counters, reserve.scopes.iter().map(|scope| scope.counter.budget).collect::<Vec<_>>());
    let of = |number: u128| {
        trail.budgets.iter().find(|seen| seen.name == format!("b{number}")).expect("it took part")
    };
    assert_eq!((of(1).session_limit, of(2).session_limit), (None, Some(Nanos(5_000_000))));
    assert_eq!((of(3).velocity, of(3).revision), (Some(velocity), 8));
    assert_eq!((of(1).enforcement, of(2).enforcement), (Enforcement::StrictBlock, Enforcement::SoftBlock));

    let bound = trail.bound.expect("bounded");
    assert_eq!((bound.hold, bound.cost, bound.counted), (hold, hold, false));
    assert_eq!(bound.tokens.map(|(_, output)| output), Some(100), "the limit of the request");
    let price = trail.price.as_ref().expect("priced");
    assert_eq!((price.id.as_str(), price.model.as_str()), ("openai/gpt-4o-mini", "gpt-4o-mini"));
    assert_eq!((price.layer, price.matched), (Layer::Catalogue, Match::Exact));
    assert_eq!(price.rates.own(crate::price::Class::Output), Some(600_000));

    let decided = [
        (Step::Authenticate, 3),
        (Step::Body, 10),
        (Step::Price, 14),
        (Step::Bound, 14),
        (Step::Match, 14),
        (Step::Session, 30),
        (Step::Velocity, 30),
        (Step::Budget, 30),
        (Step::Reserve, 30),
        (Step::Open, 40),
        (Step::Forward, 40),
    ];
    let ended = [(Step::Answer, 90), (Step::FirstByte, 95), (Step::Close, 99)];
    let all: Vec<_> = decided.into_iter().chain(ended).map(|(step, us)| (step, Some(us))).collect();
    assert_eq!(steps(&trail), all);
    assert_eq!((steps(&open).len(), open.basis), (decided.len(), None), "what the opened record knows");
    assert_eq!((trail.basis, trail.denied_by, trail.cut), (Some(Basis::Usage), None, None));
}

#[test]
fn a_denial_names_the_budget_and_ends_with_what_said_no() {
    let velocity = Velocity { limit: Nanos(1_000), window_ms: 60_000, cooldown_ms: 60_000 };
    let all = BudgetRule {
        session_limit: Some(Nanos(5)),
        velocity: Some(velocity),
        finalization_reserve: Nanos(3),
        ..budget(Enforcement::StrictBlock)
    };
    for (why, last) in [
        (Why::Session { spend: Nanos(4) }, Step::Session),
        (Why::Velocity { rate: Nanos(900) }, Step::Velocity),
        (Why::Budget, Step::Budget),
    ] {
        let stage = stage(policy([all.clone()]), &[SESSION], &chat(false));
        let verdict = match stage.reserved(Ok(denied_by(why, vec![balance(40, 2)])), at(20)) {
            Verdict::Tighten(tightening) => tightening.count(b"", at(25)),
            other => other,
        };
        let trail = trail_of(verdict);
        assert_eq!(trail.denied_by, Some(DeniedBy { place: 0, why, retry_after_ms: Some(9) }));
        let seen = &trail.budgets[0];
        assert_eq!((seen.settled, seen.held, seen.limit), (Nanos(40), Nanos(2), Nanos(1_000_000_000)));
        assert_eq!((seen.kept_back, seen.session_limit), (Nanos(3), Some(Nanos(5))));
        let asked = trail.steps.iter().rfind(|stamp| stamp.step != Step::Count).expect("steps");
        assert_eq!((asked.step, asked.at_us), (last, Some(20)));
        assert!(!trail.steps.has(Step::Reserve) && !trail.steps.has(Step::Open));
        assert!(trail.price.is_some() && trail.bound.is_some());
    }
}

#[test]
fn what_no_budget_limits_is_not_said_to_have_been_asked() {
    let rule = BudgetRule { session_limit: Some(Nanos(5)), ..budget(Enforcement::StrictBlock) };
    let stage = stage(policy([rule]), &[], &chat(false));
    let reserved = ReserveOutcome::Reserved { balances: vec![balance(0, 0)], exceeded: vec![] };
    let trail = opening(stage.reserved(Ok(reserved), at(30))).trail;
    assert!(trail.steps.has(Step::Budget));
    assert!(!trail.steps.has(Step::Session) && !trail.steps.has(Step::Velocity), "{:?}", words(&trail));
    assert_eq!(trail.budgets[0].session_limit, None, "the call named no session");
}

#[test]
fn a_model_without_a_price_is_told_from_one_nobody_looked_for() {
    let body = br#"{"model":"gpt-9-imaginary","messages":[]}"#;
    let refused = refused(admit(policy([]), CHAT, body)).denial.expect("a denial").trail;
    assert!(refused.price.is_none() && refused.bound.is_none());
    assert_eq!(words(&refused), ["authenticate", "body", "price"]);

    let mut flat = policy([]);
    flat.put_org(ORG, OrgRule { unpriced_hold: Some(Nanos(5)) });
    let opening = opened(admit(flat, CHAT, body));
    let bound = opening.trail.bound.expect("held");
    assert_eq!((bound.tokens, bound.cost, bound.hold), (None, Nanos(5), Nanos(5)));
    let (_, mut forwarded) = opening.opened(body.to_vec(), at(1));
    forwarded.response_head(&response("200", "application/json"), Origin::Provider, at(2));
    assert_eq!(close(forwarded, End::Complete).trail.basis, Some(Basis::WholeHoldUnpriced));

    let key = KeyIdentity { allowed_models: Some(vec![]), ..identity() };
    let mandate = super::refused(admit(policy_with(key), CHAT, &chat(false)));
    assert_eq!(words(&mandate.denial.expect("a denial").trail), ["authenticate", "body", "model_mandate"]);
}

#[test]
fn a_mandate_of_providers_is_the_last_step_of_its_denial() {
    let key = KeyIdentity { allowed_providers: Some(vec!["anthropic".into()]), ..identity() };
    let mut answered = start(policy_with(key), &headers(CHAT, &[])).expect_err("refused");
    answered.took(at(4));
    let trail = answered.denial.expect("a denial").trail;
    assert_eq!(steps(&trail), [(Step::Authenticate, Some(4)), (Step::ProviderMandate, Some(4))]);
}

#[test]
fn a_lowered_limit_keeps_what_was_asked_for() {
    let clamps = OutputPolicy { clamp: true, incremental: false };
    let rule = BudgetRule { output: clamps, ..budget(Enforcement::StrictBlock) };
    let stage = stage(policy([rule]), &[], &chat(false));
    let full = stage.reserve(30_000, |_| Bytes::new()).amount;
    let room = Balance { limit: Nanos(full.0 - 6_000), settled: Nanos::ZERO, held: Nanos::ZERO };
    let denied = denied_by(Why::Budget, vec![room]);
    let verdict = match stage.reserved(Ok(denied), at(20)) {
        Verdict::Tighten(tightening) => tightening.count(b"", at(25)),
        other => other,
    };
    let Verdict::Lowered(stage) = verdict else { panic!("not lowered: {verdict:?}") };
    let mut admission = Admission::Reserve(stage);
    admission.took(at(27));
    let stage = reserving(admission);
    let hold = stage.reserve(30_000, |_| Bytes::new()).amount;
    let after = Balance { held: hold, ..room };
    let reserved = ReserveOutcome::Reserved { balances: vec![after], exceeded: vec![] };
    let trail = opening(stage.reserved(Ok(reserved), at(30))).trail;
    let bound = trail.bound.expect("bounded");
    let clamp = bound.clamp.expect("clamped");
    assert_eq!((clamp.asked, clamp.full, bound.hold, bound.cost), (Some(100), full, hold, hold));
    assert!(clamp.applied < 100 && hold <= room.limit, "{clamp:?}");
    assert_eq!(trail.budgets[0].held, Nanos::ZERO, "before the hold");
    let told = ["budget", "count", "clamp", "budget", "reserve"];
    assert_eq!(words(&trail)[words(&trail).len() - 5..], told);
    let clamped = trail.steps.iter().find(|stamp| stamp.step == Step::Clamp);
    assert_eq!(clamped.and_then(|stamp| stamp.at_us), Some(27));
}

#[test]
fn a_policy_that_was_waited_for_shows_with_the_revision_that_decided() {
    let stage = stage(policy([budget(Enforcement::StrictBlock)]), &[], &chat(false));
    let stale = ReserveOutcome::StalePolicy { scope: 0, revision: 4 };
    let Verdict::Refresh { reserving: stage, .. } = stage.reserved(Ok(stale), at(20)) else {
        panic!("no refresh")
    };
    let newer = BudgetRule { revision: 4, ..budget(Enforcement::StrictBlock) };
    let stage = reserving(stage.again(&policy([newer]), NOW.ms));
    let wrong = ReserveOutcome::WrongWindow { now_ms: NOW.ms + 1 };
    let Verdict::Rewindow { reserving: stage, .. } = stage.reserved(Ok(wrong), at(24)) else {
        panic!("no rewindow")
    };
    let newer = BudgetRule { revision: 4, ..budget(Enforcement::StrictBlock) };
    let stage = reserving(stage.again(&policy([newer]), NOW.ms + 1));
    let reserved = ReserveOutcome::Reserved { balances: vec![balance(0, 0)], exceeded: vec![] };
    let trail = opening(stage.reserved(Ok(reserved), at(30))).trail;
    let told = ["match", "refresh", "match", "rewindow", "match", "budget", "reserve"];
    assert_eq!(words(&trail)[4..], told);
    assert_eq!(trail.budgets[0].revision, 4);
}

#[test]
fn a_stream_that_is_paid_for_as_it_comes_tells_its_slices_and_why_it_was_cut() {
    use super::increments::{Budgeted, asking, incremental, open};
    let body = asking(CHAT);
    let mut forwarded = open(incremental(Enforcement::StrictBlock), CHAT, &body);
    forwarded.response_head(&response("200", "text/event-stream"), Origin::Provider, later(5));
    let first = forwarded.stub().held;
    let bound = forwarded.trail().bound.expect("bounded");
    assert_eq!((bound.hold, bound.slice_tokens), (first, Some(512)));
    assert!(bound.cost > bound.hold, "the whole bound is told too");
    let mut stream = Budgeted::new(forwarded, Nanos(first.0 * 3));
    let word =
        json!({"model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": "some words "}}]});
    while !stream.cut {
        stream.push(format!("data: {word}\n\n").as_bytes(), false);
    }
    let grown = stream.forwarded.trail().extensions;
    assert!(grown > 0 && stream.forwarded.stub().held > first);
    let trail = close(stream.forwarded, End::Cut).trail;
    assert_eq!((trail.extensions, trail.basis), (grown, Some(Basis::Counted)));
    assert_eq!(trail.cut.map(|cut| cut.code), Some(Cut::BudgetExceeded.as_str()));
    assert_eq!(words(&trail)[words(&trail).len() - 2..], ["cut", "close"]);
}

#[test]
fn the_records_of_a_grown_hold_count_the_extension_that_they_are_written_for() {
    use super::increments::streaming;
    let mut forwarded = streaming(CHAT);
    let word =
        json!({"model": "gpt-4o-mini", "choices": [{"index": 0, "delta": {"content": "x".repeat(9_000)}}]});
    forwarded.response_body(format!("data: {word}\n\n").into_bytes(), false, later(6));
    let owed = forwarded.owes().expect("more than the first slice pays for");
    let (stub, trail) = forwarded.grown(owed);
    assert_eq!((stub.held, trail.extensions), (forwarded.stub().held + owed.add, 1));
    forwarded.extended(owed);
    assert_eq!((forwarded.stub(), forwarded.trail()), (&stub, &trail));
}

#[test]
fn every_ending_says_what_its_cost_rests_on() {
    let answered = |status: &str, body: &[u8], end: End| {
        let (_, mut forwarded) = forward(&chat(false));
        forwarded.response_head(&response(status, "application/json"), Origin::Provider, later(5));
        forwarded.response_body(body.to_vec(), end == End::Complete, later(6));
        close(forwarded, end).trail.basis
    };
    let usage = br#"{"model":"gpt-4o-mini","usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let other = br#"{"model":"gpt-9-imaginary","usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    assert_eq!(answered("200", usage, End::Complete), Some(Basis::Usage));
    assert_eq!(answered("200", other, End::Complete), Some(Basis::OtherModel));
    assert_eq!(answered("500", b"{}", End::Complete), Some(Basis::ProviderError));
    assert_eq!(answered("200", b"{\"choi", End::Broken), Some(Basis::WholeHoldHidden));
    let unanswered = |origin: Option<Origin>, end: End| {
        let (_, mut forwarded) = forward(&chat(false));
        if let Some(origin) = origin {
            forwarded.response_head(&response("503", "text/plain"), origin, later(5));
        }
        close(forwarded, end).trail.basis
    };
    assert_eq!(unanswered(None, End::Broken), Some(Basis::WholeHoldUnanswered));
    assert_eq!(unanswered(None, End::NotForwarded), Some(Basis::NotForwarded));
    assert_eq!(unanswered(Some(Origin::NotSent), End::Complete), Some(Basis::NotSent));
    assert_eq!(unanswered(Some(Origin::MaybeSent), End::Complete), Some(Basis::WholeHoldUnreachable));
}

#[test]
fn a_freeze_is_the_last_step_wherever_it_stops_a_call() {
    use super::frozen::frozen_policy;
    let by_model = frozen_policy("model", "gpt-4o-mini");
    let by_key = frozen_policy("api_key", &identity().key.bare());
    let refused_words = |mut answered: Box<Answered>| {
        answered.took(at(40));
        let trail = answered.denial.expect("a denial").trail;
        assert_eq!(steps(&trail).last(), Some(&(Step::Freeze, Some(40))));
        words(&trail)
    };
    let by_headers = start(by_key.clone(), &headers(CHAT, &[])).expect_err("refused");
    assert_eq!(refused_words(by_headers), ["authenticate", "freeze"]);
    let by_body = refused(admit(by_model, CHAT, &chat(false)));
    assert_eq!(refused_words(by_body), ["authenticate", "body", "freeze"]);
    let reserved = ReserveOutcome::Reserved { balances: vec![balance(0, 0)], exceeded: vec![] };
    let opening = opening(
        stage(policy([budget(Enforcement::StrictBlock)]), &[], &chat(false)).reserved(Ok(reserved), at(30)),
    );
    let late = opening.refused(&by_key, at(39)).expect("refused");
    assert_eq!(refused_words(late)[4..], ["match", "budget", "reserve", "freeze"]);
}

#[test]
fn repeats_are_counted_after_the_budgets_were_matched_and_before_the_ledger_is_asked() {
    let mut loops = crate::loops::Loops::default();
    let policy = policy([BudgetRule { loop_max_calls: Some(1), ..budget(Enforcement::StrictBlock) }]);
    let settings = settings();
    let mut counted = || {
        let awaiting = start(policy.clone(), &headers(CHAT, &[])).expect("accepted");
        let mut stage = reserving(awaiting.body(&settings, &chat(false), at(10)));
        let answered = stage.looping(&mut loops, at(12));
        (stage, answered)
    };
    let (stage, passed) = counted();
    assert!(passed.is_none());
    let reserved = ReserveOutcome::Reserved { balances: vec![balance(0, 0)], exceeded: vec![] };
    let trail = opening(stage.reserved(Ok(reserved), at(30))).trail;
    assert_eq!(words(&trail)[4..], ["match", "loop", "budget", "reserve"]);
    let denied = counted().1.expect("denied").denial.expect("a denial").trail;
    assert_eq!(words(&denied)[4..], ["match", "loop"]);
}

#[test]
fn a_call_on_credit_says_when_it_was_taken_and_what_it_may_cost() {
    let stage = stage(policy([budget(Enforcement::StrictBlock)]), &[], &chat(false));
    let (whole, _) = stage.credit();
    let opening = stage.on_credit(at(30));
    assert_eq!(steps(&opening.trail)[4..], [(Step::Match, Some(14)), (Step::Credit, Some(30))]);
    assert_eq!(opening.trail.bound.map(|bound| bound.hold), Some(whole));
    assert!(opening.trail.budgets.is_empty() && opening.stub.charges.len() == 1, "nobody knows the numbers");
}
