//! What data planes enforce, as control planes tell each other.

use std::{sync::Arc, time::Duration};

use nullspend_control_plane::app::App;
use nullspend_core::{clock::ManualClock, id::RandomIds};
use nullspend_ledger::MemoryLedger;

use crate::world::{NOW, World};

const LONG_MS: i64 = 3_600_000;

pub async fn a_change_waits_for_the_data_planes_of_other_control_planes(world: World) {
    let store = &world.store;
    assert!(store.enforced_elsewhere("a", 9).await.unwrap(), "nobody is there");
    store.note_enforced("a", 3, LONG_MS).await.unwrap();
    assert!(store.enforced_elsewhere("a", 9).await.unwrap(), "one knows its own");
    store.note_enforced("b", 4, LONG_MS).await.unwrap();
    store.note_enforced("c", 9, LONG_MS).await.unwrap();
    assert!(store.enforced_elsewhere("a", 4).await.unwrap());
    assert!(!store.enforced_elsewhere("a", 5).await.unwrap(), "b's are behind");
    store.note_enforced("b", 5, LONG_MS).await.unwrap();
    assert!(store.enforced_elsewhere("a", 5).await.unwrap());
    store.note_enforced("b", 2, LONG_MS).await.unwrap();
    assert!(!store.enforced_elsewhere("a", 5).await.unwrap(), "a data plane came to b that is behind");
    store.forget_enforced("b").await.unwrap();
    assert!(store.enforced_elsewhere("a", 5).await.unwrap());
    assert_eq!(store.purge_control_planes().await.unwrap(), 0, "a and c are there");
}

pub async fn a_control_plane_that_is_not_heard_of_is_not_waited_for(world: World) {
    let store = &world.store;
    store.note_enforced("gone", 1, 0).await.unwrap();
    assert!(store.enforced_elsewhere("a", 2).await.unwrap());
    store.note_enforced("gone", 1, LONG_MS).await.unwrap();
    assert!(!store.enforced_elsewhere("a", 2).await.unwrap(), "it is heard of again");
    store.note_enforced("gone", 1, 0).await.unwrap();
    assert_eq!(store.purge_control_planes().await.unwrap(), 1);
}

pub async fn a_control_plane_tells_of_its_data_planes_where_others_may_be(world: World) {
    let store = &world.store;
    let clock = Arc::new(ManualClock::at(NOW));
    let ledger = Arc::new(MemoryLedger::new(clock.clone()));
    let app = App::new(store.clone(), ledger, clock, Arc::new(RandomIds));
    let enforced = async |revision| store.enforced_elsewhere("another", revision).await.unwrap();
    let first = app.data_planes().connect("first");
    first.sends("h", 9, true);
    app.data_planes().confirm("first", "h", 4);
    app.data_plane_came().await.unwrap();
    let alone = !store.is_shared();
    assert_eq!((enforced(4).await, enforced(5).await), (true, alone));
    let second = app.data_planes().connect("second");
    second.sends("h", 9, true);
    app.data_planes().confirm("second", "h", 2);
    app.data_plane_came().await.unwrap();
    assert_eq!((enforced(2).await, enforced(4).await), (true, alone), "the one that is behind counts");
    app.data_planes().confirm("second", "h", 4);
    app.data_plane_came().await.unwrap();
    assert_eq!((enforced(4).await, enforced(5).await), (true, alone));
    app.stop_telling_enforced().await.unwrap();
    assert_eq!((enforced(4).await, enforced(5).await), (true, alone), "its data planes look for another one");
    app.data_plane_came().await.unwrap();
    drop((first, second));
    app.data_plane_came().await.unwrap();
    assert_eq!((enforced(4).await, enforced(5).await), (true, alone), "they may come back");
    app.data_planes().leave("first");
    app.data_planes().leave("second");
    app.data_plane_came().await.unwrap();
    assert!(enforced(5).await, "nobody follows it");
    app.stop_telling_enforced().await.unwrap();
    assert!(enforced(5).await, "it has ended");
}

pub async fn a_lease_is_renewed_while_one_data_plane_hangs_and_another_goes_on(world: World) {
    let store = &world.store;
    let clock = Arc::new(ManualClock::at(NOW));
    let ledger = Arc::new(MemoryLedger::new(clock.clone()));
    let app = App::new(store.clone(), ledger, clock, Arc::new(RandomIds));
    let (hanging, busy) = (app.data_planes().connect("hanging"), app.data_planes().connect("busy"));
    busy.sends("h", u64::MAX, true);
    let told = async {
        let mut revision = 1;
        let mut renewed = async || {
            while store.is_shared() && store.enforced_elsewhere("another", 1).await.unwrap() {
                app.data_planes().confirm("busy", "h", revision);
                revision += 1;
            }
        };
        renewed().await;
        // As if its lease were over: only a renewal brings it back, since what is enforced in all does not change.
        store.forget_enforced(app.id()).await.unwrap();
        renewed().await;
    };
    tokio::select! {
        () = app.keep_telling_enforced() => unreachable!("it never ends"),
        told = tokio::time::timeout(Duration::from_secs(30), told) => told.expect("renewed"),
    }
    assert_eq!(app.data_planes().all_enforce(), Some(0), "one hangs");
    drop((hanging, busy));
}
