//! Organisations, keys, budgets, policy, nodes.

use nullspend_control_plane::store::{
    BooksSince, BudgetPlace, BudgetRecord, Cursor, Founding, FreezeRecord, Revoked, Standing, Store,
    StoreError,
};
use nullspend_core::{
    freeze::{Freeze, Target},
    id::{BudgetId, FreezeId, Ids, KeyId, OrgId, RandomIds, UserId},
    ledger::{CounterKey, Limits},
    money::Nanos,
    policy::{BudgetRule, Enforcement, Entity, OrgRule, OutputPolicy, Role, Velocity},
    window::{Interval, TimeZone},
};

use crate::world::{Founded, NOW, SINCE, World, attempt, budget, closed, key_record, open, records};

pub async fn the_first_organisation_is_founded_once(world: World) {
    assert!(world.store.is_new().await.unwrap());
    let founded = world.founded().await;
    assert!(!world.store.is_new().await.unwrap());
    let again = Founding {
        org: OrgId(RandomIds.v4()),
        org_name: "again".to_owned(),
        org_slug: "again".to_owned(),
        user: founded.user,
        user_name: "owner".to_owned(),
        keys: Vec::new(),
        now_ms: NOW,
    };
    assert!(!world.store.found(&again).await.unwrap());
    assert_eq!(world.store.org_ids().await.unwrap(), [founded.org]);
    assert_eq!(world.store.member_role(founded.org, founded.user).await.unwrap(), Some(Role::Owner));
    assert_eq!(world.store.member_role(again.org, founded.user).await.unwrap(), None);
    world.store.ping().await.unwrap();
}

pub async fn members_have_one_role_in_each_organisation(world: World) {
    let founded = world.founded().await;
    let other = OrgId(RandomIds.v4());
    world.store.insert_org((other, "other", "other"), (founded.user, "owner"), NOW).await.unwrap();
    let taken =
        world.store.insert_org((OrgId(RandomIds.v4()), "x", "other"), (founded.user, "owner"), NOW).await;
    assert!(taken.unwrap_err().is_duplicate());
    let member = UserId(RandomIds.v4());
    for role in [Role::Viewer, Role::Admin] {
        world.store.put_member(other, (member, "m"), role, NOW).await.unwrap();
        assert_eq!(world.store.member_role(other, member).await.unwrap(), Some(role));
    }
    assert_eq!(world.store.member_role(founded.org, member).await.unwrap(), None);
}

