//! Three masters that share the slots.

use std::{sync::Arc, time::Duration};

use nullspend_core::{
    id::OrgId,
    ledger::{Ledger as _, SettleOutcome},
    money::Nanos,
};
use nullspend_ledger::{RedisConfig, RedisLedger, conformance::World};

use crate::{
    balance, id, ledger,
    load::{FOUND_WITHIN, Load},
    refuses, reserve,
    support::{
        Server, Shared, open, org,
        tcp::{Cluster, PASSWORD, PASSWORD_IN_URL, cut_off, host, in_step, promoted},
        world_at,
    },
};

const PATIENT_MS: u32 = 15_000;
const QUICK_MS: u32 = 1_500;

async fn world() -> World {
    static SHARED: Shared<Cluster> = Shared::new();
    let cluster = SHARED.get(|| Cluster::start(3, PATIENT_MS));
    world_at(cluster.config(), cluster, &|script| script).await
}

nullspend_ledger::conformance!(world().await, steps = 10_000);

fn meta(org: OrgId) -> String {
    format!("nullspend:{{{}}}:meta", org.bare())
}

/// The first organisation of each master.
fn one_of_each(cluster: &Cluster) -> [OrgId; 3] {
    let of = |master| (1..).map(org).find(|org| cluster.master_of(&meta(*org)) == master).unwrap();
    [of(0), of(1), of(2)]
}

#[tokio::test]
async fn organisations_lie_on_their_masters_and_each_operation_is_one_round_trip() {
    let cluster = Cluster::start(3, PATIENT_MS);
    let (ledger, orgs) = (ledger(&cluster.config()), one_of_each(&cluster));
    for org in orgs {
        open(&ledger, org).await;
        reserve(&ledger, org, 1).await.unwrap();
        ledger.settle(org, id(1), Nanos(1)).await.unwrap();
    }
    let before: Vec<u64> = cluster.servers.iter().map(|server| server.calls("evalsha")).collect();
    for n in 2..12 {
        for org in orgs {
            reserve(&ledger, org, n).await.unwrap();
            ledger.settle(org, id(n), Nanos(1)).await.unwrap();
        }
    }
    for (server, before) in cluster.servers.iter().zip(before) {
        assert_eq!(server.calls("evalsha"), before + 20);
        assert!(!server.text(&["INFO", "errorstats"]).contains("MOVED"));
    }
    for org in orgs {
        assert_eq!(balance(&ledger, org).await, (11, 0));
    }
}

#[tokio::test]
async fn what_is_left_of_old_books_is_cleared_on_their_own_master() {
    let cluster = Cluster::start(3, PATIENT_MS);
    let (ledger, orgs) = (ledger(&cluster.config()), one_of_each(&cluster));
    for org in orgs {
        open(&ledger, org).await;
        reserve(&ledger, org, 1).await.unwrap();
    }
    let master = &cluster.servers[cluster.master_of(&meta(orgs[1]))];
    master.ask(&["HDEL", &meta(orgs[1]), "epoch"]).unwrap();
    refuses(&ledger, orgs[1]).await;
    open(&ledger, orgs[1]).await;
    let held = [(0, 10), (0, 0), (0, 10)];
    for (org, held) in orgs.into_iter().zip(held) {
        assert_eq!(balance(&ledger, org).await, held);
    }
}

#[tokio::test]
async fn a_lost_set_of_organisations_is_made_again_by_those_who_know_them() {
    let cluster = Cluster::start(3, PATIENT_MS);
    let ledger = ledger(&cluster.config());
    for org in one_of_each(&cluster) {
        open(&ledger, org).await;
        reserve(&ledger, org, 1).await.unwrap();
    }
    let set = &cluster.servers[cluster.master_of("nullspend:orgs")];
    set.ask(&["DEL", "nullspend:orgs"]).unwrap();
    assert_eq!(ledger.open_holds().await.unwrap().count, 3);
    let listed: usize = redis::from_redis_value(set.ask(&["SCARD", "nullspend:orgs"]).unwrap()).unwrap();
    assert_eq!(listed, 3);
}

/// Moves a key of the organisation's slot, as resharding does.
fn migrate(from: &Server, to_port: u16, key: &str) {
    let moved = from.ask(&["MIGRATE", &host(), &to_port.to_string(), key, "0", "5000", "AUTH", PASSWORD]);
    moved.unwrap();
}

fn keys(server: &Server, slot: &str) -> Vec<String> {
    redis::from_redis_value(server.ask(&["CLUSTER", "GETKEYSINSLOT", slot, "100"]).unwrap()).unwrap()
}

