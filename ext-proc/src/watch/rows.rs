//! The control plane's rows, merged and understood.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    str::FromStr,
};

use nullspend_core::{
    freeze::{Freeze, Target},
    id::{BudgetId, FreezeId, KeyId, OrgId, PriceId},
    ledger::is_velocity,
    loops::MAX_LOOP_CALLS,
    money::{MAX_EVENT, MAX_LIMIT, Nanos},
    policy::{self, Enforcement, Entity, KeyIdentity, OrgRule, OutputPolicy, Policy, Role},
    window::Interval,
};
use nullspend_proto::internal::{self as wire, BudgetRule, FreezeRule, KeyPolicy, OrgPolicy, WatchResponse};

use super::prices::{self, Prices};

/// What came of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// It stands now.
    Changed,
    /// It was older than what is held.
    Ignored,
    /// It belongs to another history: only a snapshot can go on from here.
    Resync,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Row {
    Org(String),
    Key(String),
    Budget(String),
    Freeze(String),
    Price(String),
}

/// Every row as received, and the policy they make.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) policy: Policy,
    /// Rows refused so far, for the counter.
    pub(super) refused: u64,
    orgs: BTreeMap<String, OrgPolicy>,
    keys: BTreeMap<String, KeyPolicy>,
    budgets: BTreeMap<String, BudgetRule>,
    freezes: BTreeMap<String, FreezeRule>,
    prices: Prices,
    /// Rows that make no sense to this version, with the organisation that must not run without them.
    bad: HashMap<Row, Option<OrgId>>,
}

impl Rows {
    pub(super) fn bad_rows(&self) -> u64 {
        self.bad.len() as u64
    }

    /// Lays a message over what is held, or replaces it.
    pub(super) fn apply(&mut self, message: WatchResponse) -> Applied {
        let snapshot = message.snapshot;
        if snapshot {
            let before = self.policy.prices().clone();
            *self = Self { refused: self.refused, ..Self::default() };
            // Until the new ones are understood.
            self.policy.set_prices(before);
        } else if message.history_id != self.policy.history_id {
            return Applied::Resync;
        } else if message.revision < self.policy.revision {
            return Applied::Ignored;
        }
        self.policy.revision = message.revision;
        self.policy.history_id = message.history_id;
        for id in message.revoked_key_ids {
            self.remove_key(&id);
        }
        for id in message.deleted_budget_ids {
            self.remove_budget(&id);
        }
        for id in message.lifted_freeze_ids {
            self.lift_freeze(&id);
        }
        for row in message.orgs {
            self.put_org(row);
        }
        for row in message.keys {
            self.put_key(row);
        }
        for row in message.budgets {
            self.put_budget(row);
        }
        for row in message.freezes {
            self.put_freeze(row);
        }
        if snapshot || !message.prices.is_empty() || message.catalogue.is_some() {
            self.apply_prices(message.prices, message.catalogue);
        }
        let unenforceable: HashSet<OrgId> = self.bad.values().copied().flatten().collect();
        self.policy.set_unenforceable(unenforceable);
        Applied::Changed
    }

    /// Everything held, as one snapshot.
    pub(super) fn snapshot(&self) -> WatchResponse {
        WatchResponse {
            revision: self.policy.revision,
            history_id: self.policy.history_id.clone(),
            snapshot: true,
            orgs: self.orgs.values().cloned().collect(),
            keys: self.keys.values().cloned().collect(),
            budgets: self.budgets.values().cloned().collect(),
            freezes: self.freezes.values().cloned().collect(),
            prices: self.prices.rows.values().cloned().collect(),
            catalogue: self.prices.catalogue.clone(),
            ..WatchResponse::default()
        }
    }

    /// Lays prices over those held. What contradicts itself is refused as a whole, and the prices before it stay.
    fn apply_prices(&mut self, rows: Vec<wire::PriceRow>, catalogue: Option<wire::PriceCatalogue>) {
        for row in rows {
            let id = bare::<PriceId>(&row.price_id, PriceId::bare);
            match prices::row(&row) {
                Ok(understood) => {
                    self.prices.understood.insert(id.clone(), understood);
                    self.bad.remove(&Row::Price(id.clone()));
                }
                Err(reason) => {
                    self.prices.understood.remove(&id);
                    self.refuse(Row::Price(id.clone()), row.org_id.parse().ok(), reason);
                }
            }
            self.prices.rows.insert(id, row);
        }
        if let Some(catalogue) = catalogue {
            self.prices.catalogue = Some(catalogue);
        }
        match self.prices.together() {
            Ok(prices) => self.policy.set_prices(prices),
            Err(error) => {
                self.refused += 1;
                tracing::error!(%error, "the prices cannot be used together; those before them stay in force");
            }
        }
    }

