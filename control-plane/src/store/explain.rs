//! What explanations read, and what is kept for them alone.

use std::collections::BTreeMap;

use nullspend_core::{
    id::{AttemptId, BudgetId, OrgId},
    money::Nanos,
    policy::Entity,
    trail::Trail,
};

use super::{
    DenialRecord, Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, in_statements, on_pool, on_tx},
    trail::{self, StoredTrail},
};

/// Rows of one statement.
const CHUNK: usize = 500;

/// What an event said before the truth replaced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRevision {
    /// From 1.
    pub revision: i64,
    /// `exact`, `estimated` or `lapsed`.
    pub measurement: String,
    /// What it had cost.
    pub cost: Nanos,
    /// When it had ended.
    pub ended_at_ms: i64,
    /// When the store replaced it.
    pub replaced_at_ms: i64,
}

/// A budget's name, live or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetName {
    /// What it binds.
    pub entity: Entity,
    /// Distinguishes budgets of one entity.
    pub name: String,
}

/// Whether an attempt left an event or a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// An event.
    Event(AttemptId),
    /// A denial.
    Denial(AttemptId),
}

#[derive(sqlx::FromRow)]
struct DenialRow {
    id: String,
    org_id: String,
    key_id: Option<String>,
    key_name: Option<String>,
    at_ms: i64,
    code: String,
    provider: String,
    model: String,
    trace_id: Option<String>,
    session_id: Option<String>,
    customer_id: Option<String>,
    tags: String,
    estimated_nanos: i64,
    details: String,
    suppressed: i64,
}

impl Store {
    /// One denial of the organisation, and the present name of its key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn denial(
        &self,
        org: OrgId,
        id: AttemptId,
    ) -> Result<Option<(DenialRecord, Option<String>)>, StoreError> {
        const OP: &str = "read a denial";
        let row: Option<DenialRow> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT id, org_id, key_id, (SELECT k.name FROM api_keys k WHERE k.id = denials.key_id) AS key_name, \
                 at_ms, code, provider, model, trace_id, session_id, customer_id, tags, estimated_nanos, details, \
                 suppressed FROM denials WHERE id = $1 AND org_id = $2",
            )
            .bind(id.bare())
            .bind(org.bare())
            .fetch_optional(c)
            .await
            .during(OP)?
        });
        row.map(|row| row.into_record(OP)).transpose()
    }

    /// The newest attempt of a trace. What was booked later, because prices changed, is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_of_trace(&self, org: OrgId, trace_id: &str) -> Result<Option<Traced>, StoreError> {
        const OP: &str = "look for a trace";
        let row: Option<(String, bool, i64)> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT id, FALSE AS denied, ended_at_ms AS at_ms FROM cost_events \
                 WHERE org_id = $1 AND trace_id = $2 AND adjusts_event_id IS NULL \
                 UNION ALL SELECT id, TRUE, at_ms FROM denials WHERE org_id = $1 AND trace_id = $2 \
                 ORDER BY at_ms DESC, id DESC LIMIT 1",
            )
            .bind(org.bare())
            .bind(trace_id)
            .fetch_optional(c)
            .await
            .during(OP)?
        });
        let Some((id, denied, _)) = row else { return Ok(None) };
        let id = Reader(OP).id("id", &id)?;
        Ok(Some(if denied { Traced::Denial(id) } else { Traced::Event(id) }))
    }

    /// How an attempt was decided; `None` when nobody told, or a later version did.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn trail(&self, attempt: AttemptId) -> Result<Option<Trail>, StoreError> {
        let bytes: Option<Vec<u8>> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT trail FROM trails WHERE attempt_id = $1")
                .bind(attempt.bare())
                .fetch_optional(c)
                .await
                .during("read a trail")?
        });
        Ok(bytes.and_then(|bytes| trail::read(&bytes)))
    }

    /// What an event said before, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn event_revisions(&self, event: AttemptId) -> Result<Vec<EventRevision>, StoreError> {
        let rows: Vec<(i64, String, i64, i64, i64)> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT revision, measurement, cost_nanos, ended_at_ms, replaced_at_ms FROM event_revisions \
                 WHERE event_id = $1 ORDER BY revision",
            )
            .bind(event.bare())
            .fetch_all(c)
            .await
            .during("read an event's revisions")?
        });
        let revision = |(revision, measurement, cost, ended_at_ms, replaced_at_ms)| EventRevision {
            revision,
            measurement,
            cost: Nanos(cost),
            ended_at_ms,
            replaced_at_ms,
        };
        Ok(rows.into_iter().map(revision).collect())
    }

    /// Names of budgets of the organisation, deleted ones too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn budget_names(
        &self,
        org: OrgId,
        ids: &[BudgetId],
    ) -> Result<BTreeMap<BudgetId, BudgetName>, StoreError> {
        const OP: &str = "name budgets";
        let mut names = BTreeMap::new();
        for chunk in ids.chunks(CHUNK) {
            let rows: Vec<(String, String, String, String)> = on_pool!(read self.pool, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT id, entity_type, entity_id, name FROM budgets WHERE org_id = ",
                );
                query.push_bind(org.bare()).push(" AND id IN (");
                let mut list = query.separated(", ");
                for id in chunk {
                    list.push_bind(id.bare());
                }
                query.push(")");
                query.build_query_as().persistent(false).fetch_all(c).await.during(OP)?
            });
            for (id, kind, entity_id, name) in rows {
                let read = Reader(OP);
                let entity =
                    Entity::parse(&kind, &entity_id).ok_or_else(|| read.bad("entity_id", &entity_id))?;
                names.insert(read.id("id", &id)?, BudgetName { entity, name });
            }
        }
        Ok(names)
    }
}

