//! What the machine notes of its decisions, for whoever asks why (design law 8).

use std::sync::Arc;

use super::{
    Admission, Answered, Call, Moment,
    admit::{Admitted, Reserving},
};
use crate::{
    ledger::{Balance, LedgerUnavailable, ReserveOutcome, Scope, Why},
    money::Nanos,
    policy::BudgetRule,
    price::Priced,
    trail::{Bounded, BudgetSeen, Clamped, DeniedBy, PriceFound, Step, Steps, Trail},
};

impl Admission {
    /// Tells what was decided up to here when that was.
    pub fn took(&mut self, now: Moment) {
        match self {
            Self::Answer(answered) => answered.took(now),
            Self::Reserve(reserving) => reserving.admitted.call.steps.stamp(now.us),
            Self::Open(opening) => opening.trail.steps.stamp(now.us),
        }
    }
}

impl Answered {
    /// Tells the denial when its last steps were done.
    pub fn took(&mut self, now: Moment) {
        if let Some(denial) = &mut self.denial {
            denial.trail.steps.stamp(now.us);
        }
    }
}

impl Call {
    /// The trail of a call that ends here.
    pub(super) fn trail(&self) -> Trail {
        Trail { steps: self.steps.clone(), finalize: self.finalize, ..Trail::default() }
    }
}

impl Reserving {
    /// Notes what the ledger was asked by its answer: sessions, then rates, then budgets, up to the one that said no.
    pub(super) fn note(&mut self, outcome: &Result<ReserveOutcome, LedgerUnavailable>, now: Moment) {
        let sessions = self.admitted.call.session_id.is_some()
            && self.scopes.iter().any(|scope| scope.session_limit.is_some());
        let rates = self.scopes.iter().any(|scope| scope.velocity.is_some());
        let asked = [(Step::Session, sessions), (Step::Velocity, rates), (Step::Budget, true)];
        let asked = asked.into_iter().filter(|(_, took_part)| *took_part).map(|(step, _)| step);
        let steps = &mut self.admitted.call.steps;
        match outcome {
            Ok(ReserveOutcome::Reserved { .. }) => asked.chain([Step::Reserve]).for_each(|s| steps.note(s)),
            Ok(ReserveOutcome::Denied { why, .. }) => {
                let last = match why {
                    Why::Session { .. } => Step::Session,
                    Why::Velocity { .. } => Step::Velocity,
                    Why::Budget => Step::Budget,
                };
                asked.take_while(|step| *step != last).chain([last]).for_each(|s| steps.note(s));
            }
            Ok(ReserveOutcome::StalePolicy { .. }) => steps.note(Step::Refresh),
            Ok(ReserveOutcome::WrongWindow { .. }) => steps.note(Step::Rewindow),
            Ok(ReserveOutcome::AlreadyDone | ReserveOutcome::Invalid(_)) | Err(_) => {}
        }
        steps.stamp(now.us);
    }

    /// The trail of a call that the budget at `place` denied.
    pub(super) fn denied_trail(&self, balances: &[Balance], denied_by: DeniedBy) -> Trail {
        let budgets = self.admitted.seen(&self.rules, &self.scopes, balances, Nanos::ZERO);
        let steps = self.admitted.call.steps.clone();
        Trail { denied_by: Some(denied_by), ..self.admitted.trail(steps, budgets) }
    }
}

impl Admitted {
    /// The trail so far.
    pub(super) fn trail(&self, steps: Steps, budgets: Vec<BudgetSeen>) -> Trail {
        let clamp = self.clamp.map(|clamp| Clamped {
            asked: clamp.asked,
            applied: clamp.limit.tokens,
            full: clamp.full,
        });
        let bounded = Bounded {
            tokens: self.bound.map(|bound| (bound.input_tokens, bound.output_tokens)),
            cost: self.bound.map_or(self.hold, |bound| bound.cost),
            hold: self.hold,
            counted: self.counted,
            clamp,
            slice_tokens: self.paid,
        };
        Trail {
            price: self.price.as_ref().map(found),
            bound: Some(bounded),
            budgets,
            finalize: self.call.finalize,
            steps,
            ..Trail::default()
        }
    }

    /// Budgets as they stood before `hold` was taken out of them.
    pub(super) fn seen(
        &self,
        rules: &[Arc<BudgetRule>],
        scopes: &[Scope],
        balances: &[Balance],
        hold: Nanos,
    ) -> Vec<BudgetSeen> {
        let session = self.call.session_id.is_some();
        let seen = |((rule, scope), balance): ((&Arc<BudgetRule>, &Scope), &Balance)| BudgetSeen {
            budget: rule.budget,
            entity: rule.entity.clone(),
            name: rule.name.clone(),
            enforcement: rule.enforcement,
            interval: rule.interval,
            window_start_ms: scope.counter.window_start_ms,
            window_end_ms: scope.window_end_ms,
            generation: scope.counter.generation,
            revision: rule.revision,
            limit: balance.limit,
            settled: balance.settled,
            held: balance.held - hold,
            session_limit: rule.session_limit.filter(|_| session),
            velocity: rule.velocity,
            kept_back: rule.kept_back(),
        };
        rules.iter().zip(scopes).zip(balances).map(seen).collect()
    }
}

fn found(priced: &Priced) -> PriceFound {
    PriceFound {
        id: priced.id().to_owned(),
        version: priced.version().to_owned(),
        model: priced.model().id().to_owned(),
        layer: priced.layer(),
        matched: priced.matched(),
        rates: priced.standard().rates,
    }
}
