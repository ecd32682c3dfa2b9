//! Reported spend, and what it does to budgets and the policy document.

use std::{collections::BTreeMap, sync::Arc};

use nullspend_control_plane::{
    app::{BudgetRequest, NewKey, Reported},
    store::EventFilter,
};
use nullspend_core::money::Nanos;
use nullspend_ledger::Faulty;

use crate::world::{World, fields, org_budget, report};

#[tokio::test]
async fn a_repeated_report_answers_with_the_first_event_and_charges_once() {
    let world = World::new().await;
    let budget = world.app.upsert_budget(&world.owner, org_budget(1_000)).await.unwrap().record.rule.budget;
    let first = world.app.ingest(&world.agent, vec![report("r1", 400)], false).await.unwrap()[0];
    assert!(first.new);
    world.clock.advance_ms(7_200_000);
    let again = world.app.ingest(&world.agent, vec![report("r1", 999)], false).await.unwrap()[0];
    assert_eq!((again.id, again.created_at_ms, again.new), (first.id, first.created_at_ms, false));
    assert_eq!(world.app.budget(&world.owner, budget).await.unwrap().settled, Nanos(400_000));
    let event = world.app.event(&world.owner, first.id).await.unwrap();
    assert_eq!(
        (event.request_id.as_str(), event.cost, event.budget_status.as_deref()),
        ("r1", Nanos(400_000), Some("approved"))
    );
    assert_eq!(event.key, world.agent.key_id());
    let other = Reported { provider: "anthropic".to_owned(), ..report("r1", 1) };
    assert!(
        world.app.ingest(&world.agent, vec![other], false).await.unwrap()[0].new,
        "another provider's request"
    );
    let world = world.restarted().await;
    assert_eq!(
        world.app.budget(&world.owner, budget).await.unwrap().settled,
        Nanos(401_000),
        "store and ledger agree"
    );
}

#[tokio::test]
async fn batches_leave_duplicates_out() {
    let world = World::new().await;
    let nameless = Reported { request_id: None, ..report("", 1) };
    let batch = vec![report("a", 1), report("b", 2), report("a", 3), nameless.clone(), nameless];
    let recorded = world.app.ingest(&world.agent, batch.clone(), true).await.unwrap();
    let new: Vec<bool> = recorded.iter().map(|recorded| recorded.new).collect();
    assert_eq!(new, [true, true, false, true, true]);
    let again = world.app.ingest(&world.agent, batch, true).await.unwrap();
    assert_eq!(again.iter().filter(|recorded| recorded.new).count(), 2, "only the nameless ones");
    let listed = world.app.list_events(&world.agent, &EventFilter::default(), Some(4)).await.unwrap();
    assert_eq!((listed.items.len(), listed.next.is_some()), (4, true));
}

#[tokio::test]
async fn what_was_charged_before_the_ledger_went_away_is_stored() {
    for seed in 0..20 {
        let world = World::new().await;
        let record = world.app.upsert_budget(&world.owner, org_budget(1_000)).await.unwrap().record;
        let faulty = Arc::new(Faulty::new(Arc::clone(&world.ledger), seed, 4));
        let app = world.with_ledger(faulty);
        let batch: Vec<_> = (0..8).map(|n| report(&n.to_string(), 10)).collect();
        let outcome = app.ingest(&world.agent, batch, true).await;
        let events = world.app.list_events(&world.agent, &EventFilter::default(), None).await.unwrap().items;
        let stored: Nanos = events.iter().map(|event| event.cost).sum();
        let charged = world.app.budget(&world.owner, record.rule.budget).await.unwrap().settled;
        // Of the last one nobody knows whether the ledger has it: only a repeat can tell.
        let unknown = if outcome.is_ok() { 0 } else { 10_000 };
        assert!((0..=unknown).contains(&(charged - stored).0), "seed {seed}: {charged:?}, {stored:?}");
    }
}

#[tokio::test]
async fn every_problem_of_every_report_is_told() {
    let world = World::new().await;
    let bad = Reported {
        model: String::new(),
        cost_microdollars: -1,
        trace_id: Some("ABC".to_owned()),
        tags: BTreeMap::from([("a b".to_owned(), String::new()), ("_ns_error".to_owned(), "x".to_owned())]),
        duration_ms: Some(-5),
        ..report("r", 0)
    };
    let error = world.app.ingest(&world.agent, vec![report("ok", 1), bad], true).await.unwrap_err();
    let expected = ["model", "durationMs", "costMicrodollars", "traceId", "tags.a b"]
        .map(|field| format!("events[1].{field}"));
    assert_eq!(fields(&error), expected);
    let (nobody, most) = (Vec::new(), vec![report("r", 1); 101]);
    for events in [nobody, most] {
        assert_eq!(fields(&world.app.ingest(&world.agent, events, true).await.unwrap_err()), ["events"]);
    }
    assert!(
        world.app.list_events(&world.owner, &EventFilter::default(), None).await.unwrap().items.is_empty()
    );
}

