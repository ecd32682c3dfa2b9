//! First answers of idempotent calls, kept for a day (contract §5.1).

use super::{
    IdempotencyBegin, IdempotencyKey, Store,
    error::{During, StoreError},
    pool::{on_pool, on_tx},
};

/// How long an answer is kept.
pub const IDEMPOTENCY_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// A call that has not finished by then died with its process; the next one may run.
const ABANDONED_AFTER_MS: i64 = 60 * 1000;

#[derive(sqlx::FromRow)]
struct IdempotencyRow {
    request_sha256: String,
    finished: bool,
    response: Option<Vec<u8>>,
    http_status: i64,
}

impl Store {
    /// Announces a call. Whoever gets `Fresh` runs it and then finishes or abandons it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn idempotency_begin(
        &self,
        call: IdempotencyKey<'_>,
        request_sha256: &[u8; 32],
        now_ms: i64,
    ) -> Result<IdempotencyBegin, StoreError> {
        const OP: &str = "begin an idempotent call";
        let hash = hex::encode(request_sha256);
        let mut tx = self.pool.begin().await.during(OP)?;
        let (fresh, row): (u64, IdempotencyRow) = on_tx!(&mut tx, |c, Db| {
            // Reuses the place of an answer that is too old, and of a call that never ended.
            let fresh = sqlx::query(
                "INSERT INTO idempotency (org_id, method, idempotency_key, request_sha256, finished, http_status, begun_at_ms) \
                 VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (org_id, method, idempotency_key) DO UPDATE SET \
                 request_sha256 = excluded.request_sha256, finished = excluded.finished, response = NULL, \
                 http_status = 0, begun_at_ms = excluded.begun_at_ms \
                 WHERE idempotency.begun_at_ms <= $7 OR (NOT idempotency.finished AND idempotency.begun_at_ms <= $8)",
            )
            .bind(call.org.bare())
            .bind(call.method)
            .bind(call.key)
            .bind(&hash)
            .bind(false)
            .bind(now_ms)
            .bind(now_ms - IDEMPOTENCY_KEPT_MS)
            .bind(now_ms - ABANDONED_AFTER_MS)
            .execute(&mut *c)
            .await
            .during(OP)?
            .rows_affected();
            let row = sqlx::query_as(
                "SELECT request_sha256, finished, response, http_status FROM idempotency \
                 WHERE org_id = $1 AND method = $2 AND idempotency_key = $3",
            )
            .bind(call.org.bare())
            .bind(call.method)
            .bind(call.key)
            .fetch_one(&mut *c)
            .await
            .during(OP)?;
            (fresh, row)
        });
        tx.commit().await.during(OP)?;
        Ok(match row.response {
            _ if fresh == 1 => IdempotencyBegin::Fresh,
            _ if row.request_sha256 != hash => IdempotencyBegin::Mismatch,
            Some(response) if row.finished => {
                IdempotencyBegin::Replay { response, http_status: row.http_status }
            }
            _ => IdempotencyBegin::InProgress,
        })
    }

    /// Keeps the answer of a `Fresh` call.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn idempotency_finish(
        &self,
        call: IdempotencyKey<'_>,
        response: &[u8],
        http_status: i64,
    ) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "UPDATE idempotency SET finished = $4, response = $5, http_status = $6 \
                 WHERE org_id = $1 AND method = $2 AND idempotency_key = $3",
            )
            .bind(call.org.bare())
            .bind(call.method)
            .bind(call.key)
            .bind(true)
            .bind(response)
            .bind(http_status)
            .execute(c)
            .await
            .during("finish an idempotent call")?;
            Ok(())
        })
    }

    /// Forgets a `Fresh` call whose answer must not be replayed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn idempotency_abandon(&self, call: IdempotencyKey<'_>) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "DELETE FROM idempotency \
                 WHERE org_id = $1 AND method = $2 AND idempotency_key = $3 AND NOT finished",
            )
            .bind(call.org.bare())
            .bind(call.method)
            .bind(call.key)
            .execute(c)
            .await
            .during("abandon an idempotent call")?;
            Ok(())
        })
    }

    /// Deletes at most `limit` answers that began before `before_ms`; returns how many.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purge_idempotency(&self, before_ms: i64, limit: i64) -> Result<u64, StoreError> {
        on_pool!(write self.pool, |c, Db| {
            let deleted = sqlx::query(
                "DELETE FROM idempotency WHERE (org_id, method, idempotency_key) IN \
                 (SELECT org_id, method, idempotency_key FROM idempotency WHERE begun_at_ms < $1 LIMIT $2)",
            )
            .bind(before_ms)
            .bind(limit)
            .execute(c)
            .await
            .during("purge idempotent calls")?
            .rows_affected();
            Ok(deleted)
        })
    }
}
