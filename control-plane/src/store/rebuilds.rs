//! Rebuilds of the ledger under way, and the data planes they wait for (design §6, Rebuild).

use bytes::Bytes;
use nullspend_core::{
    attempt::BudgetCharge,
    id::{AttemptId, OrgId},
    money::Nanos,
};
use nullspend_proto::internal::DeliverRequest;
use prost::Message as _;

use super::{
    Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{ServerClock, on_pool, on_tx},
    record::{clean, under_way},
};

/// A call whose cost the ledger has not been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// The attempt.
    pub attempt: AttemptId,
    /// What it holds.
    pub held: Nanos,
    /// Of what.
    pub charges: Vec<BudgetCharge>,
    /// The caller's session.
    pub session_id: Option<String>,
    /// Whether it may use what budgets keep back for final answers.
    pub finalize: bool,
    /// What its event is written from, should its owner die.
    pub stub: Bytes,
}

/// A ledger's books of one organisation, being made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildRecord {
    /// Whose books.
    pub org: OrgId,
    /// Which rebuild of them.
    pub id: String,
    /// When their loss was noticed.
    pub began_at_ms: i64,
    /// The books are being opened, or are open already: what was delivered is used up, and nobody is asked for more.
    pub opening: bool,
}

impl Store {
    /// A data plane follows policy: from now on it may have work under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dataplane_came(&self, dataplane: &str, now_ms: i64) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "INSERT INTO dataplanes (id, acked_seq, first_seen_at_ms, last_seen_at_ms) VALUES ($1, 0, $2, $2) \
                 ON CONFLICT (id) DO UPDATE SET last_seen_at_ms = excluded.last_seen_at_ms, left_at_ms = NULL",
            )
            .bind(clean(dataplane))
            .bind(now_ms)
            .execute(c)
            .await
            .during("note a data plane")?;
            Ok(())
        })
    }

    /// A data plane has nothing under way any more, or is given up; false when nobody knows it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn dataplane_left(&self, dataplane: &str, now_ms: i64) -> Result<bool, StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query("UPDATE dataplanes SET left_at_ms = $2 WHERE id = $1")
                .bind(clean(dataplane))
                .bind(now_ms)
                .execute(c)
                .await
                .during("note the end of a data plane")
                .map(|done| done.rows_affected() > 0)
        })
    }

    /// Begins a rebuild of an organisation's books, unless one is under way: that one then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_rebuild(&self, begun: &RebuildRecord) -> Result<RebuildRecord, StoreError> {
        const OP: &str = "begin a rebuild";
        let mut tx = self.pool.begin().await.during(OP)?;
        let (id, began_at_ms, opening): (String, i64, i64) = on_tx!(&mut tx, |c, Db| {
            sqlx::query(
                "INSERT INTO ledger_rebuilds (org_id, rebuild_id, began_at_ms) VALUES ($1, $2, $3) \
                 ON CONFLICT (org_id) DO NOTHING",
            )
            .bind(begun.org.bare())
            .bind(&begun.id)
            .bind(begun.began_at_ms)
            .execute(&mut *c)
            .await
            .during(OP)?;
            sqlx::query_as("SELECT rebuild_id, began_at_ms, opening FROM ledger_rebuilds WHERE org_id = $1")
                .bind(begun.org.bare())
                .fetch_one(&mut *c)
                .await
                .during(OP)?
        });
        tx.commit().await.during(OP)?;
        Ok(RebuildRecord { org: begun.org, id, began_at_ms, opening: opening != 0 })
    }

    /// Claims an organisation's rebuild for so long by the database's clock, or renews the claim; false when somebody else
    /// has it, or none is under way. A claim for no time is given back.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim_rebuild(&self, org: OrgId, by: &str, for_ms: i64) -> Result<bool, StoreError> {
        on_pool!(write self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new("UPDATE ledger_rebuilds SET claimed_by = ");
            query.push_bind(by).push(", claimed_until_ms = ").push(Db::NOW_MS).push(" + ").push_bind(for_ms);
            query.push(" WHERE org_id = ").push_bind(org.bare());
            query.push(" AND (claimed_by = ").push_bind(by);
            query.push(" OR claimed_until_ms <= ").push(Db::NOW_MS).push(")");
            query.build().execute(c).await.during("claim a rebuild").map(|done| done.rows_affected() > 0)
        })
    }

    /// Gives back every claim of one who ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn give_rebuilds_back(&self, by: &str) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query("UPDATE ledger_rebuilds SET claimed_until_ms = 0 WHERE claimed_by = $1")
                .bind(by)
                .execute(c)
                .await
                .during("give rebuilds back")
                .map(drop)
        })
    }

    /// Makes a rebuild another one, for which nothing is delivered yet: what was is used up. `opening`: since its books are
    /// about to be whole; else because they are lost once more, so that all data planes deliver afresh. False when it is over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_rebuild_anew(
        &self,
        rebuild: &str,
        id: &str,
        opening: bool,
    ) -> Result<bool, StoreError> {
        const OP: &str = "begin a rebuild anew";
        let mut tx = self.pool.begin().await.during(OP)?;
        let renamed = on_tx!(&mut tx, |c, Db| {
            sqlx::query("DELETE FROM ledger_deliveries WHERE rebuild_id = $1")
                .bind(rebuild)
                .execute(&mut *c)
                .await
                .during(OP)?;
            sqlx::query("UPDATE ledger_rebuilds SET rebuild_id = $2, opening = $3 WHERE rebuild_id = $1")
                .bind(rebuild)
                .bind(id)
                .bind(i64::from(opening))
                .execute(&mut *c)
                .await
                .during(OP)?
                .rows_affected()
        });
        tx.commit().await.during(OP)?;
        Ok(renamed > 0)
    }

    /// Forgets a rebuild and what was delivered for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn end_rebuild(&self, rebuild: &str) -> Result<(), StoreError> {
        const OP: &str = "end a rebuild";
        let mut tx = self.pool.begin().await.during(OP)?;
        on_tx!(&mut tx, |c, Db| {
            for sql in [
                "DELETE FROM ledger_deliveries WHERE rebuild_id = $1",
                "DELETE FROM ledger_rebuilds WHERE rebuild_id = $1",
            ] {
                sqlx::query(sql).bind(rebuild).execute(&mut *c).await.during(OP)?;
            }
        });
        tx.commit().await.during(OP)
    }

    /// The rebuilds under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_rebuilds(&self) -> Result<Vec<RebuildRecord>, StoreError> {
        const OP: &str = "list rebuilds";
        let rows: Vec<(String, String, i64, i64)> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as("SELECT org_id, rebuild_id, began_at_ms, opening FROM ledger_rebuilds ORDER BY org_id")
                .fetch_all(c)
                .await
                .during(OP)?
        });
        let read = |(org, id, began_at_ms, opening): (String, String, i64, i64)| {
            Ok(RebuildRecord { org: Reader(OP).id("org_id", &org)?, id, began_at_ms, opening: opening != 0 })
        };
        rows.into_iter().map(read).collect()
    }

    /// Keeps what a data plane has under way, in place of what it told before; false when there is no such rebuild.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_delivery(&self, delivery: &DeliverRequest) -> Result<bool, StoreError> {
        const OP: &str = "keep a delivery";
        let (rebuild, dataplane) = (&delivery.rebuild_id, &delivery.dataplane_id);
        let attempts = delivery.encode_to_vec();
        let mut tx = self.pool.begin().await.during(OP)?;
        let kept = on_tx!(&mut tx, |c, Db| {
            // Who was thought gone for good is not.
            sqlx::query("UPDATE dataplanes SET left_at_ms = NULL WHERE id = $1 AND left_at_ms IS NOT NULL")
                .bind(clean(dataplane))
                .execute(&mut *c)
                .await
                .during(OP)?;
            sqlx::query(
                "INSERT INTO ledger_deliveries (rebuild_id, dataplane_id, attempts) \
                 SELECT rebuild_id, $2, $3 FROM ledger_rebuilds WHERE rebuild_id = $1 \
                 ON CONFLICT (rebuild_id, dataplane_id) DO UPDATE SET attempts = excluded.attempts",
            )
            .bind(rebuild)
            .bind(clean(dataplane))
            .bind(attempts)
            .execute(&mut *c)
            .await
            .during(OP)?
            .rows_affected()
        });
        tx.commit().await.during(OP)?;
        Ok(kept > 0)
    }

    /// What was delivered for a rebuild: everything that data planes have under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delivered(&self, rebuild: &str) -> Result<Vec<UnderWay>, StoreError> {
        const OP: &str = "read deliveries";
        let rows: Vec<Vec<u8>> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT attempts FROM ledger_deliveries WHERE rebuild_id = $1 ORDER BY dataplane_id")
                .bind(rebuild)
                .fetch_all(c)
                .await
                .during(OP)?
        });
        let mut all = Vec::new();
        for row in rows {
            let unreadable = |cause: String| StoreError::Inconsistent { op: OP, what: cause };
            let delivery = DeliverRequest::decode(&*row).map_err(|cause| unreadable(cause.to_string()))?;
            for attempt in &delivery.attempts {
                all.push(under_way(attempt).map_err(unreadable)?);
            }
        }
        Ok(all)
    }

    /// The data planes that may have work under way and have not delivered it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn awaited_dataplanes(&self, rebuild: &str) -> Result<Vec<String>, StoreError> {
        on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar(
                "SELECT id FROM dataplanes WHERE left_at_ms IS NULL AND id NOT IN \
                 (SELECT dataplane_id FROM ledger_deliveries WHERE rebuild_id = $1) ORDER BY id",
            )
            .bind(rebuild)
            .fetch_all(c)
            .await
            .during("list awaited data planes")
        })
    }
}
