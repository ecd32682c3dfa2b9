//! Price rows, catalogues, and what pricing again reads.

use nullspend_control_plane::store::{PriceRecord, RerateFilter, StoreError, StoredCatalogue};
use nullspend_core::{
    id::{AttemptId, Ids, OrgId, PriceId, RandomIds},
    money::Nanos,
    price::{PriceRow, Terms},
};

use crate::world::{NOW, World, attempt, budget, closed, records};

const TERMS: &str = r#"{"provider":"openai","model":"gpt-4o","tiers":{"standard":{"rates":{"input":9000,"output":9000},
    "above":{"tokens":5,"rates":{"input":9000,"output":9001}}}},"fees":{"web_search":5},"max_output":7}"#;

fn price(org: Option<OrgId>, from_ms: i64) -> PriceRecord {
    let row = PriceRow {
        id: PriceId(RandomIds.v4()),
        version: 1,
        org,
        from_ms,
        until_ms: None,
        terms: Terms::parse(TERMS).unwrap(),
    };
    PriceRecord {
        row,
        reason: "because".to_owned(),
        created_by: "ns_key_x".to_owned(),
        created_at_ms: from_ms,
        updated_at_ms: from_ms,
    }
}

async fn put(world: &World, record: PriceRecord) -> u64 {
    let put = world.store.change_prices("me", |_| Ok::<_, StoreError>(record)).await;
    put.unwrap().1
}

pub async fn a_price_is_kept_with_every_version_of_its_end(world: World) {
    let founded = world.founded().await;
    let (own, all) = (price(Some(founded.org), NOW), price(None, NOW + 1));
    put(&world, own.clone()).await;
    let before = put(&world, all.clone()).await;
    assert_eq!(world.store.prices().await.unwrap(), [own.clone(), all.clone()]);
    let mut ended = own.clone();
    (ended.row.until_ms, ended.row.version, ended.updated_at_ms) = (Some(NOW + 9), 2, NOW + 5);
    let revision = put(&world, ended.clone()).await;
    assert_eq!(world.store.prices().await.unwrap()[0], ended);
    assert_eq!(world.store.price_versions(own.row.id).await.unwrap(), [(1, None), (2, Some(NOW + 9))]);
    let delta = world.store.policy_since(before).await.unwrap();
    assert_eq!((delta.revision, delta.prices), (revision, vec![ended.row.clone()]));
    assert_eq!(world.store.policy_snapshot().await.unwrap().prices, [ended.row, all.row]);
}

pub async fn a_refused_price_changes_nothing(world: World) {
    let position = world.store.policy_position().await.unwrap();
    let refused: Result<_, StoreError> = world
        .store
        .change_prices("me", |known| {
            assert!(known.is_empty());
            Err(StoreError::Conflict { op: "test", source: None })
        })
        .await;
    assert!(refused.is_err());
    assert_eq!(world.store.policy_position().await.unwrap(), position);
    assert!(world.store.prices().await.unwrap().is_empty());
}

pub async fn the_last_catalogue_is_in_force(world: World) {
    let catalogue = |n: u32| StoredCatalogue { version: n.to_string(), text: format!("text {n}") };
    assert_eq!(world.store.catalogue_since(0).await.unwrap(), None);
    let first = world.store.put_catalogue(&catalogue(1), NOW).await.unwrap().unwrap();
    assert_eq!(world.store.put_catalogue(&catalogue(1), NOW).await.unwrap(), None, "it is in force already");
    let second = world.store.put_catalogue(&catalogue(2), NOW).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(world.store.catalogue_since(0).await.unwrap(), Some(catalogue(2)));
    assert_eq!(world.store.catalogue_since(i64::try_from(second).unwrap()).await.unwrap(), None);
    assert_eq!(world.store.policy_since(first).await.unwrap().catalogue, Some(catalogue(2)));
    // And back again, as another one.
    assert!(world.store.put_catalogue(&catalogue(1), NOW).await.unwrap().is_some());
    assert_eq!(world.store.catalogue_since(0).await.unwrap(), Some(catalogue(1)));
}

pub async fn an_organisation_chooses_what_happens_without_a_price(world: World) {
    assert_eq!(world.store.operating_org().await.unwrap(), None);
    let founded = world.founded().await;
    assert_eq!(world.store.operating_org().await.unwrap(), Some(founded.org));
    let revision = world.store.set_unpriced_hold(founded.org, Some(5)).await.unwrap();
    let orgs = world.store.policy_since(revision - 1).await.unwrap().orgs;
    assert_eq!(orgs[0].1.unpriced_hold, Some(Nanos(5)));
    world.store.set_unpriced_hold(founded.org, None).await.unwrap();
    assert_eq!(world.store.policy_since(revision).await.unwrap().orgs[0].1.unpriced_hold, None);
}

pub async fn events_are_read_again_page_by_page_with_their_adjustments(world: World) {
    let founded = world.founded().await;
    let window = budget();
    let mut made = Vec::new();
    for n in 0..5 {
        let mut one = closed(&founded, attempt(), 100, &[window]);
        one.ended_at_ms = NOW + n / 2;
        one.cost_detail_json = format!("{{\"n\":{n}}}");
        made.push(one);
    }
    world.store.ingest_records("dp", &records(made), NOW).await.unwrap();
    let mut filter = RerateFilter { from_ms: NOW, until_ms: NOW + 2, ..RerateFilter::default() };
    let page = world.store.events_to_rerate(founded.org, &filter, 3).await.unwrap();
    assert_eq!(page.len(), 3);
    assert!(page[0].detail.as_deref().unwrap().starts_with("{\"n\":"));
    let last = page.last().unwrap();
    filter.after =
        Some(nullspend_control_plane::store::Cursor { at_ms: last.ended_at_ms, id: last.id.bare() });
    let rest = world.store.events_to_rerate(founded.org, &filter, 3).await.unwrap();
    assert_eq!(rest.len(), 1, "four ended before the end of the span");
    assert!(page.iter().all(|event| event.id != rest[0].id));
    filter.model = Some("other".to_owned());
    assert!(world.store.events_to_rerate(founded.org, &filter, 3).await.unwrap().is_empty());

    let mut adjustment = page[0].clone();
    adjustment.id = AttemptId(attempt());
    (adjustment.cost, adjustment.adjusts) = (Nanos(-30), Some(page[0].id));
    adjustment.event_type = "adjustment".to_owned();
    world.store.write_events(vec![adjustment.clone()]).await.unwrap();
    world.store.write_events(vec![adjustment.clone()]).await.unwrap();
    let adjusted = world.store.adjustments(&[page[0].id, page[1].id]).await.unwrap();
    assert_eq!(adjusted.get(&page[0].id), Some(&(1, Nanos(-30))));
    assert_eq!(adjusted.get(&page[1].id), None);
    let counter = page[0].charges[0].counter;
    assert_eq!(
        world.store.settled(counter).await.unwrap(),
        Nanos(5 * 100 - 30),
        "the window takes the difference"
    );
    let stored = world.store.event(founded.org, adjustment.id).await.unwrap().unwrap();
    assert_eq!((stored.adjusts, stored.cost), (Some(page[0].id), Nanos(-30)));
}
