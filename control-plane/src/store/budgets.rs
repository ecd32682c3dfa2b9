//! Budgets and the settled side of their windows.

use nullspend_core::{
    id::{BudgetId, OrgId},
    ledger::CounterKey,
    money::Nanos,
    policy::{BudgetRule, Enforcement, Entity, OutputPolicy, Velocity},
    window::Interval,
};

use super::{
    BudgetPlace, BudgetRecord, Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, on_pool, on_tx},
};

macro_rules! budget_columns {
    () => {
        "id, org_id, entity_type, entity_id, name, limit_nanos, policy, reset_interval, time_zone, thresholds, \
         velocity_limit_nanos, velocity_window_s, velocity_cooldown_s, session_limit_nanos, \
         finalization_reserve_nanos, generation, generation_started_at_ms, created_at_ms, updated_at_ms, \
         deleted_at_ms, revision, clamp_output, incremental_hold, loop_max_calls, \
         outage_credit_nanos"
    };
}
pub(super) use budget_columns;

#[derive(sqlx::FromRow)]
pub(super) struct BudgetRow {
    pub(super) id: String,
    org_id: String,
    entity_type: String,
    entity_id: String,
    name: String,
    limit_nanos: i64,
    policy: String,
    reset_interval: String,
    time_zone: String,
    thresholds: String,
    velocity_limit_nanos: Option<i64>,
    velocity_window_s: i64,
    velocity_cooldown_s: i64,
    session_limit_nanos: Option<i64>,
    finalization_reserve_nanos: i64,
    generation: i64,
    generation_started_at_ms: i64,
    created_at_ms: i64,
    updated_at_ms: i64,
    pub(super) deleted_at_ms: Option<i64>,
    pub(super) revision: i64,
    clamp_output: bool,
    incremental_hold: bool,
    loop_max_calls: Option<i64>,
    outage_credit_nanos: i64,
}

impl BudgetRow {
    pub(super) fn into_record(self, op: &'static str) -> Result<BudgetRecord, StoreError> {
        let read = Reader(op);
        let entity = Entity::parse(&self.entity_type, &self.entity_id)
            .ok_or_else(|| read.bad("entity_id", &self.entity_id))?;
        let rule = BudgetRule {
            budget: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            entity,
            name: self.name,
            limit: Nanos(self.limit_nanos),
            enforcement: read.word("policy", &self.policy, Enforcement::parse)?,
            output: OutputPolicy { clamp: self.clamp_output, incremental: self.incremental_hold },
            interval: read.word("reset_interval", &self.reset_interval, Interval::parse)?,
            time_zone: read.id("time_zone", &self.time_zone)?,
            generation: read.number("generation", self.generation)?,
            revision: read.number("revision", self.revision)?,
            session_limit: self.session_limit_nanos.map(Nanos),
            velocity: self.velocity_limit_nanos.map(|limit| Velocity {
                limit: Nanos(limit),
                window_ms: self.velocity_window_s * 1000,
                cooldown_ms: self.velocity_cooldown_s * 1000,
            }),
            finalization_reserve: Nanos(self.finalization_reserve_nanos),
            loop_max_calls: self
                .loop_max_calls
                .map(|calls| read.number("loop_max_calls", calls))
                .transpose()?,
            outage_credit: Nanos(self.outage_credit_nanos),
        };
        Ok(BudgetRecord {
            rule,
            thresholds: read.json("thresholds", &self.thresholds)?,
            velocity_window_s: read.number("velocity_window_s", self.velocity_window_s)?,
            velocity_cooldown_s: read.number("velocity_cooldown_s", self.velocity_cooldown_s)?,
            generation_started_at_ms: self.generation_started_at_ms,
            created_at_ms: self.created_at_ms,
            updated_at_ms: self.updated_at_ms,
        })
    }
}

