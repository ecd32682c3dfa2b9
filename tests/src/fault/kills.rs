//! kill -9 at any instant of a streaming load: what finished before is exact, what was cut is marked, nothing is lost.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{
    HEADERS,
    audit::{Audit, audit},
    five_budgets,
    fleet::{Fleet, Mix},
};
use crate::{cluster::Cluster, stack::Stack};

/// No budget of these runs denies anything.
const PLENTY_MICRODOLLARS: i64 = 1_000_000_000;
const AGENTS: usize = 24;

fn mix(seed: u64) -> Mix {
    Mix { leave: true, pace_ms: 4, headers: HEADERS.to_vec(), seed }
}

/// An instant within the next 400 ms that differs from kill to kill.
async fn some_instant(seed: u64, kill: usize) {
    let mut hasher = DefaultHasher::new();
    (seed, kill).hash(&mut hasher);
    // The instant is what is drawn here: nothing is waited for.
    tokio::time::sleep(Duration::from_millis(hasher.finish() % 400)).await;
}

/// Both planes in one process, with the ledger in memory.
pub async fn of_one_process(kills: usize, seed: u64) -> Audit {
    let mut stack = Stack::start().await;
    let agent = stack.agent().await;
    let budgets = five_budgets(&stack, &agent, PLENTY_MICRODOLLARS).await;
    let mut seen = Vec::new();
    for kill in 0..kills {
        let fleet = Fleet::new(vec![(*stack).clone()], agent.clone(), mix(seed + kill as u64));
        let running = fleet.start(AGENTS);
        some_instant(seed, kill).await;
        stack.kill9().await;
        seen.extend(running.stop().await);
        stack.restart().await;
    }
    audit(&stack, &stack.provider, &budgets, &seen).await
}

/// Two data planes and a control plane, in turn: a data plane, the control plane, both.
pub async fn of_separate_processes(kills: usize, seed: u64) -> Audit {
    let mut cluster = Cluster::builder().env("NULLSPEND_LEDGER_LEASE_MS", "3000").start(2).await;
    let console = cluster.nodes[0].console.clone();
    let agent = console.agent().await;
    let budgets = five_budgets(&console, &agent, PLENTY_MICRODOLLARS).await;
    let consoles: Vec<_> = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    let running = Fleet::new(consoles, agent, mix(seed)).start(AGENTS);
    for kill in 0..kills {
        some_instant(seed, kill).await;
        let node = kill % 2;
        match kill % 3 {
            0 => cluster.kill9_node(node).await,
            1 => cluster.kill9_control().await,
            _ => {
                cluster.kill9_control().await;
                cluster.kill9_node(node).await;
            }
        }
        some_instant(seed, kills + kill).await;
        if kill % 3 != 0 {
            cluster.restart_control().await;
        }
        if kill % 3 != 1 {
            cluster.restart_node(node).await;
        }
    }
    let seen = running.stop().await;
    audit(&console, &cluster.provider, &budgets, &seen).await
}
