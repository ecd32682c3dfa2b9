//! Budgets with the live balances of the ledger.

use nullspend_control_plane::app::{BudgetRequest, BudgetView, Reported};
use nullspend_core::{
    id::{AttemptId, BudgetId, Ids, RandomIds},
    ledger::{Reserve, ReserveOutcome, Why, scope_for},
    money::Nanos,
    policy::{Enforcement, Role, Velocity},
    window::Interval,
};

use crate::world::{DAY, NOW, World, fields, org_budget, report};

async fn only(world: &World) -> BudgetView {
    let mut budgets = world.app.list_budgets(&world.owner).await.unwrap();
    assert_eq!(budgets.len(), 1);
    budgets.remove(0)
}

#[tokio::test]
async fn an_upsert_keeps_what_it_does_not_name_but_the_interval() {
    let world = World::new().await;
    let full = BudgetRequest {
        interval: Some(Interval::Daily),
        time_zone: Some("Asia/Tokyo".to_owned()),
        enforcement: Some(Enforcement::Warn),
        thresholds: vec![10, 20],
        clamp_output: Some(true),
        incremental_hold: Some(true),
        ..org_budget(5)
    };
    let first = world.app.upsert_budget(&world.owner, full).await.unwrap().record;
    let second = world.app.upsert_budget(&world.owner, org_budget(7)).await.unwrap().record;
    assert_eq!(second.rule.budget, first.rule.budget);
    assert_eq!(second.rule.limit, Nanos(7_000));
    assert_eq!(
        (second.rule.enforcement, second.thresholds.as_slice()),
        (Enforcement::Warn, [10, 20].as_slice())
    );
    assert!(second.rule.output.clamp && second.rule.output.incremental);
    assert_eq!((second.rule.time_zone.name(), second.rule.interval), ("Asia/Tokyo", Interval::None));
    assert_eq!(second.rule.generation, first.rule.generation + 1, "another calendar begins anew");
    let third = world.app.upsert_budget(&world.owner, org_budget(8)).await.unwrap().record;
    assert_eq!(third.rule.generation, second.rule.generation, "another limit does not");
    let off = BudgetRequest { clamp_output: Some(false), ..org_budget(8) };
    let off = world.app.upsert_budget(&world.owner, off).await.unwrap().record.rule.output;
    assert!(!off.clamp && off.incremental);
    let named = BudgetRequest { name: "daily".to_owned(), ..org_budget(1) };
    assert_ne!(
        world.app.upsert_budget(&world.owner, named).await.unwrap().record.rule.budget,
        first.rule.budget
    );
    assert_eq!(world.app.list_budgets(&world.owner).await.unwrap().len(), 2);
}

#[tokio::test]
async fn every_problem_of_a_budget_is_told_at_once() {
    let world = World::new().await;
    let bad = BudgetRequest {
        entity_type: Some("tag"),
        entity_id: "team".to_owned(),
        name: "x".repeat(65),
        max_budget_microdollars: 0,
        time_zone: Some("Mars/Olympus".to_owned()),
        thresholds: vec![0, 50, 50, 101],
        ..BudgetRequest::default()
    };
    let error = world.app.upsert_budget(&world.owner, bad).await.unwrap_err();
    let thresholds = [0, 2, 3].map(|n| format!("thresholdPercentages[{n}]"));
    let expected = [
        ["entityId", "maxBudgetMicrodollars", "name"].map(str::to_owned).as_slice(),
        &thresholds,
        &["timeZone".to_owned()],
    ]
    .concat();
    assert_eq!(fields(&error), expected);
    let too_much =
        world.app.upsert_budget(&world.owner, org_budget(4_000_000_000_000_001)).await.unwrap_err();
    assert_eq!(fields(&too_much), ["maxBudgetMicrodollars"]);
    world.app.upsert_budget(&world.owner, org_budget(4_000_000_000_000_000)).await.unwrap();
    let nothing = world.app.upsert_budget(&world.owner, BudgetRequest::default()).await.unwrap_err();
    assert_eq!(fields(&nothing), ["entityType", "maxBudgetMicrodollars"]);
    let admin_only = world.app.upsert_budget(&world.with_role(Role::Member).await, org_budget(1)).await;
    assert_eq!(admin_only.unwrap_err().code, "forbidden");
}

