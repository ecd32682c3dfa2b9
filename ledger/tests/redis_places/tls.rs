//! One server over TLS, with a password.

use std::sync::Arc;

use nullspend_core::{clock::SystemClock, ledger::Ledger as _};
use nullspend_ledger::{RedisConfig, RedisLedger, conformance::World};

use crate::{
    balance, ledger, load, reserve,
    support::{
        Server, Shared, open, org, patient,
        tcp::{Authority, Cluster, PASSWORD_IN_URL, Watched, host, in_step, port, server},
        world_at,
    },
};

struct Place {
    _server: Server,
    authority: Authority,
    port: u16,
}

impl Place {
    fn start() -> Self {
        let (authority, port) = (Authority::new(), port());
        Self { _server: server(&authority.arguments(port)), authority, port }
    }

    fn config(&self) -> RedisConfig {
        let url = format!("rediss://:{PASSWORD_IN_URL}@{}:{}", host(), self.port);
        RedisConfig { authorities: Some(self.authority.pem()), ..patient(url) }
    }
}

async fn world() -> World {
    static SHARED: Shared<Place> = Shared::new();
    let place = SHARED.get(Place::start);
    world_at(place.config(), place, &|script| script).await
}

nullspend_ledger::conformance!(world().await, steps = 2_000);

#[tokio::test]
async fn only_the_named_authorities_are_trusted() {
    let place = Place::start();
    let trusting = ledger(&place.config());
    open(&trusting, org(1)).await;
    reserve(&trusting, org(1), 1).await.unwrap();
    for authorities in [None, Some(Authority::new().pem())] {
        let other = ledger(&RedisConfig { authorities, ..place.config() });
        let refused = other.sweep().await.unwrap_err().to_string();
        assert!(refused.contains("certificate"), "{refused}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let place = Place::start();
    let url = format!("rediss://:hunter2@{}:{}", host(), place.port);
    let other = ledger(&RedisConfig { url: url.into(), ..place.config() });
    let refused = other.sweep().await.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("password") && !refused.contains("hunter2"), "{refused}");
}

#[tokio::test]
async fn a_cluster_speaks_tls_too() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls(1, &authority);
    let ledger = ledger(&cluster.config());
    open(&ledger, org(1)).await;
    reserve(&ledger, org(1), 1).await.unwrap();
    assert_eq!(balance(&ledger, org(1)).await, (0, 10));
}

#[tokio::test]
async fn sentinels_speak_tls_too() {
    let authority = Authority::new();
    let watched = Watched::start_tls(&authority);
    let ledger = ledger(&watched.config());
    open(&ledger, org(1)).await;
    reserve(&ledger, org(1), 1).await.unwrap();
    assert_eq!(balance(&ledger, org(1)).await, (0, 10));
    in_step(&watched.servers[0], &watched.servers[1]);
    watched.servers[0].kill();
    let promoted = async {
        while reserve(&ledger, org(1), 2).await.is_err() {
            tokio::time::sleep(load::PACE).await;
        }
    };
    tokio::time::timeout(load::BOUND, promoted).await.expect("a promoted server in bounded time");
    assert_eq!(balance(&ledger, org(1)).await, (0, 20));
}

#[tokio::test]
async fn authorities_that_cannot_be_used_are_told() {
    let pem = Authority::new().pem();
    let broken = [&b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"[..], &pem].concat();
    for (url, authorities, told) in [
        ("redis://host", pem, "begin with rediss"),
        ("rediss://host", b"-----BEGIN PRIVATE KEY-----".to_vec(), "no certificate"),
        ("rediss-cluster://host", broken, "cannot be read"),
    ] {
        let config =
            RedisConfig { authorities: Some(authorities), ..RedisConfig::new(url.to_owned().into()) };
        let refused = RedisLedger::new(&config, Arc::new(SystemClock::new())).unwrap_err().to_string();
        assert!(refused.contains(told), "{refused}");
    }
}
