//! A call that repeats itself: counted before it is reserved, so that what is denied holds nothing (contract §2.7).

use serde_json::json;

use super::{
    Answered, Moment,
    admit::Reserving,
    answer::{Answer, ErrorBody, recovery},
};
use crate::{
    attempt::{Api, Denial},
    loops::{Fingerprints, LoopKind, Looping, Loops, WINDOW_S},
    policy::BudgetRule,
    trail::Step,
};

impl Reserving {
    /// Takes the request's fingerprint, if any budget of the call limits repeats: hashing a large body takes its time.
    pub(super) fn take_fingerprint(&mut self, fingerprints: &Fingerprints, body: &[u8]) {
        if self.rules.iter().any(|rule| rule.loop_max_calls.is_some()) {
            let call = &self.admitted.call;
            self.fingerprint = Some(fingerprints.of(call.api.as_str(), &call.upstream.name, body));
        }
    }

    /// Whether any budget of the call limits repeats, so that [`Self::looping`] has something to count.
    #[must_use]
    pub fn may_loop(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Counts the call, and refuses it if it is part of a loop. Once for each call, before its first reserve.
    #[must_use]
    pub fn looping(&mut self, loops: &mut Loops, now: Moment) -> Option<Box<Answered>> {
        let fingerprint = self.fingerprint?;
        self.admitted.call.steps.note(Step::Loop);
        let call = &self.admitted.call;
        let mut found = None;
        // Counted under every budget, also behind the one that refuses it.
        for rule in &self.rules {
            let Some(max_calls) = rule.loop_max_calls else { continue };
            let place = (rule.budget, call.key.key);
            let looping = loops.count(place, fingerprint, max_calls, now.us);
            found = found.or(looping.map(|looping| (rule, looping, max_calls)));
        }
        let (rule, looping, max_calls) = found?;
        let model = &self.admitted.view.model;
        let answer = refusal(rule, looping, max_calls, model, call.api);
        let record = Denial {
            trail: self.admitted.trail(call.steps.clone(), Vec::new()),
            ..call.denial(&answer, model, self.admitted.hold, now.ms)
        };
        Some(call.answered(answer, Some(record)))
    }
}

/// 429 `loop_detected`; its details are in camel case in the contract.
fn refusal(rule: &BudgetRule, looping: Looping, max_calls: u32, model: &str, api: Api) -> Answer {
    let (kind, id) = (rule.entity.kind(), rule.entity.shown_id());
    let what = match looping.kind {
        LoopKind::PerKey => format!("this very request was sent {} times", looping.calls),
        LoopKind::Aggregate => {
            format!("this request is one of several that were sent {} times together", looping.calls)
        }
    };
    let message = format!(
        "{what} within {WINDOW_S} s, and the {kind} budget of {id} allows {max_calls}; the agent repeats itself: change what \
         it sends, stop it, or have loopMaxCalls raised"
    );
    let details = json!({ "type": looping.kind.as_str(), "model": model, "callCount": looping.calls,
        "windowSeconds": WINDOW_S, "maxCalls": max_calls, "entityType": kind, "entityId": id,
        "budgetId": rule.budget.to_string() });
    let error = ErrorBody {
        status: 429,
        code: "loop_detected",
        message,
        details: details.clone(),
        param: None,
        recovery: Some(recovery(false, false, Some(i64::try_from(WINDOW_S).unwrap_or(i64::MAX)))),
    };
    let headers = vec![
        ("x-nullspend-denied", "1".to_owned()),
        ("x-should-retry", "false".to_owned()),
        ("retry-after", WINDOW_S.to_string()),
    ];
    Answer { status: 429, headers, body: error.render(Some(api)), code: "loop_detected", details }
}
