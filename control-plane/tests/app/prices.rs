//! Operators' prices, and pricing past events again.

use nullspend_control_plane::{
    app::{AppError, Caller, NewPrice, PriceFilter, PriceScope, RerateRequest, Unusable},
    store::EventFilter,
};
use nullspend_core::{
    id::{AttemptId, Ids, RandomIds},
    money::Nanos,
    policy::Role,
    price::{Catalogue, PriceRow, Terms},
};
use nullspend_proto::internal::{self as proto, spool_record::Kind};

use crate::world::{DAY, NOW, World, org_budget};

fn terms(model: &str, input: u64) -> Terms {
    let text = format!(
        r#"{{"provider":"openai","model":"{model}","tiers":{{"standard":{{"rates":{{"input":{input},"output":{input}}}}}}}}}"#
    );
    Terms::parse(&text).unwrap()
}

fn new(model: &str, input: u64) -> NewPrice {
    NewPrice {
        scope: PriceScope::Organisation,
        from_ms: Some(NOW - DAY),
        until_ms: None,
        terms: terms(model, input),
        reason: "contract".to_owned(),
    }
}

async fn create(world: &World, new: NewPrice) -> PriceRow {
    world.app.create_price(&world.owner, new).await.unwrap().row
}

async fn answer(world: &World, caller: &Caller, model: &str) -> Option<String> {
    let found = world.app.resolve_price(caller, ("openai", model), None).await.unwrap();
    found.answer.map(|priced| priced.id().to_owned())
}

fn refused<T: std::fmt::Debug>(result: Result<T, AppError>) -> (&'static str, String) {
    let error = result.unwrap_err();
    (error.code, error.message)
}

#[tokio::test]
async fn a_price_is_set_resolved_ended_and_withdrawn() {
    let world = World::new().await;
    assert_eq!(answer(&world, &world.owner, "gpt-4o-2024-08-06").await.as_deref(), Some("openai/gpt-4o"));
    let row = create(&world, new("gpt-4o", 9_000)).await;
    assert_eq!(answer(&world, &world.owner, "gpt-4o-2024-08-06").await, Some(row.id.to_string()));
    let overlapping = world.app.create_price(&world.owner, new("gpt-4o", 8_000)).await;
    let (code, message) = refused(overlapping);
    assert!(code == "conflict" && message.contains(&row.id.to_string()), "{message}");

    world.clock.advance_ms(DAY);
    let ended = world.app.end_price(&world.owner, row.id, None).await.unwrap().row;
    assert_eq!((ended.version, ended.until_ms), (2, Some(NOW + DAY)));
    assert_eq!(answer(&world, &world.owner, "gpt-4o").await.as_deref(), Some("openai/gpt-4o"));
    assert_eq!(refused(world.app.end_price(&world.owner, row.id, None).await).0, "conflict");
    assert_eq!(refused(world.app.withdraw_price(&world.owner, row.id).await).0, "conflict");

    let next = create(&world, NewPrice { from_ms: Some(NOW + 9 * DAY), ..new("gpt-4o", 7_000) }).await;
    world.app.withdraw_price(&world.owner, next.id).await.unwrap();
    create(&world, NewPrice { from_ms: Some(NOW + 9 * DAY), ..new("gpt-4o", 6_000) }).await;
    let listed = world.app.list_prices(&world.owner, &PriceFilter::default(), None, None).await.unwrap();
    assert_eq!(listed.items.len(), 2, "what never held is left out");
}

#[tokio::test]
async fn what_belongs_to_everybody_is_set_by_owners_of_the_first_organisation() {
    let world = World::new().await;
    let global = || NewPrice { scope: PriceScope::Global, ..new("llama", 1_000) };
    let admin = world.with_role(Role::Admin).await;
    assert_eq!(refused(world.app.create_price(&admin, global()).await).0, "forbidden");
    assert_eq!(refused(world.app.create_price(&world.agent, new("llama", 1_000)).await).0, "forbidden");
    let row = create(&world, global()).await;
    assert_eq!(answer(&world, &admin, "llama").await, Some(row.id.to_string()));
    assert_eq!(refused(world.app.end_price(&admin, row.id, None).await).0, "forbidden");
    let own = world.app.create_price(&admin, new("llama", 2_000)).await.unwrap().row;
    assert_eq!(answer(&world, &admin, "llama").await, Some(own.id.to_string()), "the own one goes before");
}

