//! What the store knows of an organisation's books, all at one moment: a ledger is made again from it.

use std::collections::HashSet;

use nullspend_core::{
    attempt::BudgetCharge,
    id::{AttemptId, OrgId},
    ledger::{CounterKey, LimitChange, Limits, SessionSpend},
    money::Nanos,
};

use super::{
    Store,
    budgets::{BudgetRow, budget_columns},
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, in_statements, on_pool, on_tx, push_join_of},
};

/// Ids of one statement.
const CHUNK: usize = 500;
const OP: &str = "read the books";

/// What is too old to matter.
#[derive(Clone, Copy, Debug)]
pub struct BooksSince {
    /// Budgets deleted before are left out.
    pub deleted_ms: i64,
    /// Windows that had ended by then are left out.
    pub window_ended_ms: i64,
    /// Sessions last used by then are left out.
    pub session_used_ms: i64,
    /// Lapses before are left out.
    pub lapsed_ms: i64,
}

/// The books of one organisation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Books {
    /// Limits of live budgets, and deletions.
    pub limits: Vec<LimitChange>,
    /// Settled spend of every live budget's current generation.
    pub settled: Vec<(CounterKey, Nanos)>,
    /// What sessions have spent of them.
    pub sessions: Vec<SessionSpend>,
    /// Lapsed events whose owners may yet tell the truth. One that says again that nobody saw the end has told it.
    pub lapsed: Vec<LapsedRecord>,
    /// Of the attempts asked for, those whose cost is known and in the sums.
    pub recorded: HashSet<AttemptId>,
}

/// An event that stands for a call nobody saw end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LapsedRecord {
    /// The attempt.
    pub attempt: AttemptId,
    /// What was charged.
    pub cost: Nanos,
    /// To what.
    pub charges: Vec<BudgetCharge>,
    /// The caller's session.
    pub session_id: Option<String>,
}

impl Store {
    /// Reads an organisation's books, and which of `attempts` they have the cost of.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn books(
        &self,
        org: OrgId,
        since: BooksSince,
        attempts: &[AttemptId],
    ) -> Result<Books, StoreError> {
        let mut tx = self.pool.begin_reading().await.during(OP)?;
        let books = Books {
            limits: tx.limits(org, since.deleted_ms).await?,
            settled: tx.settled_windows(org, since.window_ended_ms).await?,
            sessions: tx.session_spends(org, since.session_used_ms).await?,
            lapsed: tx.lapsed(org, since.lapsed_ms).await?,
            recorded: tx.recorded(attempts).await?,
        };
        tx.commit().await.during(OP)?;
        Ok(books)
    }

    /// Settled spend of an organisation's live budgets, of windows that had not ended by then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_settled(
        &self,
        org: OrgId,
        ended_ms: i64,
    ) -> Result<Vec<(CounterKey, Nanos)>, StoreError> {
        self.pool.begin_reading().await.during(OP)?.settled_windows(org, ended_ms).await
    }

    /// Settled spend of these windows, but for those of budgets that were deleted or reset.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn settled_of(&self, counters: &[CounterKey]) -> Result<Vec<(CounterKey, Nanos)>, StoreError> {
        let mut settled = Vec::with_capacity(counters.len());
        for some in in_statements(counters) {
            let rows: Vec<WindowRow> = on_pool!(read self.pool, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT b.id, budget_windows.generation, window_start_ms, settled_nanos FROM ",
                );
                push_join_of(&mut query, "budget_windows", some);
                query.push(
                    " JOIN budgets b ON b.id = budget_id AND b.generation = budget_windows.generation WHERE b.deleted_at_ms IS NULL",
                );
                query.build_query_as().fetch_all(c).await.during(OP)?
            });
            for row in rows {
                settled.push(settled_window(row)?);
            }
        }
        Ok(settled)
    }

    /// Limits of an organisation's live budgets, and deletions since then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn limits(&self, org: OrgId, deleted_ms: i64) -> Result<Vec<LimitChange>, StoreError> {
        self.pool.begin_reading().await.during(OP)?.limits(org, deleted_ms).await
    }
}

type WindowRow = (String, i64, i64, i64);

fn settled_window(
    (budget, generation, window_start_ms, settled): WindowRow,
) -> Result<(CounterKey, Nanos), StoreError> {
    let read = Reader(OP);
    let (budget, generation) = (read.id("id", &budget)?, read.number("generation", generation)?);
    Ok((CounterKey { budget, generation, window_start_ms }, Nanos(settled)))
}