#[tokio::test]
async fn a_budget_binds_only_what_exists() {
    let world = World::new().await;
    let of = |kind, id: String| BudgetRequest { entity_type: Some(kind), entity_id: id, ..org_budget(1) };
    let (user, key) = (world.owner.user, world.owner.key_id().unwrap());
    for (kind, id) in [
        ("user", user.to_string()),
        ("user", user.bare()),
        ("api_key", key.to_string()),
        ("tag", "a=b".to_owned()),
        ("customer", "acme".to_owned()),
        ("org", world.owner.org.to_string()),
    ] {
        world.app.upsert_budget(&world.owner, of(kind, id)).await.unwrap();
    }
    for kind in ["user", "api_key"] {
        let error =
            world.app.upsert_budget(&world.owner, of(kind, RandomIds.v4().to_string())).await.unwrap_err();
        assert_eq!(error.code, "budget_entity_not_found");
    }
    let foreign =
        world.app.upsert_budget(&world.owner, of("org", RandomIds.v4().to_string())).await.unwrap_err();
    assert_eq!(fields(&foreign), ["entityId"]);
    for name in ["b", "c", "d"] {
        let request = BudgetRequest { name: name.to_owned(), ..org_budget(1) };
        world.app.upsert_budget(&world.owner, request).await.unwrap();
    }
    let fifth = BudgetRequest { name: "e".to_owned(), ..org_budget(1) };
    assert_eq!(world.app.upsert_budget(&world.owner, fifth).await.unwrap_err().code, "limit_exceeded");
}

#[tokio::test]
async fn spend_and_holds_are_live_and_windows_turn() {
    let world = World::new().await;
    let daily = BudgetRequest { interval: Some(Interval::Daily), ..org_budget(1_000) };
    let made = world.app.upsert_budget(&world.owner, daily).await.unwrap();
    assert_eq!(made.period_start_ms(), NOW, "spend counts from its making");
    world.app.ingest(&world.agent, vec![report("r1", 400)], false).await.unwrap();
    let hold = Reserve {
        hold: AttemptId(RandomIds.v7(NOW)),
        org: world.owner.org,
        scopes: vec![scope_for(&made.record.rule, NOW)],
        session: None,
        finalize: false,
        amount: Nanos(100_000),
        lease_ms: 1_000,
        stub: Default::default(),
    };
    assert!(matches!(world.ledger.reserve(&hold).await.unwrap(), ReserveOutcome::Reserved { .. }));
    let now = only(&world).await;
    assert_eq!((now.settled, now.held, now.remaining()), (Nanos(400_000), Nanos(100_000), Nanos(500_000)));
    world.clock.advance_ms(DAY);
    let next = only(&world).await;
    assert_eq!((next.settled, next.held), (Nanos::ZERO, Nanos::ZERO));
    assert_eq!(Some(next.period_start_ms()), now.window.end_ms);
}

#[tokio::test]
async fn resets_and_deletions_reach_the_ledger_at_once() {
    let world = World::new().await;
    let id = world.app.upsert_budget(&world.owner, org_budget(100)).await.unwrap().record.rule.budget;
    world.app.ingest(&world.agent, vec![report("r1", 90)], false).await.unwrap();
    world.clock.advance_ms(5);
    let reset = world.app.reset_budget(&world.owner, id).await.unwrap();
    assert_eq!((reset.settled, reset.period_start_ms()), (Nanos::ZERO, NOW + 5));
    world.app.ingest(&world.agent, vec![report("r2", 30)], false).await.unwrap();
    assert_eq!(world.app.budget(&world.owner, id).await.unwrap().settled, Nanos(30_000));
    world.app.delete_budget(&world.owner, id).await.unwrap();
    assert_eq!(world.app.budget(&world.owner, id).await.unwrap_err().code, "not_found");
    assert_eq!(world.app.delete_budget(&world.owner, id).await.unwrap_err().code, "not_found");
    assert_eq!(
        world.app.reset_budget(&world.owner, BudgetId(RandomIds.v4())).await.unwrap_err().code,
        "not_found"
    );
}

#[tokio::test]
async fn a_restart_loads_what_was_spent_and_the_limits() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(100)).await.unwrap();
    let gone = BudgetRequest { name: "gone".to_owned(), ..org_budget(100) };
    let gone = world.app.upsert_budget(&world.owner, gone).await.unwrap().record.rule;
    world.app.ingest(&world.agent, vec![report("r1", 90)], false).await.unwrap();
    world.app.delete_budget(&world.owner, gone.budget).await.unwrap();
    let world = world.restarted().await;
    let now = only(&world).await;
    assert_eq!(now.settled, Nanos(90_000));
    let hold = |scope, amount| Reserve {
        hold: AttemptId(RandomIds.v7(NOW)),
        org: world.owner.org,
        scopes: vec![scope],
        session: None,
        finalize: false,
        amount: Nanos(amount),
        lease_ms: 1_000,
        stub: Default::default(),
    };
    let over = world.ledger.reserve(&hold(scope_for(&now.record.rule, NOW), 10_001)).await.unwrap();
    assert!(matches!(over, ReserveOutcome::Denied { .. }), "{over:?}");
    let deleted = world.ledger.reserve(&hold(scope_for(&gone, NOW), 1)).await.unwrap();
    assert!(matches!(deleted, ReserveOutcome::StalePolicy { .. }), "{deleted:?}");
}

