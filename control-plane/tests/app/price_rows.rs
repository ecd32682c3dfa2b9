//! Operators' price rows: whose they are, and when they hold.

use nullspend_control_plane::app::{Caller, ListedPrice, NewPrice, PriceFilter, PriceScope, PriceSource};
use nullspend_core::{
    id::{Ids, OrgId, PriceId, RandomIds, UserId},
    money::Nanos,
    policy::Role,
    price::{Catalogue, Terms},
};

use crate::world::{DAY, NOW, World, fields};

/// A model that the catalogue does not have.
pub const HOUSE: &str = "house-large";

/// Standard rates in whole dollars per million tokens.
fn terms(model: &str, dollars: u64) -> Terms {
    let rate = dollars * 1_000_000;
    let json = format!(
        r#"{{"provider":"openai","model":"{model}","tiers":{{"standard":{{"rates":{{"input":{rate},"output":{rate}}}}}}}}}"#
    );
    Terms::parse(&json).unwrap()
}

pub fn new(model: &str, dollars: u64) -> NewPrice {
    NewPrice {
        scope: PriceScope::Organisation,
        from_ms: None,
        until_ms: None,
        terms: terms(model, dollars),
        reason: String::new(),
    }
}

/// The id of the row that answers, if one does.
async fn answer(world: &World, model: &str, at_ms: i64) -> Option<String> {
    let found = world.app.resolve_price(&world.owner, ("openai", model), Some(at_ms)).await.unwrap();
    found.answer.map(|priced| priced.id().to_owned())
}

