//! The kill switch: what an organisation has frozen, and whether a call is part of it. A frozen call is refused whatever
//! its budgets say, before anything is held for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use crate::{
    id::{FreezeId, OrgId},
    policy::{Entity, KeyIdentity},
    price::Prices,
};

/// What a freeze stops.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Every call that a budget of this entity would count.
    Entity(Entity),
    /// Every call of this model, by `model` or `provider/model`.
    Model(String),
}

impl Target {
    /// `org`, `user`, `api_key`, `tag`, `customer` or `model`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Entity(entity) => entity.kind(),
            Self::Model(_) => "model",
        }
    }

    /// The id as the database and the planes' protocol hold it.
    #[must_use]
    pub fn stored_id(&self) -> String {
        match self {
            Self::Entity(entity) => entity.stored_id(),
            Self::Model(name) => name.clone(),
        }
    }

    /// The id as people and agents see it.
    #[must_use]
    pub fn shown_id(&self) -> String {
        match self {
            Self::Entity(entity) => entity.shown_id(),
            Self::Model(name) => name.clone(),
        }
    }

    /// From the words of the database or the planes' protocol; ids may be prefixed or bare.
    #[must_use]
    pub fn parse(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "model" => (!id.is_empty()).then(|| Self::Model(id.to_owned())),
            _ => Entity::parse(kind, id).map(Self::Entity),
        }
    }
}

/// One freeze in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// The freeze.
    pub freeze: FreezeId,
    /// The organisation whose calls it stops.
    pub org: OrgId,
    /// What it stops.
    pub target: Target,
    /// Why, in the words of whoever froze it; may be empty.
    pub reason: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
}

/// Every freeze in force, found by what a call is.
#[derive(Clone, Debug, Default)]
pub struct Freezes {
    by_id: HashMap<FreezeId, Arc<Freeze>>,
    by_target: HashMap<(OrgId, Target), Vec<Arc<Freeze>>>,
}

impl Freezes {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether nothing is frozen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Adds a freeze, or replaces the one of its id.
    pub fn put(&mut self, freeze: Freeze) {
        self.lift(freeze.freeze);
        let freeze = Arc::new(freeze);
        self.by_target.entry(place(&freeze)).or_default().push(Arc::clone(&freeze));
        self.by_id.insert(freeze.freeze, freeze);
    }

    /// Forgets a freeze.
    pub fn lift(&mut self, freeze: FreezeId) {
        let Some(old) = self.by_id.remove(&freeze) else { return };
        let place = place(&old);
        if let Some(same) = self.by_target.get_mut(&place) {
            same.retain(|other| other.freeze != freeze);
            if same.is_empty() {
                self.by_target.remove(&place);
            }
        }
    }

    /// The freeze that stops a caller whatever it asks for: of its organisation, user, key, tags or customer, in this order.
    #[must_use]
    pub fn of_caller(
        &self,
        key: &KeyIdentity,
        tags: &BTreeMap<String, String>,
        customer: Option<&str>,
    ) -> Option<&Arc<Freeze>> {
        if self.is_empty() {
            return None;
        }
        let fixed = [Entity::Org(key.org), Entity::User(key.user), Entity::ApiKey(key.key)];
        let tagged = tags.iter().map(|(name, value)| Entity::Tag(format!("{name}={value}")));
        let customers = customer.map(|id| Entity::Customer(id.to_owned()));
        fixed
            .into_iter()
            .chain(tagged)
            .chain(customers)
            .find_map(|entity| self.find(key.org, Target::Entity(entity)))
    }

    /// The freeze that stops a model. A freeze of `gpt-4o` stops every name whose price is looked up at `gpt-4o`: its
    /// aliases, dated snapshots and fine-tunes, also with a vendor before it (`openai/gpt-4o`). A freeze of a snapshot or
    /// fine-tune stops that one alone. Case does not count: a switch that is meant to stop must not miss by a capital.
    #[must_use]
    pub fn of_model(&self, org: OrgId, provider: &str, model: &str, prices: &Prices) -> Option<&Arc<Freeze>> {
        if self.is_empty() {
            return None;
        }
        let names = prices.names_of(org, provider, model).into_iter();
        let names = names.flat_map(|name| [format!("{provider}/{name}"), name]);
        let names: BTreeSet<String> = names.map(|name| name.to_lowercase()).collect();
        names.into_iter().find_map(|name| self.find(org, Target::Model(name)))
    }

    fn find(&self, org: OrgId, target: Target) -> Option<&Arc<Freeze>> {
        self.by_target.get(&(org, target)).and_then(|same| same.first())
    }
}

