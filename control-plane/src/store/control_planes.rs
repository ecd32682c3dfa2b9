//! What the data planes of each control plane enforce, for the control planes beside it.
//!
//! Each row lasts for a lease by the database's own clock, which is the one that all control planes share.

use super::{
    Store,
    error::{During, StoreError},
    pool::{Pool, ServerClock, on_pool},
};

impl Store {
    /// Whether several control planes may work on this database: SQLite is one machine's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self.pool, Pool::Postgres(_))
    }

    /// All data planes that follow `control_plane` enforce policy up to `revision`; it counts as there for a lease.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_enforced(
        &self,
        control_plane: &str,
        revision: u64,
        lease_ms: i64,
    ) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new(
                "INSERT INTO control_planes (id, enforced_revision, until_ms) VALUES (",
            );
            query.push_bind(control_plane).push(", ").push_bind(i64::try_from(revision).unwrap_or(i64::MAX));
            query.push(", ").push(Db::NOW_MS).push(" + ").push_bind(lease_ms);
            query.push(
                ") ON CONFLICT (id) DO UPDATE SET enforced_revision = excluded.enforced_revision, \
                 until_ms = excluded.until_ms",
            );
            query.build().execute(c).await.during("note what data planes enforce")?;
            Ok(())
        })
    }

    /// No data plane follows `control_plane` any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_enforced(&self, control_plane: &str) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query("DELETE FROM control_planes WHERE id = $1")
                .bind(control_plane)
                .execute(c)
                .await
                .during("forget what data planes enforce")?;
            Ok(())
        })
    }

    /// Whether the data planes of all control planes but `control_plane` enforce policy up to `revision`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn enforced_elsewhere(&self, control_plane: &str, revision: u64) -> Result<bool, StoreError> {
        let behind: i64 = on_pool!(read self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new("SELECT COUNT(*) FROM control_planes WHERE id <> ");
            query.push_bind(control_plane).push(" AND enforced_revision < ");
            query.push_bind(i64::try_from(revision).unwrap_or(i64::MAX));
            query.push(" AND until_ms > ").push(Db::NOW_MS);
            query.build_query_scalar().fetch_one(c).await.during("ask what other data planes enforce")?
        });
        Ok(behind == 0)
    }

    /// Deletes what control planes told that were not heard of for a lease.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn purge_control_planes(&self) -> Result<u64, StoreError> {
        on_pool!(write self.pool, |c, Db| {
            let mut query = sqlx::QueryBuilder::<Db>::new("DELETE FROM control_planes WHERE until_ms <= ");
            query.push(Db::NOW_MS);
            let done = query.build().execute(c).await.during("forget control planes that are gone")?;
            Ok(done.rows_affected())
        })
    }
}
