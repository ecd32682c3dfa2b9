//! Budgets: set, read with their live balance, reset, deleted.

use std::collections::HashMap;

use nullspend_core::{
    id::{BudgetId, OrgId, UserId},
    ledger::{Balance, CounterKey, LimitChange, Limits, MAX_SCOPES, MAX_VELOCITY},
    loops::MAX_LOOP_CALLS,
    money::{MAX_LIMIT, Nanos},
    policy::{BudgetRule, Enforcement, Entity, OutputPolicy, Role, Velocity},
    window::{Interval, TimeZone, Window, window_at},
};

use super::{
    App, AppError, Caller, Kind,
    check::{Checks, is_customer, is_tag_pair},
};
use crate::store::{BudgetPlace, BudgetRecord};

/// Percentages at which to notify, unless given (contract §4.2).
const DEFAULT_THRESHOLDS: [i32; 4] = [50, 80, 90, 95];
const MAX_THRESHOLDS: usize = 10;
const DEFAULT_VELOCITY_S: i32 = 60;
const VELOCITY_S: std::ops::RangeInclusive<i32> = 10..=3600;
const MAX_NAME: usize = 64;
/// Budgets of one entity. With at most 14 entities of a call this keeps a call below the ledger's 32 scopes in all but
/// contrived cases, which the planes refuse or split on their own.
const MAX_PER_ENTITY: usize = 4;

/// A budget as asked for. Absent fields keep what is there, except the interval, which is cleared.
#[derive(Clone, Debug, Default)]
pub struct BudgetRequest {
    /// `org`, `user`, `api_key`, `tag` or `customer`; `None` when the caller gave none of them.
    pub entity_type: Option<&'static str>,
    /// Prefixed or bare id, `key=value`, or customer id; for `org` empty means the caller's.
    pub entity_id: String,
    /// Distinguishes budgets of one entity.
    pub name: String,
    /// Whole micro-dollars.
    pub max_budget_microdollars: i64,
    /// `None`: one window without end.
    pub interval: Option<Interval>,
    /// IANA name.
    pub time_zone: Option<String>,
    /// What happens at the limit.
    pub enforcement: Option<Enforcement>,
    /// Empty: unchanged, or the default.
    pub thresholds: Vec<i32>,
    /// Whole micro-dollars; 0: none.
    pub velocity_limit_microdollars: Option<i64>,
    /// Seconds.
    pub velocity_window_s: Option<i32>,
    /// Seconds.
    pub velocity_cooldown_s: Option<i32>,
    /// Whole micro-dollars; 0: none.
    pub session_limit_microdollars: Option<i64>,
    /// Whole micro-dollars.
    pub finalization_reserve_microdollars: Option<i64>,
    /// Whether calls that do not fit are clamped.
    pub clamp_output: Option<bool>,
    /// Whether streams hold their output in slices.
    pub incremental_hold: Option<bool>,
    /// Calls of the same request by one key within a minute; 0: any number.
    pub loop_max_calls: Option<i32>,
    /// Whole micro-dollars of each data plane while the ledger does not answer; 0: none.
    pub outage_credit_microdollars: Option<i64>,
}

/// A budget with its present window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetView {
    /// The budget.
    pub record: BudgetRecord,
    /// Its window now.
    pub window: Window,
    /// Spent in it.
    pub settled: Nanos,
    /// Taken by calls in flight.
    pub held: Nanos,
    /// The thresholds it has reached, ascending.
    pub crossed: Vec<i32>,
}

impl BudgetView {
    /// Since when spend counts: the window's start, or the last reset in it.
    #[must_use]
    pub fn period_start_ms(&self) -> i64 {
        self.window.start_ms.max(self.record.generation_started_at_ms)
    }

    /// Limit less spend and holds, at least 0.
    #[must_use]
    pub fn remaining(&self) -> Nanos {
        (self.record.rule.limit - self.settled - self.held).max(Nanos::ZERO)
    }
}

/// The checked part of a request.
struct Wanted {
    limit: Nanos,
    interval: Interval,
    time_zone: Option<TimeZone>,
    enforcement: Option<Enforcement>,
    thresholds: Vec<i32>,
    velocity_limit: Option<Nanos>,
    velocity_window_s: Option<i32>,
    velocity_cooldown_s: Option<i32>,
    session_limit: Option<Nanos>,
    finalization_reserve: Option<Nanos>,
    clamp_output: Option<bool>,
    incremental_hold: Option<bool>,
    /// 0: any number.
    loop_max_calls: Option<u32>,
    outage_credit: Option<Nanos>,
}

