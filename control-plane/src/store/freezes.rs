//! What organisations have frozen.

use nullspend_core::{
    freeze::{Freeze, Target},
    id::{FreezeId, OrgId},
};

use super::{
    Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{on_pool, on_tx},
};

/// A freeze with who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeRecord {
    /// The freeze; its `since_ms` is when it was made.
    pub freeze: Freeze,
    /// The key or person that made it.
    pub created_by: String,
}

/// What came of freezing something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Froze {
    /// It is frozen from this policy revision on.
    Now(FreezeRecord, u64),
    /// It was frozen already, and stays so as it was.
    Before(FreezeRecord),
    /// The organisation has as many freezes as it may.
    Full,
}

macro_rules! freeze_columns {
    () => {
        "id, org_id, entity_type, entity_id, reason, created_by, created_at_ms, lifted_at_ms"
    };
}
pub(super) use freeze_columns;

#[derive(sqlx::FromRow)]
pub(super) struct FreezeRow {
    id: String,
    org_id: String,
    entity_type: String,
    entity_id: String,
    reason: String,
    created_by: String,
    created_at_ms: i64,
    pub(super) lifted_at_ms: Option<i64>,
}

impl FreezeRow {
    pub(super) fn into_record(self, op: &'static str) -> Result<FreezeRecord, StoreError> {
        let read = Reader(op);
        let target = Target::parse(&self.entity_type, &self.entity_id)
            .ok_or_else(|| read.bad("entity_id", &self.entity_id))?;
        let freeze = Freeze {
            freeze: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            target,
            reason: self.reason,
            since_ms: self.created_at_ms,
        };
        Ok(FreezeRecord { freeze, created_by: self.created_by })
    }
}

impl Store {
    /// Freezes what is not frozen yet, unless the organisation has `most` freezes in force.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_freeze(&self, record: &FreezeRecord, most: usize) -> Result<Froze, StoreError> {
        const OP: &str = "put a freeze";
        let freeze = &record.freeze;
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let rows: Vec<FreezeRow> = on_tx!(&mut tx, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                freeze_columns!(),
                " FROM freezes WHERE org_id = $1 AND lifted_at_ms IS NULL"
            );
            sqlx::query_as(SQL).bind(freeze.org.bare()).fetch_all(&mut *c).await.during(OP)?
        });
        let full = rows.len() >= most;
        for row in rows {
            let known = row.into_record(OP)?;
            if known.freeze.target == freeze.target {
                return Ok(Froze::Before(known));
            }
        }
        if full {
            return Ok(Froze::Full);
        }
        on_tx!(&mut tx, |c, Db| {
            const SQL: &str = "INSERT INTO freezes (id, org_id, entity_type, entity_id, reason, created_by, \
                created_at_ms, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            sqlx::query(SQL)
                .bind(freeze.freeze.bare())
                .bind(freeze.org.bare())
                .bind(freeze.target.kind())
                .bind(freeze.target.stored_id())
                .bind(&freeze.reason)
                .bind(&record.created_by)
                .bind(freeze.since_ms)
                .bind(i64::try_from(revision).unwrap_or(i64::MAX))
                .execute(&mut *c)
                .await
                .during(OP)?;
        });
        tx.commit().await.during(OP)?;
        Ok(Froze::Now(record.clone(), revision))
    }

    /// Lifts a freeze of the organisation; `None` when none is in force. Returns the policy revision.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lift_freeze(
        &self,
        org: OrgId,
        freeze: FreezeId,
        by: &str,
        now_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        const OP: &str = "lift a freeze";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let changed = on_tx!(&mut tx, |c, Db| {
            sqlx::query(
                "UPDATE freezes SET lifted_by = $3, lifted_at_ms = $4, revision = $5 \
                 WHERE id = $1 AND org_id = $2 AND lifted_at_ms IS NULL",
            )
            .bind(freeze.bare())
            .bind(org.bare())
            .bind(by)
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

    /// One freeze of the organisation, and when it was lifted if it was.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn freeze(
        &self,
        org: OrgId,
        freeze: FreezeId,
    ) -> Result<Option<(FreezeRecord, Option<i64>)>, StoreError> {
        const OP: &str = "read a freeze";
        let row: Option<FreezeRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str =
                concat!("SELECT ", freeze_columns!(), " FROM freezes WHERE id = $1 AND org_id = $2");
            sqlx::query_as(SQL).bind(freeze.bare()).bind(org.bare()).fetch_optional(c).await.during(OP)?
        });
        row.map(|row| {
            let lifted_at_ms = row.lifted_at_ms;
            Ok((row.into_record(OP)?, lifted_at_ms))
        })
        .transpose()
    }

    /// The organisation's freezes in force, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_freezes(&self, org: OrgId) -> Result<Vec<FreezeRecord>, StoreError> {
        const OP: &str = "list freezes";
        let rows: Vec<FreezeRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                freeze_columns!(),
                " FROM freezes WHERE org_id = $1 AND lifted_at_ms IS NULL ORDER BY created_at_ms, id"
            );
            sqlx::query_as(SQL).bind(org.bare()).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }
}