    fn put_org(&mut self, row: OrgPolicy) {
        let id = bare::<OrgId>(&row.org_id, OrgId::bare);
        match org(&row) {
            Ok((org, rule)) => {
                self.policy.put_org(org, rule);
                self.bad.remove(&Row::Org(id.clone()));
            }
            Err(reason) => {
                let org = row.org_id.parse().ok();
                self.refuse(Row::Org(id.clone()), org, reason);
            }
        }
        self.orgs.insert(id, row);
    }

    fn put_key(&mut self, row: KeyPolicy) {
        let id = bare::<KeyId>(&row.key_id, KeyId::bare);
        match key(&row) {
            Ok((sha256, identity)) => {
                self.policy.put_key(sha256, identity);
                self.bad.remove(&Row::Key(id.clone()));
            }
            Err(reason) => {
                // A key that cannot be understood grants nothing, also not what it granted before.
                self.remove_key(&id);
                self.refuse(Row::Key(id.clone()), None, reason);
            }
        }
        self.keys.insert(id, row);
    }

    fn put_budget(&mut self, row: BudgetRule) {
        let id = bare::<BudgetId>(&row.budget_id, BudgetId::bare);
        match budget(&row) {
            Ok(rule) => {
                self.policy.put_budget(rule);
                self.bad.remove(&Row::Budget(id.clone()));
            }
            Err(reason) => {
                let before = self.budgets.get(&id).and_then(|old| old.org_id.parse().ok());
                let org = row.org_id.parse().ok().or(before);
                self.remove_budget(&id);
                self.refuse(Row::Budget(id.clone()), org, reason);
            }
        }
        self.budgets.insert(id, row);
    }

    /// A freeze that cannot be understood stops its whole organisation: what it was to stop is not known.
    fn put_freeze(&mut self, row: FreezeRule) {
        let id = bare::<FreezeId>(&row.freeze_id, FreezeId::bare);
        match freeze(&row) {
            Ok(rule) => {
                self.policy.put_freeze(rule);
                self.bad.remove(&Row::Freeze(id.clone()));
            }
            Err(reason) => {
                let before = self.freezes.get(&id).and_then(|old| old.org_id.parse().ok());
                let org = row.org_id.parse().ok().or(before);
                self.lift_freeze(&id);
                self.refuse(Row::Freeze(id.clone()), org, reason);
            }
        }
        self.freezes.insert(id, row);
    }

    fn remove_key(&mut self, id: &str) {
        if let Ok(key) = id.parse::<KeyId>() {
            self.policy.remove_key(key);
        }
        let id = bare::<KeyId>(id, KeyId::bare);
        self.keys.remove(&id);
        self.bad.remove(&Row::Key(id));
    }

    fn remove_budget(&mut self, id: &str) {
        if let Ok(budget) = id.parse::<BudgetId>() {
            self.policy.remove_budget(budget);
        }
        let id = bare::<BudgetId>(id, BudgetId::bare);
        self.budgets.remove(&id);
        self.bad.remove(&Row::Budget(id));
    }

    fn lift_freeze(&mut self, id: &str) {
        if let Ok(freeze) = id.parse::<FreezeId>() {
            self.policy.lift_freeze(freeze);
        }
        let id = bare::<FreezeId>(id, FreezeId::bare);
        self.freezes.remove(&id);
        self.bad.remove(&Row::Freeze(id));
    }

    fn refuse(&mut self, row: Row, org: Option<OrgId>, reason: &'static str) {
        tracing::error!(?row, org = ?org.map(OrgId::bare), reason, "policy row cannot be understood");
        self.refused += 1;
        self.bad.insert(row, org);
    }
}

/// One spelling for one id; what is no id stays as it is.
fn bare<T: FromStr>(text: &str, spell: impl Fn(T) -> String) -> String {
    text.parse().map_or_else(|_| text.to_owned(), spell)
}