impl App {
    /// Creates the budget of (entity, name), or changes it.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`, `budget_entity_not_found`, `limit_exceeded`.
    pub async fn upsert_budget(
        &self,
        caller: &Caller,
        request: BudgetRequest,
    ) -> Result<BudgetView, AppError> {
        caller.require(Role::Admin)?;
        let mut checks = Checks::default();
        let entity = match request.entity_type {
            Some(kind) => entity(&mut checks, caller, kind, &request.entity_id),
            None => {
                checks.field("entityType", "must be one of org, user, api_key, tag, customer");
                None
            }
        };
        let wanted = wanted(&mut checks, &request);
        checks.finish()?;
        let (Some(entity), Some(wanted)) = (entity, wanted) else {
            return Err(AppError::validation(Vec::new()));
        };
        self.require_entity(caller.org, &entity).await?;
        self.require_room(caller.org, &entity, &request.name).await?;
        let now_ms = self.clock.now_ms();
        let new = BudgetId(self.ids.v4());
        let place = BudgetPlace { org: caller.org, entity, name: request.name };
        let record =
            self.store.put_budget(&place, |current| wanted.over(current, &place, new, now_ms)).await?;
        self.limit_changed(&record.rule, Some(Limits::of(&record.rule))).await;
        self.view(caller.org, vec![record]).await?.pop().ok_or_else(|| AppError::not_found("Budget"))
    }