/// Ids of all prices of a list, read in pages of two.
async fn listed(world: &World, caller: &Caller, filter: PriceFilter) -> Vec<String> {
    let (mut ids, mut cursor) = (Vec::new(), None);
    loop {
        let page = world.app.list_prices(caller, &filter, Some(2), cursor).await.unwrap();
        ids.extend(page.items.iter().map(|price| match price {
            ListedPrice::Row(record) => record.row.id.to_string(),
            ListedPrice::Catalogue(priced) => priced.id().to_owned(),
        }));
        cursor = page.next;
        if cursor.is_none() {
            return ids;
        }
    }
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_the_catalogue_comes_last() {
    let world = World::new().await;
    let mut own = Vec::new();
    for model in ["house-1", "house-2", "gpt-4o"] {
        world.clock.advance_ms(1);
        own.insert(0, world.app.create_price(&world.owner, new(model, 1)).await.unwrap().row.id.to_string());
    }
    world.clock.advance_ms(1);
    let global = NewPrice { scope: PriceScope::Global, ..new("house-1", 2) };
    let shared = world.app.create_price(&world.owner, global).await.unwrap().row.id.to_string();
    let of = async |filter| listed(&world, &world.owner, filter).await;
    let all = PriceFilter::default;
    let newest_first: Vec<&String> = std::iter::once(&shared).chain(&own).collect();
    assert_eq!(of(all()).await.iter().collect::<Vec<_>>(), newest_first);
    assert_eq!(of(PriceFilter { scope: Some(PriceScope::Global), ..all() }).await, [shared.as_str()]);
    assert_eq!(
        of(PriceFilter { model: Some("house-1".to_owned()), ..all() }).await,
        [shared, own[2].clone()]
    );
    assert!(of(PriceFilter { provider: Some("anthropic".to_owned()), ..all() }).await.is_empty());

    let of_model = |source| PriceFilter { source, model: Some("gpt-4o".to_owned()), ..all() };
    assert_eq!(of(of_model(PriceSource::All)).await, [own[0].as_str(), "openai/gpt-4o"]);
    let whole = of(PriceFilter { source: PriceSource::Catalogue, ..all() }).await;
    assert!(whole.len() > 100 && whole.is_sorted_by(|a, b| a > b), "{whole:?}");
    assert!(whole.len() <= Catalogue::shipped().models().count());
    let error = world.app.list_prices(&world.owner, &all(), Some(101), None).await.unwrap_err();
    assert_eq!(fields(&error), ["limit"]);
}

#[tokio::test]
async fn a_price_that_was_wrong_from_its_start_makes_place_for_the_right_one() {
    let world = World::new().await;
    let wrong = world.app.create_price(&world.owner, new(HOUSE, 10)).await.unwrap().row.id;
    world.clock.advance_ms(DAY);
    let early = world.app.end_price(&world.owner, wrong, Some(NOW - 1)).await.unwrap_err();
    assert_eq!(fields(&early), ["effectiveUntil"]);
    world.app.end_price(&world.owner, wrong, Some(NOW)).await.unwrap();
    assert_eq!(answer(&world, HOUSE, NOW).await, None, "it never held");
    let right = NewPrice { from_ms: Some(NOW), ..new(HOUSE, 1) };
    let right = world.app.create_price(&world.owner, right).await.unwrap().row.id;
    assert_eq!(answer(&world, HOUSE, NOW).await, Some(right.to_string()));
    assert_eq!(listed(&world, &world.owner, PriceFilter::default()).await, [right.to_string()]);
    assert_eq!(
        world.app.price(&world.owner, wrong).await.unwrap().row.version,
        2,
        "events may still name it"
    );
}

#[tokio::test]
async fn a_price_holds_from_its_beginning_until_it_is_ended() {
    let world = World::new().await;
    assert_eq!(answer(&world, HOUSE, NOW).await, None);
    let made = world.app.create_price(&world.owner, new(HOUSE, 2)).await.unwrap();
    let id = Some(made.row.id.to_string());
    assert_eq!((made.row.version, made.row.from_ms, made.row.until_ms), (1, NOW, None));
    assert_eq!(answer(&world, HOUSE, NOW).await, id);
    assert_eq!(answer(&world, HOUSE, NOW - 1).await, None);
    world.clock.advance_ms(DAY);
    let ended = world.app.end_price(&world.owner, made.row.id, None).await.unwrap();
    assert_eq!((ended.row.version, ended.row.until_ms), (2, Some(NOW + DAY)));
    assert_eq!(answer(&world, HOUSE, NOW + DAY).await, None);
    assert_eq!(answer(&world, HOUSE, NOW + DAY - 1).await, id, "the past keeps its price");
    let again = world.app.end_price(&world.owner, made.row.id, Some(NOW + 2 * DAY)).await.unwrap_err();
    assert_eq!(again.code, "conflict", "what has ended stays so");
    let nobody = world.app.end_price(&world.owner, PriceId(RandomIds.v4()), None).await.unwrap_err();
    assert_eq!(nobody.code, "not_found");
    assert_eq!(world.app.price(&world.owner, made.row.id).await.unwrap(), ended);
}

#[tokio::test]
async fn two_rows_of_one_scope_never_price_one_model_at_one_time() {
    let world = World::new().await;
    let first = world.app.create_price(&world.owner, new(HOUSE, 2)).await.unwrap();
    let clash = world.app.create_price(&world.owner, new(HOUSE, 3)).await.unwrap_err();
    assert_eq!(clash.code, "conflict");
    assert!(clash.message.contains(&first.row.id.to_string()), "{clash}");
    assert!(clash.message.contains("end"), "{clash}");
    let alias = Terms { aliases: vec![HOUSE.to_owned()], ..terms("house-small", 1) };
    let clash = world.app.create_price(&world.owner, NewPrice { terms: alias, ..new(HOUSE, 1) }).await;
    assert_eq!(clash.unwrap_err().code, "conflict", "nor does a name belong to two models");
    let global = NewPrice { scope: PriceScope::Global, ..new(HOUSE, 9) };
    world.app.create_price(&world.owner, global).await.unwrap();
    assert_eq!(answer(&world, HOUSE, NOW).await, Some(first.row.id.to_string()), "the own row goes first");
    world.app.end_price(&world.owner, first.row.id, Some(NOW + DAY)).await.unwrap();
    let next = NewPrice { from_ms: Some(NOW + DAY), ..new(HOUSE, 3) };
    let next = world.app.create_price(&world.owner, next).await.unwrap();
    assert_eq!(answer(&world, HOUSE, NOW + DAY).await, Some(next.row.id.to_string()));
}

#[tokio::test]
async fn a_price_that_has_begun_is_ended_and_one_that_has_not_is_withdrawn() {
    let world = World::new().await;
    let later = NewPrice { from_ms: Some(NOW + DAY), ..new("gpt-4o", 3) };
    let later = world.app.create_price(&world.owner, later).await.unwrap().row.id;
    assert_eq!(answer(&world, "gpt-4o", NOW).await.as_deref(), Some("openai/gpt-4o"));
    assert_eq!(answer(&world, "gpt-4o", NOW + DAY).await, Some(later.to_string()));
    world.app.withdraw_price(&world.owner, later).await.unwrap();
    assert_eq!(answer(&world, "gpt-4o", NOW + DAY).await.as_deref(), Some("openai/gpt-4o"));
    world.app.create_price(&world.owner, new("gpt-4o", 3)).await.expect("its place is free again");
    let begun = world.app.create_price(&world.owner, new(HOUSE, 3)).await.unwrap().row.id;
    let refused = world.app.withdraw_price(&world.owner, begun).await.unwrap_err();
    assert_eq!(refused.code, "conflict");
    assert!(refused.message.contains("/end"), "{refused}");
}

#[tokio::test]
async fn prices_are_read_and_written_by_whom_they_concern() {
    let world = World::new().await;
    for role in [Role::Agent, Role::Viewer, Role::Member] {
        let caller = world.with_role(role).await;
        assert_eq!(
            world.app.create_price(&caller, new(HOUSE, 1)).await.unwrap_err().code,
            "forbidden",
            "{role:?}"
        );
    }
    let admin = world.with_role(Role::Admin).await;
    let own = world.app.create_price(&admin, new(HOUSE, 1)).await.unwrap().row.id;
    let global = |dollars| NewPrice { scope: PriceScope::Global, ..new("house-global", dollars) };
    let refused = world.app.create_price(&admin, global(1)).await.unwrap_err();
    assert_eq!(refused.code, "forbidden");
    assert!(refused.message.contains("owners of the first organisation"), "{refused}");
    let shared = world.app.create_price(&world.owner, global(1)).await.unwrap().row.id;
    assert_eq!(world.app.end_price(&admin, shared, None).await.unwrap_err().code, "forbidden");

    let (other, user) = (OrgId(RandomIds.v4()), UserId(RandomIds.v4()));
    world.app.store().insert_org((other, "other", "other"), (user, "o"), NOW + 1).await.unwrap();
    let stranger = Caller { org: other, user, ..world.owner.clone() };
    assert_eq!(world.app.price(&stranger, own).await.unwrap_err().code, "not_found");
    assert_eq!(world.app.end_price(&stranger, own, None).await.unwrap_err().code, "not_found");
    assert_eq!(world.app.create_price(&stranger, global(2)).await.unwrap_err().code, "forbidden");
    assert_eq!(listed(&world, &stranger, PriceFilter::default()).await, [shared.to_string()]);
    let found = world.app.resolve_price(&stranger, ("openai", HOUSE), None).await.unwrap();
    assert!(found.answer.is_none(), "another organisation's row prices nothing here");
    let found = world.app.resolve_price(&stranger, ("openai", "house-global"), None).await.unwrap();
    assert_eq!(found.answer.unwrap().id(), shared.to_string());
}

#[tokio::test]
async fn every_problem_of_a_price_is_told_and_nothing_is_stored() {
    let world = World::new().await;
    let backwards = NewPrice { until_ms: Some(NOW), reason: "x".repeat(501), ..new(HOUSE, 1) };
    let error = world.app.create_price(&world.owner, backwards).await.unwrap_err();
    assert_eq!(fields(&error), ["reason", "effectiveUntil"]);
    let mut absurd = new(HOUSE, 1);
    absurd.terms.tiers.clear();
    let absurd = world.app.create_price(&world.owner, absurd).await.unwrap_err();
    assert!(absurd.message.contains("standard"), "{absurd}");
    assert!(listed(&world, &world.owner, PriceFilter::default()).await.is_empty());
    let changes = world.app.policy_changes();
    world.app.create_price(&world.owner, new(HOUSE, 1)).await.unwrap();
    assert!(changes.has_changed().unwrap(), "data planes are woken");
}

#[tokio::test]
async fn calls_without_a_price_are_refused_or_held_as_the_organisation_says() {
    let world = World::new().await;
    assert_eq!(world.app.unpriced_hold(&world.owner).await.unwrap(), None);
    world.app.set_unpriced_hold(&world.owner, Some(2_000)).await.unwrap();
    assert_eq!(world.app.unpriced_hold(&world.owner).await.unwrap(), Some(Nanos(2_000_000)));
    for bad in [0, -1, 1_000_000_000_001] {
        let error = world.app.set_unpriced_hold(&world.owner, Some(bad)).await.unwrap_err();
        assert_eq!(fields(&error), ["holdMicrodollars"]);
    }
    let member = world.with_role(Role::Member).await;
    assert_eq!(world.app.set_unpriced_hold(&member, None).await.unwrap_err().code, "forbidden");
    world.app.set_unpriced_hold(&world.owner, None).await.unwrap();
    assert_eq!(world.app.unpriced_hold(&world.owner).await.unwrap(), None);
}
