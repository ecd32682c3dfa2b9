//! Reserve + settle with five scopes on Redis servers of their own: one call after the other, and 16 and 64 at once over
//! the one connection; by a unix socket, by TCP, by TCP with TLS, and in a cluster of three.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]

mod calls;
#[path = "../tests/support/mod.rs"]
mod support;

use std::{any::Any, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::future::join_all;
use nullspend_core::clock::SystemClock;
use nullspend_ledger::{RedisConfig, RedisLedger};

use calls::Calls;
use support::{
    Server, open, patient,
    tcp::{Authority, Cluster, PASSWORD_IN_URL, host, port, server},
};

const SCOPES: u128 = 5;
/// So that every server of the cluster has its share.
const ORGS: u128 = 30;

/// A place to measure: its name, how it is reached, and what must live meanwhile.
type Place = (&'static str, RedisConfig, Box<dyn Any>);

fn places() -> [Place; 4] {
    let unix = Server::start(&[]);
    let (plain_port, tls_port, authority) = (port(), port(), Authority::new());
    let plain = server(&["--port".to_owned(), plain_port.to_string()]);
    let tls = server(&authority.arguments(tls_port));
    let cluster = Cluster::start(3, 15_000);
    let url = |scheme: &str, port: u16| format!("{scheme}://:{PASSWORD_IN_URL}@{}:{port}", host());
    let over_tls = RedisConfig { authorities: Some(authority.pem()), ..patient(url("rediss", tls_port)) };
    [
        ("unix socket", unix.config(), Box::new(unix)),
        ("TCP", patient(url("redis", plain_port)), Box::new(plain)),
        ("TLS", over_tls, Box::new(tls)),
        ("cluster of 3, TCP", cluster.config(), Box::new(cluster)),
    ]
}

fn reserve_and_settle(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("redis reserve+settle, 5 scopes");
    for (name, config, _server) in places() {
        let calls = Calls::new(ORGS, SCOPES);
        let ledger = RedisLedger::new(&config, Arc::new(SystemClock::new())).expect("a ledger");
        for org in calls.orgs() {
            runtime.block_on(open(&ledger, org));
        }
        for at_once in [1, 16, 64] {
            calls::settings(&mut group, at_once);
            group.bench_function(BenchmarkId::new(name, format!("{at_once} at once")), |bencher| {
                bencher.iter(|| runtime.block_on(join_all((0..at_once).map(|_| calls.make(&ledger)))));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, reserve_and_settle);
criterion_main!(benches);