#[tokio::test]
async fn limits_beside_the_window_are_kept_switched_off_and_checked() {
    let world = World::new().await;
    let full = BudgetRequest {
        velocity_limit_microdollars: Some(7),
        velocity_window_s: Some(10),
        velocity_cooldown_s: Some(3600),
        session_limit_microdollars: Some(3),
        finalization_reserve_microdollars: Some(99),
        ..org_budget(100)
    };
    world.app.upsert_budget(&world.owner, full).await.unwrap();
    let kept = world.app.upsert_budget(&world.owner, org_budget(100)).await.unwrap().record.rule;
    let velocity = Velocity { limit: Nanos(7_000), window_ms: 10_000, cooldown_ms: 3_600_000 };
    assert_eq!((kept.velocity, kept.session_limit), (Some(velocity), Some(Nanos(3_000))));
    assert_eq!(kept.finalization_reserve, Nanos(99_000));
    let lowered = world.app.upsert_budget(&world.owner, org_budget(99)).await.unwrap_err();
    assert_eq!(
        fields(&lowered),
        ["finalizationReserveMicrodollars"],
        "nothing would be left for other calls"
    );
    let off = BudgetRequest {
        velocity_limit_microdollars: Some(0),
        session_limit_microdollars: Some(0),
        finalization_reserve_microdollars: Some(0),
        ..org_budget(99)
    };
    let off = world.app.upsert_budget(&world.owner, off).await.unwrap().record;
    assert_eq!((off.rule.velocity, off.rule.session_limit), (None, None));
    assert_eq!((off.velocity_window_s, off.velocity_cooldown_s), (60, 60));
    let bad = BudgetRequest {
        velocity_limit_microdollars: Some(1_000_000_000_001),
        velocity_window_s: Some(9),
        velocity_cooldown_s: Some(3601),
        session_limit_microdollars: Some(-1),
        finalization_reserve_microdollars: Some(-1),
        ..org_budget(1)
    };
    let expected = [
        "velocityLimitMicrodollars",
        "sessionLimitMicrodollars",
        "finalizationReserveMicrodollars",
        "velocityWindowSeconds",
        "velocityCooldownSeconds",
    ];
    assert_eq!(fields(&world.app.upsert_budget(&world.owner, bad).await.unwrap_err()), expected);
}

#[tokio::test]
async fn a_session_survives_a_restart() {
    let world = World::new().await;
    let limited = BudgetRequest { session_limit_microdollars: Some(100), ..org_budget(1_000) };
    let rule = world.app.upsert_budget(&world.owner, limited).await.unwrap().record.rule;
    let spend = Reported { session_id: Some("s".to_owned()), ..report("r1", 90) };
    world.app.ingest(&world.agent, vec![spend], false).await.unwrap();
    let ask = async |world: &World, amount| {
        let hold = Reserve {
            hold: AttemptId(RandomIds.v7(NOW)),
            org: world.owner.org,
            scopes: vec![scope_for(&rule, NOW)],
            session: Some("s".into()),
            finalize: false,
            amount: Nanos(amount),
            lease_ms: 1_000,
            stub: Default::default(),
        };
        world.ledger.reserve(&hold).await.unwrap()
    };
    let over = Why::Session { spend: Nanos(90_000) };
    let before = ask(&world, 10_001).await;
    assert!(matches!(before, ReserveOutcome::Denied { why, .. } if why == over), "{before:?}");
    let world = world.restarted().await;
    let after = ask(&world, 10_001).await;
    assert_eq!(after, before);
    assert!(matches!(ask(&world, 10_000).await, ReserveOutcome::Reserved { .. }));
}

#[tokio::test]
async fn a_budget_shows_the_thresholds_of_its_period() {
    let world = World::new().await;
    let daily = BudgetRequest {
        interval: Some(Interval::Daily),
        thresholds: vec![50, 80],
        enforcement: Some(Enforcement::Warn),
        ..org_budget(100)
    };
    world.app.upsert_budget(&world.owner, daily).await.unwrap();
    world.app.ingest(&world.agent, vec![report("r1", 49)], false).await.unwrap();
    assert!(only(&world).await.crossed.is_empty());
    world.app.ingest(&world.agent, vec![report("r2", 40)], false).await.unwrap();
    assert_eq!(only(&world).await.crossed, [50, 80]);
    world.clock.advance_ms(DAY);
    assert!(only(&world).await.crossed.is_empty());
    world.app.ingest(&world.agent, vec![report("r3", 50)], false).await.unwrap();
    assert_eq!(only(&world).await.crossed, [50]);
}

#[tokio::test]
async fn a_limit_of_repeats_is_kept_switched_off_and_checked() {
    let world = World::new().await;
    let with = |loop_max_calls| BudgetRequest { loop_max_calls, ..org_budget(5) };
    for (asked, stands) in [
        (None, None),
        (Some(50), Some(50)),
        (None, Some(50)),
        (Some(10_000), Some(10_000)),
        (Some(0), None),
        (None, None),
    ] {
        let rule = world.app.upsert_budget(&world.owner, with(asked)).await.unwrap().record.rule;
        assert_eq!(rule.loop_max_calls, stands, "{asked:?}");
    }
    for bad in [-1, 10_001] {
        let error = world.app.upsert_budget(&world.owner, with(Some(bad))).await.unwrap_err();
        assert_eq!(fields(&error), ["loopMaxCalls"], "{bad}");
    }
}