impl Store {
    /// Creates the live budget of a place or replaces it by what `decide` makes of it. The revision is set here.
    ///
    /// # Errors
    /// When the database fails, or `decide` refuses.
    pub async fn put_budget<E: From<StoreError> + Send>(
        &self,
        place: &BudgetPlace,
        decide: impl FnOnce(Option<BudgetRecord>) -> Result<BudgetRecord, E> + Send,
    ) -> Result<BudgetRecord, E> {
        const OP: &str = "put a budget";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let row: Option<BudgetRow> = on_tx!(&mut tx, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                budget_columns!(),
                " FROM budgets WHERE org_id = $1 AND entity_type = $2 AND entity_id = $3 AND name = $4 \
                 AND deleted_at_ms IS NULL"
            );
            sqlx::query_as(SQL)
                .bind(place.org.bare())
                .bind(place.entity.kind())
                .bind(place.entity.stored_id())
                .bind(&place.name)
                .fetch_optional(&mut *c)
                .await
                .during(OP)?
        });
        let mut budget = decide(row.map(|row| row.into_record(OP)).transpose()?)?;
        budget.rule.revision = revision;
        tx.write_budget(&budget).await?;
        tx.commit().await.during(OP)?;
        Ok(budget)
    }

    /// Changes one live budget of the organisation; `None` when there is none. The revision is set here.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn change_budget(
        &self,
        org: OrgId,
        budget: BudgetId,
        change: impl FnOnce(&mut BudgetRecord) + Send,
    ) -> Result<Option<BudgetRecord>, StoreError> {
        const OP: &str = "change a budget";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let row: Option<BudgetRow> = on_tx!(&mut tx, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                budget_columns!(),
                " FROM budgets WHERE id = $1 AND org_id = $2 AND deleted_at_ms IS NULL"
            );
            sqlx::query_as(SQL)
                .bind(budget.bare())
                .bind(org.bare())
                .fetch_optional(&mut *c)
                .await
                .during(OP)?
        });
        let Some(row) = row else { return Ok(None) };
        let mut record = row.into_record(OP)?;
        change(&mut record);
        record.rule.revision = revision;
        tx.write_budget(&record).await?;
        tx.commit().await.during(OP)?;
        Ok(Some(record))
    }

    /// Deletes a live budget; `None` when there is none. Returns the policy revision of the deletion.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_budget(
        &self,
        org: OrgId,
        budget: BudgetId,
        now_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        const OP: &str = "delete a budget";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let changed = on_tx!(&mut tx, |c, Db| {
            sqlx::query(
                "UPDATE budgets SET deleted_at_ms = $3, updated_at_ms = $3, revision = $4 \
                 WHERE id = $1 AND org_id = $2 AND deleted_at_ms IS NULL",
            )
            .bind(budget.bare())
            .bind(org.bare())
            .bind(now_ms)
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .execute(&mut *c)
            .await
            .during(OP)?
            .rows_affected()
        });
        if changed == 0 {
            return Ok(None);
        }
        tx.commit().await.during(OP)?;
        Ok(Some(revision))
    }

    /// One live budget of the organisation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn budget(&self, org: OrgId, budget: BudgetId) -> Result<Option<BudgetRecord>, StoreError> {
        const OP: &str = "read a budget";
        let row: Option<BudgetRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                budget_columns!(),
                " FROM budgets WHERE id = $1 AND org_id = $2 AND deleted_at_ms IS NULL"
            );
            sqlx::query_as(SQL).bind(budget.bare()).bind(org.bare()).fetch_optional(c).await.during(OP)?
        });
        row.map(|row| row.into_record(OP)).transpose()
    }

    /// The organisation's live budgets, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_budgets(&self, org: OrgId) -> Result<Vec<BudgetRecord>, StoreError> {
        const OP: &str = "list budgets";
        let rows: Vec<BudgetRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                budget_columns!(),
                " FROM budgets WHERE org_id = $1 AND deleted_at_ms IS NULL ORDER BY created_at_ms, id"
            );
            sqlx::query_as(SQL).bind(org.bare()).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }

    /// Settled spend of one window; zero when nothing was spent in it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settled(&self, counter: CounterKey) -> Result<Nanos, StoreError> {
        let settled: Option<i64> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar(
                "SELECT settled_nanos FROM budget_windows \
                 WHERE budget_id = $1 AND generation = $2 AND window_start_ms = $3",
            )
            .bind(counter.budget.bare())
            .bind(i64::from(counter.generation))
            .bind(counter.window_start_ms)
            .fetch_optional(c)
            .await
            .during("read a budget window")?
        });
        Ok(Nanos(settled.unwrap_or(0)))
    }
}

impl Tx {
    async fn write_budget(&mut self, budget: &BudgetRecord) -> Result<(), StoreError> {
        const SQL: &str = concat!(
            "INSERT INTO budgets (",
            budget_columns!(),
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, NULL, $20, $21, $22, $23, $24) \
             ON CONFLICT (id) DO UPDATE SET limit_nanos = excluded.limit_nanos, policy = excluded.policy, \
             reset_interval = excluded.reset_interval, time_zone = excluded.time_zone, \
             thresholds = excluded.thresholds, velocity_limit_nanos = excluded.velocity_limit_nanos, \
             velocity_window_s = excluded.velocity_window_s, velocity_cooldown_s = excluded.velocity_cooldown_s, \
             session_limit_nanos = excluded.session_limit_nanos, \
             finalization_reserve_nanos = excluded.finalization_reserve_nanos, generation = excluded.generation, \
             generation_started_at_ms = excluded.generation_started_at_ms, updated_at_ms = excluded.updated_at_ms, \
             revision = excluded.revision, clamp_output = excluded.clamp_output, \
             incremental_hold = excluded.incremental_hold, loop_max_calls = excluded.loop_max_calls, \
             outage_credit_nanos = excluded.outage_credit_nanos"
        );
        let rule = &budget.rule;
        on_tx!(self, |c, Db| {
            sqlx::query(SQL)
                .bind(rule.budget.bare())
                .bind(rule.org.bare())
                .bind(rule.entity.kind())
                .bind(rule.entity.stored_id())
                .bind(&rule.name)
                .bind(rule.limit.0)
                .bind(rule.enforcement.as_str())
                .bind(rule.interval.as_str())
                .bind(rule.time_zone.name())
                .bind(serde_json::json!(budget.thresholds).to_string())
                .bind(rule.velocity.map(|velocity| velocity.limit.0))
                .bind(i64::from(budget.velocity_window_s))
                .bind(i64::from(budget.velocity_cooldown_s))
                .bind(rule.session_limit.map(|limit| limit.0))
                .bind(rule.finalization_reserve.0)
                .bind(i64::from(rule.generation))
                .bind(budget.generation_started_at_ms)
                .bind(budget.created_at_ms)
                .bind(budget.updated_at_ms)
                .bind(i64::try_from(rule.revision).unwrap_or(i64::MAX))
                .bind(rule.output.clamp)
                .bind(rule.output.incremental)
                .bind(rule.loop_max_calls.map(i64::from))
                .bind(rule.outage_credit.0)
                .execute(&mut *c)
                .await
                .during("write a budget")?;
            Ok(())
        })
    }
}