#[tokio::test]
async fn a_catalogue_is_put_in_force_only_when_it_makes_sense() {
    let world = World::new().await;
    let shipped = Catalogue::shipped_text();
    assert!(!world.app.put_catalogue(shipped).await.unwrap(), "it is in force already");
    assert!(matches!(world.app.put_catalogue("{}").await, Err(Unusable::Invalid(_))));
    let version = Catalogue::shipped().version().to_owned();
    let (name, rates) = (r#""id":"gpt-4o","#, r#""input":2500000,"#);
    let place = shipped.find(name).unwrap();
    let (head, tail) = shipped.split_at(place);
    let with = |rate: &str| format!("{head}{}", tail.replacen(rates, rate, 1));
    let slip = with(r#""input":25000000,"#);
    assert!(matches!(world.app.put_catalogue(&slip).await, Err(Unusable::SameVersion(_))));
    let slip = slip.replacen(&version, "next", 1);
    let refused = world.app.put_catalogue(&slip).await.unwrap_err().to_string();
    assert!(refused.contains("openai/gpt-4o would have input at 25000000"), "{refused}");
    assert!(refused.contains("\"force\": true"), "{refused}");
    let meant = slip.replacen("{", "{\"force\":true,", 1);
    assert!(world.app.put_catalogue(&meant).await.unwrap());
    let found = world.app.resolve_price(&world.owner, ("openai", "gpt-4o"), None).await.unwrap();
    assert_eq!(found.answer.unwrap().version(), "next");
    assert!(
        world.app.put_catalogue(shipped).await.unwrap(),
        "the way back to the program's own is always open"
    );
}

/// An event of 1 000 input tokens of gpt-4o at 2 500 000 pico-dollars each, and its record.
async fn spent(world: &World, measurement: &str, unpriced: bool) -> AttemptId {
    let budget = world.app.list_budgets(&world.owner).await.unwrap()[0].record.rule.budget;
    let id = AttemptId(RandomIds.v7(NOW));
    let rate = if unpriced { "" } else { r#""rate_pico":2500000,"# };
    let detail = format!(
        r#"{{"steps":[{{"model":"gpt-4o","tier":"standard","prompt_tokens":1000,
            "lines":[{{"class":"input","tokens":1000,{rate}"cost_pico":"2500000000"}}]}}]}}"#
    );
    let stub = proto::AttemptStub {
        attempt_id: id.bare(),
        org_id: world.owner.org.bare(),
        key_id: world.agent.key_id().unwrap().bare(),
        user_id: world.agent.user.bare(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        api: "chat.completions".to_owned(),
        started_at_ms: NOW,
        held_nanos: 2_500_000,
        charges: vec![proto::BudgetCharge {
            budget_id: budget.bare(),
            generation: 1,
            ..proto::BudgetCharge::default()
        }],
        unpriced,
        ..proto::AttemptStub::default()
    };
    let closed = proto::Closed {
        stub: Some(stub),
        revision: 1,
        ended_at_ms: NOW + 1,
        cost_nanos: 2_500_000,
        measurement: measurement.to_owned(),
        cost_detail_json: detail,
        ..proto::Closed::default()
    };
    let record = proto::SpoolRecord { kind: Some(Kind::Closed(closed)) };
    let records = [proto::SequencedRecord::new(1, &record)];
    world.app.store().ingest_records("dp", &records, NOW).await.unwrap();
    id
}

fn request(dry_run: bool) -> RerateRequest {
    RerateRequest {
        from_ms: NOW,
        until_ms: NOW + DAY,
        provider: None,
        model: None,
        events: Vec::new(),
        dry_run,
        reason: "wrong price".to_owned(),
        cursor: None,
    }
}