fn org(row: &OrgPolicy) -> Result<(OrgId, OrgRule), &'static str> {
    let org = row.org_id.parse().map_err(|_| "org_id is no UUID")?;
    let unpriced_hold = row.unpriced_hold_nanos.map(Nanos);
    if unpriced_hold.is_some_and(|hold| hold < Nanos::ZERO || hold > MAX_EVENT) {
        return Err("unpriced_hold_nanos is out of range");
    }
    Ok((org, OrgRule { unpriced_hold }))
}

fn key(row: &KeyPolicy) -> Result<([u8; 32], KeyIdentity), &'static str> {
    let sha256 = row.key_sha256.as_slice().try_into().map_err(|_| "key_sha256 is not 32 bytes")?;
    let identity = KeyIdentity {
        key: row.key_id.parse().map_err(|_| "key_id is no UUID")?,
        org: row.org_id.parse().map_err(|_| "org_id is no UUID")?,
        user: row.user_id.parse().map_err(|_| "user_id is no UUID")?,
        name: row.name.clone(),
        role: Role::parse(&row.role).ok_or("role is unknown")?,
        default_tags: row.default_tags.clone(),
        locked_tags: row.locked_tags.clone(),
        required_tags: row.required_tags.clone(),
        allowed_models: row.models_restricted.then(|| row.allowed_models.clone()),
        allowed_providers: row.providers_restricted.then(|| row.allowed_providers.clone()),
        api_version: row.api_version.clone(),
    };
    Ok((sha256, identity))
}

fn budget(row: &BudgetRule) -> Result<policy::BudgetRule, &'static str> {
    let limit = Nanos(row.limit_nanos);
    if limit < Nanos::ZERO || limit > MAX_LIMIT {
        return Err("limit_nanos is out of range");
    }
    let within = |nanos: i64| (0..=MAX_LIMIT.0).contains(&nanos);
    if !row.session_limit_nanos.is_none_or(within) || !within(row.finalization_reserve_nanos) {
        return Err("session_limit_nanos or finalization_reserve_nanos is out of range");
    }
    if !within(row.outage_credit_nanos) {
        return Err("outage_credit_nanos is out of range");
    }
    if !row.velocity.as_ref().map(velocity).is_none_or(|velocity| is_velocity(&velocity)) {
        return Err("velocity is out of range");
    }
    if row.loop_max_calls.is_some_and(|calls| !(1..=MAX_LOOP_CALLS).contains(&calls)) {
        return Err("loop_max_calls is out of range");
    }
    Ok(policy::BudgetRule {
        budget: row.budget_id.parse().map_err(|_| "budget_id is no UUID")?,
        org: row.org_id.parse().map_err(|_| "org_id is no UUID")?,
        entity: Entity::parse(&row.entity_type, &row.entity_id).ok_or("entity is unknown")?,
        name: row.name.clone(),
        limit,
        enforcement: Enforcement::parse(&row.policy).ok_or("policy is unknown")?,
        output: OutputPolicy { clamp: row.clamp_output, incremental: row.incremental_hold },
        interval: Interval::parse(&row.interval).ok_or("interval is unknown")?,
        time_zone: row.time_zone.parse().map_err(|_| "time_zone is unknown")?,
        generation: row.generation,
        revision: row.revision,
        session_limit: row.session_limit_nanos.map(Nanos),
        velocity: row.velocity.as_ref().map(velocity),
        finalization_reserve: Nanos(row.finalization_reserve_nanos),
        loop_max_calls: row.loop_max_calls,
        outage_credit: Nanos(row.outage_credit_nanos),
    })
}

fn freeze(row: &FreezeRule) -> Result<Freeze, &'static str> {
    Ok(Freeze {
        freeze: row.freeze_id.parse().map_err(|_| "freeze_id is no UUID")?,
        org: row.org_id.parse().map_err(|_| "org_id is no UUID")?,
        target: Target::parse(&row.entity_type, &row.entity_id).ok_or("entity is unknown")?,
        reason: row.reason.clone(),
        since_ms: row.since_ms,
    })
}

fn velocity(row: &wire::Velocity) -> policy::Velocity {
    policy::Velocity { limit: Nanos(row.limit_nanos), window_ms: row.window_ms, cooldown_ms: row.cooldown_ms }
}
