//! `ExplainService`.

use nullspend_core::{
    attempt::BudgetCharge,
    ledger::Why,
    money::Nanos,
    policy::{Enforcement, Velocity},
    trail::{Bounded, BudgetSeen, DeniedBy, Step, Trail},
};
use nullspend_proto::v1::{self, explain_service_server::ExplainService};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{signed, timestamp},
    cost_detail::cost_detail,
    cost_events::{measurement, source},
    status::caller,
};
use crate::{
    app::{Explained, Explanation, Outcome, is_alias},
    store::{DenialRecord, EventRecord, EventRevision, Source},
};

#[async_trait]
impl ExplainService for Services {
    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let caller = caller(&request)?;
        let explanation = self.app.explain(&caller, &request.into_inner().id).await?;
        Ok(Response::new(v1::ExplainResponse { data: Some(explained(&explanation)) }))
    }
}

fn explained(explanation: &Explanation) -> v1::Explanation {
    let whole = match &explanation.of {
        Explained::Event(event) => of_event(explanation, event),
        Explained::Denial(denial, key_name) => of_denial(explanation, denial, key_name.as_ref()),
    };
    let trail = explanation.trail.as_ref();
    v1::Explanation {
        outcome: outcome(explanation.outcome).into(),
        summary: explanation.said.summary.clone(),
        price: price(explanation, &whole.model),
        steps: trail.map(steps).unwrap_or_default(),
        unknown: explanation.said.unknown.clone(),
        ..whole
    }
}

fn of_event(explanation: &Explanation, event: &EventRecord) -> v1::Explanation {
    let trail = explanation.trail.as_ref();
    // On credit, and where nobody told, only what it was charged to is known.
    let decided = trail.filter(|trail| !trail.budgets.is_empty());
    let decided = decided.map(|trail| budgets(trail, trail.bound.map_or(Nanos::ZERO, |bound| bound.hold)));
    let held = event.held.unwrap_or_default();
    v1::Explanation {
        id: event.id.to_string(),
        started_at: Some(timestamp(event.started_at_ms)),
        ended_at: Some(timestamp(event.ended_at_ms)),
        source: source(event.source).into(),
        api_key_id: event.key.map(|key| key.to_string()),
        key_name: event.key_name.clone(),
        provider: event.provider.clone(),
        model: event.model.clone(),
        served_model: event.served_model.clone(),
        upstream: event.upstream.clone(),
        trace_id: event.trace_id.clone(),
        session_id: event.session_id.clone(),
        customer_id: event.customer.clone(),
        tags: event.tags.clone(),
        bound: trail.and_then(|trail| Some(bound(trail, trail.bound.as_ref()?, held))),
        budgets: decided.unwrap_or_else(|| charged(explanation, &event.charges)),
        cost: Some(cost(explanation, event)),
        ..v1::Explanation::default()
    }
}

fn of_denial(explanation: &Explanation, denial: &DenialRecord, key_name: Option<&String>) -> v1::Explanation {
    let trail = explanation.trail.as_ref();
    v1::Explanation {
        id: denial.id.to_string(),
        code: Some(denial.code.clone()),
        started_at: Some(timestamp(denial.at_ms)),
        source: source(Source::Proxy).into(),
        api_key_id: denial.key.map(|key| key.to_string()),
        key_name: key_name.cloned(),
        provider: denial.provider.clone(),
        model: denial.model.clone(),
        trace_id: denial.trace_id.clone(),
        session_id: denial.session_id.clone(),
        customer_id: denial.customer.clone(),
        tags: denial.tags.clone(),
        bound: trail.and_then(|trail| Some(bound(trail, trail.bound.as_ref()?, Nanos::ZERO))),
        budgets: trail.map(|trail| budgets(trail, Nanos::ZERO)).unwrap_or_default(),
        denied_by: Some(denied_by(explanation, denial)),
        ..v1::Explanation::default()
    }
}

fn outcome(outcome: Outcome) -> v1::CallOutcome {
    match outcome {
        Outcome::Settled => v1::CallOutcome::Settled,
        Outcome::Lapsed => v1::CallOutcome::Lapsed,
        Outcome::Corrected => v1::CallOutcome::Corrected,
        Outcome::Denied => v1::CallOutcome::Denied,
        Outcome::Reported => v1::CallOutcome::Reported,
        Outcome::Adjusted => v1::CallOutcome::Adjusted,
    }
}

