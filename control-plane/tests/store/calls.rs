//! Idempotent calls.

use nullspend_control_plane::store::{IDEMPOTENCY_KEPT_MS, IdempotencyBegin, IdempotencyKey};
use nullspend_core::id::{Ids, OrgId, RandomIds};

use crate::world::{NOW, World};

pub async fn idempotent_calls_run_once(world: World) {
    let org = OrgId(RandomIds.v4());
    let call = IdempotencyKey { org, method: "/a/B", key: "k" };
    let begin = async |call, hash: u8| world.store.idempotency_begin(call, &[hash; 32], NOW).await.unwrap();
    assert_eq!(begin(call, 1).await, IdempotencyBegin::Fresh);
    assert_eq!(begin(call, 1).await, IdempotencyBegin::InProgress);
    assert_eq!(begin(call, 2).await, IdempotencyBegin::Mismatch);
    world.store.idempotency_finish(call, b"answer\0", 201).await.unwrap();
    let replay = IdempotencyBegin::Replay { response: b"answer\0".to_vec(), http_status: 201 };
    assert_eq!(begin(call, 1).await, replay);
    assert_eq!(begin(call, 2).await, IdempotencyBegin::Mismatch);
    world.store.idempotency_abandon(call).await.unwrap();
    assert_eq!(begin(call, 1).await, replay, "a finished call is not forgotten");

    let others = [
        IdempotencyKey { org: OrgId(RandomIds.v4()), ..call },
        IdempotencyKey { method: "/a/C", ..call },
        IdempotencyKey { key: "l", ..call },
    ];
    for other in others {
        assert_eq!(begin(other, 2).await, IdempotencyBegin::Fresh, "{other:?}");
        world.store.idempotency_abandon(other).await.unwrap();
        assert_eq!(begin(other, 3).await, IdempotencyBegin::Fresh, "abandoned: {other:?}");
    }
}

pub async fn stale_calls_give_way(world: World) {
    let call = IdempotencyKey { org: OrgId(RandomIds.v4()), method: "/a/B", key: "k" };
    let begin = async |now_ms| world.store.idempotency_begin(call, &[1; 32], now_ms).await.unwrap();
    assert_eq!(begin(NOW).await, IdempotencyBegin::Fresh);
    assert_eq!(begin(NOW + 59_999).await, IdempotencyBegin::InProgress);
    assert_eq!(begin(NOW + 60_000).await, IdempotencyBegin::Fresh, "its process is gone");
    world.store.idempotency_finish(call, b"x", 200).await.unwrap();
    let day = NOW + 60_000 + IDEMPOTENCY_KEPT_MS;
    assert!(matches!(begin(day - 1).await, IdempotencyBegin::Replay { .. }));
    assert_eq!(begin(day).await, IdempotencyBegin::Fresh, "a day later it is another call");
    assert_eq!(world.store.purge_idempotency(day, 10).await.unwrap(), 0);
    assert_eq!(world.store.purge_idempotency(day + 1, 10).await.unwrap(), 1);
}
