//! What is frozen, as data planes and administrators read it.

use nullspend_control_plane::store::{FreezeRecord, Froze, Store};
use nullspend_core::{
    freeze::{Freeze, Target},
    id::{FreezeId, Ids, OrgId, RandomIds},
};

use crate::world::{NOW, World};

fn record(org: OrgId, kind: &str, id: &str) -> FreezeRecord {
    let freeze = Freeze {
        freeze: FreezeId(RandomIds.v4()),
        org,
        target: Target::parse(kind, id).unwrap(),
        reason: "it's \"why\" ☃".to_owned(),
        since_ms: NOW,
    };
    FreezeRecord { freeze, created_by: "ns_key_x".to_owned() }
}

async fn put(store: &Store, record: &FreezeRecord) -> u64 {
    match store.put_freeze(record, 100).await.unwrap() {
        Froze::Now(kept, revision) => {
            assert_eq!(&kept, record);
            revision
        }
        other => panic!("{other:?}"),
    }
}

pub async fn a_freeze_is_policy_until_it_is_lifted(world: World) {
    let (founded, store) = (world.founded().await, &world.store);
    let before = store.policy_position().await.unwrap().revision;
    let mut made = Vec::new();
    for (kind, id) in
        [("org", founded.org.bare()), ("tag", "a=b=c".to_owned()), ("model", "openai/gpt-4o".to_owned())]
    {
        made.push(record(founded.org, kind, &id));
        put(store, made.last().unwrap()).await;
    }
    let by_id = |mut records: Vec<FreezeRecord>| {
        records.sort_by_key(|record| record.freeze.freeze);
        records
    };
    assert_eq!(by_id(store.list_freezes(founded.org).await.unwrap()), by_id(made.clone()));
    assert!(store.list_freezes(OrgId(RandomIds.v4())).await.unwrap().is_empty());
    assert_eq!(store.policy_since(before).await.unwrap().freezes.len(), 3);
    assert_eq!(store.policy_snapshot().await.unwrap().freezes.len(), 3);

    let known = store.freeze(founded.org, made[0].freeze.freeze).await.unwrap();
    assert_eq!(known, Some((made[0].clone(), None)));
    let (first, middle) = (made[0].freeze.freeze, store.policy_position().await.unwrap().revision);
    assert_eq!(store.lift_freeze(OrgId(RandomIds.v4()), first, "me", NOW).await.unwrap(), None, "not theirs");
    let lifted = store.lift_freeze(founded.org, first, "me", NOW + 1).await.unwrap().unwrap();
    assert_eq!(store.lift_freeze(founded.org, first, "me", NOW + 2).await.unwrap(), None, "once");
    let known = store.freeze(founded.org, first).await.unwrap();
    assert_eq!(known, Some((made[0].clone(), Some(NOW + 1))), "it is remembered");
    assert_eq!(store.freeze(OrgId(RandomIds.v4()), first).await.unwrap(), None);
    let delta = store.policy_since(middle).await.unwrap();
    assert_eq!((delta.revision, delta.lifted_freezes, delta.freezes), (lifted, vec![first], vec![]));
    let whole = store.policy_snapshot().await.unwrap();
    assert_eq!((whole.freezes.len(), whole.lifted_freezes.len()), (2, 0));
    put(store, &record(founded.org, "org", &founded.org.bare())).await;
    assert_eq!(store.list_freezes(founded.org).await.unwrap().len(), 3, "and again");
}

pub async fn a_thing_is_frozen_once_and_there_is_an_end_to_them(world: World) {
    let (founded, store) = (world.founded().await, &world.store);
    let first = record(founded.org, "model", "m0");
    put(store, &first).await;
    let position = store.policy_position().await.unwrap();
    let again = store.put_freeze(&record(founded.org, "model", "m0"), 1).await.unwrap();
    assert_eq!(again, Froze::Before(first), "also where there is no room for another");
    assert_eq!(store.put_freeze(&record(founded.org, "model", "m1"), 1).await.unwrap(), Froze::Full);
    assert_eq!(store.policy_position().await.unwrap(), position, "nothing changed");
    let tasks: Vec<_> = (0..12)
        .map(|n| {
            let (store, record) = (store.clone(), record(founded.org, "model", &format!("m{}", n % 3)));
            tokio::spawn(async move { store.put_freeze(&record, 100).await.unwrap() })
        })
        .collect();
    let mut new = 0;
    for task in tasks {
        new += usize::from(matches!(task.await.unwrap(), Froze::Now(..)));
    }
    assert_eq!((new, store.list_freezes(founded.org).await.unwrap().len()), (2, 3));
}
