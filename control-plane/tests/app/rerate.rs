//! What a mended price does to past events.

use nullspend_control_plane::{
    app::{BudgetRequest, NewPrice, Reported, RerateReport, RerateRequest},
    store::{EventRecord, Source},
};
use nullspend_core::{
    attempt::BudgetCharge,
    cost::{Detail, Line, Step},
    id::{AttemptId, Ids, PriceId, RandomIds},
    ledger::{Reserve, ReserveOutcome, Why, scope_for},
    money::Nanos,
    policy::Role,
    price::{Class, Tier},
    window::Interval,
};

use crate::{
    price_rows::{HOUSE, new},
    world::{DAY, NOW, World, fields, org_budget, report},
};

/// A proxied call of a model, priced as prices are now, that counts to the organisation's only budget.
async fn proxied(world: &World, model: &str, tokens: u64) -> EventRecord {
    let budget = world.app.list_budgets(&world.owner).await.unwrap().remove(0).record.rule;
    let scope = scope_for(&budget, NOW);
    let charge =
        BudgetCharge { counter: scope.counter, window_end_ms: scope.window_end_ms, of_session: false };
    let line = Line { class: Class::Input, tokens, rate_pico: None, cost_pico: 0 };
    let step = Step {
        model: model.to_owned(),
        price_id: None,
        price_version: None,
        tier: Tier::Standard,
        long_context: false,
        prompt_tokens: tokens,
        modifiers: Vec::new(),
        lines: vec![line],
    };
    let detail = Detail { steps: vec![step], ..Detail::default() };
    let priced = world.app.resolve_price(&world.owner, ("openai", model), Some(NOW)).await.unwrap().answer;
    let (cost, unpriced, detail) = match priced {
        Some(priced) => {
            let (rate, _) = priced.standard().rates.billed(Class::Input);
            let cost_pico = i128::from(rate) * i128::from(tokens);
            let mut detail = detail;
            detail.steps[0].price_id = Some(priced.id().to_owned());
            detail.steps[0].lines[0] = Line { class: Class::Input, tokens, rate_pico: Some(rate), cost_pico };
            (Nanos::from_pico_half_up(cost_pico), false, detail)
        }
        None => (Nanos(5_000), true, detail),
    };
    // A report gives an event of everybody's fields; what makes it a proxied call is laid over.
    let id = world.app.ingest(&world.agent, vec![report("template", 0)], false).await.unwrap()[0].id;
    let template = world.app.event(&world.owner, id).await.unwrap();
    let event = EventRecord {
        id: AttemptId(RandomIds.v7(NOW)),
        request_id: RandomIds.v4().to_string(),
        source: Source::Proxy,
        event_type: "llm".to_owned(),
        model: model.to_owned(),
        cost,
        unpriced,
        started_at_ms: NOW,
        ended_at_ms: NOW,
        charges: vec![charge],
        detail: Some(serde_json::to_string(&detail).unwrap()),
        ..template
    };
    world.app.store().write_events(vec![event.clone()]).await.unwrap();
    event
}

fn rerate(dry_run: bool) -> RerateRequest {
    RerateRequest {
        from_ms: NOW - DAY,
        until_ms: NOW + DAY,
        provider: None,
        model: None,
        events: Vec::new(),
        dry_run,
        reason: "mended".to_owned(),
        cursor: None,
    }
}

async fn mend(world: &World, wrong: PriceId, dollars: u64) -> PriceId {
    world.app.end_price(&world.owner, wrong, Some(NOW)).await.unwrap();
    let right = NewPrice { from_ms: Some(NOW), ..new(HOUSE, dollars) };
    world.app.create_price(&world.owner, right).await.unwrap().row.id
}

async fn spent(world: &World) -> i64 {
    world.app.list_budgets(&world.owner).await.unwrap()[0].settled.0
}