#[tokio::test]
async fn reports_count_towards_tags_and_customers_that_a_caller_cannot_shed() {
    let world = World::new().await;
    let new = NewKey {
        name: "k".to_owned(),
        default_tags: BTreeMap::from([
            ("team".to_owned(), "a".to_owned()),
            ("env".to_owned(), "dev".to_owned()),
        ]),
        locked_tags: vec!["team".to_owned()],
        ..NewKey::default()
    };
    let caller = world.caller(&world.create(&world.owner, new).await.raw).await;
    let of = |kind, id: &str| BudgetRequest {
        entity_type: Some(kind),
        entity_id: id.to_owned(),
        ..org_budget(10)
    };
    for (kind, id) in [
        ("tag", "team=a"),
        ("tag", "team=b"),
        ("tag", "env=prod"),
        ("customer", "acme"),
        ("tag", "customer=acme"),
    ] {
        world.app.upsert_budget(&world.owner, of(kind, id)).await.unwrap();
    }
    let tags = BTreeMap::from([("team".to_owned(), "b".to_owned()), ("env".to_owned(), "prod".to_owned())]);
    let reported = Reported { tags, customer: Some("acme".to_owned()), ..report("r", 20) };
    let id = world.app.ingest(&caller, vec![reported], false).await.unwrap()[0].id;
    let event = world.app.event(&world.owner, id).await.unwrap();
    assert_eq!(event.tags["team"], "a");
    assert_eq!(event.budget_status.as_deref(), Some("exceeded"));
    let spent: BTreeMap<String, i64> = world
        .app
        .list_budgets(&world.owner)
        .await
        .unwrap()
        .into_iter()
        .map(|view| (view.record.rule.entity.shown_id(), view.settled.0))
        .collect();
    let expected = [
        ("team=a", 20_000),
        ("team=b", 0),
        ("env=prod", 20_000),
        ("acme", 20_000),
        ("customer=acme", 20_000),
    ];
    assert_eq!(spent, expected.map(|(id, nanos)| (id.to_owned(), nanos)).into());
    assert_eq!(event.charges.len(), 4);
}

#[tokio::test]
async fn the_policy_document_shows_the_tightest_budget_of_the_caller() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000)).await.unwrap();
    let of =
        |kind, id: String, max| BudgetRequest { entity_type: Some(kind), entity_id: id, ..org_budget(max) };
    let agent_key = world.agent.key_id().unwrap().to_string();
    world.app.upsert_budget(&world.owner, of("api_key", agent_key.clone(), 900)).await.unwrap();
    world.app.upsert_budget(&world.owner, of("customer", "acme".to_owned(), 1)).await.unwrap();
    let document = world.app.policy_document(&world.agent, None).await.unwrap();
    let budget = document.budget.as_ref().unwrap();
    assert_eq!(
        budget.record.rule.entity.shown_id(),
        agent_key,
        "not a customer's, which does not bind the key"
    );
    assert!(!document.restricted() && document.cheapest_overall().is_some());
    assert_eq!(world.app.budget_status(&world.agent).await.unwrap().len(), 2);
    let old = world.app.policy_document(&world.agent, Some("python/0.2.1")).await.unwrap();
    assert!(old.budget.is_none(), "that client would refuse every call");

    let new = NewKey {
        name: "k".to_owned(),
        allowed_models: Some(vec!["gpt-4o".to_owned(), "gpt-4o-mini".to_owned()]),
        allowed_providers: Some(vec!["openai".to_owned()]),
        ..NewKey::default()
    };
    let caller = world.caller(&world.create(&world.owner, new).await.raw).await;
    let document = world.app.policy_document(&caller, None).await.unwrap();
    let cheapest = document.cheapest_overall().unwrap();
    assert_eq!(
        (cheapest.model.as_str(), cheapest.input_per_mtok, cheapest.output_per_mtok),
        ("gpt-4o-mini", 0.15, 0.6)
    );
    assert!(document.restricted());
}
