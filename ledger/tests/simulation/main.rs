//! A simulation of the whole money path: data planes with spools, a ledger, two control planes and a provider, over a
//! network that loses, repeats, delays and reorders, with deaths of every part at any step. See
//! docs/internals/simulation.md for what is real in it and what is a model.
//!
//! A run follows from its seed alone. One that fails prints the seed and its last steps; seeds that ever failed are
//! kept in `seeds.txt` and come first.

#![expect(clippy::unwrap_used, reason = "what cannot be here is a mistake of the simulation")]

mod control;
mod ghost;
mod network;
mod plane;
mod server;
mod spool;
mod store;
mod upkeep;
mod world;

use std::collections::BTreeMap;

use world::{Flaw, World};

/// Runs of one `cargo test`; `NULLSPEND_SIM_SEEDS` and `NULLSPEND_SIM_SEED` (the first) say otherwise.
const SEEDS: u64 = 10_000;
/// Runs within which a flaw must show.
const FLAW_SEEDS: u64 = 4_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Seeds that failed once.
fn kept() -> impl Iterator<Item = u64> {
    let lines = include_str!("seeds.txt").lines();
    lines.filter_map(|line| line.split('#').next()?.trim().parse().ok())
}

/// Runs all of them on two threads; the failure of the lowest seed, if any.
fn first_failure(seeds: &[u64], flaw: Option<Flaw>) -> Option<String> {
    let half = |parity: usize| {
        let mine = seeds.iter().skip(parity).step_by(2);
        mine.copied().find_map(|seed| World::new(seed, flaw).run().err().map(|told| (seed, told)))
    };
    let (even, odd) = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        (half(0), other.join().unwrap())
    });
    even.into_iter().chain(odd).min_by_key(|(seed, _)| *seed).map(|(_, told)| told)
}

#[test]
fn money_is_neither_lost_nor_doubled_whatever_fails() {
    let first = number("NULLSPEND_SIM_SEED", 0);
    let seeds: Vec<u64> = kept().chain(first..first + number("NULLSPEND_SIM_SEEDS", SEEDS)).collect();
    if let Some(told) = first_failure(&seeds, None) {
        panic!("{told}");
    }
}

/// A proof of the simulation itself: each wrong part must be noticed.
#[test]
fn every_flaw_is_noticed() {
    let seeds: Vec<u64> = (0..FLAW_SEEDS).collect();
    let unnoticed: Vec<Flaw> =
        Flaw::ALL.into_iter().filter(|flaw| first_failure(&seeds, Some(*flaw)).is_none()).collect();
    assert!(unnoticed.is_empty(), "nothing fails with {unnoticed:?}");
}

/// A run that touches nothing proves nothing.
#[test]
fn the_runs_meet_everything_there_is() {
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    for seed in 0..1_000 {
        let mut world = World::new(seed, None);
        world.run().unwrap_or_else(|told| panic!("{told}"));
        for (what, times) in world.met() {
            *met.entry(what).or_default() += times;
        }
    }
    let expected = [
        "a reserve was given up",
        "a given up reserve had lapsed",
        "a reserve arrived after it was given up",
        "a sweep took a hold of another",
        "an end replaced its lapse",
        "a hold grew",
        "a growth was refused",
        "a strict limit refused",
        "an old policy was refused",
        "a wrong window was refused",
        "a lost end was charged",
        "books were lost",
        "books were filled",
        "a rebuild was taken over",
        "a hold was put back",
        "a lapse was put back",
        "an id was put back as done",
        "a data plane died",
        "a data plane left",
        "a process died with its ledger",
        "a limit was lowered below its spend",
        "a budget was reset",
        "a report was repeated",
    ];
    let missing: Vec<&str> = expected.into_iter().filter(|what| !met.contains_key(what)).collect();
    assert!(missing.is_empty(), "never met: {missing:?}; met: {met:#?}");
}
