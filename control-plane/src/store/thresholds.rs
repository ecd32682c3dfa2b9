//! Thresholds: which percentages of its limit a budget's window has reached, each told once (ADR 6).

use std::collections::HashMap;

use nullspend_core::{id::BudgetId, ledger::CounterKey, money::Nanos};

use super::{
    Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, in_statements, on_pool, on_tx, push_join_of},
};

/// A threshold that a window has reached just now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crossing {
    /// The window.
    pub counter: CounterKey,
    /// The percentage of the limit.
    pub percent: i32,
    /// What was settled then.
    pub settled: Nanos,
    /// The limit then.
    pub limit: Nanos,
}

/// Settled spend of a window after a booking.
pub(super) type Booked = (CounterKey, Nanos);

#[derive(sqlx::FromRow)]
struct LimitRow {
    id: String,
    generation: i64,
    limit_nanos: i64,
    thresholds: String,
}

#[derive(sqlx::FromRow)]
struct ReachedRow {
    budget_id: String,
    generation: i64,
    window_start_ms: i64,
    percent: i64,
    settled_nanos: i64,
    limit_nanos: i64,
}

impl ReachedRow {
    fn into_crossing(self, read: Reader) -> Result<Crossing, StoreError> {
        let counter = CounterKey {
            budget: read.id("budget_id", &self.budget_id)?,
            generation: read.number("generation", self.generation)?,
            window_start_ms: self.window_start_ms,
        };
        let percent = read.number("percent", self.percent)?;
        Ok(Crossing { counter, percent, settled: Nanos(self.settled_nanos), limit: Nanos(self.limit_nanos) })
    }
}

/// Whether `settled` has reached that percentage of `limit`.
fn has_reached(settled: Nanos, limit: Nanos, percent: i32) -> bool {
    i128::from(settled.0) * 100 >= i128::from(limit.0) * i128::from(percent)
}

impl Tx {
    /// Notes the thresholds that windows have reached by a booking, and returns those that nobody noted before. The
    /// booking holds the windows' rows until commit, so that no two writers see the same spend.
    pub(super) async fn note_thresholds(
        &mut self,
        booked: &[Booked],
        now_ms: i64,
    ) -> Result<Vec<Crossing>, StoreError> {
        let budgets = self.thresholds_of(booked).await?;
        let mut reached = Vec::new();
        for (counter, settled) in booked {
            let Some((limit, thresholds)) = budgets.get(&(counter.budget, counter.generation)) else {
                continue;
            };
            let percents = thresholds.iter().filter(|percent| has_reached(*settled, *limit, **percent));
            reached.extend(percents.map(|percent| Crossing {
                counter: *counter,
                percent: *percent,
                settled: *settled,
                limit: *limit,
            }));
        }
        let mut new = Vec::new();
        for some in in_statements(&reached) {
            new.extend(self.insert_reached(some, now_ms).await?);
        }
        Ok(new)
    }

    /// Limits and thresholds of live budgets, by id and current generation.
    async fn thresholds_of(
        &mut self,
        booked: &[Booked],
    ) -> Result<HashMap<(BudgetId, u32), (Nanos, Vec<i32>)>, StoreError> {
        const OP: &str = "read thresholds";
        let read = Reader(OP);
        let mut found = HashMap::new();
        for some in in_statements(booked) {
            let rows: Vec<LimitRow> = on_tx!(&mut *self, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT id, generation, limit_nanos, thresholds FROM budgets \
                     WHERE deleted_at_ms IS NULL AND id IN (",
                );
                let mut list = query.separated(", ");
                for (counter, _) in some {
                    list.push_bind(counter.budget.bare());
                }
                query.push(")");
                query.build_query_as().fetch_all(&mut *c).await.during(OP)?
            });
            for row in rows {
                let key = (read.id("id", &row.id)?, read.number("generation", row.generation)?);
                found.insert(key, (Nanos(row.limit_nanos), read.json("thresholds", &row.thresholds)?));
            }
        }
        Ok(found)
    }

    async fn insert_reached(
        &mut self,
        reached: &[Crossing],
        now_ms: i64,
    ) -> Result<Vec<Crossing>, StoreError> {
        const OP: &str = "note thresholds";
        let rows: Vec<ReachedRow> = on_tx!(&mut *self, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(
                "INSERT INTO threshold_events (budget_id, generation, window_start_ms, percent, settled_nanos, \
                 limit_nanos, reached_at_ms) ",
            );
            query.push_values(reached, |mut row, crossing| {
                row.push_bind(crossing.counter.budget.bare())
                    .push_bind(i64::from(crossing.counter.generation))
                    .push_bind(crossing.counter.window_start_ms)
                    .push_bind(i64::from(crossing.percent))
                    .push_bind(crossing.settled.0)
                    .push_bind(crossing.limit.0)
                    .push_bind(now_ms);
            });
            query.push(
                " ON CONFLICT DO NOTHING \
                 RETURNING budget_id, generation, window_start_ms, percent, settled_nanos, limit_nanos",
            );
            query.build_query_as().fetch_all(&mut *c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_crossing(Reader(OP))).collect()
    }
}

impl Store {
    /// The thresholds that these windows have reached.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn crossings(&self, counters: &[CounterKey]) -> Result<Vec<Crossing>, StoreError> {
        const OP: &str = "read reached thresholds";
        let mut crossings = Vec::new();
        for some in in_statements(counters) {
            let rows: Vec<ReachedRow> = on_pool!(read self.pool, |c, Db| {
                let mut query = sqlx::QueryBuilder::<Db>::new(
                    "SELECT budget_id, generation, window_start_ms, percent, settled_nanos, limit_nanos FROM ",
                );
                push_join_of(&mut query, "threshold_events", some);
                query.build_query_as().fetch_all(c).await.during(OP)?
            });
            for row in rows {
                crossings.push(row.into_crossing(Reader(OP))?);
            }
        }
        Ok(crossings)
    }
}
