//! API keys.

use nullspend_core::{
    id::{KeyId, OrgId},
    policy::{KeyIdentity, Role},
};

use super::{
    Cursor, KeyAuth, KeyHash, KeyRecord, Store,
    codec::{Reader, list_json, map_json},
    error::{During, StoreError},
    pool::{on_pool, on_tx},
};

macro_rules! key_columns {
    () => {
        "k.id, k.org_id, k.user_id, k.name, k.key_sha256, k.key_prefix, k.role, k.default_tags, k.locked_tags, \
         k.required_tags, k.allowed_models, k.allowed_providers, k.api_version, k.created_at_ms, k.last_used_at_ms, \
         k.revoked_at_ms"
    };
}
pub(super) use key_columns;

#[derive(sqlx::FromRow)]
pub(super) struct KeyRow {
    id: String,
    org_id: String,
    user_id: String,
    name: String,
    key_sha256: String,
    key_prefix: String,
    role: String,
    default_tags: String,
    locked_tags: String,
    required_tags: String,
    allowed_models: Option<String>,
    allowed_providers: Option<String>,
    api_version: String,
    created_at_ms: i64,
    last_used_at_ms: Option<i64>,
    revoked_at_ms: Option<i64>,
}

#[derive(sqlx::FromRow)]
struct KeyAuthRow {
    #[sqlx(flatten)]
    key: KeyRow,
    owner_role: Option<String>,
}

impl KeyRow {
    pub(super) fn hash(&self, op: &'static str) -> Result<KeyHash, StoreError> {
        let mut hash = [0; 32];
        hex::decode_to_slice(&self.key_sha256, &mut hash)
            .map_err(|_| Reader(op).bad("key_sha256", "no SHA-256"))?;
        Ok(hash)
    }

    pub(super) fn into_record(self, op: &'static str) -> Result<KeyRecord, StoreError> {
        let read = Reader(op);
        let list = |column, text: Option<&str>| text.map(|text| read.json(column, text)).transpose();
        let identity = KeyIdentity {
            key: read.id("id", &self.id)?,
            org: read.id("org_id", &self.org_id)?,
            user: read.id("user_id", &self.user_id)?,
            name: self.name,
            role: read.word("role", &self.role, Role::parse)?,
            default_tags: read.json("default_tags", &self.default_tags)?,
            locked_tags: read.json("locked_tags", &self.locked_tags)?,
            required_tags: read.json("required_tags", &self.required_tags)?,
            allowed_models: list("allowed_models", self.allowed_models.as_deref())?,
            allowed_providers: list("allowed_providers", self.allowed_providers.as_deref())?,
            api_version: self.api_version,
        };
        Ok(KeyRecord {
            identity,
            prefix: self.key_prefix,
            last_used_at_ms: self.last_used_at_ms,
            created_at_ms: self.created_at_ms,
            revoked_at_ms: self.revoked_at_ms,
        })
    }
}

/// What became of a revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Revoked; the new policy revision.
    At(u64),
    /// There is no such live key.
    NotFound,
    /// It is the last owner key: nothing changed.
    LastOwner,
}

impl Store {
    /// Adds a key; returns the policy revision it came with.
    ///
    /// # Errors
    /// When the database fails, or the organisation or user does not exist.
    pub async fn insert_key(&self, key: &KeyRecord, hash: &KeyHash) -> Result<u64, StoreError> {
        const OP: &str = "insert a key";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        tx.insert_key(key, hash, revision).await?;
        tx.commit().await.during(OP)?;
        Ok(revision)
    }

