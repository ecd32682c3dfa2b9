//! What the data plane knows of callers and budgets: the snapshot it enforces, alone if it must (design law 7).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::Arc,
};

use crate::{
    freeze::{Freeze, Freezes},
    id::{BudgetId, FreezeId, KeyId, OrgId, UserId},
    money::Nanos,
    price::Prices,
    window::{Interval, TimeZone},
};

/// What a key or person may do, ascending; `Agent` alone may proxy and is no rank among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Proxy calls, and the methods the contract opens to API keys.
    Agent,
    /// Read.
    Viewer,
    /// Create keys, report costs.
    Member,
    /// Manage keys and budgets.
    Admin,
    /// Everything.
    Owner,
}

impl Role {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// The role a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Agent, Self::Viewer, Self::Member, Self::Admin, Self::Owner]
            .into_iter()
            .find(|r| r.as_str() == word)
    }
}

/// Who a raw key turns out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyIdentity {
    /// The key.
    pub key: KeyId,
    /// Its organisation.
    pub org: OrgId,
    /// Its owner.
    pub user: UserId,
    /// Its display name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Tags every request of the key carries unless it overrides them.
    pub default_tags: BTreeMap<String, String>,
    /// Default tags that a request may not override.
    pub locked_tags: Vec<String>,
    /// Tags without which a request is refused.
    pub required_tags: Vec<String>,
    /// `None`: every model. Empty: none.
    pub allowed_models: Option<Vec<String>>,
    /// `None`: every provider. Empty: none.
    pub allowed_providers: Option<Vec<String>>,
    /// Default of `NullSpend-Version`.
    pub api_version: String,
}

/// What a budget binds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// Every call of the organisation.
    Org(OrgId),
    /// Every call of the user's keys.
    User(UserId),
    /// Every call of the key.
    ApiKey(KeyId),
    /// Calls whose effective tags contain `key=value`.
    Tag(String),
    /// Calls of this customer.
    Customer(String),
}

impl Entity {
    /// `org`, `user`, `api_key`, `tag` or `customer`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Org(_) => "org",
            Self::User(_) => "user",
            Self::ApiKey(_) => "api_key",
            Self::Tag(_) => "tag",
            Self::Customer(_) => "customer",
        }
    }

    /// The id as the database holds it: bare UUID, `key=value`, or customer id.
    #[must_use]
    pub fn stored_id(&self) -> String {
        match self {
            Self::Org(id) => id.bare(),
            Self::User(id) => id.bare(),
            Self::ApiKey(id) => id.bare(),
            Self::Tag(pair) => pair.clone(),
            Self::Customer(id) => id.clone(),
        }
    }

    /// The id as people and agents see it: always prefixed where it is ours (design §9).
    #[must_use]
    pub fn shown_id(&self) -> String {
        match self {
            Self::Org(id) => id.to_string(),
            Self::User(id) => id.to_string(),
            Self::ApiKey(id) => id.to_string(),
            Self::Tag(pair) => pair.clone(),
            Self::Customer(id) => id.clone(),
        }
    }

    /// From the words of the database or the planes' protocol; ids may be prefixed or bare.
    #[must_use]
    pub fn parse(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "org" => id.parse().ok().map(Self::Org),
            "user" => id.parse().ok().map(Self::User),
            "api_key" => id.parse().ok().map(Self::ApiKey),
            "tag" => id.contains('=').then(|| Self::Tag(id.to_owned())),
            "customer" => (!id.is_empty()).then(|| Self::Customer(id.to_owned())),
            _ => None,
        }
    }
}

/// What happens when a budget's limit would be passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Enforcement {
    /// The call is denied.
    StrictBlock,
    /// The call passes, marked as exceeded.
    SoftBlock,
    /// The call passes.
    Warn,
}

impl Enforcement {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StrictBlock => "strict_block",
            Self::SoftBlock => "soft_block",
            Self::Warn => "warn",
        }
    }

    /// The policy a word names.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::StrictBlock, Self::SoftBlock, Self::Warn].into_iter().find(|p| p.as_str() == word)
    }
}

