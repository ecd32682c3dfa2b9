//! Reading events and denials.

use std::collections::BTreeMap;

use nullspend_control_plane::store::{Cursor, EventFilter, Source};
use nullspend_core::{
    attempt::BudgetCharge,
    id::{ActionId, AttemptId, Ids, KeyId, OrgId, RandomIds},
    ledger::CounterKey,
    money::Nanos,
};
use nullspend_proto::internal::{self as proto, spool_record::Kind};

use crate::world::{Founded, NOW, World, attempt, budget, closed, record, records};

pub async fn an_event_keeps_everything(world: World) {
    let founded = world.founded().await;
    let (id, budget) = (attempt(), budget());
    let mut full = closed(&founded, id, 10, &[budget]);
    let action = ActionId(RandomIds.v4());
    let stub = full.stub.as_mut().unwrap();
    stub.customer = Some("acme".to_owned());
    stub.action_id = Some(action.bare());
    stub.charges[0].window_end_ms = 2_000;
    (stub.stream, stub.unpriced) = (true, true);
    stub.price_id = Some("openai/gpt-4o".to_owned());
    stub.price_version = Some("v".to_owned());
    full.provider_request_id = Some("req_1".to_owned());
    full.served_model = Some("gpt-4o-2024".to_owned());
    full.stop_reason = Some("stop".to_owned());
    full.breakdown = Some(proto::Breakdown {
        input_nanos: 1,
        cached_nanos: 2,
        output_nanos: 3,
        fees_nanos: 4,
        reasoning_nanos: 5,
        tool_definition_nanos: 6,
    });
    (full.upstream_ms, full.ttfb_ms, full.overhead_us) = (7, Some(8), 9);
    full.system_tags = BTreeMap::from([("_ns_estimated".to_owned(), "true".to_owned())]);
    world.store.ingest_records("dp", &records([full]), NOW + 3).await.unwrap();

    let event = world.store.event(founded.org, AttemptId(id)).await.unwrap().unwrap();
    assert_eq!((event.request_id.as_str(), event.served_model.as_deref()), ("req_1", Some("gpt-4o-2024")));
    assert_eq!(
        (event.key, event.user, event.key_name.as_deref()),
        (Some(founded.key), Some(founded.user), Some("key 1"))
    );
    assert_eq!((event.started_at_ms, event.ended_at_ms, event.ingested_at_ms), (NOW - 500, NOW, NOW + 3));
    assert_eq!(
        (event.duration_ms, event.upstream_ms, event.ttfb_ms, event.overhead_us),
        (Some(500), Some(7), Some(8), Some(9))
    );
    assert_eq!(
        (event.source, event.event_type.as_str(), event.status_code),
        (Source::Proxy, "llm", Some(200))
    );
    assert_eq!((event.customer.as_deref(), event.action), (Some("acme"), Some(action)));
    assert!(event.stream && event.unpriced);
    let parts = event.parts.unwrap();
    assert_eq!(
        [
            parts.input.0,
            parts.cached.0,
            parts.output.0,
            parts.fees.0,
            parts.reasoning.0,
            parts.tool_definition.0
        ],
        [1, 2, 3, 4, 5, 6]
    );
    assert_eq!(event.tags.len(), 2);
    let counter = CounterKey { budget, generation: 1, window_start_ms: 1_000 };
    assert_eq!(event.charges, vec![BudgetCharge { counter, window_end_ms: Some(2_000), of_session: false }]);
    assert_eq!((event.held, event.dataplane_id.as_deref()), (Some(Nanos(10)), Some("dp")));
    assert_eq!(
        world.store.event(OrgId(RandomIds.v4()), AttemptId(id)).await.unwrap(),
        None,
        "not another organisation's"
    );
}

pub async fn filters_hold_together(world: World) {
    let founded = world.founded().await;
    let mut other = closed(&founded, attempt(), 2, &[]);
    let stub = other.stub.as_mut().unwrap();
    stub.key_id = RandomIds.v4().to_string();
    stub.model = "claude".to_owned();
    stub.provider = "anthropic".to_owned();
    stub.trace_id = "cd".repeat(16);
    stub.session_id = Some("s2".to_owned());
    stub.budget_status = "skipped".to_owned();
    stub.tags = BTreeMap::from([("team".to_owned(), "b".to_owned()), ("env".to_owned(), "x".to_owned())]);
    other.provider_request_id = Some("req_2".to_owned());
    world
        .store
        .ingest_records("dp", &records([closed(&founded, attempt(), 1, &[]), other]), NOW)
        .await
        .unwrap();

    let tag =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let text = |text: &str| Some(text.to_owned());
    let none = EventFilter::default;
    for (filter, costs) in [
        (none(), vec![1, 2]),
        (EventFilter { key: Some(founded.key), ..none() }, vec![1]),
        (EventFilter { key: Some(KeyId(RandomIds.v4())), ..none() }, vec![]),
        (EventFilter { model: text("claude"), ..none() }, vec![2]),
        (EventFilter { provider: text("openai"), ..none() }, vec![1]),
        (EventFilter { source: Some(Source::Proxy), ..none() }, vec![1, 2]),
        (EventFilter { source: Some(Source::Api), ..none() }, vec![]),
        (EventFilter { budget_status: text("skipped"), ..none() }, vec![2]),
        (EventFilter { trace_id: Some("ab".repeat(16)), ..none() }, vec![1]),
        (EventFilter { session_id: text("s2"), ..none() }, vec![2]),
        (EventFilter { request_id: text("req_2"), ..none() }, vec![2]),
        (EventFilter { tags: tag(&[("team", "b")]), ..none() }, vec![2]),
        (EventFilter { tags: tag(&[("team", "b"), ("env", "x")]), ..none() }, vec![2]),
        (EventFilter { tags: tag(&[("team", "a"), ("env", "x")]), ..none() }, vec![]),
        (EventFilter { model: text("claude"), provider: text("openai"), ..none() }, vec![]),
    ] {
        let listed = world.store.list_events(founded.org, &filter, 100).await.unwrap();
        let mut found: Vec<i64> = listed.iter().map(|event| event.cost.0).collect();
        found.sort_unstable();
        assert_eq!(found, costs, "{filter:?}");
    }
    let elsewhere = world.store.list_events(OrgId(RandomIds.v4()), &none(), 100).await.unwrap();
    assert!(elsewhere.is_empty());
}

