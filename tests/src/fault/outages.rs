//! Redis, PostgreSQL or a disk fails under load: calls are refused rather than passed unpaid, and the books agree afterwards.

use std::time::Duration;

use serde_json::Value;

use super::{
    HEADERS,
    audit::{Audit, audit},
    five_budgets,
    fleet::{Fleet, Mix, Running},
};
use crate::{
    cluster::Cluster,
    console::{Console, eventually},
    servers::{Relay, postgres_database},
};

const PLENTY_MICRODOLLARS: i64 = 1_000_000_000;
const AGENTS: usize = 16;

/// What happens to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisFault {
    /// It answers nothing for a while, with its connections open.
    Paused(Duration),
    /// It dies and comes back with what it wrote.
    Killed,
    /// It forgets everything.
    Flushed,
    /// Every command takes this long.
    Slow(Duration),
}

struct Load {
    cluster: Cluster,
    console: Console,
    budgets: Vec<Value>,
    running: Running,
}

impl Load {
    async fn on(cluster: Cluster, seed: u64) -> Self {
        let console = cluster.nodes[0].console.clone();
        let agent = console.agent().await;
        let budgets = five_budgets(&console, &agent, PLENTY_MICRODOLLARS).await;
        let consoles = cluster.nodes.iter().map(|node| node.console.clone()).collect();
        let mix = Mix { leave: true, pace_ms: 4, headers: HEADERS.to_vec(), seed };
        let running = Fleet::new(consoles, agent, mix).start(AGENTS);
        let load = Self { cluster, console, budgets, running };
        load.goes_on().await;
        load
    }

    /// Waits until the provider has finished some more calls.
    async fn goes_on(&self) {
        let before = self.cluster.provider.calls().len();
        eventually("more calls at the provider", async || {
            (self.cluster.provider.calls().len() > before + 2 * AGENTS).then_some(())
        })
        .await;
    }

    async fn audited(self) -> Audit {
        let seen = self.running.stop().await;
        audit(&self.console, &self.cluster.provider, &self.budgets, &seen).await
    }
}

/// Two nodes whose control plane loses its database for a while: calls go on, and their events arrive afterwards.
pub async fn of_postgres(down: Duration, seed: u64) -> Audit {
    let relay = Relay::to_postgres(&postgres_database().await).await;
    let cluster = Cluster::builder().env("NULLSPEND_DATABASE_URL", &relay.url()).start(2).await;
    let load = Load::on(cluster, seed).await;
    relay.cut();
    let until = tokio::time::Instant::now() + down;
    while tokio::time::Instant::now() < until {
        load.goes_on().await;
    }
    relay.mend();
    load.audited().await
}

/// Two nodes whose Redis fails, some times.
pub async fn of_redis(fault: RedisFault, times: usize, seed: u64) -> Audit {
    let mut load = Load::on(Cluster::start(2).await, seed).await;
    for _ in 0..times {
        match fault {
            RedisFault::Paused(pause) => {
                load.cluster.redis.pause();
                tokio::time::sleep(pause).await;
                load.cluster.redis.go_on();
            }
            RedisFault::Killed => {
                load.cluster.redis.kill9().await;
                load.cluster.redis.restart().await;
            }
            RedisFault::Flushed => drop(load.cluster.redis.command(&["FLUSHALL", "SYNC"]).await),
            RedisFault::Slow(each) => {
                let wait = each.as_millis().to_string();
                for _ in 0..20 {
                    load.cluster.redis.command(&["CLIENT", "PAUSE", &wait, "ALL"]).await;
                }
            }
        }
        load.goes_on().await;
    }
    load.audited().await
}
