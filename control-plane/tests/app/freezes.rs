//! Freezing, as a caller is answered.

use nullspend_control_plane::app::{AppError, NewFreeze};
use nullspend_core::policy::Role;

use crate::world::World;

fn new(entity_type: &'static str, entity_id: &str) -> NewFreeze {
    NewFreeze {
        entity_type: Some(entity_type),
        entity_id: entity_id.to_owned(),
        reason: "runaway".to_owned(),
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, AppError>) -> (&'static str, String) {
    let error = result.unwrap_err();
    let issues: Vec<String> =
        error.issues.iter().map(|issue| format!("{} {}", issue.field(), issue.message)).collect();
    (error.code, format!("{} {}", error.message, issues.join("; ")))
}

#[tokio::test]
async fn what_is_frozen_is_listed_until_it_is_lifted() {
    let world = World::new().await;
    let key = world.agent.key_id().unwrap();
    let made = world.app.create_freeze(&world.owner, new("api_key", &key.bare())).await.unwrap();
    assert!(made.enforced, "no data plane is connected that could enforce otherwise");
    let freeze = &made.record.freeze;
    assert_eq!((freeze.target.shown_id(), freeze.reason.as_str()), (key.to_string(), "runaway"));
    assert_eq!(made.record.created_by, world.owner.key_id().unwrap().to_string());
    world.clock.advance_ms(5_000);
    let again = NewFreeze { reason: "another".to_owned(), ..new("api_key", &key.to_string()) };
    let again = world.app.create_freeze(&world.owner, again).await.unwrap();
    assert_eq!(again.record, made.record, "since when, why and by whom stay");

    let all = world.app.create_freeze(&world.owner, new("org", "")).await.unwrap();
    assert_eq!(all.record.freeze.target.shown_id(), world.owner.org.to_string());
    let listed = world.app.list_freezes(&world.owner).await.unwrap();
    assert_eq!(listed, [made.record.clone(), all.record]);
    world.app.lift_freeze(&world.owner, freeze.freeze).await.unwrap();
    assert_eq!(world.app.list_freezes(&world.owner).await.unwrap().len(), 1);
    assert_eq!(refused(world.app.lift_freeze(&world.owner, freeze.freeze).await).0, "not_found");
}

#[tokio::test]
async fn bad_freezes_are_refused_with_what_to_change() {
    let world = World::new().await;
    let stranger = "0193a6ab-0000-4000-8000-000000000001";
    let long = "m".repeat(201);
    for (kind, id, code, says) in [
        ("api_key", stranger, "not_found", "Key not found"),
        ("user", stranger, "not_found", "User not found"),
        ("org", stranger, "validation_error", "entityId must be the caller's own organisation"),
        ("tag", "team", "validation_error", "entityId must be key=value"),
        ("customer", "a b", "validation_error", "entityId must be 1 to 256"),
        ("model", " ", "validation_error", "entityId must be text of 1 to 200"),
        ("model", long.as_str(), "validation_error", "entityId must be text of 1 to 200"),
    ] {
        let (got, message) = refused(world.app.create_freeze(&world.owner, new(kind, id)).await);
        assert!(got == code && message.contains(says), "{kind} {id}: {got} {message}");
    }
    let none = NewFreeze { reason: "r".repeat(501), ..NewFreeze::default() };
    let (code, message) = refused(world.app.create_freeze(&world.owner, none).await);
    assert!(
        code == "validation_error" && message.contains("reason must") && message.contains("entityType must")
    );
    assert!(world.app.list_freezes(&world.owner).await.unwrap().is_empty());
}

#[tokio::test]
async fn only_administrators_freeze_and_lift() {
    let world = World::new().await;
    let member = world.with_role(Role::Member).await;
    let made = world.app.create_freeze(&world.owner, new("model", "gpt-4o")).await.unwrap();
    for caller in [&member, &world.agent] {
        assert_eq!(refused(world.app.create_freeze(caller, new("org", "")).await).0, "forbidden");
        assert_eq!(refused(world.app.lift_freeze(caller, made.record.freeze.freeze).await).0, "forbidden");
    }
    assert_eq!(world.app.list_freezes(&member).await.unwrap().len(), 1);
    assert_eq!(refused(world.app.list_freezes(&world.agent).await).0, "forbidden");
}