fn price(explanation: &Explanation, asked: &str) -> Option<v1::ExplainedPrice> {
    let how = explanation.said.price.clone()?;
    let found = explanation.trail.as_ref().and_then(|trail| trail.price.as_ref());
    let word = |found| if is_alias(found, asked) { "alias" } else { found.matched.as_str() };
    Some(v1::ExplainedPrice {
        id: found.map(|found| found.id.clone()),
        version: found.map(|found| found.version.clone()),
        model: found.map(|found| found.model.clone()),
        layer: found.map(|found| found.layer.as_str().to_owned()),
        matched: found.map(|found| word(found).to_owned()),
        how,
        rates_picodollars: found
            .map(|found| found.rates.iter().map(|(class, rate)| (class.as_str().to_owned(), signed(rate))))
            .map(Iterator::collect)
            .unwrap_or_default(),
    })
}

fn bound(trail: &Trail, bound: &Bounded, held: Nanos) -> v1::ExplainedBound {
    let (input_tokens, output_tokens) = bound.tokens.unzip();
    v1::ExplainedBound {
        input_tokens: input_tokens.map(signed),
        output_tokens: output_tokens.map(signed),
        bound_nanodollars: bound.cost.0,
        asked_nanodollars: bound.hold.0,
        held_nanodollars: held.0,
        counted: bound.counted,
        clamp: bound.clamp.map(|clamp| v1::ExplainedClamp {
            from_tokens: clamp.asked.map(signed),
            to_tokens: signed(clamp.applied),
            full_nanodollars: clamp.full.0,
        }),
        slice_tokens: bound.slice_tokens.map(signed),
        extensions: i32::try_from(trail.extensions).unwrap_or(i32::MAX),
        cut: trail.cut.as_ref().map(|cut| v1::ExplainedCut {
            code: cut.code.to_owned(),
            budget_id: cut.budget.map(|budget| budget.to_string()),
        }),
    }
}

/// The budgets that decided; `hold` was taken out of each.
fn budgets(trail: &Trail, hold: Nanos) -> Vec<v1::ExplainedBudget> {
    trail.budgets.iter().enumerate().map(|(place, seen)| budget(trail, place, seen, hold)).collect()
}

fn budget(trail: &Trail, place: usize, seen: &BudgetSeen, hold: Nanos) -> v1::ExplainedBudget {
    v1::ExplainedBudget {
        id: seen.budget.to_string(),
        entity_type: Some(seen.entity.kind().to_owned()),
        entity_id: Some(seen.entity.shown_id()),
        name: Some(seen.name.clone()),
        window_start: Some(timestamp(seen.window_start_ms)),
        window_end: seen.window_end_ms.map(timestamp),
        generation: seen.generation.into(),
        revision: Some(signed(seen.revision)),
        policy: Some(seen.enforcement.as_str().to_owned()),
        reset_interval: Some(seen.interval.as_str().to_owned()),
        limit_nanodollars: Some(seen.limit.0),
        before: Some(balance(seen, Nanos::ZERO)),
        after: Some(balance(seen, hold)),
        kept_back_nanodollars: Some(seen.kept_back.0),
        session_limit_nanodollars: seen.session_limit.map(|limit| limit.0),
        velocity: seen.velocity.map(velocity),
        verdict: verdict(trail, place, seen, hold).map(str::to_owned),
    }
}

fn balance(seen: &BudgetSeen, hold: Nanos) -> v1::ExplainedBalance {
    let held = seen.held + hold;
    v1::ExplainedBalance {
        settled_nanodollars: seen.settled.0,
        held_nanodollars: held.0,
        remaining_nanodollars: (seen.limit - seen.settled - held).0,
    }
}

fn velocity(velocity: Velocity) -> v1::ExplainedVelocity {
    v1::ExplainedVelocity {
        limit_nanodollars: velocity.limit.0,
        window_ms: velocity.window_ms,
        cooldown_ms: velocity.cooldown_ms,
    }
}

fn verdict(trail: &Trail, place: usize, seen: &BudgetSeen, hold: Nanos) -> Option<&'static str> {
    let over = seen.settled + seen.held + hold > seen.limit;
    match trail.denied_by {
        Some(by) if by.place == place => Some("denied"),
        Some(_) => None,
        None if over && seen.enforcement != Enforcement::StrictBlock => Some("exceeded"),
        None => Some("allowed"),
    }
}