/// What a `strict_block` budget does with an answer that may cost more than is left; all off by default (design §7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputPolicy {
    /// Lowers the call's own output limit to what is left, instead of denying it.
    pub clamp: bool,
    /// Holds a first slice of a stream's output and more as it goes on, and ends it when there is no more.
    pub incremental: bool,
}

/// A limit on how fast a budget is spent: a breaker over a sliding window (contract §4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Velocity {
    /// The most that may be spent in one window.
    pub limit: Nanos,
    /// The window.
    pub window_ms: i64,
    /// How long everything is denied once the limit would have been passed.
    pub cooldown_ms: i64,
}

/// One budget, as enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRule {
    /// The budget.
    pub budget: BudgetId,
    /// Its organisation.
    pub org: OrgId,
    /// What it binds.
    pub entity: Entity,
    /// Distinguishes budgets of one entity; '' by default.
    pub name: String,
    /// The limit of each window.
    pub limit: Nanos,
    /// What happens at the limit.
    pub enforcement: Enforcement,
    /// What happens to answers that may pass it.
    pub output: OutputPolicy,
    /// The window's length.
    pub interval: Interval,
    /// Where the window's calendar runs.
    pub time_zone: TimeZone,
    /// Raised by resets and by changes of interval or time zone; counters of older generations no longer bind.
    pub generation: u32,
    /// Raised by every change; orders limits in the ledger.
    pub revision: u64,
    /// Limit of one session, strict whatever the enforcement.
    pub session_limit: Option<Nanos>,
    /// Limit of the spend rate, strict whatever the enforcement.
    pub velocity: Option<Velocity>,
    /// Part of a strict limit that only finalizing calls may use.
    pub finalization_reserve: Nanos,
    /// The same request by one key within a minute, at most so often, whatever the enforcement.
    pub loop_max_calls: Option<u32>,
    /// What each data plane may spend while the ledger does not answer; zero: nothing.
    pub outage_credit: Nanos,
}

impl BudgetRule {
    /// What calls that do not finalize may not use of the limit.
    #[must_use]
    pub fn kept_back(&self) -> Nanos {
        match self.enforcement {
            Enforcement::StrictBlock => self.finalization_reserve,
            Enforcement::SoftBlock | Enforcement::Warn => Nanos::ZERO,
        }
    }

    /// What a call may take of what remains, less than 0 where that is overspent.
    #[must_use]
    pub fn usable(&self, remaining: Nanos, finalize: bool) -> Nanos {
        if finalize { remaining } else { remaining - self.kept_back() }
    }
}

/// An organisation's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrgRule {
    /// Hold for a model without a price; `None` refuses such calls.
    pub unpriced_hold: Option<Nanos>,
}

/// Everything one data plane enforces, at one revision.
#[derive(Clone, Default)]
pub struct Policy {
    /// Position in the control plane's history.
    pub revision: u64,
    /// Which history that is.
    pub history_id: String,
    keys_by_sha256: HashMap<[u8; 32], Arc<KeyIdentity>>,
    sha256_by_key: HashMap<KeyId, [u8; 32]>,
    orgs: HashMap<OrgId, OrgRule>,
    budgets: HashMap<BudgetId, Arc<BudgetRule>>,
    by_entity: HashMap<(OrgId, Entity), Vec<Arc<BudgetRule>>>,
    freezes: Freezes,
    unenforceable: HashSet<OrgId>,
    prices: Prices,
}

impl fmt::Debug for Policy {
    /// Counts only: hashes of keys stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("revision", &self.revision)
            .field("keys", &self.keys_by_sha256.len())
            .field("budgets", &self.budgets.len())
            .field("freezes", &self.freezes.len())
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Who a key is, by the SHA-256 of its raw text.
    #[must_use]
    pub fn key(&self, sha256: &[u8; 32]) -> Option<&Arc<KeyIdentity>> {
        self.keys_by_sha256.get(sha256)
    }

    /// Who a key is, by its id; `None` once it is revoked.
    #[must_use]
    pub fn key_by_id(&self, key: KeyId) -> Option<&Arc<KeyIdentity>> {
        self.key(self.sha256_by_key.get(&key)?)
    }

