//! Trails as bytes of the planes' own protocol and back. A word that only a later version knows makes the whole trail
//! unreadable here: half an explanation could say the opposite of the truth.

use bytes::Bytes;
use nullspend_core::{
    id::AttemptId,
    ledger::Why,
    money::Nanos,
    policy::{Enforcement, Entity, Velocity},
    price::{Class, Layer, Match, Rates},
    trail::{Basis, Bounded, BudgetSeen, Clamped, CutShort, DeniedBy, PriceFound, Stamp, Step, Steps, Trail},
    window::Interval,
};
use nullspend_proto::internal as proto;
use prost::Message as _;

/// A trail as it is stored.
#[derive(Clone, Debug)]
pub(super) struct StoredTrail {
    pub(super) attempt: AttemptId,
    pub(super) bytes: Bytes,
    /// Told by a record of how the attempt ended.
    pub(super) closed: bool,
}

impl StoredTrail {
    /// `None` of an attempt that has none.
    pub(super) fn new(attempt: AttemptId, bytes: Bytes, closed: bool) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self { attempt, bytes, closed })
    }
}

/// The stored bytes' trail; `None` where a later version wrote them.
pub(super) fn read(bytes: &[u8]) -> Option<Trail> {
    let trail = proto::Trail::decode(bytes).ok()?;
    let basis = Some(trail.basis.as_str()).filter(|word| !word.is_empty());
    Some(Trail {
        price: trail.price.as_ref().map(price).map_or(Some(None), |price| price.map(Some))?,
        bound: trail.bound.as_ref().map(bounded),
        budgets: trail.budgets.iter().map(budget).collect::<Option<_>>()?,
        denied_by: trail.denied_by.as_ref().map(denied_by).map_or(Some(None), |by| by.map(Some))?,
        finalize: trail.finalize,
        steps: trail.steps.iter().map(stamp).collect::<Option<Steps>>()?,
        extensions: trail.extensions,
        cut: trail.cut.as_ref().map(cut).map_or(Some(None), |cut| cut.map(Some))?,
        basis: basis.map(Basis::parse).map_or(Some(None), |basis| basis.map(Some))?,
    })
}

fn price(price: &proto::FoundPrice) -> Option<PriceFound> {
    let mut rates = Rates::default();
    for (class, rate) in &price.rates_pico {
        rates.set(Class::parse(class)?, *rate);
    }
    Some(PriceFound {
        id: price.id.clone(),
        version: price.version.clone(),
        model: price.model.clone(),
        layer: Layer::parse(&price.layer)?,
        matched: Match::parse(&price.matched)?,
        rates,
    })
}

fn bounded(bound: &proto::Bounded) -> Bounded {
    let clamp = |clamp: &proto::Clamped| Clamped {
        asked: clamp.asked_tokens,
        applied: clamp.applied_tokens,
        full: Nanos(clamp.full_nanos),
    };
    Bounded {
        tokens: bound.input_tokens.zip(bound.output_tokens),
        cost: Nanos(bound.cost_nanos),
        hold: Nanos(bound.hold_nanos),
        counted: bound.counted,
        clamp: bound.clamp.as_ref().map(clamp),
        slice_tokens: bound.slice_tokens,
    }
}

fn budget(seen: &proto::SeenBudget) -> Option<BudgetSeen> {
    let velocity = |velocity: &proto::Velocity| Velocity {
        limit: Nanos(velocity.limit_nanos),
        window_ms: velocity.window_ms,
        cooldown_ms: velocity.cooldown_ms,
    };
    Some(BudgetSeen {
        budget: seen.budget_id.parse().ok()?,
        entity: Entity::parse(&seen.entity_type, &seen.entity_id)?,
        name: seen.name.clone(),
        enforcement: Enforcement::parse(&seen.policy)?,
        interval: Interval::parse(&seen.interval)?,
        window_start_ms: seen.window_start_ms,
        window_end_ms: (seen.window_end_ms != 0).then_some(seen.window_end_ms),
        generation: seen.generation,
        revision: seen.revision,
        limit: Nanos(seen.limit_nanos),
        settled: Nanos(seen.settled_nanos),
        held: Nanos(seen.held_nanos),
        session_limit: seen.session_limit_nanos.map(Nanos),
        velocity: seen.velocity.as_ref().map(velocity),
        kept_back: Nanos(seen.kept_back_nanos),
    })
}

fn denied_by(denied: &proto::DeniedBy) -> Option<DeniedBy> {
    let why = match (denied.why.as_str(), denied.spend_nanos) {
        ("budget", _) => Why::Budget,
        ("session", Some(spend)) => Why::Session { spend: Nanos(spend) },
        ("velocity", Some(rate)) => Why::Velocity { rate: Nanos(rate) },
        _ => return None,
    };
    let place = usize::try_from(denied.place).ok()?;
    Some(DeniedBy { place, why, retry_after_ms: denied.retry_after_ms })
}

fn stamp(stamp: &proto::Stamp) -> Option<Stamp> {
    Some(Stamp { step: Step::parse(&stamp.step)?, at_us: stamp.at_us })
}

fn cut(cut: &proto::CutShort) -> Option<CutShort> {
    let code = CutShort::CODES.into_iter().find(|code| *code == cut.code)?;
    let budget = cut.budget_id.as_ref().map(|id| id.parse()).transpose().ok()?;
    Some(CutShort { code, budget })
}