    /// All budgets of the organisation.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn list_budgets(&self, caller: &Caller) -> Result<Vec<BudgetView>, AppError> {
        let records = self.store.list_budgets(caller.org).await?;
        self.view(caller.org, records).await
    }

    /// The budgets that bind the caller's key, or the caller.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn budget_status(&self, caller: &Caller) -> Result<Vec<BudgetView>, AppError> {
        let mut records = self.store.list_budgets(caller.org).await?;
        records.retain(|record| binds(caller, &record.rule.entity));
        self.view(caller.org, records).await
    }

    /// One budget.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn budget(&self, caller: &Caller, budget: BudgetId) -> Result<BudgetView, AppError> {
        caller.require(Role::Viewer)?;
        let record = self.store.budget(caller.org, budget).await?;
        self.view(caller.org, record.into_iter().collect())
            .await?
            .pop()
            .ok_or_else(|| AppError::not_found("Budget"))
    }

    /// Starts the budget's spend again at zero: a new generation of counters.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn reset_budget(&self, caller: &Caller, budget: BudgetId) -> Result<BudgetView, AppError> {
        caller.require(Role::Admin)?;
        let now_ms = self.clock.now_ms();
        let changed = self
            .store
            .change_budget(caller.org, budget, |record| {
                record.rule.generation += 1;
                record.generation_started_at_ms = now_ms;
                record.updated_at_ms = now_ms;
            })
            .await?;
        let record = changed.ok_or_else(|| AppError::not_found("Budget"))?;
        self.limit_changed(&record.rule, Some(Limits::of(&record.rule))).await;
        self.view(caller.org, vec![record]).await?.pop().ok_or_else(|| AppError::not_found("Budget"))
    }

    /// Deletes a budget; its past windows stay in the events.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn delete_budget(&self, caller: &Caller, budget: BudgetId) -> Result<(), AppError> {
        caller.require(Role::Admin)?;
        let known =
            self.store.budget(caller.org, budget).await?.ok_or_else(|| AppError::not_found("Budget"))?;
        let deleted = self.store.delete_budget(caller.org, budget, self.clock.now_ms()).await?;
        let revision = deleted.ok_or_else(|| AppError::not_found("Budget"))?;
        self.limit_changed(&BudgetRule { revision, ..known.rule }, None).await;
        Ok(())
    }

    /// Budgets with their windows now and the ledger's balances of them.
    pub(super) async fn view(
        &self,
        org: OrgId,
        records: Vec<BudgetRecord>,
    ) -> Result<Vec<BudgetView>, AppError> {
        let now_ms = self.clock.now_ms();
        let windows: Vec<Window> = records
            .iter()
            .map(|record| window_at(record.rule.interval, &record.rule.time_zone, now_ms))
            .collect();
        let counters: Vec<CounterKey> = records
            .iter()
            .zip(&windows)
            .map(|(record, window)| CounterKey {
                budget: record.rule.budget,
                generation: record.rule.generation,
                window_start_ms: window.start_ms,
            })
            .collect();
        let mut balances: Vec<Balance> = Vec::with_capacity(counters.len());
        for chunk in counters.chunks(MAX_SCOPES) {
            balances.extend(self.ledger.balances(org, chunk).await?);
        }
        let mut crossed: HashMap<CounterKey, Vec<i32>> = HashMap::new();
        for crossing in self.store.crossings(&counters).await? {
            crossed.entry(crossing.counter).or_default().push(crossing.percent);
        }
        crossed.values_mut().for_each(|percents| percents.sort_unstable());
        let views = records.into_iter().zip(windows).zip(counters).zip(balances);
        Ok(views
            .map(|(((record, window), counter), balance)| BudgetView {
                record,
                window,
                settled: balance.settled,
                held: balance.held,
                crossed: crossed.remove(&counter).unwrap_or_default(),
            })
            .collect())
    }

    /// Tells the ledger and the data planes. The ledger may be away: then the next reserve brings it the limit, since
    /// every reserve carries the data plane's revision.
    async fn limit_changed(&self, rule: &BudgetRule, limits: Option<Limits>) {
        let change = LimitChange { budget: rule.budget, revision: rule.revision, limits };
        if let Err(error) = self.ledger.apply_limits(rule.org, &[change]).await {
            tracing::warn!(%error, budget = %rule.budget, "the ledger learns of a limit later");
        }
        self.policy_changed(rule.revision).await;
    }

    /// Whether the organisation has such a user or key; `Err` says which of the two is missing.
    pub(super) async fn find_entity(
        &self,
        org: OrgId,
        entity: &Entity,
    ) -> Result<Result<(), &'static str>, AppError> {
        let (what, exists) = match entity {
            Entity::User(user) => ("User", self.store.member_role(org, *user).await?.is_some()),
            Entity::ApiKey(key) => {
                let found = self.store.key(org, *key).await?;
                ("Key", found.is_some_and(|key| key.revoked_at_ms.is_none()))
            }
            Entity::Org(_) | Entity::Tag(_) | Entity::Customer(_) => return Ok(Ok(())),
        };
        Ok(if exists { Ok(()) } else { Err(what) })
    }

    async fn require_entity(&self, org: OrgId, entity: &Entity) -> Result<(), AppError> {
        let Err(what) = self.find_entity(org, entity).await? else { return Ok(()) };
        let what = what.to_lowercase();
        let message = format!("The organisation has no {what} {}", entity.shown_id());
        Err(AppError::new(Kind::NotFound, "budget_entity_not_found", message))
    }

    async fn require_room(&self, org: OrgId, entity: &Entity, name: &str) -> Result<(), AppError> {
        let budgets = self.store.list_budgets(org).await?;
        let others = budgets.iter().filter(|b| b.rule.entity == *entity && b.rule.name != name).count();
        if others < MAX_PER_ENTITY {
            return Ok(());
        }
        let message = format!(
            "{} has {others} budgets already; delete one or change one by its name",
            entity.shown_id()
        );
        Err(AppError::new(Kind::Conflict, "limit_exceeded", message))
    }
}

/// Whether a budget of this entity counts the caller's calls (of a key: those with its default tags).
fn binds(caller: &Caller, entity: &Entity) -> bool {
    let tags = caller.key.as_ref().map(|key| &key.default_tags);
    match entity {
        Entity::Org(org) => *org == caller.org,
        Entity::User(user) => *user == caller.user,
        Entity::ApiKey(key) => caller.key_id() == Some(*key),
        Entity::Tag(pair) => pair.split_once('=').is_some_and(|(name, value)| {
            tags.and_then(|tags| tags.get(name)).is_some_and(|has| has == value)
        }),
        Entity::Customer(id) => tags.and_then(|tags| tags.get("customer")) == Some(id),
    }
}

