//! Budgets as the callers of a model run believe them to be.

use nullspend_core::{
    ledger::Limits,
    money::Nanos,
    policy::{Enforcement, Velocity},
};

use super::world::seeded::Random;

/// What the callers believe of a budget.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) window_ms: Option<i64>,
    pub(super) generation: u32,
    pub(super) limit: i64,
    pub(super) revision: u64,
    pub(super) enforcement: Enforcement,
    pub(super) beside: Beside,
    pub(super) deleted: bool,
}

impl Rule {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            limit: Nanos(self.limit),
            enforcement: self.enforcement,
            session_limit: self.beside.session_limit,
            finalization_reserve: self.beside.finalization_reserve,
        }
    }
}

/// What a budget limits beside its window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beside {
    pub(super) session_limit: Option<Nanos>,
    pub(super) velocity: Option<Velocity>,
    pub(super) finalization_reserve: Nanos,
}

impl Beside {
    /// Nothing, most often.
    pub(super) fn any(random: &mut Random) -> Self {
        let velocity = Velocity {
            limit: Nanos(random.between(0, 1_500)),
            window_ms: *random.pick(&[1_000, 3_333, 20_000]),
            cooldown_ms: random.between(0, 1_000),
        };
        Self {
            session_limit: random.chance(3).then(|| Nanos(random.between(0, 800))),
            velocity: random.chance(3).then_some(velocity),
            finalization_reserve: Nanos(if random.chance(4) { random.between(0, 300) } else { 0 }),
        }
    }
}

pub(super) fn any_enforcement(random: &mut Random) -> Enforcement {
    *random.pick(&[
        Enforcement::StrictBlock,
        Enforcement::StrictBlock,
        Enforcement::StrictBlock,
        Enforcement::SoftBlock,
        Enforcement::Warn,
    ])
}
