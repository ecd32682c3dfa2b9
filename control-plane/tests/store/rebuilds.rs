//! What a rebuild of the ledger is made from, and whom it waits for.

use std::time::Duration;

use nullspend_control_plane::store::{BooksSince, RebuildRecord};
use nullspend_core::{
    id::{AttemptId, BudgetId, OrgId},
    money::Nanos,
};
use nullspend_proto::internal as proto;
use uuid::Uuid;

use crate::{
    administration::live_budget,
    ingest::counter,
    world::{NOW, SINCE, World, attempt, closed, records},
};

/// Longer than any test.
const LONG_MS: i64 = 600_000;

fn rebuild(org: OrgId, id: &str) -> RebuildRecord {
    RebuildRecord { org, id: id.to_owned(), began_at_ms: NOW, opening: false }
}

fn delivery(rebuild: &str, dataplane: &str, attempts: Vec<proto::AttemptStub>) -> proto::DeliverRequest {
    let (rebuild_id, dataplane_id) = (rebuild.to_owned(), dataplane.to_owned());
    proto::DeliverRequest { dataplane_id, rebuild_id, org_id: String::new(), attempts }
}

pub async fn a_rebuild_waits_for_everyone_who_may_have_work(world: World) {
    let (org, store) = (OrgId(Uuid::from_u128(7)), &world.store);
    for dataplane in ["a", "b", "c"] {
        store.dataplane_came(dataplane, NOW).await.unwrap();
    }
    assert!(store.dataplane_left("c", NOW).await.unwrap());
    assert!(!store.dataplane_left("nobody", NOW).await.unwrap());
    assert!(!store.keep_delivery(&delivery("r1", "a", Vec::new())).await.unwrap(), "nobody asked");
    assert_eq!(store.begin_rebuild(&rebuild(org, "r1")).await.unwrap(), rebuild(org, "r1"));
    assert_eq!(
        store.begin_rebuild(&rebuild(org, "r2")).await.unwrap(),
        rebuild(org, "r1"),
        "it is under way"
    );
    assert_eq!(store.list_rebuilds().await.unwrap(), [rebuild(org, "r1")]);
    assert_eq!(store.awaited_dataplanes("r1").await.unwrap(), ["a", "b"]);
    let stub = proto::AttemptStub {
        attempt_id: Uuid::from_u128(1).to_string(),
        held_nanos: 5,
        session_id: Some("s".to_owned()),
        ..Default::default()
    };
    assert!(store.dataplane_left("a", NOW).await.unwrap(), "written off");
    assert_eq!(store.awaited_dataplanes("r1").await.unwrap(), ["b"]);
    store.ingest_records("a", &[], NOW).await.unwrap();
    assert_eq!(store.awaited_dataplanes("r1").await.unwrap(), ["a", "b"], "who reports is there");
    assert!(store.dataplane_left("a", NOW).await.unwrap());
    assert!(store.keep_delivery(&delivery("r1", "a", Vec::new())).await.unwrap());
    assert!(store.keep_delivery(&delivery("r1", "a", vec![stub])).await.unwrap(), "told again");
    assert_eq!(store.awaited_dataplanes("r1").await.unwrap(), ["b"]);
    store.dataplane_came("c", NOW + 1).await.unwrap();
    assert_eq!(
        store.awaited_dataplanes("r1").await.unwrap(),
        ["b", "c"],
        "who came back may have work again"
    );
    let told = store.delivered("r1").await.unwrap();
    assert_eq!((told.len(), told[0].held, told[0].session_id.as_deref()), (1, Nanos(5), Some("s")));
    store.end_rebuild("r1").await.unwrap();
    assert!(
        store.list_rebuilds().await.unwrap().is_empty() && store.delivered("r1").await.unwrap().is_empty()
    );
}

pub async fn a_rebuild_is_one_control_planes_at_a_time(world: World) {
    let (org, other, store) = (OrgId(Uuid::from_u128(7)), OrgId(Uuid::from_u128(8)), &world.store);
    let claim = async |org, by: &str, for_ms| store.claim_rebuild(org, by, for_ms).await.unwrap();
    assert!(!claim(org, "a", LONG_MS).await, "none is under way");
    for (org, id) in [(org, "r1"), (other, "r2")] {
        store.begin_rebuild(&rebuild(org, id)).await.unwrap();
    }
    let rivals: Vec<String> = (0..8).map(|n| format!("rival {n}")).collect();
    let claims = rivals.iter().map(|rival| claim(org, rival, LONG_MS));
    let won = futures::future::join_all(claims).await;
    let winners: Vec<&String> = rivals.iter().zip(won).filter(|(_, won)| *won).map(|(by, _)| by).collect();
    let [winner] = winners[..] else { panic!("{winners:?}") };
    assert!(claim(other, "b", LONG_MS).await, "another organisation's");
    assert!(claim(org, winner, LONG_MS).await, "renewed");
    assert!(!claim(org, "b", LONG_MS).await);
    assert!(claim(org, winner, 1).await);
    // Who is silent for so long, by the database's clock, is dead.
    let taken_over = async { while !claim(org, "b", LONG_MS).await {} };
    tokio::time::timeout(Duration::from_secs(10), taken_over).await.expect("a claim of a millisecond ends");
    assert!(!claim(org, winner, LONG_MS).await);
    assert!(claim(org, "b", 0).await && claim(org, winner, LONG_MS).await, "given back");
    store.give_rebuilds_back("b").await.unwrap();
    assert!(claim(other, "c", LONG_MS).await && !claim(org, "c", LONG_MS).await, "b's, and no other's");
}