    /// The settings of an organisation.
    #[must_use]
    pub fn org(&self, org: OrgId) -> OrgRule {
        self.orgs.get(&org).cloned().unwrap_or_default()
    }

    /// Adds or replaces an organisation's settings.
    pub fn put_org(&mut self, org: OrgId, rule: OrgRule) {
        self.orgs.insert(org, rule);
    }

    /// False when a rule of the organisation could not be understood: its calls must be refused as
    /// `budget_unavailable`, never passed without the rule (design law 4).
    #[must_use]
    pub fn is_enforceable(&self, org: OrgId) -> bool {
        !self.unenforceable.contains(&org)
    }

    /// Replaces the organisations whose rules could not all be understood.
    pub fn set_unenforceable(&mut self, orgs: HashSet<OrgId>) {
        self.unenforceable = orgs;
    }

    /// What is frozen.
    #[must_use]
    pub fn freezes(&self) -> &Freezes {
        &self.freezes
    }

    /// Adds or replaces a freeze: what it names is refused from now on.
    pub fn put_freeze(&mut self, freeze: Freeze) {
        self.freezes.put(freeze);
    }

    /// Forgets a freeze: it refuses nothing from now on.
    pub fn lift_freeze(&mut self, freeze: FreezeId) {
        self.freezes.lift(freeze);
    }

    /// The prices in force.
    #[must_use]
    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    /// Replaces the prices in force.
    pub fn set_prices(&mut self, prices: Prices) {
        self.prices = prices;
    }

    /// Adds or replaces a key.
    pub fn put_key(&mut self, sha256: [u8; 32], identity: KeyIdentity) {
        self.remove_key(identity.key);
        self.sha256_by_key.insert(identity.key, sha256);
        self.keys_by_sha256.insert(sha256, Arc::new(identity));
    }

    /// Forgets a key: it is refused from now on.
    pub fn remove_key(&mut self, key: KeyId) {
        if let Some(sha256) = self.sha256_by_key.remove(&key) {
            self.keys_by_sha256.remove(&sha256);
        }
    }

    /// A budget.
    #[must_use]
    pub fn budget(&self, budget: BudgetId) -> Option<&Arc<BudgetRule>> {
        self.budgets.get(&budget)
    }

    /// Adds or replaces a budget.
    pub fn put_budget(&mut self, rule: BudgetRule) {
        self.remove_budget(rule.budget);
        let rule = Arc::new(rule);
        self.by_entity.entry((rule.org, rule.entity.clone())).or_default().push(Arc::clone(&rule));
        self.budgets.insert(rule.budget, rule);
    }

    /// Forgets a budget: it binds nothing from now on.
    pub fn remove_budget(&mut self, budget: BudgetId) {
        let Some(old) = self.budgets.remove(&budget) else { return };
        let place = (old.org, old.entity.clone());
        if let Some(rules) = self.by_entity.get_mut(&place) {
            rules.retain(|rule| rule.budget != budget);
            if rules.is_empty() {
                self.by_entity.remove(&place);
            }
        }
    }

    /// The budgets a call touches, ordered by entity and name (which is the order denials are looked for in).
    #[must_use]
    pub fn budgets_for(
        &self,
        key: &KeyIdentity,
        tags: &BTreeMap<String, String>,
        customer: Option<&str>,
    ) -> Vec<Arc<BudgetRule>> {
        let fixed = [Entity::Org(key.org), Entity::User(key.user), Entity::ApiKey(key.key)];
        let tagged = tags.iter().map(|(name, value)| Entity::Tag(format!("{name}={value}")));
        let customers = customer.map(|id| Entity::Customer(id.to_owned()));
        let mut found: Vec<Arc<BudgetRule>> = fixed
            .into_iter()
            .chain(tagged)
            .chain(customers)
            .filter_map(|entity| self.by_entity.get(&(key.org, entity)))
            .flatten()
            .cloned()
            .collect();
        found.sort_by(|a, b| (&a.entity, &a.name).cmp(&(&b.entity, &b.name)));
        found
    }
}
