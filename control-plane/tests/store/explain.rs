//! What explanations read: trails, what events said before, denials, traces, names of budgets.

use nullspend_control_plane::store::{EventFilter, EventRecord, EventRevision, Traced};
use nullspend_core::{
    id::{AttemptId, Ids, OrgId, RandomIds},
    ledger::Why,
    money::Nanos,
    policy::Entity,
    price::{Class, Layer, Match},
    trail::{Basis, Step},
};
use nullspend_proto::internal::{self as proto, spool_record::Kind};

use crate::{
    administration::live_budget,
    world::{Founded, NOW, World, attempt, budget, closed, record, records},
};

/// A trail with something in every part.
fn trail(basis: &str) -> proto::Trail {
    proto::Trail {
        price: Some(proto::FoundPrice {
            id: "openai/gpt-4o".to_owned(),
            version: "v".to_owned(),
            model: "gpt-4o".to_owned(),
            layer: "global".to_owned(),
            matched: "snapshot".to_owned(),
            rates_pico: [("input".to_owned(), 2_500_000), ("output".to_owned(), 10_000_000)].into(),
        }),
        bound: Some(proto::Bounded {
            input_tokens: Some(7),
            output_tokens: Some(8),
            cost_nanos: 9,
            hold_nanos: 5,
            counted: true,
            clamp: Some(proto::Clamped { asked_tokens: Some(20), applied_tokens: 8, full_nanos: 30 }),
            slice_tokens: Some(4),
        }),
        budgets: vec![proto::SeenBudget {
            budget_id: budget().bare(),
            entity_type: "tag".to_owned(),
            entity_id: "team=a".to_owned(),
            name: "b".to_owned(),
            policy: "soft_block".to_owned(),
            interval: "daily".to_owned(),
            window_start_ms: 1_000,
            window_end_ms: 2_000,
            generation: 2,
            revision: 3,
            limit_nanos: 100,
            settled_nanos: 40,
            held_nanos: 50,
            session_limit_nanos: Some(6),
            velocity: Some(proto::Velocity { limit_nanos: 1, window_ms: 2, cooldown_ms: 3 }),
            kept_back_nanos: 4,
        }],
        denied_by: Some(proto::DeniedBy {
            place: 0,
            why: "session".to_owned(),
            spend_nanos: Some(5),
            retry_after_ms: Some(6),
        }),
        finalize: true,
        steps: vec![
            proto::Stamp { step: "price".to_owned(), at_us: Some(11) },
            proto::Stamp { step: "close".to_owned(), at_us: None },
        ],
        extensions: 2,
        cut: Some(proto::CutShort { code: "budget_exceeded".to_owned(), budget_id: Some(budget().bare()) }),
        basis: basis.to_owned(),
    }
}

fn told(mut closed: proto::Closed, trail: &proto::Trail) -> proto::Closed {
    closed.stub.as_mut().expect("a stub").trail = trail.to_bytes();
    closed
}