pub async fn pages_tile_the_list(world: World) {
    let founded = world.founded().await;
    let events =
        (0..11).map(|n| proto::Closed { ended_at_ms: NOW + n / 4, ..closed(&founded, attempt(), n, &[]) });
    world.store.ingest_records("dp", &records(events), NOW).await.unwrap();
    let all = world.store.list_events(founded.org, &EventFilter::default(), 100).await.unwrap();
    assert_eq!(all.len(), 11);
    let mut paged = Vec::new();
    let mut filter = EventFilter::default();
    loop {
        let page = world.store.list_events(founded.org, &filter, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.cursor = Some(Cursor { at_ms: last.ended_at_ms, id: last.id.bare() });
        paged.extend(page);
    }
    assert_eq!(paged, all);
    let ids: Vec<AttemptId> = all.iter().map(|event| event.id).chain([AttemptId(attempt())]).collect();
    assert_eq!(world.store.event_times(founded.org, &ids).await.unwrap().len(), 11);
}

fn denied(founded: &Founded, at_ms: i64) -> proto::Denied {
    proto::Denied {
        attempt_id: attempt().to_string(),
        org_id: founded.org.bare(),
        key_id: founded.key.bare(),
        at_ms,
        code: "budget_exceeded".to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        trace_id: "ab".repeat(16),
        tags: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        estimated_nanos: 77,
        details_json: "{}".to_owned(),
        suppressed: 3,
        ..proto::Denied::default()
    }
}

pub async fn denials_are_listed_apart_and_age(world: World) {
    let founded = world.founded().await;
    let batch: Vec<_> =
        (0..3).map(|n| record(n + 1, Kind::Denied(denied(&founded, NOW + n as i64)))).collect();
    assert_eq!(world.store.ingest_records("dp", &batch, NOW).await.unwrap().denials, 3);
    assert_eq!(world.store.ingest_records("dp", &batch, NOW).await.unwrap().denials, 0);
    assert!(world.store.list_events(founded.org, &EventFilter::default(), 9).await.unwrap().is_empty());
    let mut filter = EventFilter { budget_status: Some("denied".to_owned()), ..EventFilter::default() };
    filter.tags = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    let listed = world.store.list_events(founded.org, &filter, 2).await.unwrap();
    assert_eq!(listed.iter().map(|event| event.ended_at_ms).collect::<Vec<_>>(), [NOW + 2, NOW + 1]);
    assert_eq!((listed[0].cost, listed[0].held), (Nanos::ZERO, Some(Nanos(77))));
    filter.cursor = Some(Cursor { at_ms: listed[1].ended_at_ms, id: listed[1].id.bare() });
    assert_eq!(world.store.list_events(founded.org, &filter, 2).await.unwrap().len(), 1);
    filter.cursor = None;
    assert_eq!(world.store.purge_denials(NOW + 2, 1).await.unwrap(), 1);
    assert_eq!(world.store.purge_denials(NOW + 2, 10).await.unwrap(), 1);
    assert_eq!(world.store.purge_denials(NOW + 2, 10).await.unwrap(), 0);
    assert_eq!(world.store.list_events(founded.org, &filter, 9).await.unwrap().len(), 1);
    filter.source = Some(Source::Api);
    assert!(world.store.list_events(founded.org, &filter, 9).await.unwrap().is_empty());
}

pub async fn reported_requests_are_unique(world: World) {
    let founded = world.founded().await;
    world.store.ingest_records("dp", &records([closed(&founded, attempt(), 1, &[])]), NOW).await.unwrap();
    let listed = world.store.list_events(founded.org, &EventFilter::default(), 1).await.unwrap();
    let mut report = listed[0].clone();
    report.source = Source::Api;
    let with_new_id = |mut event: nullspend_control_plane::store::EventRecord| {
        event.id = AttemptId(attempt());
        event
    };
    let (first, second) = (with_new_id(report.clone()), with_new_id(report.clone()));
    let mut elsewhere = with_new_id(report);
    elsewhere.org = OrgId(RandomIds.v4());
    let written = world.store.write_events(vec![first.clone()]).await.unwrap();
    assert!(written.inserted.contains(&first.id), "the proxy's event of that request is another matter");
    let written = world.store.write_events(vec![second.clone(), elsewhere.clone()]).await.unwrap();
    assert!(!written.inserted.contains(&second.id), "one event for a reported request");
    assert!(written.inserted.contains(&elsewhere.id), "each organisation has its own requests");
}
