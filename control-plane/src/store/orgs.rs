//! Organisations, people and memberships.

use nullspend_core::{
    id::{OrgId, UserId},
    policy::Role,
};

use super::{
    KeyHash, KeyRecord, Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, on_pool, on_tx},
};

/// What an empty database begins with.
#[derive(Clone, Debug)]
pub struct Founding {
    /// The organisation.
    pub org: OrgId,
    /// Its display name.
    pub org_name: String,
    /// Its name in paths.
    pub org_slug: String,
    /// Its owner.
    pub user: UserId,
    /// The owner's display name.
    pub user_name: String,
    /// First keys with their hashes.
    pub keys: Vec<(KeyRecord, KeyHash)>,
    /// Now.
    pub now_ms: i64,
}

impl Store {
    /// Writes the first organisation, owner and keys, all or nothing; false when there is an organisation already.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn found(&self, founding: &Founding) -> Result<bool, StoreError> {
        const OP: &str = "found the first organisation";
        let mut tx = self.pool.begin().await.during(OP)?;
        // Taking the revision first makes two processes that start on one new database take turns.
        let revision = tx.next_revision().await?;
        let founded: bool = on_tx!(&mut tx, |c, Db| {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM organisations)")
                .fetch_one(&mut *c)
                .await
                .during(OP)?
        });
        if founded {
            return Ok(false);
        }
        tx.insert_org(founding.org, &founding.org_name, &founding.org_slug, founding.now_ms, revision)
            .await?;
        tx.insert_user(founding.user, &founding.user_name, founding.now_ms).await?;
        tx.put_membership(founding.org, founding.user, Role::Owner, founding.now_ms).await?;
        for (key, hash) in &founding.keys {
            tx.insert_key(key, hash, revision).await?;
        }
        tx.commit().await.during(OP)?;
        Ok(true)
    }

    /// Whether the database has no organisation yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_new(&self) -> Result<bool, StoreError> {
        let founded: bool = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM organisations)")
                .fetch_one(c)
                .await
                .during("look for organisations")?
        });
        Ok(!founded)
    }

    /// Every organisation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn org_ids(&self) -> Result<Vec<OrgId>, StoreError> {
        const OP: &str = "list organisations";
        let ids: Vec<String> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT id FROM organisations ORDER BY id").fetch_all(c).await.during(OP)?
        });
        ids.iter().map(|id| Reader(OP).id("id", id)).collect()
    }

    /// Adds an organisation with its owner, who may be new.
    ///
    /// # Errors
    /// When the database fails, or the slug is taken ([`StoreError::is_duplicate`]).
    pub async fn insert_org(
        &self,
        (org, name, slug): (OrgId, &str, &str),
        (owner, owner_name): (UserId, &str),
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        const OP: &str = "insert an organisation";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        tx.insert_org(org, name, slug, now_ms, revision).await?;
        tx.insert_user(owner, owner_name, now_ms).await?;
        tx.put_membership(org, owner, Role::Owner, now_ms).await?;
        tx.commit().await.during(OP)?;
        Ok(revision)
    }

    /// Adds a person (when new) to an organisation, or changes their role.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_member(
        &self,
        org: OrgId,
        (user, user_name): (UserId, &str),
        role: Role,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        const OP: &str = "put a member";
        let mut tx = self.pool.begin().await.during(OP)?;
        tx.insert_user(user, user_name, now_ms).await?;
        tx.put_membership(org, user, role, now_ms).await?;
        tx.commit().await.during(OP)
    }

    /// A person's role in an organisation.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn member_role(&self, org: OrgId, user: UserId) -> Result<Option<Role>, StoreError> {
        const OP: &str = "read a membership";
        let role: Option<String> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT role FROM memberships WHERE org_id = $1 AND user_id = $2")
                .bind(org.bare())
                .bind(user.bare())
                .fetch_optional(c)
                .await
                .during(OP)?
        });
        role.map(|word| Reader(OP).word("role", &word, Role::parse)).transpose()
    }
}

impl Tx {
    async fn insert_org(
        &mut self,
        org: OrgId,
        name: &str,
        slug: &str,
        now_ms: i64,
        revision: u64,
    ) -> Result<(), StoreError> {
        on_tx!(self, |c, Db| {
            sqlx::query("INSERT INTO organisations (id, name, slug, created_at_ms, revision) VALUES ($1, $2, $3, $4, $5)")
                .bind(org.bare())
                .bind(name)
                .bind(slug)
                .bind(now_ms)
                .bind(i64::try_from(revision).unwrap_or(i64::MAX))
                .execute(&mut *c)
                .await
                .during("insert an organisation")?;
            Ok(())
        })
    }

    async fn insert_user(&mut self, user: UserId, name: &str, now_ms: i64) -> Result<(), StoreError> {
        on_tx!(self, |c, Db| {
            sqlx::query(
                "INSERT INTO users (id, display_name, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
            )
            .bind(user.bare())
            .bind(name)
            .bind(now_ms)
            .execute(&mut *c)
            .await
            .during("insert a user")?;
            Ok(())
        })
    }

    async fn put_membership(
        &mut self,
        org: OrgId,
        user: UserId,
        role: Role,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        on_tx!(self, |c, Db| {
            sqlx::query(
                "INSERT INTO memberships (org_id, user_id, role, created_at_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role",
            )
            .bind(org.bare())
            .bind(user.bare())
            .bind(role.as_str())
            .bind(now_ms)
            .execute(&mut *c)
            .await
            .during("put a membership")?;
            Ok(())
        })
    }
}