pub async fn a_trail_is_read_as_it_was_told(world: World) {
    let founded = world.founded().await;
    let id = attempt();
    let event = told(closed(&founded, id, 1, &[]), &trail("counted"));
    world.store.ingest_records("dp", &records([event]), NOW).await.unwrap();
    let read = world.store.trail(AttemptId(id)).await.unwrap().expect("a trail");
    let price = read.price.as_ref().expect("priced");
    assert_eq!(
        (price.layer, price.matched, price.model.as_str()),
        (Layer::Global, Match::Snapshot, "gpt-4o")
    );
    assert_eq!(
        price.rates.iter().collect::<Vec<_>>(),
        [(Class::Input, 2_500_000), (Class::Output, 10_000_000)]
    );
    let bound = read.bound.expect("bounded");
    assert_eq!((bound.tokens, bound.cost, bound.hold), (Some((7, 8)), Nanos(9), Nanos(5)));
    let clamp = bound.clamp.expect("clamped");
    assert_eq!((clamp.asked, clamp.applied, clamp.full), (Some(20), 8, Nanos(30)));
    assert_eq!((bound.counted, bound.slice_tokens, read.extensions), (true, Some(4), 2));
    let seen = &read.budgets[0];
    assert_eq!((seen.entity.shown_id().as_str(), seen.name.as_str()), ("team=a", "b"));
    assert_eq!((seen.window_start_ms, seen.window_end_ms), (1_000, Some(2_000)));
    assert_eq!((seen.generation, seen.revision, seen.kept_back), (2, 3, Nanos(4)));
    assert_eq!((seen.limit, seen.settled, seen.held), (Nanos(100), Nanos(40), Nanos(50)));
    assert_eq!(seen.velocity.map(|velocity| velocity.cooldown_ms), Some(3));
    let by = read.denied_by.expect("denied");
    assert_eq!((by.why, by.retry_after_ms), (Why::Session { spend: Nanos(5) }, Some(6)));
    assert_eq!((read.cut.map(|cut| cut.code), read.finalize), (Some("budget_exceeded"), true));
    let steps: Vec<_> = read.steps.iter().map(|stamp| (stamp.step, stamp.at_us)).collect();
    assert_eq!(
        (steps, read.basis),
        (vec![(Step::Price, Some(11)), (Step::Close, None)], Some(Basis::Counted))
    );
    assert_eq!(world.store.trail(AttemptId(attempt())).await.unwrap(), None);

    // A word of a later version makes it unreadable, not wrong.
    let later = attempt();
    let event = told(closed(&founded, later, 1, &[]), &trail("divined"));
    world.store.ingest_records("dp", &records([event]), NOW).await.unwrap();
    assert_eq!(world.store.trail(AttemptId(later)).await.unwrap(), None);
}

fn crashed(closed: &proto::Closed, cost: i64) -> proto::Closed {
    proto::Closed {
        measurement: "lapsed".to_owned(),
        cost_nanos: cost,
        ended_at_ms: NOW - 5,
        ..told(closed.clone(), &trail(""))
    }
}

pub async fn what_a_lapse_said_is_kept_and_never_replaces_the_truth(world: World) {
    let founded = world.founded().await;
    for together in [false, true] {
        for lapse_first in [true, false] {
            let id = attempt();
            let truth = told(closed(&founded, id, 3, &[]), &trail("usage"));
            let lapse = crashed(&truth, 50);
            let both = if lapse_first { [lapse, truth] } else { [truth, lapse] };
            if together {
                world.store.ingest_records("dp", &records(both), NOW).await.unwrap();
            } else {
                for (one, at_ms) in both.into_iter().zip([NOW, NOW + 9]) {
                    world.store.ingest_records("dp", &records([one]), at_ms).await.unwrap();
                }
            }
            let id = AttemptId(id);
            let event = world.store.event(founded.org, id).await.unwrap().expect("an event");
            assert_eq!((event.measurement.as_str(), event.cost), ("exact", Nanos(3)));
            let basis = world.store.trail(id).await.unwrap().expect("a trail").basis;
            assert_eq!(basis, Some(Basis::Usage), "together {together}, lapse first {lapse_first}");
            let said = world.store.event_revisions(id).await.unwrap();
            let lapse = EventRevision {
                revision: 1,
                measurement: "lapsed".to_owned(),
                cost: Nanos(50),
                ended_at_ms: NOW - 5,
                replaced_at_ms: NOW + 9,
            };
            let replaced = lapse_first && !together;
            assert_eq!(said, if replaced { vec![lapse] } else { vec![] }, "{together} {lapse_first}");
        }
    }
}

pub async fn a_lapse_told_by_a_sweeper_takes_the_trail_of_its_owner(world: World) {
    let founded = world.founded().await;
    let id = attempt();
    let swept = proto::Closed { measurement: "lapsed".to_owned(), ..closed(&founded, id, 50, &[]) };
    world.store.ingest_records("sweeper", &records([swept.clone()]), NOW).await.unwrap();
    assert_eq!(world.store.trail(AttemptId(id)).await.unwrap(), None);
    let report = world.store.ingest_records("owner", &records([crashed(&swept, 50)]), NOW).await.unwrap();
    assert_eq!((report.duplicates, report.replaced), (1, 0));
    assert!(world.store.trail(AttemptId(id)).await.unwrap().is_some());
}

