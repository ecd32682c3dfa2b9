//! Sessions, spend rates and finalizing calls as the machine asks for them and answers them.

use super::*;
use crate::policy::Velocity;

fn with(rule: BudgetRule, more: &[(&str, &str)]) -> Box<Reserving> {
    let mut policy = policy_with(identity());
    policy.put_budget(rule);
    let awaiting = start(policy, &headers(CHAT, more)).expect("accepted");
    reserving(awaiting.body(&settings(), &chat(false), NOW))
}

fn per_session() -> BudgetRule {
    BudgetRule { session_limit: Some(Nanos(5)), ..budget(Enforcement::Warn) }
}

#[test]
fn a_reserve_names_its_session_only_where_a_budget_limits_it() {
    let session = [("x-nullspend-session", " s-1 ")];
    for (rule, more, named) in [
        (per_session(), session.as_slice(), Some("s-1")),
        (per_session(), &[], None),
        (budget(Enforcement::StrictBlock), &session, None),
    ] {
        let stage = with(rule, more);
        let mut of_session = Vec::new();
        let reserve = stage.reserve(30_000, |stub| {
            of_session = stub.charges.iter().map(|charge| charge.of_session).collect();
            Bytes::new()
        });
        assert_eq!(reserve.session.as_deref(), named);
        assert_eq!(of_session, [named.is_some()], "the event knows too");
    }
}

#[test]
fn only_a_one_finalizes() {
    for (value, finalize) in [("1", true), (" 1 ", true), ("true", false), ("0", false), ("", false)] {
        let stage = with(budget(Enforcement::StrictBlock), &[("x-nullspend-finalize", value)]);
        assert_eq!(stage.reserve(1, |_| Bytes::new()).finalize, finalize, "{value:?}");
    }
    assert!(!with(budget(Enforcement::StrictBlock), &[]).reserve(1, |_| Bytes::new()).finalize);
}

#[test]
fn denials_by_session_and_rate_leave_their_records() {
    let velocity = Velocity { limit: Nanos(1_000), window_ms: 60_000, cooldown_ms: 60_000 };
    let rule = BudgetRule { velocity: Some(velocity), ..per_session() };
    for (why, retry_after_ms, code, header) in [
        (Why::Session { spend: Nanos(4) }, None, "session_limit_exceeded", None),
        (Why::Velocity { rate: Nanos(4_000) }, Some(59_001), "velocity_exceeded", Some("60")),
    ] {
        let balance = Balance { limit: rule.limit, settled: Nanos::ZERO, held: Nanos::ZERO };
        let denied = ReserveOutcome::Denied { scope: 0, why, balances: vec![balance], retry_after_ms };
        let stage = with(rule.clone(), &[("x-nullspend-session", "s-1")]);
        let Verdict::Answer(answered) = stage.reserved(Ok(denied), NOW) else { panic!("not denied") };
        assert_eq!((answered.answer.status, answered.answer.code), (429, code));
        let found = answered.answer.headers.iter().find(|(name, _)| *name == "retry-after");
        assert_eq!(found.map(|(_, value)| value.as_str()), header);
        let record = answered.denial.expect("a record");
        assert_eq!((record.code, record.session_id.as_deref()), (code, Some("s-1")));
    }
}