/// The budgets that a call counts towards, where nobody told how they decided.
fn charged(explanation: &Explanation, charges: &[BudgetCharge]) -> Vec<v1::ExplainedBudget> {
    let one = |charge: &BudgetCharge| {
        let known = explanation.budgets.get(&charge.counter.budget);
        v1::ExplainedBudget {
            id: charge.counter.budget.to_string(),
            entity_type: known.map(|known| known.entity.kind().to_owned()),
            entity_id: known.map(|known| known.entity.shown_id()),
            name: known.map(|known| known.name.clone()),
            window_start: Some(timestamp(charge.counter.window_start_ms)),
            window_end: charge.window_end_ms.map(timestamp),
            generation: charge.counter.generation.into(),
            ..v1::ExplainedBudget::default()
        }
    };
    charges.iter().map(one).collect()
}

fn denied_by(explanation: &Explanation, denial: &DenialRecord) -> v1::ExplainedDenial {
    let said = &explanation.said;
    let by = explanation.trail.as_ref().and_then(|trail| {
        let by = trail.denied_by?;
        Some((by, trail.budgets.get(by.place)?))
    });
    let (spent, limit) = by.map(|(by, seen)| numbers(by, seen)).unwrap_or_default();
    v1::ExplainedDenial {
        why: said.why.to_owned(),
        budget_id: by.map(|(_, seen)| seen.budget.to_string()).or_else(|| said.budget.clone()),
        freeze_id: said.freeze.clone(),
        message: said.denied.clone(),
        asked_nanodollars: denial.estimated_nanos,
        spent_nanodollars: spent.map(|spent| spent.0),
        limit_nanodollars: limit.map(|limit| limit.0),
        retry_after_ms: by.map_or(said.retry_after_ms, |(by, _)| by.retry_after_ms),
        suppressed: denial.suppressed,
    }
}

fn numbers(by: DeniedBy, seen: &BudgetSeen) -> (Option<Nanos>, Option<Nanos>) {
    match by.why {
        Why::Budget => (Some(seen.settled + seen.held), Some(seen.limit)),
        Why::Session { spend } => (Some(spend), seen.session_limit),
        Why::Velocity { rate } => (Some(rate), seen.velocity.map(|velocity| velocity.limit)),
    }
}

fn steps(trail: &Trail) -> Vec<v1::ExplainedStep> {
    let step = |step: Step, at_us: Option<u64>| v1::ExplainedStep {
        step: step.as_str().to_owned(),
        at_microseconds: at_us.map(signed),
    };
    trail.steps.iter().map(|stamp| step(stamp.step, stamp.at_us)).collect()
}

fn cost(explanation: &Explanation, event: &EventRecord) -> v1::ExplainedCost {
    let basis = explanation.trail.as_ref().and_then(|trail| trail.basis);
    let (adjustments, adjusted) = explanation.adjusted;
    let overage = event.held.map_or(Nanos::ZERO, |held| (event.cost - held).max(Nanos::ZERO));
    v1::ExplainedCost {
        cost_nanodollars: event.cost.0,
        measurement: measurement(&event.measurement).into(),
        basis: basis.map(|basis| basis.as_str().to_owned()),
        how: explanation.said.cost.clone(),
        overage_nanodollars: overage.0,
        ending: event.ending.clone(),
        status_code: event.status_code.and_then(|status| i32::try_from(status).ok()),
        detail: event.detail.as_deref().and_then(cost_detail),
        revisions: explanation.revisions.iter().map(revision).collect(),
        adjustments: i32::try_from(adjustments).unwrap_or(i32::MAX),
        adjusted_nanodollars: adjusted.0,
        adjusts_event_id: event.adjusts.map(|id| id.to_string()),
    }
}

fn revision(said: &EventRevision) -> v1::ExplainedRevision {
    v1::ExplainedRevision {
        revision: said.revision,
        measurement: measurement(&said.measurement).into(),
        cost_nanodollars: said.cost.0,
        ended_at: Some(timestamp(said.ended_at_ms)),
        replaced_at: Some(timestamp(said.replaced_at_ms)),
    }
}