#[tokio::test]
async fn a_slot_that_is_being_moved_decides_nothing_and_then_goes_on() {
    let cluster = Cluster::start(3, PATIENT_MS);
    let (ledger, org) = (ledger(&cluster.config()), org(1));
    open(&ledger, org).await;
    reserve(&ledger, org, 1).await.unwrap();
    let (from, slot) = (cluster.master_of(&meta(org)), cluster.slot_of(&meta(org)).to_string());
    let to = (from + 1) % 3;
    let (source, target) = (&cluster.servers[from], &cluster.servers[to]);
    target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &cluster.id(from)]).unwrap();
    source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &cluster.id(to)]).unwrap();
    let mut left = keys(source, &slot);
    // The key of all that moves last.
    left.sort_by_key(|key| *key == meta(org));
    while !left.is_empty() {
        refuses_to_move(&ledger, org).await;
        migrate(source, cluster.ports[to], &left.remove(0));
    }
    refuses_to_move(&ledger, org).await;
    for server in [target, source, &cluster.servers[(from + 2) % 3]] {
        server.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &cluster.id(to)]).unwrap();
    }
    assert_eq!(balance(&ledger, org).await, (0, 10));
    let settled = ledger.settle(org, id(1), Nanos(4)).await.unwrap();
    assert_eq!(settled, SettleOutcome::Settled { over_by: Nanos::ZERO });
    reserve(&ledger, org, 2).await.unwrap();
    assert_eq!(balance(&ledger, org).await, (4, 10));
}

async fn refuses_to_move(ledger: &RedisLedger, org: OrgId) {
    let refused = ledger.settle(org, id(1), Nanos(4)).await.unwrap_err().to_string();
    assert!(refused.contains("being moved"), "{refused}");
    let refused = reserve(ledger, org, 2).await.unwrap_err();
    assert!(refused.contains("being moved"), "{refused}");
}

/// A cluster with a replica of the first organisation's master, and settings that do not wait long.
fn with_a_replica() -> (Cluster, usize, usize, [OrgId; 3], RedisConfig) {
    let mut cluster = Cluster::start(3, QUICK_MS);
    let orgs = one_of_each(&cluster);
    let master = cluster.master_of(&meta(orgs[0]));
    let replica = cluster.add_replica(master, QUICK_MS);
    let config = RedisConfig { timeout: Duration::from_secs(1), ..cluster.config() };
    (cluster, master, replica, orgs, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_nothing_goes_on() {
    let (cluster, master, replica, orgs, config) = with_a_replica();
    let ledger = Arc::new(ledger(&config));
    open(&ledger, orgs[0]).await;
    reserve(&ledger, orgs[0], 1).await.unwrap();
    in_step(&cluster.servers[master], &cluster.servers[replica]);
    let load = Load::start(&ledger, orgs[0]);
    cluster.servers[master].kill();
    promoted(&cluster.servers[replica]);
    load.more_within(1, FOUND_WITHIN).await;
    load.more(100).await;
    let done = load.end().await;
    assert_eq!(balance(&ledger, orgs[0]).await, (i64::try_from(done).unwrap() * 7, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_what_was_acknowledged_stops_the_organisations_of_that_master() {
    let (cluster, master, replica, orgs, config) = with_a_replica();
    let (ledger, idle) = (Arc::new(ledger(&config)), ledger(&config));
    for org in orgs {
        open(&ledger, org).await;
    }
    assert_eq!(balance(&idle, orgs[0]).await, (0, 0));
    let (load, beside) = (Load::start(&ledger, orgs[0]), Load::start(&ledger, orgs[1]));
    load.more(100).await;
    cut_off(&cluster.servers[master]);
    load.more(20).await;
    cluster.servers[master].kill();
    load.until_refused().await;
    promoted(&cluster.servers[replica]);
    refuses(&ledger, orgs[0]).await;
    refuses(&idle, orgs[0]).await;
    beside.more(20).await;
    let done = beside.end().await;
    assert_eq!(balance(&ledger, orgs[1]).await, (i64::try_from(done).unwrap() * 7, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_noticed_when_others_went_on_past_it() {
    let (cluster, master, replica, [org, ..], config) = with_a_replica();
    let (ledger, late) = (ledger(&config), Arc::new(ledger(&config)));
    open(&ledger, org).await;
    assert_eq!(balance(&late, org).await, (0, 0));
    in_step(&cluster.servers[master], &cluster.servers[replica]);
    cut_off(&cluster.servers[master]);
    for n in 1..=10 {
        reserve(&ledger, org, n).await.unwrap();
    }
    cluster.servers[master].kill();
    // Whoever saw nothing of the tail goes on, past the numbers that the first one saw.
    let load = Load::start(&late, org);
    load.more(20).await;
    refuses(&ledger, org).await;
    load.until_refused().await;
}

#[tokio::test]
async fn one_server_of_a_cluster_is_told_from_a_server() {
    let cluster = Cluster::start(3, PATIENT_MS);
    let org = one_of_each(&cluster)[1];
    let url = format!("redis://:{}@{}:{}", PASSWORD_IN_URL, host(), cluster.ports[0]);
    let other = ledger(&RedisConfig { url: url.into(), ..cluster.config() });
    let refused = reserve(&other, org, 1).await.unwrap_err();
    assert!(refused.contains("redis-cluster://"), "{refused}");
}