impl DenialRow {
    fn into_record(self, op: &'static str) -> Result<(DenialRecord, Option<String>), StoreError> {
        let read = Reader(op);
        let record = DenialRecord {
            id: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            key: read.optional_id("key_id", self.key_id.as_deref())?,
            at_ms: self.at_ms,
            code: self.code,
            provider: self.provider,
            model: self.model,
            trace_id: self.trace_id,
            session_id: self.session_id,
            customer: self.customer_id,
            tags: read.json("tags", &self.tags)?,
            estimated_nanos: self.estimated_nanos,
            details: self.details,
            suppressed: self.suppressed,
        };
        Ok((record, self.key_name))
    }
}

impl Tx {
    /// Keeps trails beside their events and denials, each once: what a record of the attempt's end told stays.
    pub(super) async fn insert_trails(&mut self, trails: Vec<StoredTrail>) -> Result<(), StoreError> {
        // PostgreSQL changes no row twice in one statement; the order of ids is the order rows are locked in.
        let mut merged: BTreeMap<AttemptId, StoredTrail> = BTreeMap::new();
        for trail in trails {
            let known_closed = merged.get(&trail.attempt).is_some_and(|known| known.closed);
            if !known_closed {
                merged.insert(trail.attempt, trail);
            }
        }
        let trails: Vec<&StoredTrail> = merged.values().collect();
        for some in in_statements(&trails) {
            on_tx!(&mut *self, |c, Db| {
                let mut query =
                    sqlx::QueryBuilder::<Db>::new("INSERT INTO trails (attempt_id, trail, closed) ");
                query.push_values(some, |mut row, trail| {
                    row.push_bind(trail.attempt.bare())
                        .push_bind(trail.bytes.to_vec())
                        .push_bind(trail.closed);
                });
                query.push(
                    " ON CONFLICT (attempt_id) DO UPDATE SET trail = excluded.trail, closed = excluded.closed \
                     WHERE NOT trails.closed",
                );
                query.build().execute(&mut *c).await.during("keep trails")?;
            });
        }
        Ok(())
    }

    /// Notes what an event said before it is replaced.
    pub(super) async fn keep_revision(
        &mut self,
        event: &str,
        said: &EventRevision,
    ) -> Result<(), StoreError> {
        on_tx!(&mut *self, |c, Db| {
            sqlx::query(
                "INSERT INTO event_revisions (event_id, revision, measurement, cost_nanos, ended_at_ms, replaced_at_ms) \
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            )
            .bind(event)
            .bind(said.revision)
            .bind(&said.measurement)
            .bind(said.cost.0)
            .bind(said.ended_at_ms)
            .bind(said.replaced_at_ms)
            .execute(&mut *c)
            .await
            .during("keep an event's revision")?;
            Ok(())
        })
    }
}