#[tokio::test]
async fn a_mended_price_makes_a_difference_once() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    let first = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    let event = proxied(&world, HOUSE, 1_000).await;
    assert_eq!(event.cost, Nanos(10_000_000));
    let world = world.restarted().await;
    assert_eq!(spent(&world).await, 10_000_000);

    world.clock.advance_ms(1_000);
    let second = mend(&world, first, 4).await;
    let dry = world.app.rerate(&world.owner, rerate(true)).await.unwrap();
    assert_eq!(
        (dry.examined, dry.adjusted, dry.before, dry.after),
        (1, 1, Nanos(10_000_000), Nanos(4_000_000))
    );
    assert_eq!((dry.sample[0].event, dry.sample[0].adjustment), (event.id, None));
    assert_eq!(spent(&world).await, 10_000_000, "a dry run books nothing");

    let done = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    let adjustment = world.app.event(&world.owner, done.sample[0].adjustment.unwrap()).await.unwrap();
    assert_eq!((adjustment.cost, adjustment.adjusts), (Nanos(-6_000_000), Some(event.id)));
    assert_eq!((adjustment.price_id, adjustment.tokens), (Some(second.to_string()), Default::default()));
    assert_eq!(spent(&world).await, 4_000_000, "the ledger took it back");
    for _repeat in 0..2 {
        let again = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
        assert_eq!((again.examined, again.adjusted, again.before), (1, 0, Nanos::ZERO));
    }
    // Dearer again: the difference is to what the event costs by now.
    let third = mend(&world, second, 7).await;
    let dearer = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    assert_eq!((dearer.before, dearer.after), (Nanos(4_000_000), Nanos(7_000_000)));
    mend(&world, third, 4).await;
    world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    assert_eq!(spent(&world).await, 4_000_000, "back to a price that was booked before");
    let world = world.restarted().await;
    assert_eq!(spent(&world).await, 4_000_000, "the store says the same");
    let (count, sum) = world.app.store().event_totals(world.owner.org).await.unwrap();
    assert_eq!((count, sum), (5, Nanos(4_000_000)));
}

#[tokio::test]
async fn a_difference_counts_to_a_session_only_if_the_event_did() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    let row = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    let event = proxied(&world, HOUSE, 1_000).await;
    let of_session =
        EventRecord { id: AttemptId(RandomIds.v7(NOW)), session_id: Some("s".to_owned()), ..event };
    world.app.store().write_events(vec![of_session]).await.unwrap();
    let world = world.restarted().await;
    let limited = BudgetRequest { session_limit_microdollars: Some(20_000), ..org_budget(1_000_000) };
    world.app.upsert_budget(&world.owner, limited).await.unwrap();
    let later = Reported { session_id: Some("s".to_owned()), ..report("later", 10_000) };
    world.app.ingest(&world.agent, vec![later], false).await.unwrap();
    mend(&world, row, 4).await;
    assert_eq!(world.app.rerate(&world.owner, rerate(false)).await.unwrap().adjusted, 2);

    let rule = world.app.list_budgets(&world.owner).await.unwrap().remove(0).record.rule;
    let reserve = Reserve {
        hold: AttemptId(RandomIds.v7(NOW)),
        org: world.owner.org,
        scopes: vec![scope_for(&rule, NOW)],
        session: Some("s".into()),
        finalize: false,
        amount: Nanos(20_000_000),
        lease_ms: 1_000,
        stub: bytes::Bytes::new(),
    };
    let outcome = world.ledger.reserve(&reserve).await.unwrap();
    let ReserveOutcome::Denied { why, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(why, Why::Session { spend: Nanos(10_000_000) }, "what it has spent since it is limited");
}

