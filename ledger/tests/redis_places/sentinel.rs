//! A master and a replica behind a sentinel, which promotes the replica when the master is gone.

use std::{sync::Arc, time::Duration};

use nullspend_core::{ledger::Ledger as _, money::Nanos};
use nullspend_ledger::{RedisConfig, conformance::World};

use crate::{
    balance, id, ledger,
    load::{FOUND_WITHIN, Load},
    refuses, reserve,
    support::{
        Shared, open, org,
        tcp::{Watched, cut_off, in_step, promoted},
        world_at,
    },
};

async fn world() -> World {
    static SHARED: Shared<Watched> = Shared::new();
    let watched = SHARED.get(Watched::start);
    world_at(watched.config(), watched, &|script| script).await
}

nullspend_ledger::conformance!(world().await, steps = 1_000);

fn config(watched: &Watched) -> RedisConfig {
    RedisConfig { timeout: Duration::from_secs(1), ..watched.config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_nothing_goes_on() {
    let watched = Watched::start();
    let ledger = Arc::new(ledger(&config(&watched)));
    open(&ledger, org(1)).await;
    reserve(&ledger, org(1), 1).await.unwrap();
    in_step(&watched.servers[0], &watched.servers[1]);
    let load = Load::start(&ledger, org(1));
    watched.servers[0].kill();
    promoted(&watched.servers[1]);
    load.more_within(1, FOUND_WITHIN).await;
    load.more(100).await;
    let done = load.end().await;
    assert_eq!(balance(&ledger, org(1)).await, (i64::try_from(done).unwrap() * 7, 10));
    ledger.settle(org(1), id(1), Nanos(4)).await.unwrap();
    assert_eq!(balance(&ledger, org(1)).await, (i64::try_from(done).unwrap() * 7 + 4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_what_was_acknowledged_stops_every_decision() {
    let watched = Watched::start();
    let (ledger, idle) = (Arc::new(ledger(&config(&watched))), ledger(&config(&watched)));
    open(&ledger, org(1)).await;
    assert_eq!(balance(&idle, org(1)).await, (0, 0));
    let load = Load::start(&ledger, org(1));
    load.more(100).await;
    cut_off(&watched.servers[0]);
    load.more(20).await;
    watched.servers[0].kill();
    load.until_refused().await;
    promoted(&watched.servers[1]);
    refuses(&ledger, org(1)).await;
    refuses(&idle, org(1)).await;
    // Books made anew are good.
    open(&ledger, org(1)).await;
    reserve(&ledger, org(1), 1).await.unwrap();
    assert_eq!(balance(&idle, org(1)).await, (0, 10));
}

#[tokio::test]
async fn a_reserve_and_a_settle_are_one_round_trip_each() {
    let watched = Watched::start();
    let ledger = ledger(&watched.config());
    open(&ledger, org(1)).await;
    reserve(&ledger, org(1), 1).await.unwrap();
    ledger.settle(org(1), id(1), Nanos(1)).await.unwrap();
    let before = watched.servers[0].calls("evalsha");
    for n in 2..12 {
        reserve(&ledger, org(1), n).await.unwrap();
        ledger.settle(org(1), id(n), Nanos(1)).await.unwrap();
    }
    assert_eq!(watched.servers[0].calls("evalsha"), before + 20);
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_told() {
    let watched = Watched::start();
    let url = secrecy::ExposeSecret::expose_secret(&watched.config().url).replace("/mymaster", "/another");
    let other = ledger(&RedisConfig { url: url.into(), ..watched.config() });
    let refused = other.sweep().await.unwrap_err().to_string();
    assert!(refused.contains("not found"), "{refused}");
}