pub async fn a_rebuild_that_begins_anew_has_nothing_delivered(world: World) {
    let (org, store) = (OrgId(Uuid::from_u128(7)), &world.store);
    store.dataplane_came("a", NOW).await.unwrap();
    store.begin_rebuild(&rebuild(org, "r1")).await.unwrap();
    assert!(store.claim_rebuild(org, "x", LONG_MS).await.unwrap());
    assert!(store.keep_delivery(&delivery("r1", "a", Vec::new())).await.unwrap());
    assert!(store.begin_rebuild_anew("r1", "r2", true).await.unwrap());
    let opening = RebuildRecord { opening: true, ..rebuild(org, "r2") };
    assert_eq!(store.list_rebuilds().await.unwrap(), std::slice::from_ref(&opening));
    assert_eq!(store.begin_rebuild(&rebuild(org, "r9")).await.unwrap(), opening);
    assert_eq!(store.awaited_dataplanes("r2").await.unwrap(), ["a"]);
    assert!(!store.claim_rebuild(org, "y", LONG_MS).await.unwrap(), "it is who claimed it that begins anew");
    assert!(!store.begin_rebuild_anew("r1", "r3", true).await.unwrap(), "that one is over");
    assert!(!store.keep_delivery(&delivery("r1", "a", Vec::new())).await.unwrap());
}

pub async fn a_delivery_that_makes_no_sense_is_told(world: World) {
    let org = OrgId(Uuid::from_u128(7));
    world.store.begin_rebuild(&rebuild(org, "r")).await.unwrap();
    let stub = proto::AttemptStub { attempt_id: "no id".to_owned(), ..Default::default() };
    assert!(world.store.keep_delivery(&delivery("r", "a", vec![stub])).await.unwrap());
    let refused = world.store.delivered("r").await.unwrap_err();
    assert!(format!("{refused:?}").contains("attempt_id"), "{refused:?}");
}

pub async fn books_tell_what_lapsed_and_what_is_recorded(world: World) {
    let founded = world.founded().await;
    let budget = live_budget(&world, &founded).await;
    let (known, lapsed, told_again, unknown) = (attempt(), attempt(), attempt(), attempt());
    let lapse = |id, revision| proto::Closed {
        measurement: "lapsed".to_owned(),
        revision,
        ..closed(&founded, id, 30, &[budget])
    };
    let ends = [
        closed(&founded, known, 12, &[budget]),
        lapse(lapsed, 1),
        lapse(told_again, 1),
        lapse(told_again, 2),
    ];
    world.store.ingest_records("dp", &records(ends), NOW).await.unwrap();
    let asked = [known, lapsed, told_again, unknown].map(AttemptId);
    let books = world.store.books(founded.org, SINCE, &asked).await.unwrap();
    assert_eq!(books.recorded, [known, told_again].map(AttemptId).into());
    assert_eq!(books.settled.iter().map(|(_, nanos)| nanos.0).sum::<i64>(), 72);
    let settled = world.store.list_settled(founded.org, SINCE.window_ended_ms).await.unwrap();
    assert_eq!(settled, books.settled, "by itself too");
    let windows = [settled[0].0, counter(BudgetId(Uuid::from_u128(9)))];
    assert_eq!(world.store.settled_of(&windows).await.unwrap(), settled, "what is there of these");
    assert_eq!(world.store.limits(founded.org, SINCE.deleted_ms).await.unwrap(), books.limits);
    let [told] = &books.lapsed[..] else { panic!("{:?}", books.lapsed) };
    assert_eq!((told.attempt, told.cost, told.charges.len()), (AttemptId(lapsed), Nanos(30), 1));
    let since = BooksSince { lapsed_ms: i64::MAX, ..SINCE };
    assert_eq!(world.store.books(founded.org, since, &[]).await.unwrap().lapsed, [], "too old to matter");
    let elsewhere = world.store.books(OrgId(Uuid::from_u128(8)), SINCE, &[]).await.unwrap();
    assert_eq!(elsewhere, Default::default());
}
