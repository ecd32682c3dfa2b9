//! Many agents at once on one, two or four data planes: budgets are reached and not passed.

use super::{
    HEADERS,
    audit::{Audit, audit},
    five_budgets,
    fleet::{Fleet, Mix},
};
use crate::{cluster::Cluster, console::Console, provider::FakeProvider, stack::Stack};

const LEAVING: Mix = Mix { leave: true, pace_ms: 2, headers: Vec::new(), seed: 1 };

/// So many agents on one node with its ledger in memory.
pub async fn on_one_node(agents: usize, limit_microdollars: i64) -> Audit {
    let stack = Stack::start().await;
    spend(vec![(*stack).clone()], &stack.provider, agents, limit_microdollars).await
}

/// So many agents on so many nodes with their ledger in Redis.
pub async fn on_nodes(nodes: usize, agents: usize, limit_microdollars: i64) -> Audit {
    let cluster = Cluster::start(nodes).await;
    let consoles = cluster.nodes.iter().map(|node| node.console.clone()).collect();
    spend(consoles, &cluster.provider, agents, limit_microdollars).await
}

async fn spend(
    consoles: Vec<Console>,
    provider: &FakeProvider,
    agents: usize,
    limit_microdollars: i64,
) -> Audit {
    let console = consoles[0].clone();
    let agent = console.agent().await;
    let budgets = five_budgets(&console, &agent, limit_microdollars).await;
    let fleet = Fleet::new(consoles, agent, Mix { headers: HEADERS.to_vec(), ..LEAVING });
    let seen = fleet.start(agents).ended().await;
    let audit = audit(&console, provider, &budgets, &seen).await;
    audit.within(limit_microdollars * 1000);
    assert!(audit.spent_nanos * 10 > limit_microdollars * 1000 * 7, "the budget is of no use: {audit:?}");
    audit
}