/// Where a freeze is looked for.
fn place(freeze: &Freeze) -> (OrgId, Target) {
    let target = match &freeze.target {
        Target::Model(name) => Target::Model(name.to_lowercase()),
        Target::Entity(entity) => Target::Entity(entity.clone()),
    };
    (freeze.org, target)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        id::{KeyId, PriceId, UserId},
        policy::Role,
        price::{Catalogue, PriceRow, Terms},
    };

    const ORG: OrgId = OrgId(Uuid::from_u128(1));

    fn freeze(id: u128, kind: &str, entity: &str) -> Freeze {
        Freeze {
            freeze: FreezeId(Uuid::from_u128(id)),
            org: ORG,
            target: Target::parse(kind, entity).unwrap(),
            reason: String::new(),
            since_ms: 5,
        }
    }

    fn stopped(frozen: &str, provider: &str, model: &str) -> bool {
        let mut freezes = Freezes::default();
        freezes.put(freeze(1, "model", frozen));
        let prices = Prices::default();
        let elsewhere = freezes.of_model(OrgId(Uuid::from_u128(9)), provider, model, &prices);
        assert!(elsewhere.is_none(), "another organisation");
        freezes.of_model(ORG, provider, model, &prices).is_some()
    }

    #[test]
    fn a_model_is_stopped_under_all_its_names_and_no_other() {
        #[rustfmt::skip]
        let cases = [
            ("gpt-4o", "openai", "gpt-4o", true),
            ("gpt-4o", "openai", "GPT-4o", true),
            ("GPT-4O", "openai", "gpt-4o", true),
            ("gpt-4o", "openai", "gpt-4o-2024-08-06", true),
            ("gpt-4o", "openai", "gpt-4o-2031-01-02", true),
            ("gpt-4o", "openai", "openai/gpt-4o", true),
            ("gpt-4o", "openai", "ft:gpt-4o-2024-08-06:acme::x", true),
            ("gpt-4o", "openai", "ft:GPT-4o-2024-08-06:acme::x", true),
            ("gpt-4o-2024-08-06", "openai", "ft:gpt-4o-2024-08-06:acme::x", true),
            ("openai/gpt-4o", "openai", "gpt-4o-2024-08-06", true),
            ("anthropic/gpt-4o", "openai", "gpt-4o", false),
            ("gpt-4o", "openai", "gpt-4o-mini", false),
            ("gpt-4o", "openai", "gpt-4o-mini-2024-07-18", false),
            ("gpt-4o-2024-08-06", "openai", "gpt-4o", false),
            ("gpt-4o-2024-08-06", "openai", "gpt-4o-2024-05-13", false),
            ("claude-haiku-4-5", "anthropic", "claude-haiku-4-5-20251001", true),
            ("claude-haiku-4-5", "openai", "anthropic/claude-haiku-4-5", true),
            ("house-model", "openai", "house-model", true),
            ("house-model", "openai", "house-model-2031-01-02", true),
            ("house-model", "openai", "house-model-latest", true),
            ("house-model", "openai", "ft:house-model:acme::x", true),
            ("house-model", "openai", "house", false),
        ];
        for (frozen, provider, model, expected) in cases {
            assert_eq!(stopped(frozen, provider, model), expected, "{model} under a freeze of {frozen}");
        }
    }

    #[test]
    fn an_operators_own_names_lead_to_a_frozen_model_too() {
        let terms = r#"{"provider":"openai","model":"House-Model","aliases":["hm"],
            "tiers":{"standard":{"rates":{"input":1000,"output":1000}}}}"#;
        let row = PriceRow {
            id: PriceId(Uuid::from_u128(1)),
            version: 1,
            org: Some(ORG),
            from_ms: 0,
            until_ms: None,
            terms: Terms::parse(terms).unwrap(),
        };
        let prices = Prices::new(Catalogue::shipped(), &[row]).unwrap();
        let mut freezes = Freezes::default();
        freezes.put(freeze(1, "model", "House-Model"));
        for (name, stopped) in
            [("hm", true), ("hm-2031-01-02", true), ("house-model", true), ("other", false)]
        {
            assert_eq!(freezes.of_model(ORG, "openai", name, &prices).is_some(), stopped, "{name}");
        }
    }

    #[test]
    fn a_caller_is_stopped_by_whatever_it_is_part_of() {
        let (user, key) = (UserId(Uuid::from_u128(3)), KeyId(Uuid::from_u128(2)));
        let identity = KeyIdentity {
            key,
            org: ORG,
            user,
            name: String::new(),
            role: Role::Agent,
            default_tags: BTreeMap::new(),
            locked_tags: vec![],
            required_tags: vec![],
            allowed_models: None,
            allowed_providers: None,
            api_version: String::new(),
        };
        let other = KeyIdentity { org: OrgId(Uuid::from_u128(8)), ..identity.clone() };
        let tags = BTreeMap::from([("team".to_owned(), "a=b".to_owned())]);
        let cases = [
            ("org", ORG.to_string(), true),
            ("user", user.bare(), true),
            ("api_key", key.to_string(), true),
            ("tag", "team=a=b".to_owned(), true),
            ("customer", "acme".to_owned(), true),
            ("api_key", KeyId(Uuid::from_u128(77)).bare(), false),
            ("tag", "team=a".to_owned(), false),
            ("customer", "acm".to_owned(), false),
        ];
        for (kind, id, expected) in cases {
            let mut freezes = Freezes::default();
            freezes.put(freeze(1, kind, &id));
            assert_eq!(freezes.of_caller(&identity, &tags, Some("acme")).is_some(), expected, "{kind} {id}");
            assert!(freezes.of_caller(&other, &tags, Some("acme")).is_none(), "another organisation, {kind}");
            freezes.lift(FreezeId(Uuid::from_u128(1)));
            assert!(freezes.is_empty() && freezes.by_target.is_empty());
        }
    }

    #[test]
    fn of_two_freezes_of_one_thing_both_must_be_lifted() {
        let mut freezes = Freezes::default();
        freezes.put(freeze(1, "model", "m"));
        freezes.put(freeze(2, "model", "M"));
        freezes.put(Freeze { reason: "later".into(), ..freeze(2, "model", "M") });
        assert_eq!(freezes.len(), 2);
        let stops = |freezes: &Freezes| freezes.of_model(ORG, "openai", "m", &Prices::default()).is_some();
        freezes.lift(FreezeId(Uuid::from_u128(1)));
        assert!(stops(&freezes));
        freezes.lift(FreezeId(Uuid::from_u128(2)));
        assert!(!stops(&freezes));
    }
}