pub async fn keys_are_found_by_hash_until_revoked(world: World) {
    let founded = world.founded().await;
    let id = KeyId(RandomIds.v4());
    let (record, hash) = key_record(founded.org, founded.user, id, Role::Agent, 7);
    world.store.insert_key(&record, &hash).await.unwrap();
    assert!(world.store.insert_key(&record, &hash).await.unwrap_err().is_duplicate());
    let found = world.store.key_by_sha256(&hash).await.unwrap().unwrap();
    assert_eq!(found.identity, record.identity);
    assert_eq!(found.owner_role, Some(Role::Owner));
    assert_eq!(world.store.key(founded.org, id).await.unwrap().unwrap(), record);
    assert_eq!(world.store.key(OrgId(RandomIds.v4()), id).await.unwrap(), None, "not another organisation's");

    let (changed, _) = world
        .store
        .update_key(founded.org, id, |key| {
            key.name = "renamed".to_owned();
            key.allowed_models = None;
            key.allowed_providers = Some(Vec::new());
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(world.store.key_by_sha256(&hash).await.unwrap().unwrap().identity, changed.identity);
    assert_eq!(changed.identity.allowed_providers, Some(Vec::new()), "an empty list is not null");

    assert!(matches!(world.store.revoke_key(founded.org, id, NOW + 9).await.unwrap(), Revoked::At(_)));
    assert_eq!(world.store.revoke_key(founded.org, id, NOW + 10).await.unwrap(), Revoked::NotFound);
    assert_eq!(world.store.key_by_sha256(&hash).await.unwrap(), None);
    assert!(world.store.update_key(founded.org, id, |_| {}).await.unwrap().is_none());
    assert_eq!(world.store.key(founded.org, id).await.unwrap().unwrap().revoked_at_ms, Some(NOW + 9));
    let orphan = key_record(OrgId(RandomIds.v4()), founded.user, KeyId(RandomIds.v4()), Role::Agent, 8);
    let refused = world.store.insert_key(&orphan.0, &orphan.1).await.unwrap_err();
    assert!(matches!(refused, StoreError::Refused { .. }), "a key needs its organisation: {refused:?}");
}

pub async fn keys_are_listed_newest_first_page_by_page(world: World) {
    let founded = world.founded().await;
    for mark in 10..15 {
        let (mut record, hash) =
            key_record(founded.org, founded.user, KeyId(RandomIds.v4()), Role::Agent, mark);
        // Two of one moment: the id decides.
        record.created_at_ms = NOW + i64::from(mark / 2);
        world.store.insert_key(&record, &hash).await.unwrap();
    }
    let all = world.store.list_keys(founded.org, None, 100).await.unwrap();
    assert_eq!(all.len(), 6);
    let mut paged = Vec::new();
    let mut cursor = None;
    loop {
        let page = world.store.list_keys(founded.org, cursor.as_ref(), 2).await.unwrap();
        let Some(last) = page.last() else { break };
        cursor = Some(Cursor { at_ms: last.created_at_ms, id: last.identity.key.bare() });
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(all.is_sorted_by(|a, b| a.created_at_ms >= b.created_at_ms));
}

pub async fn a_keys_use_is_noted_once_a_minute(world: World) {
    let founded = world.founded().await;
    let used = async |at| {
        world.store.touch_key(founded.key, at, 60_000).await.unwrap();
        world.store.key(founded.org, founded.key).await.unwrap().unwrap().last_used_at_ms
    };
    assert_eq!(used(NOW).await, Some(NOW));
    assert_eq!(used(NOW + 59_999).await, Some(NOW));
    assert_eq!(used(NOW + 60_000).await, Some(NOW + 60_000));
}

/// A budget of a customer.
fn budget_record(founded: &Founded, customer: &str, limit: i64) -> (BudgetPlace, BudgetRecord) {
    let entity = Entity::Customer(customer.to_owned());
    let place = BudgetPlace { org: founded.org, entity: entity.clone(), name: String::new() };
    let rule = BudgetRule {
        budget: budget(),
        org: founded.org,
        entity,
        name: String::new(),
        limit: Nanos(limit),
        enforcement: Enforcement::SoftBlock,
        output: OutputPolicy { clamp: true, incremental: true },
        interval: Interval::Weekly,
        time_zone: "Europe/Berlin".parse::<TimeZone>().unwrap(),
        generation: 1,
        revision: 0,
        session_limit: Some(Nanos(3)),
        velocity: Some(Velocity { limit: Nanos(5), window_ms: 60_000, cooldown_ms: 61_000 }),
        finalization_reserve: Nanos(7),
        loop_max_calls: Some(7),
        outage_credit: Nanos(11),
    };
    let record = BudgetRecord {
        rule,
        thresholds: vec![50, 100],
        velocity_window_s: 60,
        velocity_cooldown_s: 61,
        generation_started_at_ms: NOW,
        created_at_ms: NOW,
        updated_at_ms: NOW,
    };
    (place, record)
}

/// A budget of generation 1 that is there.
pub async fn live_budget(world: &World, founded: &Founded) -> BudgetId {
    let (place, record) = budget_record(founded, "any", 10);
    put(world, &place, record).await.rule.budget
}

async fn put(world: &World, place: &BudgetPlace, record: BudgetRecord) -> BudgetRecord {
    let decide = |current: Option<BudgetRecord>| match current {
        None => Ok::<_, StoreError>(record.clone()),
        Some(mut current) => {
            current.rule.limit = record.rule.limit;
            Ok(current)
        }
    };
    world.store.put_budget(place, decide).await.unwrap()
}

pub async fn a_place_has_one_live_budget(world: World) {
    let founded = world.founded().await;
    let (place, record) = budget_record(&founded, "acme", 1_000);
    let first = put(&world, &place, record.clone()).await;
    assert_eq!(world.store.budget(founded.org, first.rule.budget).await.unwrap(), Some(first.clone()));
    let second =
        put(&world, &place, BudgetRecord { rule: BudgetRule { limit: Nanos(9), ..record.rule }, ..record })
            .await;
    assert_eq!(second.rule.budget, first.rule.budget, "changed, not made twice");
    assert!(second.rule.revision > first.rule.revision);
    assert_eq!(world.store.list_budgets(founded.org).await.unwrap(), vec![second.clone()]);

    let elsewhere = OrgId(RandomIds.v4());
    assert_eq!(world.store.delete_budget(elsewhere, first.rule.budget, NOW).await.unwrap(), None);
    assert!(world.store.delete_budget(founded.org, first.rule.budget, NOW).await.unwrap().is_some());
    assert_eq!(world.store.delete_budget(founded.org, first.rule.budget, NOW).await.unwrap(), None);
    assert!(world.store.change_budget(founded.org, first.rule.budget, |_| {}).await.unwrap().is_none());
    assert_eq!(world.store.budget(founded.org, first.rule.budget).await.unwrap(), None);
    let (_, anew) = budget_record(&founded, "acme", 5);
    assert_eq!(
        put(&world, &place, anew.clone()).await.rule.budget,
        anew.rule.budget,
        "the place is free again"
    );

    let limits = async |deleted_ms| {
        let since = BooksSince { deleted_ms, ..SINCE };
        world.store.books(founded.org, since, &[]).await.unwrap().limits
    };
    let known = limits(NOW).await.iter().map(|change| change.limits).collect::<Vec<_>>();
    assert_eq!(known, [None, Some(Limits::of(&anew.rule))]);
    assert_eq!(limits(NOW + 1).await.len(), 1, "old deletions are left out");
}

pub async fn resets_leave_old_windows_behind(world: World) {
    let founded = world.founded().await;
    let (place, record) = budget_record(&founded, "acme", 1_000);
    let id = put(&world, &place, record).await.rule.budget;
    world.store.ingest_records("dp", &records([closed(&founded, attempt(), 40, &[id])]), NOW).await.unwrap();
    let counter = CounterKey { budget: id, generation: 1, window_start_ms: 1_000 };
    assert_eq!(world.store.settled(counter).await.unwrap(), Nanos(40));
    let windows = async || world.store.books(founded.org, SINCE, &[]).await.unwrap().settled;
    assert_eq!(windows().await, [(counter, Nanos(40))]);
    let reset =
        world.store.change_budget(founded.org, id, |budget| budget.rule.generation += 1).await.unwrap();
    assert_eq!(reset.unwrap().rule.generation, 2);
    assert_eq!(windows().await, []);
    assert_eq!(world.store.settled(counter).await.unwrap(), Nanos(40), "what was spent stays known");
    assert_eq!(world.store.settled(CounterKey { generation: 2, ..counter }).await.unwrap(), Nanos::ZERO);
}

pub async fn policy_is_read_whole_or_since_a_revision(world: World) {
    let founded = world.founded().await;
    let (place, record) = budget_record(&founded, "acme", 1_000);
    let made = put(&world, &place, record).await;
    assert_eq!(world.store.revoke_key(founded.org, founded.key, NOW).await.unwrap(), Revoked::LastOwner);
    let (second, hash) = key_record(founded.org, founded.user, KeyId(RandomIds.v4()), Role::Owner, 2);
    world.store.insert_key(&second, &hash).await.unwrap();
    let whole = world.store.policy_snapshot().await.unwrap();
    assert!(whole.snapshot);
    assert_eq!((whole.orgs.len(), whole.keys.len(), whole.budgets.len()), (1, 2, 1));
    assert_eq!(whole.budgets[0], made.rule);
    assert!(whole.keys.iter().any(|(hash, _)| *hash == [1; 32]));

    let nothing = world.store.policy_since(whole.revision).await.unwrap();
    assert!(!nothing.snapshot);
    assert!(nothing.orgs.is_empty() && nothing.keys.is_empty() && nothing.budgets.is_empty());

    let rule = OrgRule { unpriced_hold: Some(Nanos(3)) };
    world.store.set_unpriced_hold(founded.org, Some(3)).await.unwrap();
    world.store.revoke_key(founded.org, founded.key, NOW).await.unwrap();
    world.store.delete_budget(founded.org, made.rule.budget, NOW).await.unwrap();
    let delta = world.store.policy_since(whole.revision).await.unwrap();
    assert_eq!(delta.orgs, vec![(founded.org, rule)]);
    assert_eq!(delta.revoked_keys, vec![founded.key]);
    assert_eq!(delta.deleted_budgets, vec![made.rule.budget]);
    assert!(delta.keys.is_empty() && delta.budgets.is_empty());
    assert_eq!(delta.revision, world.store.policy_position().await.unwrap().revision);

    let ahead = world.store.policy_since(delta.revision + 1).await.unwrap();
    assert!(ahead.snapshot, "a revision this database never had");
    assert!(ahead.revoked_keys.is_empty() && ahead.keys.len() == 1);
}

pub async fn what_has_ended_is_not_read_with_the_whole_policy(world: World) {
    let founded = world.founded().await;
    let before = world.store.policy_position().await.unwrap().revision;
    let (place, record) = budget_record(&founded, "acme", 1_000);
    let budget = put(&world, &place, record).await.rule.budget;
    let (key, hash) = key_record(founded.org, founded.user, KeyId(RandomIds.v4()), Role::Agent, 2);
    world.store.insert_key(&key, &hash).await.unwrap();
    let freeze = Freeze {
        freeze: FreezeId(RandomIds.v4()),
        org: founded.org,
        target: Target::Model("gpt-4o".to_owned()),
        reason: String::new(),
        since_ms: NOW,
    };
    let frozen = FreezeRecord { freeze: freeze.clone(), created_by: String::new() };
    world.store.put_freeze(&frozen, 9).await.unwrap();
    world.store.delete_budget(founded.org, budget, NOW).await.unwrap();
    world.store.revoke_key(founded.org, key.identity.key, NOW).await.unwrap();
    world.store.lift_freeze(founded.org, freeze.freeze, "", NOW).await.unwrap();
    // Rows that cannot be read show who reads them.
    const SPOIL: [&str; 3] = [
        "UPDATE budgets SET time_zone = '?' WHERE deleted_at_ms IS NOT NULL",
        "UPDATE api_keys SET default_tags = '?' WHERE revoked_at_ms IS NOT NULL",
        "UPDATE freezes SET entity_type = 'tag', entity_id = '?' WHERE lifted_at_ms IS NOT NULL",
    ];
    for spoil in SPOIL {
        world.run(spoil, spoil).await;
        let whole = world.store.policy_snapshot().await.unwrap();
        assert_eq!((whole.keys.len(), whole.budgets.len(), whole.freezes.len()), (1, 0, 0));
        assert!(world.store.policy_since(before).await.is_err(), "a delta tells what has ended: {spoil}");
    }
}

pub async fn concurrent_changes_take_different_revisions(world: World) {
    let founded = world.founded().await;
    let tasks: Vec<_> = (20..36)
        .map(|mark| {
            let (record, hash) =
                key_record(founded.org, founded.user, KeyId(RandomIds.v4()), Role::Agent, mark);
            let store = world.store.clone();
            tokio::spawn(async move { store.insert_key(&record, &hash).await.unwrap() })
        })
        .collect();
    let mut revisions = Vec::new();
    for task in tasks {
        revisions.push(task.await.unwrap());
    }
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 16);
}

pub async fn a_database_keeps_its_history(world: World) {
    let before = world.store.policy_position().await.unwrap();
    assert_eq!(before.history_id, "history");
    let again = open(&world.url, "another").await;
    assert_eq!(again.policy_position().await.unwrap(), before);
    again.close().await;
    assert!(again.ping().await.unwrap_err().is_transient(), "a closed store is away, not empty");
}

pub async fn a_database_is_looked_at_without_being_changed(world: World) {
    let url = world.url.clone().into();
    assert_eq!(Store::examine(&url).await.unwrap(), Standing::Current);
    const OLDER: &str = "DELETE FROM _sqlx_migrations WHERE version > 1";
    const NEWER: &str = "UPDATE _sqlx_migrations SET version = 9999";
    world.run(OLDER, OLDER).await;
    assert_eq!(Store::examine(&url).await.unwrap(), Standing::Older);
    world.run(NEWER, NEWER).await;
    assert_eq!(Store::examine(&url).await.unwrap(), Standing::Newer);
    world.run("DROP TABLE _sqlx_migrations", "DROP TABLE _sqlx_migrations").await;
    assert_eq!(Store::examine(&url).await.unwrap(), Standing::New);
}

pub async fn a_database_has_one_node(world: World) {
    assert_eq!(world.store.claim_node("a", NOW).await.unwrap(), "a");
    assert_eq!(world.store.claim_node("a", NOW).await.unwrap(), "a");
    assert_eq!(world.store.claim_node("b", NOW).await.unwrap(), "a");
    world.store.take_over_node("b", NOW).await.unwrap();
    assert_eq!(world.store.claim_node("a", NOW).await.unwrap(), "b");
}