/// The entity of a request's `entityType` and `entityId`.
pub(super) fn entity(checks: &mut Checks, caller: &Caller, kind: &str, id: &str) -> Option<Entity> {
    let (good, rule) = match kind {
        "org" if id.is_empty() => return Some(Entity::Org(caller.org)),
        "org" => (id.parse::<OrgId>() == Ok(caller.org), "must be the caller's own organisation, or empty"),
        "user" => (id.parse::<UserId>().is_ok(), "must be ns_usr_<uuid> or a bare UUID"),
        "api_key" => (Entity::parse(kind, id).is_some(), "must be ns_key_<uuid> or a bare UUID"),
        "tag" => (
            is_tag_pair(id),
            "must be key=value with a key of 1 to 64 of A-Z a-z 0-9 _ - that does not begin with _ns_",
        ),
        _ => (is_customer(id), "must be 1 to 256 of A-Z a-z 0-9 . _ : -"),
    };
    if !good {
        checks.field("entityId", rule);
        return None;
    }
    Entity::parse(kind, id)
}

fn wanted(checks: &mut Checks, request: &BudgetRequest) -> Option<Wanted> {
    let most = MAX_LIMIT.0 / 1000;
    checks.require(
        (1..=most).contains(&request.max_budget_microdollars),
        "maxBudgetMicrodollars",
        format!("must be a whole number from 1 to {most}"),
    );
    checks.text("name", &request.name, 0, MAX_NAME);
    let thresholds = &request.thresholds;
    let few = thresholds.len() <= MAX_THRESHOLDS;
    checks.require(few, "thresholdPercentages", format!("must have at most {MAX_THRESHOLDS} entries"));
    for (index, percent) in thresholds.iter().enumerate() {
        let above = index.checked_sub(1).and_then(|before| thresholds.get(before)).copied().unwrap_or(0);
        if !(1..=100).contains(percent) || *percent <= above {
            let message = "must be a whole number from 1 to 100, above the one before";
            checks.add(&["thresholdPercentages".into(), index.into()], message);
        }
    }
    check_beside(checks, request);
    let time_zone = match request.time_zone.as_deref().map(str::parse::<TimeZone>) {
        None => None,
        Some(Ok(zone)) => Some(zone),
        Some(Err(_)) => {
            checks.field("timeZone", "must be an IANA time zone such as Europe/Berlin");
            return None;
        }
    };
    Some(Wanted {
        limit: Nanos::from_microdollars(request.max_budget_microdollars),
        interval: request.interval.unwrap_or(Interval::None),
        time_zone,
        enforcement: request.enforcement,
        thresholds: request.thresholds.clone(),
        velocity_limit: request.velocity_limit_microdollars.map(Nanos::from_microdollars),
        velocity_window_s: request.velocity_window_s,
        velocity_cooldown_s: request.velocity_cooldown_s,
        session_limit: request.session_limit_microdollars.map(Nanos::from_microdollars),
        finalization_reserve: request.finalization_reserve_microdollars.map(Nanos::from_microdollars),
        clamp_output: request.clamp_output,
        incremental_hold: request.incremental_hold,
        loop_max_calls: request.loop_max_calls.and_then(|calls| u32::try_from(calls).ok()),
        outage_credit: request.outage_credit_microdollars.map(Nanos::from_microdollars),
    })
}

/// What a budget limits beside its window.
fn check_beside(checks: &mut Checks, request: &BudgetRequest) {
    for (field, value, most) in [
        ("velocityLimitMicrodollars", request.velocity_limit_microdollars, MAX_VELOCITY),
        ("sessionLimitMicrodollars", request.session_limit_microdollars, MAX_LIMIT),
        ("finalizationReserveMicrodollars", request.finalization_reserve_microdollars, MAX_LIMIT),
        ("outageCreditMicrodollars", request.outage_credit_microdollars, MAX_LIMIT),
    ] {
        let most = most.0 / 1000;
        let sensible = value.is_none_or(|value| (0..=most).contains(&value));
        checks.require(sensible, field, format!("must be a whole number from 0 (none) to {most}"));
    }
    let calls = request.loop_max_calls.map(u32::try_from);
    let sensible = calls.is_none_or(|calls| calls.is_ok_and(|calls| calls <= MAX_LOOP_CALLS));
    let rule = format!("must be a whole number from 0 (none) to {MAX_LOOP_CALLS}");
    checks.require(sensible, "loopMaxCalls", rule);
    for (field, value) in [
        ("velocityWindowSeconds", request.velocity_window_s),
        ("velocityCooldownSeconds", request.velocity_cooldown_s),
    ] {
        let sensible = value.is_none_or(|value| VELOCITY_S.contains(&value));
        checks.require(sensible, field, "must be a whole number of seconds from 10 to 3600");
    }
}