fn denied(founded: &Founded, id: uuid::Uuid, at_ms: i64) -> proto::Denied {
    proto::Denied {
        attempt_id: id.to_string(),
        org_id: founded.org.bare(),
        key_id: founded.key.bare(),
        at_ms,
        code: "budget_exceeded".to_owned(),
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        trace_id: "cd".repeat(16),
        session_id: Some("s".to_owned()),
        estimated_nanos: 77,
        details_json: "{\"a\":1}".to_owned(),
        suppressed: 3,
        trail: trail("").to_bytes(),
        ..proto::Denied::default()
    }
}

pub async fn denials_go_with_their_trails(world: World) {
    let founded = world.founded().await;
    let (old, young) = (attempt(), attempt());
    let batch = [
        record(1, Kind::Denied(denied(&founded, old, NOW))),
        record(2, Kind::Denied(denied(&founded, young, NOW + 1))),
    ];
    world.store.ingest_records("dp", &batch, NOW).await.unwrap();
    let (denial, key_name) =
        world.store.denial(founded.org, AttemptId(old)).await.unwrap().expect("a denial");
    assert_eq!((denial.code.as_str(), denial.details.as_str()), ("budget_exceeded", "{\"a\":1}"));
    assert_eq!((denial.estimated_nanos, denial.suppressed), (77, 3));
    assert_eq!((denial.key, key_name.as_deref()), (Some(founded.key), Some("key 1")));
    let elsewhere = OrgId(RandomIds.v4());
    assert_eq!(world.store.denial(elsewhere, AttemptId(old)).await.unwrap(), None);

    assert_eq!(world.store.purge_denials(NOW + 1, 10).await.unwrap(), 1);
    assert_eq!(world.store.denial(founded.org, AttemptId(old)).await.unwrap(), None);
    assert_eq!(world.store.trail(AttemptId(old)).await.unwrap(), None, "nothing is left of it");
    assert!(world.store.trail(AttemptId(young)).await.unwrap().is_some());
}

pub async fn a_trace_leads_to_its_newest_attempt(world: World) {
    let founded = world.founded().await;
    let (event, denial) = (attempt(), attempt());
    let mut forwarded = closed(&founded, event, 1, &[]);
    forwarded.stub.as_mut().unwrap().trace_id = "cd".repeat(16);
    let find = async || world.store.newest_of_trace(founded.org, &"cd".repeat(16)).await.unwrap();
    assert_eq!(find().await, None);
    world.store.ingest_records("dp", &records([forwarded]), NOW).await.unwrap();
    assert_eq!(find().await, Some(Traced::Event(AttemptId(event))));
    let original = world.store.event(founded.org, AttemptId(event)).await.unwrap().unwrap();
    let adjustment = EventRecord {
        id: AttemptId(attempt()),
        ended_at_ms: original.ended_at_ms + 1,
        adjusts: Some(original.id),
        ..original
    };
    world.store.write_events(vec![adjustment]).await.unwrap();
    assert_eq!(find().await, Some(Traced::Event(AttemptId(event))), "what was booked later decided nothing");
    let later = record(2, Kind::Denied(denied(&founded, denial, NOW + 1)));
    world.store.ingest_records("dp", &[later], NOW).await.unwrap();
    assert_eq!(find().await, Some(Traced::Denial(AttemptId(denial))));
    let elsewhere = OrgId(RandomIds.v4());
    assert_eq!(world.store.newest_of_trace(elsewhere, &"cd".repeat(16)).await.unwrap(), None);
    let all = world.store.list_events(founded.org, &EventFilter::default(), 9).await.unwrap();
    assert_eq!(all.len(), 2);
}

pub async fn budgets_keep_their_names_when_they_are_deleted(world: World) {
    let founded = world.founded().await;
    let id = live_budget(&world, &founded).await;
    let ids = [id, budget()];
    let names = world.store.budget_names(founded.org, &ids).await.unwrap();
    assert_eq!(names.len(), 1);
    world.store.delete_budget(founded.org, id, NOW).await.unwrap();
    let names = world.store.budget_names(founded.org, &ids).await.unwrap();
    assert_eq!(names[&id].entity, Entity::Customer("any".to_owned()));
    assert!(world.store.budget_names(OrgId(RandomIds.v4()), &ids).await.unwrap().is_empty());
}
