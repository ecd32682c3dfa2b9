//! The second stage: who is counted, what is told, and that nobody is admitted on less than a bound.

use super::*;
use crate::{exchange::Tightening, usage::Vendor};

const PROSE: &str = "The committee met on Tuesday and agreed that nobody had read the report. ";

fn policy(output: OutputPolicy) -> Policy {
    let mut policy = policy_with(identity());
    policy.put_budget(BudgetRule { output, ..budget(Enforcement::StrictBlock) });
    policy
}

fn body(model: &str, more: &Value) -> Vec<u8> {
    let text = PROSE.repeat(100);
    let mut body =
        json!({"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string().into_bytes()
}

fn stage(path: &str, body: &[u8]) -> Box<Reserving> {
    reserving(admit(policy(OutputPolicy::default()), path, body))
}

fn held(stage: &Reserving) -> Nanos {
    stage.reserve(30_000, |_| Bytes::new()).amount
}

fn balance(left: i64) -> Balance {
    Balance { limit: Nanos(left), settled: Nanos::ZERO, held: Nanos::ZERO }
}

fn denial(left: i64, why: Why) -> Result<ReserveOutcome, LedgerUnavailable> {
    Ok(ReserveOutcome::Denied { scope: 0, why, balances: vec![balance(left)], retry_after_ms: None })
}

fn denied(stage: Box<Reserving>, left: i64) -> Verdict {
    stage.reserved(denial(left, Why::Budget), NOW)
}

fn tightening(verdict: Verdict) -> Box<Tightening> {
    match verdict {
        Verdict::Tighten(tightening) => tightening,
        other => panic!("not to be counted: {other:?}"),
    }
}

fn lowered(verdict: Verdict) -> Box<Reserving> {
    match verdict {
        Verdict::Lowered(stage) => stage,
        other => panic!("not lowered: {other:?}"),
    }
}

fn answer(verdict: Verdict) -> Box<Answered> {
    match verdict {
        Verdict::Answer(answered) => answered,
        other => panic!("not answered: {other:?}"),
    }
}

#[test]
fn a_call_whose_counted_text_fits_is_admitted_with_that_hold() {
    let body = body("gpt-4o-mini", &json!({}));
    let stage = stage(CHAT, &body);
    let loose = held(&stage);
    let tight = lowered(tightening(denied(stage, loose.0 - 1)).count(&body, NOW));
    let tokens = i64::try_from(crate::tokenizer::count(&PROSE.repeat(100))).unwrap();
    let (least, hold) = (tokens * 150 + 100 * 600, held(&tight));
    assert!(
        hold.0 >= least && hold.0 < least + 200 * 150,
        "the text's tokens and what is around it: {hold} of {least}"
    );
    assert!(hold.0 * 3 < loose.0, "{hold} of {loose}");
    let outcome = ReserveOutcome::Reserved { balances: vec![balance(loose.0)], exceeded: vec![] };
    let Verdict::Open(opening) = tight.reserved(Ok(outcome), NOW) else { panic!("not open") };
    assert_eq!(opening.stub.held, hold);
}

#[test]
fn a_call_is_counted_once_and_its_denial_names_the_tight_estimate() {
    let body = body("gpt-4o-mini", &json!({}));
    let stage = stage(CHAT, &body);
    let left = held(&stage).0 / 5;
    let tight = lowered(tightening(denied(stage, left)).count(&body, NOW));
    let hold = held(&tight);
    let answered = answer(denied(tight, left));
    assert_eq!(code(&answered), (429, "budget_exceeded"));
    let shown = answered.answer.details["estimated_cost_microdollars"].as_i64();
    assert_eq!(shown, Some((hold.0 + 999) / 1000));
    assert_eq!(answered.denial.map(|denial| denial.estimated), Some(hold));
}

#[test]
fn a_race_after_counting_is_a_denial_and_nothing_else() {
    let body = body("gpt-4o-mini", &json!({}));
    let stage = stage(CHAT, &body);
    let loose = held(&stage);
    let tight = lowered(tightening(denied(stage, loose.0 - 1)).count(&body, NOW));
    assert_eq!(code(&answer(denied(tight, 10))), (429, "budget_exceeded"));
}

#[test]
fn what_no_count_can_help_is_denied_at_once() {
    let huge = json!({"messages": [{"role": "user", "content": "x".repeat(1 << 20)}]});
    let file =
        json!({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]});
    for (path, body) in [
        ("/v1/messages", body("claude-haiku-4-5", &json!({}))),
        (CHAT, body("gpt-6-sol", &json!({}))),
        (CHAT, body("gpt-4o-mini", &file)),
        ("/v1/responses", body("gpt-4o-mini", &json!({"input": "x", "previous_response_id": "r"}))),
    ] {
        let stage = stage(path, &body);
        let left = held(&stage).0 - 1;
        assert_eq!(code(&answer(denied(stage, left))), (429, "budget_exceeded"), "{path}");
    }
    let settings = Settings { max_body_bytes: 2 << 20, ..settings() };
    let long = body("gpt-4.1", &huge);
    let awaiting = start(policy(OutputPolicy::default()), &headers(CHAT, &[])).unwrap();
    let stage = reserving(awaiting.body(&settings, &long, NOW));
    let left = held(&stage).0 - 1;
    assert_eq!(code(&answer(denied(stage, left))), (429, "budget_exceeded"), "too long to count");

    let body = body("gpt-4o-mini", &json!({"max_tokens": 10_000}));
    // Its output alone is more than what is left.
    assert_eq!(code(&answer(denied(stage_of(&body), 10_000 * 600 - 1))), (429, "budget_exceeded"));
    let rate = stage_of(&body).reserved(denial(i64::MAX, Why::Velocity { rate: Nanos::ZERO }), NOW);
    assert!(matches!(rate, Verdict::Answer(_)), "no budget denied it");
}

#[test]
fn what_is_kept_back_is_counted_for_only_where_the_call_finalizes() {
    let body = body("gpt-4o-mini", &json!({"max_tokens": 10_000}));
    let stage = |more: &[(&str, &str)]| {
        let mut policy = policy_with(identity());
        let kept_back = Nanos(1_000_000);
        policy.put_budget(BudgetRule { finalization_reserve: kept_back, ..budget(Enforcement::StrictBlock) });
        let awaiting = start(policy, &headers(CHAT, more)).expect("accepted");
        reserving(awaiting.body(&settings(), &body, NOW))
    };
    // Its output alone is more than the budget has without what it keeps back.
    let left = 10_000 * 600 + 1_000_000 - 1;
    assert_eq!(code(&answer(denied(stage(&[]), left))), (429, "budget_exceeded"));
    lowered(tightening(denied(stage(&[("x-nullspend-finalize", "1")]), left)).count(&body, NOW));
}

fn stage_of(body: &[u8]) -> Box<Reserving> {
    stage(CHAT, body)
}

#[test]
fn another_vendor_s_model_of_the_same_name_is_not_counted() {
    let row =
        Upstream::parse("openai", "https://openrouter.ai/api", Dialect::OpenAi, "openai", true).unwrap();
    let upstreams = Upstreams(vec![row.answered_by(Vendor::OpenRouter)]);
    let settings = Settings { upstreams, ..settings() };
    let body = body("gpt-4o-mini", &json!({}));
    let policy = Arc::new(policy(OutputPolicy::default()));
    let headers = headers(CHAT, &[]);
    let begun = begin(Some(policy), &headers, AttemptId(Uuid::from_u128(7)), NOW);
    let Begin::Known(known) = begun else { panic!("not known") };
    let awaiting = known.accept(&settings, &headers).expect("accepted");
    let stage = reserving(awaiting.body(&settings, &body, NOW));
    let left = held(&stage).0 - 1;
    assert!(matches!(denied(stage, left), Verdict::Answer(_)));
}

#[test]
fn text_that_is_as_dear_as_its_bytes_keeps_its_denial() {
    let body = body("gpt-4o-mini", &json!({"messages": [{"role": "user", "content": "a1".repeat(1000)}]}));
    let stage = stage(CHAT, &body);
    let left = held(&stage).0 - 1;
    assert_eq!(code(&answer(tightening(denied(stage, left)).count(&body, NOW))), (429, "budget_exceeded"));
}

#[test]
fn counting_comes_before_clamping_so_that_the_caller_loses_no_output() {
    let body = body("gpt-4o-mini", &json!({"max_tokens": 1000}));
    let stage = reserving(admit(policy(OutputPolicy { clamp: true, incremental: false }), CHAT, &body));
    let left = held(&stage).0 / 3;
    let tight = lowered(tightening(denied(stage, left)).count(&body, NOW));
    assert!(held(&tight).0 > left, "counting is not enough");
    let full = held(&tight);
    let clamped = lowered(denied(tight, left));
    assert!(held(&clamped).0 <= left && left - held(&clamped).0 < 600);
    let outcome = ReserveOutcome::Reserved { balances: vec![balance(left)], exceeded: vec![] };
    let Verdict::Open(opening) = clamped.reserved(Ok(outcome), NOW) else { panic!("not open") };
    let sent: Value = serde_json::from_slice(&opening.opened(body, NOW).0.body.unwrap()).unwrap();
    let most = (left - (full.0 - 1000 * 600)) / 600;
    assert_eq!(sent["max_tokens"].as_i64(), Some(most), "all that counting left");
}