#[tokio::test]
async fn what_cannot_be_priced_again_is_counted() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    let row = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    let measured = proxied(&world, HOUSE, 1_000).await;
    let like = |change: fn(&mut EventRecord)| {
        let mut event = EventRecord { id: AttemptId(RandomIds.v7(NOW)), ..measured.clone() };
        change(&mut event);
        event
    };
    let others = vec![
        like(|event| event.measurement = "lapsed".to_owned()),
        like(|event| event.detail = None),
        like(|event| (event.measurement, event.cost) = ("estimated".to_owned(), Nanos(9))),
        like(|event| event.detail = Some("{}".to_owned())),
        like(|event| event.model = "unseen".to_owned()),
    ];
    world.app.store().write_events(others).await.unwrap();
    proxied(&world, "nobody-knows", 10).await;
    world.clock.advance_ms(1_000);
    mend(&world, row, 5).await;
    let report: RerateReport = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    // One whose name is not its detail's is priced by the detail.
    assert_eq!((report.examined, report.adjusted), (7, 2), "{report:?}");
    let reasons: Vec<(&str, usize)> = report.skipped.into_iter().collect();
    assert_eq!(
        reasons,
        [("estimated", 1), ("lapsed", 1), ("no_detail", 1), ("no_usage", 1), ("unpriced", 1)]
    );
    let member = world.with_role(Role::Member).await;
    assert_eq!(world.app.rerate(&member, rerate(true)).await.unwrap_err().code, "forbidden");
    let backwards = RerateRequest { until_ms: NOW - 2 * DAY, ..rerate(true) };
    assert_eq!(fields(&world.app.rerate(&world.owner, backwards).await.unwrap_err()), ["until"]);
}

#[tokio::test]
async fn a_call_held_flat_costs_what_it_should_once_there_is_a_price() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    let event = proxied(&world, HOUSE, 1_000).await;
    assert!(event.unpriced);
    let world = world.restarted().await;
    world.app.create_price(&world.owner, new(HOUSE, 3)).await.unwrap();
    let report = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    assert_eq!((report.before, report.after), (Nanos(5_000), Nanos(3_000_000)));
    assert_eq!(spent(&world).await, 3_000_000);
}

#[tokio::test]
async fn a_run_looks_at_the_events_it_is_told_to_and_skips_windows_that_are_over() {
    let world = World::new().await;
    let budget = BudgetRequest { interval: Some(Interval::Daily), ..org_budget(1_000_000) };
    world.app.upsert_budget(&world.owner, budget).await.unwrap();
    let row = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    let (one, _other) = (proxied(&world, HOUSE, 1_000).await, proxied(&world, HOUSE, 1_000).await);
    world.clock.advance_ms(DAY);
    let world = world.restarted().await;
    let today = report("today", 50);
    world.app.ingest(&world.agent, vec![today], false).await.unwrap();
    mend(&world, row, 4).await;
    let named = RerateRequest { events: vec![one.id], ..rerate(false) };
    let done = world.app.rerate(&world.owner, named).await.unwrap();
    assert_eq!((done.examined, done.adjusted, done.sample[0].event), (1, 1, one.id));
    assert_eq!(spent(&world).await, 50_000, "yesterday's difference is not today's");
    let settled = world.app.store().settled(one.charges[0].counter).await.unwrap();
    assert_eq!(settled, Nanos(14_000_000), "but it is yesterday's");
    let all = world.app.rerate(&world.owner, rerate(false)).await.unwrap();
    assert_eq!((all.examined, all.adjusted), (2, 1));
    let many = RerateRequest { events: vec![one.id; 501], ..rerate(true) };
    assert_eq!(fields(&world.app.rerate(&world.owner, many).await.unwrap_err()), ["eventIds"]);
}

#[tokio::test]
async fn runs_at_the_same_time_book_each_difference_once() {
    let world = World::new().await;
    world.app.upsert_budget(&world.owner, org_budget(1_000_000)).await.unwrap();
    let row = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    for _ in 0..20 {
        proxied(&world, HOUSE, 100).await;
    }
    let world = world.restarted().await;
    mend(&world, row, 7).await;
    let runs = (0..4).map(|_| world.app.rerate(&world.owner, rerate(false)));
    let adjusted: usize =
        futures::future::try_join_all(runs).await.unwrap().iter().map(|report| report.adjusted).sum();
    assert_eq!(adjusted, 20);
    assert_eq!(spent(&world).await, 20 * 700_000);
    let world = world.restarted().await;
    assert_eq!(spent(&world).await, 20 * 700_000);
}
