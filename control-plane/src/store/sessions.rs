//! What sessions have spent, booked in the event's own transaction as windows are.

use std::collections::BTreeMap;

use nullspend_core::{
    attempt::BudgetCharge,
    id::BudgetId,
    ledger::SESSION_IDLE_MS,
    money::{MAX_TOTAL_NANOS, Nanos},
};

use super::{
    EventRecord, Store,
    error::{During, StoreError},
    pool::{Tx, in_statements, on_pool, on_tx},
};

/// By how much each session's spend changes.
#[derive(Default)]
pub(super) struct SessionDeltas(BTreeMap<(BudgetId, u32, String), Delta>);

struct Delta {
    nanos: i128,
    /// When the first of the events began, and when the last one ended.
    first_used_ms: i64,
    last_used_ms: i64,
}

impl SessionDeltas {
    /// Adds an event's cost to its session.
    pub(super) fn add(&mut self, event: &EventRecord) {
        self.change(event, &event.charges, i128::from(event.cost.0));
    }

    /// Takes out what an event had cost, of which `event` tells the truth.
    pub(super) fn take_out(&mut self, event: &EventRecord, charges: &[BudgetCharge], cost: Nanos) {
        self.change(event, charges, -i128::from(cost.0));
    }

    fn change(&mut self, event: &EventRecord, charges: &[BudgetCharge], nanos: i128) {
        let Some(session) = &event.session_id else { return };
        for charge in charges.iter().filter(|charge| charge.of_session) {
            let key = (charge.counter.budget, charge.counter.generation, session.clone());
            let (began_ms, ended_ms) = (event.started_at_ms, event.ended_at_ms);
            let unused = Delta { nanos: 0, first_used_ms: began_ms, last_used_ms: ended_ms };
            let delta = self.0.entry(key).or_insert(unused);
            delta.nanos += nanos;
            delta.first_used_ms = delta.first_used_ms.min(began_ms);
            delta.last_used_ms = delta.last_used_ms.max(ended_ms);
        }
    }
}

impl Tx {
    /// Adds to what sessions have spent, in the order of their keys, so that two writers cannot deadlock. A session that
    /// was idle for a day begins again; a correction of one that is gone changes nothing.
    pub(super) async fn book_sessions(&mut self, deltas: SessionDeltas) -> Result<(), StoreError> {
        // Both sides together stay within 64 bits, as those of windows do.
        let most = i128::from(MAX_TOTAL_NANOS - 1);
        let rows: Vec<_> = deltas
            .0
            .into_iter()
            .map(|(key, delta)| {
                let nanos = i64::try_from(delta.nanos.clamp(-most, most)).unwrap_or(0);
                (key, nanos, delta.first_used_ms, delta.last_used_ms)
            })
            .collect();
        for of_a_kind in rows.chunk_by(|a, b| (a.1 < 0) == (b.1 < 0)) {
            for some in in_statements(of_a_kind) {
                if some.iter().any(|row| row.1 < 0) {
                    self.lower_sessions(some).await?;
                } else {
                    self.raise_sessions(some).await?;
                }
            }
        }
        Ok(())
    }

    async fn raise_sessions(&mut self, rows: &[SessionRow]) -> Result<(), StoreError> {
        on_tx!(&mut *self, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(
                "INSERT INTO budget_sessions \
                 (budget_id, generation, session_id, settled_nanos, first_used_ms, last_used_ms) ",
            );
            query.push_values(rows, |mut row, ((budget, generation, session), nanos, first_ms, last_ms)| {
                row.push_bind(budget.bare())
                    .push_bind(i64::from(*generation))
                    .push_bind(session.clone())
                    .push_bind(*nanos)
                    .push_bind(*first_ms)
                    .push_bind(*last_ms);
            });
            let was_idle =
                format!("excluded.first_used_ms - budget_sessions.last_used_ms >= {SESSION_IDLE_MS}");
            query.push(format!(
                " ON CONFLICT (budget_id, generation, session_id) DO UPDATE SET settled_nanos = \
                 CASE WHEN {was_idle} THEN excluded.settled_nanos \
                 WHEN budget_sessions.settled_nanos + excluded.settled_nanos > {MAX_TOTAL_NANOS} THEN {MAX_TOTAL_NANOS} \
                 ELSE budget_sessions.settled_nanos + excluded.settled_nanos END, \
                 first_used_ms = CASE WHEN {was_idle} OR excluded.first_used_ms < budget_sessions.first_used_ms \
                 THEN excluded.first_used_ms ELSE budget_sessions.first_used_ms END, \
                 last_used_ms = CASE WHEN excluded.last_used_ms > budget_sessions.last_used_ms \
                 THEN excluded.last_used_ms ELSE budget_sessions.last_used_ms END"
            ));
            query.build().execute(&mut *c).await.during("book sessions")?;
        });
        Ok(())
    }

    async fn lower_sessions(&mut self, rows: &[SessionRow]) -> Result<(), StoreError> {
        for ((budget, generation, session), nanos, _, last_ms) in rows {
            on_tx!(&mut *self, |c, Db| {
                sqlx::query(
                    "UPDATE budget_sessions SET \
                     settled_nanos = CASE WHEN settled_nanos + $4 < 0 THEN 0 ELSE settled_nanos + $4 END, \
                     last_used_ms = CASE WHEN $5 > last_used_ms THEN $5 ELSE last_used_ms END \
                     WHERE budget_id = $1 AND generation = $2 AND session_id = $3",
                )
                .bind(budget.bare())
                .bind(i64::from(*generation))
                .bind(session)
                .bind(*nanos)
                .bind(*last_ms)
                .execute(&mut *c)
                .await
                .during("correct a session")?;
            });
        }
        Ok(())
    }
}

type SessionRow = ((BudgetId, u32, String), i64, i64, i64);

impl Store {
    /// Deletes at most `limit` sessions that were last used before `before_ms`; returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purge_sessions(&self, before_ms: i64, limit: i64) -> Result<u64, StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "DELETE FROM budget_sessions WHERE (budget_id, generation, session_id) IN (SELECT budget_id, generation, \
                 session_id FROM budget_sessions WHERE last_used_ms < $1 ORDER BY last_used_ms LIMIT $2)",
            )
            .bind(before_ms)
            .bind(limit)
            .execute(c)
            .await
            .during("purge sessions")
            .map(|done| done.rows_affected())
        })
    }
}