impl Wanted {
    /// The budget after the change. Another calendar begins a new generation: old counters no longer fit it.
    fn over(
        self,
        current: Option<BudgetRecord>,
        place: &BudgetPlace,
        new: BudgetId,
        now_ms: i64,
    ) -> Result<BudgetRecord, AppError> {
        let mut record = current.unwrap_or_else(|| BudgetRecord {
            rule: BudgetRule {
                budget: new,
                org: place.org,
                entity: place.entity.clone(),
                name: place.name.clone(),
                limit: self.limit,
                enforcement: Enforcement::StrictBlock,
                output: OutputPolicy::default(),
                interval: self.interval,
                time_zone: self.time_zone.clone().unwrap_or_else(TimeZone::utc),
                generation: 1,
                revision: 0,
                session_limit: None,
                velocity: None,
                finalization_reserve: Nanos::ZERO,
                loop_max_calls: None,
                outage_credit: Nanos::ZERO,
            },
            thresholds: DEFAULT_THRESHOLDS.to_vec(),
            velocity_window_s: DEFAULT_VELOCITY_S,
            velocity_cooldown_s: DEFAULT_VELOCITY_S,
            generation_started_at_ms: now_ms,
            created_at_ms: now_ms,
            updated_at_ms: now_ms,
        });
        self.set_beside(&mut record);
        let time_zone = self.time_zone.unwrap_or_else(|| record.rule.time_zone.clone());
        if record.rule.interval != self.interval || record.rule.time_zone != time_zone {
            record.rule.generation += 1;
            record.generation_started_at_ms = now_ms;
        }
        record.rule.limit = self.limit;
        record.rule.interval = self.interval;
        record.rule.time_zone = time_zone;
        record.rule.enforcement = self.enforcement.unwrap_or(record.rule.enforcement);
        let output = &mut record.rule.output;
        output.clamp = self.clamp_output.unwrap_or(output.clamp);
        output.incremental = self.incremental_hold.unwrap_or(output.incremental);
        if !self.thresholds.is_empty() {
            record.thresholds = self.thresholds;
        }
        if record.rule.finalization_reserve >= record.rule.limit {
            let mut checks = Checks::default();
            checks.field("finalizationReserveMicrodollars", "must be less than maxBudgetMicrodollars");
            checks.finish()?;
        }
        record.updated_at_ms = now_ms;
        Ok(record)
    }

    /// What it limits beside its window. A spend rate that is switched off forgets its window and cool-down.
    fn set_beside(&self, record: &mut BudgetRecord) {
        let limit = self.velocity_limit.or(record.rule.velocity.map(|velocity| velocity.limit));
        let limit = limit.filter(|limit| *limit > Nanos::ZERO);
        if self.velocity_limit == Some(Nanos::ZERO) {
            (record.velocity_window_s, record.velocity_cooldown_s) = (DEFAULT_VELOCITY_S, DEFAULT_VELOCITY_S);
        }
        record.velocity_window_s = self.velocity_window_s.unwrap_or(record.velocity_window_s);
        record.velocity_cooldown_s = self.velocity_cooldown_s.unwrap_or(record.velocity_cooldown_s);
        record.rule.velocity = limit.map(|limit| Velocity {
            limit,
            window_ms: i64::from(record.velocity_window_s) * 1000,
            cooldown_ms: i64::from(record.velocity_cooldown_s) * 1000,
        });
        let session_limit = self.session_limit.or(record.rule.session_limit);
        record.rule.session_limit = session_limit.filter(|limit| *limit > Nanos::ZERO);
        let loop_max_calls = self.loop_max_calls.or(record.rule.loop_max_calls);
        record.rule.loop_max_calls = loop_max_calls.filter(|calls| *calls > 0);
        record.rule.outage_credit = self.outage_credit.unwrap_or(record.rule.outage_credit);
        record.rule.finalization_reserve =
            self.finalization_reserve.unwrap_or(record.rule.finalization_reserve);
    }
}
