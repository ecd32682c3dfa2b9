//! Keys: nobody hands out more than they have.

use std::collections::BTreeMap;

use nullspend_control_plane::app::{KeyChange, NewKey};
use nullspend_core::{
    id::{Ids, KeyId, RandomIds, UserId},
    policy::Role,
};
use secrecy::ExposeSecret;

use crate::world::{NOW, World, fields};

#[tokio::test]
async fn an_empty_database_is_founded_once_with_a_chosen_key() {
    let world = World::new().await;
    assert_eq!((world.owner.role, world.agent.role), (Role::Owner, Role::Agent));
    assert_eq!(world.owner.org, world.agent.org);
    assert!(world.app.bootstrap(None).await.unwrap().is_none());
    assert!(world.app.healthy().await);
}

#[tokio::test]
async fn every_role_makes_keys_up_to_its_own() {
    let world = World::new().await;
    let roles = [Role::Agent, Role::Viewer, Role::Member, Role::Admin, Role::Owner];
    for has in roles {
        let caller = world.with_role(has).await;
        for wants in roles {
            let new = NewKey { name: "k".to_owned(), role: Some(wants), ..NewKey::default() };
            let made = world.app.create_key(&caller, new).await;
            let may = has >= Role::Member && wants <= has;
            assert_eq!(made.is_ok(), may, "{has:?} makes {wants:?}");
            if let Err(error) = made {
                assert_eq!(error.code, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn keys_belong_to_their_maker_unless_an_administrator_says_otherwise() {
    let world = World::new().await;
    let viewer = UserId(RandomIds.v4());
    world.app.store().put_member(world.owner.org, (viewer, "v"), Role::Viewer, NOW).await.unwrap();
    let for_viewer = |role| NewKey {
        name: "k".to_owned(),
        role: Some(role),
        user: Some(viewer.to_string()),
        ..NewKey::default()
    };
    assert_eq!(world.create(&world.owner, for_viewer(Role::Agent)).await.record.identity.user, viewer);
    let error = world.app.create_key(&world.owner, for_viewer(Role::Admin)).await.unwrap_err();
    assert_eq!(fields(&error), ["userId"], "not more than its owner has");
    let member = world.with_role(Role::Member).await;
    assert_eq!(world.app.create_key(&member, for_viewer(Role::Agent)).await.unwrap_err().code, "forbidden");
    for stranger in [RandomIds.v4().to_string(), "x".to_owned()] {
        let new = NewKey { name: "k".to_owned(), user: Some(stranger), ..NewKey::default() };
        assert_eq!(fields(&world.app.create_key(&world.owner, new).await.unwrap_err()), ["userId"]);
    }
}

#[tokio::test]
async fn every_problem_of_a_key_is_told_at_once() {
    let world = World::new().await;
    let new = NewKey {
        name: "  ".to_owned(),
        default_tags: BTreeMap::from([("_ns_x".to_owned(), "1".to_owned())]),
        locked_tags: vec!["team".to_owned()],
        required_tags: vec!["a b".to_owned()],
        allowed_models: Some(vec![String::new()]),
        allowed_providers: Some(vec!["acme".to_owned()]),
        ..NewKey::default()
    };
    let error = world.app.create_key(&world.owner, new).await.unwrap_err();
    let expected = [
        "name",
        "defaultTags._ns_x",
        "requiredTags[0]",
        "lockedTags[0]",
        "allowedModels[0]",
        "allowedProviders[0]",
    ];
    assert_eq!(fields(&error), expected);
}

#[tokio::test]
async fn a_restricted_caller_makes_keys_within_its_restriction() {
    let world = World::new().await;
    let restricted = NewKey {
        name: "m".to_owned(),
        role: Some(Role::Member),
        allowed_models: Some(vec!["gpt-4o".to_owned()]),
        ..NewKey::default()
    };
    let caller = world.caller(&world.create(&world.owner, restricted).await.raw).await;
    let child = |models: Option<&str>| NewKey {
        name: "c".to_owned(),
        allowed_models: models.map(|model| vec![model.to_owned()]),
        ..NewKey::default()
    };
    assert_eq!(fields(&world.app.create_key(&caller, child(None)).await.unwrap_err()), ["allowedModels"]);
    assert_eq!(
        fields(&world.app.create_key(&caller, child(Some("o3"))).await.unwrap_err()),
        ["allowedModels[0]"]
    );
    world.create(&caller, child(Some("gpt-4o"))).await;
}

#[tokio::test]
async fn keys_change_and_end() {
    let world = World::new().await;
    let made = world.create(&world.owner, NewKey { name: " ci ".to_owned(), ..NewKey::default() }).await;
    let key = made.record.identity.key;
    assert_eq!(made.record.identity.name, "ci");
    assert_eq!(made.record.identity.role, Role::Agent);
    assert!(made.raw.expose_secret().starts_with(&made.record.prefix));
    let error = world.app.update_key(&world.owner, key, KeyChange::default()).await.unwrap_err();
    assert_eq!(fields(&error), ["name"]);
    let change = KeyChange { allowed_models: Some(Some(vec![])), ..KeyChange::default() };
    assert_eq!(
        world.app.update_key(&world.owner, key, change).await.unwrap().identity.allowed_models,
        Some(vec![])
    );
    let change = KeyChange { allowed_models: Some(None), name: Some("x".to_owned()), ..KeyChange::default() };
    let changed = world.app.update_key(&world.owner, key, change).await.unwrap();
    assert_eq!((changed.identity.allowed_models, changed.identity.name.as_str()), (None, "x"));

    let owner_key = world.owner.key_id().unwrap();
    assert_eq!(
        world.app.revoke_key(&world.owner, owner_key).await.unwrap_err().code,
        "conflict",
        "the last way in"
    );
    let admin = world.with_role(Role::Admin).await;
    assert_eq!(world.app.revoke_key(&admin, owner_key).await.unwrap_err().code, "forbidden");
    let member = world.with_role(Role::Member).await;
    assert_eq!(world.app.revoke_key(&member, key).await.unwrap_err().code, "forbidden");
    let changes = world.app.policy_changes();
    world.app.revoke_key(&admin, key).await.unwrap();
    assert!(changes.has_changed().unwrap(), "data planes are woken");
    assert_eq!(world.app.revoke_key(&admin, key).await.unwrap_err().code, "not_found");
    assert_eq!(world.app.revoke_key(&admin, KeyId(RandomIds.v4())).await.unwrap_err().code, "not_found");
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let world = World::new().await;
    for n in 0..5 {
        world.create(&world.owner, NewKey { name: format!("k{n}"), ..NewKey::default() }).await;
    }
    let mut seen = 0;
    let mut cursor = None;
    loop {
        let page = world.app.list_keys(&world.owner, Some(3), cursor).await.unwrap();
        seen += page.items.len();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, 7);
    for limit in [0, 101, -1] {
        assert_eq!(
            fields(&world.app.list_keys(&world.owner, Some(limit), None).await.unwrap_err()),
            ["limit"]
        );
    }
    assert_eq!(world.app.list_keys(&world.agent, None, None).await.unwrap_err().code, "forbidden");
}