#[tokio::test]
async fn a_mended_price_adjusts_what_it_had_priced_once() {
    let world = World::new().await;
    let budget =
        world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap().record.rule.budget;
    let (exact, estimated) = (spent(&world, "exact", false).await, spent(&world, "estimated", false).await);
    let held = spent(&world, "estimated", true).await;
    let world = world.restarted().await;
    let settled = async |world: &World| world.app.budget(&world.owner, budget).await.unwrap().settled;
    assert_eq!(settled(&world).await, Nanos(7_500_000));

    create(&world, new("gpt-4o", 1_000_000)).await;
    let dry = world.app.rerate(&world.owner, request(true)).await.unwrap();
    assert_eq!((dry.examined, dry.adjusted), (3, 3), "an estimate that follows from its lines, too");
    assert_eq!((dry.before, dry.after), (Nanos(7_500_000), Nanos(3_000_000)));
    assert_eq!(settled(&world).await, Nanos(7_500_000), "nothing was booked");

    let booked = world.app.rerate(&world.owner, request(false)).await.unwrap();
    assert_eq!(booked.adjusted, 3);
    assert_eq!(settled(&world).await, Nanos(3_000_000), "the ledger took the difference back");
    let again = world.app.rerate(&world.owner, request(false)).await.unwrap();
    assert_eq!((again.examined, again.adjusted), (3, 0));

    let events = world.app.list_events(&world.owner, &EventFilter::default(), None).await.unwrap().items;
    let sum: Nanos = events.iter().map(|event| event.cost).sum();
    assert_eq!((events.len(), sum), (6, Nanos(3_000_000)));
    for original in [exact, estimated, held] {
        assert_eq!(world.app.event(&world.owner, original).await.unwrap().cost, Nanos(2_500_000), "it stays");
    }
    let adjustment = events.iter().find(|event| event.adjusts == Some(exact)).unwrap();
    assert_eq!((adjustment.event_type.as_str(), adjustment.cost), ("adjustment", Nanos(-1_500_000)));
    assert_eq!(adjustment.tags["_ns_reason"], "wrong price");
    let world = world.restarted().await;
    assert_eq!(settled(&world).await, Nanos(3_000_000), "and so did the store");
}

#[tokio::test]
async fn a_price_that_goes_and_comes_back_adjusts_there_and_back() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    spent(&world, "exact", false).await;
    let cost = async |world: &World| {
        let events = world.app.list_events(&world.owner, &EventFilter::default(), None).await.unwrap().items;
        events.iter().map(|event| event.cost).sum::<Nanos>()
    };
    let mut wanted = Vec::new();
    for round in 0..3 {
        let row = create(&world, NewPrice { from_ms: Some(NOW - DAY), ..new("gpt-4o", 1_000_000) }).await;
        world.app.rerate(&world.owner, request(false)).await.unwrap();
        wanted.push(cost(&world).await);
        world.clock.advance_ms(60_000);
        // Ended before the event began, as if it had never been.
        world
            .app
            .store()
            .change_prices("test", |rows| {
                let mut record = rows.into_iter().find(|known| known.row.id == row.id).unwrap();
                record.row.until_ms = Some(record.row.from_ms);
                record.row.version += 1;
                Ok::<_, AppError>(record)
            })
            .await
            .unwrap();
        world.app.rerate(&world.owner, request(false)).await.unwrap();
        wanted.push(cost(&world).await);
        assert_eq!(wanted[2 * round..], [Nanos(1_000_000), Nanos(2_500_000)], "round {round}");
    }
}

#[tokio::test]
async fn a_flat_hold_for_models_without_a_price_is_bounded() {
    let world = World::new().await;
    assert_eq!(world.app.unpriced_hold(&world.owner).await.unwrap(), None);
    let set = world.app.set_unpriced_hold(&world.owner, Some(50_000)).await.unwrap();
    assert_eq!(set, Some(Nanos(50_000_000)));
    assert_eq!(world.app.unpriced_hold(&world.owner).await.unwrap(), set);
    for amount in [0, -1, i64::MAX] {
        assert_eq!(
            refused(world.app.set_unpriced_hold(&world.owner, Some(amount)).await).0,
            "validation_error"
        );
    }
    assert_eq!(refused(world.app.set_unpriced_hold(&world.agent, None).await).0, "forbidden");
    assert_eq!(world.app.set_unpriced_hold(&world.owner, None).await.unwrap(), None);
}