impl Tx {
    async fn limits(&mut self, org: OrgId, deleted_ms: i64) -> Result<Vec<LimitChange>, StoreError> {
        let rows: Vec<BudgetRow> = on_tx!(&mut *self, |c, Db| {
            sqlx::query_as(concat!(
                "SELECT ",
                budget_columns!(),
                " FROM budgets WHERE org_id = $1 AND (deleted_at_ms IS NULL OR deleted_at_ms >= $2) ORDER BY revision"
            ))
            .bind(org.bare())
            .bind(deleted_ms)
            .fetch_all(&mut *c)
            .await
            .during(OP)?
        });
        rows.into_iter()
            .map(|row| {
                if row.deleted_at_ms.is_some() {
                    // Nothing else of it matters, and some of it a later version may have written.
                    let read = Reader(OP);
                    let (budget, revision) =
                        (read.id("id", &row.id)?, read.number("revision", row.revision)?);
                    return Ok(LimitChange { budget, revision, limits: None });
                }
                let rule = row.into_record(OP)?.rule;
                Ok(LimitChange {
                    budget: rule.budget,
                    revision: rule.revision,
                    limits: Some(Limits::of(&rule)),
                })
            })
            .collect()
    }

    async fn settled_windows(
        &mut self,
        org: OrgId,
        ended_ms: i64,
    ) -> Result<Vec<(CounterKey, Nanos)>, StoreError> {
        let rows: Vec<WindowRow> = on_tx!(&mut *self, |c, Db| {
            sqlx::query_as(
                "SELECT b.id, w.generation, w.window_start_ms, w.settled_nanos FROM budget_windows w \
                 JOIN budgets b ON b.id = w.budget_id AND b.generation = w.generation \
                 WHERE b.org_id = $1 AND b.deleted_at_ms IS NULL \
                 AND COALESCE(w.window_end_ms, 9223372036854775807) > $2 ORDER BY b.id, w.window_start_ms",
            )
            .bind(org.bare())
            .bind(ended_ms)
            .fetch_all(&mut *c)
            .await
            .during(OP)?
        });
        rows.into_iter().map(settled_window).collect()
    }

    async fn session_spends(&mut self, org: OrgId, used_ms: i64) -> Result<Vec<SessionSpend>, StoreError> {
        let rows: Vec<(String, i64, String, i64, i64)> = on_tx!(&mut *self, |c, Db| {
            sqlx::query_as(
                "SELECT b.id, s.generation, s.session_id, s.settled_nanos, s.last_used_ms \
                 FROM budget_sessions s JOIN budgets b ON b.id = s.budget_id AND b.generation = s.generation \
                 WHERE b.org_id = $1 AND b.deleted_at_ms IS NULL AND s.last_used_ms > $2 \
                 ORDER BY b.id, s.session_id",
            )
            .bind(org.bare())
            .bind(used_ms)
            .fetch_all(&mut *c)
            .await
            .during(OP)?
        });
        let read = Reader(OP);
        rows.into_iter()
            .map(|(budget, generation, session, settled, last_used_ms)| {
                let (budget, generation) = (read.id("id", &budget)?, read.number("generation", generation)?);
                let (session, settled) = (session.into(), Nanos(settled));
                Ok(SessionSpend { budget, generation, session, settled, last_used_ms })
            })
            .collect()
    }

    async fn lapsed(&mut self, org: OrgId, since_ms: i64) -> Result<Vec<LapsedRecord>, StoreError> {
        let rows: Vec<(String, i64, String, Option<String>)> = on_tx!(&mut *self, |c, Db| {
            sqlx::query_as(
                "SELECT id, cost_nanos, charges, session_id FROM cost_events \
                 WHERE org_id = $1 AND ended_at_ms >= $2 AND measurement = 'lapsed' AND revision = 1 ORDER BY id",
            )
            .bind(org.bare())
            .bind(since_ms)
            .fetch_all(&mut *c)
            .await
            .during(OP)?
        });
        let read = Reader(OP);
        rows.into_iter()
            .map(|(id, cost, charges, session_id)| {
                let (attempt, charges) = (read.id("id", &id)?, read.charges(&charges)?);
                Ok(LapsedRecord { attempt, cost: Nanos(cost), charges, session_id })
            })
            .collect()
    }

    async fn recorded(&mut self, attempts: &[AttemptId]) -> Result<HashSet<AttemptId>, StoreError> {
        let mut recorded = HashSet::new();
        for chunk in attempts.chunks(CHUNK) {
            let ids: Vec<String> = on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT id FROM cost_events WHERE (measurement <> 'lapsed' OR revision > 1) AND id IN (",
                );
                let mut list = query.separated(", ");
                for attempt in chunk {
                    list.push_bind(attempt.bare());
                }
                query.push(")");
                query.build_query_scalar().persistent(false).fetch_all(&mut *c).await.during(OP)?
            });
            for id in ids {
                recorded.insert(Reader(OP).id("id", &id)?);
            }
        }
        Ok(recorded)
    }
}
