//! Which node's in-process ledger belongs to this database (design §3).

use super::{
    Store,
    error::{During, StoreError},
    pool::{on_pool, on_tx},
};

impl Store {
    /// Claims the database for `node_id`; returns the owner, which is another node when that one claimed it before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_node(&self, node_id: &str, now_ms: i64) -> Result<String, StoreError> {
        const OP: &str = "claim the ledger";
        let mut tx = self.pool.begin().await.during(OP)?;
        let owner: String = on_tx!(&mut tx, |c, Db| {
            sqlx::query("INSERT INTO node (id, node_id, claimed_at_ms) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING")
                .bind(node_id)
                .bind(now_ms)
                .execute(&mut *c)
                .await
                .during(OP)?;
            sqlx::query_scalar("SELECT node_id FROM node WHERE id = 1").fetch_one(&mut *c).await.during(OP)?
        });
        tx.commit().await.during(OP)?;
        Ok(owner)
    }

    /// Makes `node_id` the owner, whoever was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn take_over_node(&self, node_id: &str, now_ms: i64) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "INSERT INTO node (id, node_id, claimed_at_ms) VALUES (1, $1, $2) \
                 ON CONFLICT (id) DO UPDATE SET node_id = excluded.node_id, claimed_at_ms = excluded.claimed_at_ms",
            )
            .bind(node_id)
            .bind(now_ms)
            .execute(c)
            .await
            .during("take over the ledger")?;
            Ok(())
        })
    }
}
