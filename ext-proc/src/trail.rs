//! How an attempt was decided, as its record tells it.

use nullspend_core::{
    ledger::Why,
    trail::{Bounded, BudgetSeen, Clamped, DeniedBy, PriceFound, Trail},
};
use nullspend_proto::internal as wire;

/// The trail of an attempt.
#[must_use]
pub(crate) fn trail(trail: &Trail) -> wire::Trail {
    wire::Trail {
        price: trail.price.as_ref().map(price),
        bound: trail.bound.as_ref().map(bounded),
        budgets: trail.budgets.iter().map(budget).collect(),
        denied_by: trail.denied_by.as_ref().map(denied_by),
        finalize: trail.finalize,
        steps: trail
            .steps
            .iter()
            .map(|stamp| wire::Stamp { step: stamp.step.as_str().to_owned(), at_us: stamp.at_us })
            .collect(),
        extensions: trail.extensions,
        cut: trail.cut.as_ref().map(|cut| wire::CutShort {
            code: cut.code.to_owned(),
            budget_id: cut.budget.map(|budget| budget.bare()),
        }),
        basis: trail.basis.map(|basis| basis.as_str().to_owned()).unwrap_or_default(),
    }
}

fn price(price: &PriceFound) -> wire::FoundPrice {
    wire::FoundPrice {
        id: price.id.clone(),
        version: price.version.clone(),
        model: price.model.clone(),
        layer: price.layer.as_str().to_owned(),
        matched: price.matched.as_str().to_owned(),
        rates_pico: price.rates.iter().map(|(class, rate)| (class.as_str().to_owned(), rate)).collect(),
    }
}

fn bounded(bound: &Bounded) -> wire::Bounded {
    let (input_tokens, output_tokens) = bound.tokens.unzip();
    let clamp = |clamp: Clamped| wire::Clamped {
        asked_tokens: clamp.asked,
        applied_tokens: clamp.applied,
        full_nanos: clamp.full.0,
    };
    wire::Bounded {
        input_tokens,
        output_tokens,
        cost_nanos: bound.cost.0,
        hold_nanos: bound.hold.0,
        counted: bound.counted,
        clamp: bound.clamp.map(clamp),
        slice_tokens: bound.slice_tokens,
    }
}

fn budget(seen: &BudgetSeen) -> wire::SeenBudget {
    wire::SeenBudget {
        budget_id: seen.budget.bare(),
        entity_type: seen.entity.kind().to_owned(),
        entity_id: seen.entity.stored_id(),
        name: seen.name.clone(),
        policy: seen.enforcement.as_str().to_owned(),
        interval: seen.interval.as_str().to_owned(),
        window_start_ms: seen.window_start_ms,
        window_end_ms: seen.window_end_ms.unwrap_or(0),
        generation: seen.generation,
        revision: seen.revision,
        limit_nanos: seen.limit.0,
        settled_nanos: seen.settled.0,
        held_nanos: seen.held.0,
        session_limit_nanos: seen.session_limit.map(|limit| limit.0),
        velocity: seen.velocity.map(|velocity| wire::Velocity {
            limit_nanos: velocity.limit.0,
            window_ms: velocity.window_ms,
            cooldown_ms: velocity.cooldown_ms,
        }),
        kept_back_nanos: seen.kept_back.0,
    }
}

fn denied_by(denied: &DeniedBy) -> wire::DeniedBy {
    let (why, spend) = match denied.why {
        Why::Budget => ("budget", None),
        Why::Session { spend } => ("session", Some(spend)),
        Why::Velocity { rate } => ("velocity", Some(rate)),
    };
    wire::DeniedBy {
        place: u32::try_from(denied.place).unwrap_or(u32::MAX),
        why: why.to_owned(),
        spend_nanos: spend.map(|spend| spend.0),
        retry_after_ms: denied.retry_after_ms,
    }
}