    /// Changes a live key by `change`; `None` when there is no such key. Returns it with the new policy revision.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_key(
        &self,
        org: OrgId,
        key: KeyId,
        change: impl FnOnce(&mut KeyIdentity) + Send,
    ) -> Result<Option<(KeyRecord, u64)>, StoreError> {
        const OP: &str = "update a key";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let row: Option<KeyRow> = on_tx!(&mut tx, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.id = $1 AND k.org_id = $2 AND k.revoked_at_ms IS NULL"
            );
            sqlx::query_as(SQL).bind(key.bare()).bind(org.bare()).fetch_optional(&mut *c).await.during(OP)?
        });
        let Some(row) = row else { return Ok(None) };
        let mut record = row.into_record(OP)?;
        change(&mut record.identity);
        let identity = &record.identity;
        on_tx!(&mut tx, |c, Db| {
            sqlx::query(
                "UPDATE api_keys SET name = $2, default_tags = $3, locked_tags = $4, required_tags = $5, \
                 allowed_models = $6, allowed_providers = $7, revision = $8 WHERE id = $1",
            )
            .bind(key.bare())
            .bind(&identity.name)
            .bind(map_json(&identity.default_tags))
            .bind(list_json(&identity.locked_tags))
            .bind(list_json(&identity.required_tags))
            .bind(identity.allowed_models.as_deref().map(list_json))
            .bind(identity.allowed_providers.as_deref().map(list_json))
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .execute(&mut *c)
            .await
            .during(OP)?;
        });
        tx.commit().await.during(OP)?;
        Ok(Some((record, revision)))
    }

    /// Revokes a live key for good, unless it is the organisation's last way in.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn revoke_key(&self, org: OrgId, key: KeyId, now_ms: i64) -> Result<Revoked, StoreError> {
        const OP: &str = "revoke a key";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let changed = on_tx!(&mut tx, |c, Db| {
            sqlx::query(
                "UPDATE api_keys SET revoked_at_ms = $3, revision = $4 \
                 WHERE id = $1 AND org_id = $2 AND revoked_at_ms IS NULL",
            )
            .bind(key.bare())
            .bind(org.bare())
            .bind(now_ms)
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .execute(&mut *c)
            .await
            .during(OP)?
            .rows_affected()
        });
        if changed == 0 {
            return Ok(Revoked::NotFound);
        }
        // The revision's row serialises writers, so two owners cannot revoke each other's last key at once.
        let owned: bool = on_tx!(&mut tx, |c, Db| {
            sqlx::query_scalar(
                "SELECT EXISTS (SELECT 1 FROM api_keys WHERE org_id = $1 AND role = 'owner' AND revoked_at_ms IS NULL) \
                 OR NOT EXISTS (SELECT 1 FROM api_keys WHERE id = $2 AND role = 'owner')",
            )
            .bind(org.bare())
            .bind(key.bare())
            .fetch_one(&mut *c)
            .await
            .during(OP)?
        });
        if !owned {
            // Dropped, the transaction is rolled back.
            return Ok(Revoked::LastOwner);
        }
        tx.commit().await.during(OP)?;
        Ok(Revoked::At(revision))
    }

    /// A key of the organisation, revoked or not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn key(&self, org: OrgId, key: KeyId) -> Result<Option<KeyRecord>, StoreError> {
        const OP: &str = "read a key";
        let row: Option<KeyRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str =
                concat!("SELECT ", key_columns!(), " FROM api_keys k WHERE k.id = $1 AND k.org_id = $2");
            sqlx::query_as(SQL).bind(key.bare()).bind(org.bare()).fetch_optional(c).await.during(OP)?
        });
        row.map(|row| row.into_record(OP)).transpose()
    }

    /// The live key with this hash, and what its owner may do.
    ///
    /// # Errors
    /// When the database fails: never to be taken for "no such key" (law 4).
    pub async fn key_by_sha256(&self, hash: &KeyHash) -> Result<Option<KeyAuth>, StoreError> {
        const OP: &str = "look up a key";
        let row: Option<KeyAuthRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                key_columns!(),
                ", m.role AS owner_role FROM api_keys k \
                 LEFT JOIN memberships m ON m.org_id = k.org_id AND m.user_id = k.user_id \
                 WHERE k.key_sha256 = $1 AND k.revoked_at_ms IS NULL"
            );
            sqlx::query_as(SQL).bind(hex::encode(hash)).fetch_optional(c).await.during(OP)?
        });
        let Some(row) = row else { return Ok(None) };
        let owner_role =
            row.owner_role.map(|word| Reader(OP).word("role", &word, Role::parse)).transpose()?;
        let record = row.key.into_record(OP)?;
        Ok(Some(KeyAuth { identity: record.identity, owner_role, last_used_at_ms: record.last_used_at_ms }))
    }

    /// Notes that a key called the API, at most once in `every_ms`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn touch_key(&self, key: KeyId, now_ms: i64, every_ms: i64) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query(
                "UPDATE api_keys SET last_used_at_ms = $2 \
                 WHERE id = $1 AND (last_used_at_ms IS NULL OR last_used_at_ms <= $3)",
            )
            .bind(key.bare())
            .bind(now_ms)
            .bind(now_ms.saturating_sub(every_ms))
            .execute(c)
            .await
            .during("note a key's use")?;
            Ok(())
        })
    }

    /// Live keys of the organisation, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_keys(
        &self,
        org: OrgId,
        cursor: Option<&Cursor>,
        limit: i64,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        const OP: &str = "list keys";
        let (at_ms, id) = cursor.map_or((i64::MAX, "g"), |cursor| (cursor.at_ms, cursor.id.as_str()));
        let rows: Vec<KeyRow> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys k WHERE k.org_id = $1 AND k.revoked_at_ms IS NULL AND (k.created_at_ms, k.id) < ($2, $3) \
                 ORDER BY k.created_at_ms DESC, k.id DESC LIMIT $4"
            );
            sqlx::query_as(SQL).bind(org.bare()).bind(at_ms).bind(id).bind(limit).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }
}

impl super::pool::Tx {
    pub(super) async fn insert_key(
        &mut self,
        key: &KeyRecord,
        hash: &KeyHash,
        revision: u64,
    ) -> Result<(), StoreError> {
        let identity = &key.identity;
        on_tx!(self, |c, Db| {
            sqlx::query(
                "INSERT INTO api_keys (id, org_id, user_id, name, key_sha256, key_prefix, role, default_tags, \
                 locked_tags, required_tags, allowed_models, allowed_providers, api_version, created_at_ms, revision) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            )
            .bind(identity.key.bare())
            .bind(identity.org.bare())
            .bind(identity.user.bare())
            .bind(&identity.name)
            .bind(hex::encode(hash))
            .bind(&key.prefix)
            .bind(identity.role.as_str())
            .bind(map_json(&identity.default_tags))
            .bind(list_json(&identity.locked_tags))
            .bind(list_json(&identity.required_tags))
            .bind(identity.allowed_models.as_deref().map(list_json))
            .bind(identity.allowed_providers.as_deref().map(list_json))
            .bind(&identity.api_version)
            .bind(key.created_at_ms)
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .execute(&mut *c)
            .await
            .during("insert a key")?;
            Ok(())
        })
    }
}
