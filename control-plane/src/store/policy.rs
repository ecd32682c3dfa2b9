//! Policy as data planes read it: whole, or what changed since a revision.

use nullspend_core::{id::OrgId, money::Nanos, policy::OrgRule};

use super::{
    PolicyDelta, PolicyPosition, Store,
    budgets::{BudgetRow, budget_columns},
    codec::Reader,
    error::{During, StoreError},
    freezes::{FreezeRow, freeze_columns},
    keys::{KeyRow, key_columns},
    pool::{Tx, on_pool, on_tx},
};

#[derive(sqlx::FromRow)]
struct OrgRow {
    id: String,
    unpriced_hold_nanos: Option<i64>,
}

/// What changed after a revision, what has ended too; of the whole policy only what is in force.
macro_rules! changed_rows {
    ($store:expr, $op:expr, $columns:ident, $table:literal, $ended:literal, $after:expr, $whole:expr) => {
        on_pool!(read $store.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ", $columns!(), " FROM ", $table, " WHERE revision > $1 AND ($2 OR ", $ended, " IS NULL)"
            );
            sqlx::query_as(SQL).bind($after).bind(!$whole).fetch_all(c).await.during($op)?
        })
    };
}

impl Tx {
    /// Takes the next policy revision. PostgreSQL holds this row until commit, so revisions become visible in order,
    /// and whoever holds it may read and then write policy without another writer in between.
    pub(super) async fn next_revision(&mut self) -> Result<u64, StoreError> {
        const OP: &str = "take a policy revision";
        let revision: i64 = on_tx!(self, |c, Db| {
            sqlx::query_scalar(
                "UPDATE policy_state SET revision = revision + 1 WHERE id = 1 RETURNING revision",
            )
            .fetch_one(&mut *c)
            .await
            .during(OP)?
        });
        Reader(OP).number("revision", revision)
    }
}

impl Store {
    /// Where policy stands.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn policy_position(&self) -> Result<PolicyPosition, StoreError> {
        const OP: &str = "read the policy revision";
        let (revision, history_id): (i64, String) = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as("SELECT revision, history_id FROM policy_state WHERE id = 1")
                .fetch_one(c)
                .await
                .during(OP)?
        });
        Ok(PolicyPosition { revision: Reader(OP).number("revision", revision)?, history_id })
    }

    /// All of policy.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn policy_snapshot(&self) -> Result<PolicyDelta, StoreError> {
        // The position is read first: rows changed meanwhile come once more with the next delta, which does no harm.
        let at = self.policy_position().await?;
        self.read_policy(at, None).await
    }

    /// What changed after `revision`; a snapshot when that revision lies ahead of this database.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn policy_since(&self, revision: u64) -> Result<PolicyDelta, StoreError> {
        let at = self.policy_position().await?;
        let since = (revision > 0 && revision <= at.revision).then_some(revision);
        self.read_policy(at, since).await
    }

    async fn read_policy(&self, at: PolicyPosition, since: Option<u64>) -> Result<PolicyDelta, StoreError> {
        let after = i64::try_from(since.unwrap_or(0)).unwrap_or(i64::MAX);
        let mut delta = PolicyDelta {
            revision: at.revision,
            history_id: at.history_id,
            snapshot: since.is_none(),
            ..PolicyDelta::default()
        };
        self.read_orgs(after, &mut delta).await?;
        self.read_keys(after, &mut delta).await?;
        self.read_budgets(after, &mut delta).await?;
        self.read_freezes(after, &mut delta).await?;
        delta.prices = self.prices_since(after).await?.into_iter().map(|record| record.row).collect();
        delta.catalogue = self.catalogue_since(after).await?;
        Ok(delta)
    }

    async fn read_orgs(&self, after: i64, delta: &mut PolicyDelta) -> Result<(), StoreError> {
        const OP: &str = "read organisations' policy";
        let rows: Vec<OrgRow> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as("SELECT id, unpriced_hold_nanos FROM organisations WHERE revision > $1")
                .bind(after)
                .fetch_all(c)
                .await
                .during(OP)?
        });
        for row in rows {
            let org: OrgId = Reader(OP).id("id", &row.id)?;
            delta.orgs.push((org, OrgRule { unpriced_hold: row.unpriced_hold_nanos.map(Nanos) }));
        }
        Ok(())
    }

    async fn read_keys(&self, after: i64, delta: &mut PolicyDelta) -> Result<(), StoreError> {
        const OP: &str = "read keys' policy";
        let rows: Vec<KeyRow> =
            changed_rows!(self, OP, key_columns, "api_keys k", "revoked_at_ms", after, delta.snapshot);
        for row in rows {
            let hash = row.hash(OP)?;
            let key = row.into_record(OP)?;
            if key.revoked_at_ms.is_none() {
                delta.keys.push((hash, key.identity));
            } else {
                delta.revoked_keys.push(key.identity.key);
            }
        }
        Ok(())
    }

    async fn read_budgets(&self, after: i64, delta: &mut PolicyDelta) -> Result<(), StoreError> {
        const OP: &str = "read budgets' policy";
        let rows: Vec<BudgetRow> =
            changed_rows!(self, OP, budget_columns, "budgets", "deleted_at_ms", after, delta.snapshot);
        for row in rows {
            let deleted = row.deleted_at_ms.is_some();
            let budget = row.into_record(OP)?;
            if !deleted {
                delta.budgets.push(budget.rule);
            } else {
                delta.deleted_budgets.push(budget.rule.budget);
            }
        }
        Ok(())
    }

    async fn read_freezes(&self, after: i64, delta: &mut PolicyDelta) -> Result<(), StoreError> {
        const OP: &str = "read freezes' policy";
        let rows: Vec<FreezeRow> =
            changed_rows!(self, OP, freeze_columns, "freezes", "lifted_at_ms", after, delta.snapshot);
        for row in rows {
            let lifted = row.lifted_at_ms.is_some();
            let record = row.into_record(OP)?;
            if !lifted {
                delta.freezes.push(record.freeze);
            } else {
                delta.lifted_freezes.push(record.freeze.freeze);
            }
        }
        Ok(())
    }
}
