//! Operators' price rows, and the catalogues that were in force.

use nullspend_core::{
    id::{OrgId, PriceId},
    price::{PriceRow, Terms},
};

use super::{
    Store,
    codec::Reader,
    error::{During, StoreError},
    pool::{Tx, on_pool, on_tx},
};

/// A price row with who made it and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRecord {
    /// The row.
    pub row: PriceRow,
    /// Why it was made.
    pub reason: String,
    /// The key or person that made it.
    pub created_by: String,
    /// When.
    pub created_at_ms: i64,
    /// When its end changed last.
    pub updated_at_ms: i64,
}

/// A catalogue as it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCatalogue {
    /// Its version.
    pub version: String,
    /// The file.
    pub text: String,
}

macro_rules! price_columns {
    () => {
        "id, version, org_id, from_ms, until_ms, terms, reason, created_by, created_at_ms, updated_at_ms"
    };
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    version: i64,
    org_id: Option<String>,
    from_ms: i64,
    until_ms: Option<i64>,
    terms: String,
    reason: String,
    created_by: String,
    created_at_ms: i64,
    updated_at_ms: i64,
}

impl Row {
    fn into_record(self, op: &'static str) -> Result<PriceRecord, StoreError> {
        let read = Reader(op);
        let row = PriceRow {
            id: read.id("id", &self.id)?,
            version: read.number("version", self.version)?,
            org: read.optional_id("org_id", self.org_id.as_deref())?,
            from_ms: self.from_ms,
            until_ms: self.until_ms,
            terms: Terms::parse(&self.terms).map_err(|_| read.bad("terms", &self.terms))?,
        };
        Ok(PriceRecord {
            row,
            reason: self.reason,
            created_by: self.created_by,
            created_at_ms: self.created_at_ms,
            updated_at_ms: self.updated_at_ms,
        })
    }
}

impl Store {
    /// Writes what `decide` makes of all rows there are: a new row, or another version of one. Nobody else changes rows
    /// meanwhile. Answers it with the policy revision.
    ///
    /// # Errors
    /// When the database fails, or `decide` refuses.
    pub async fn change_prices<E: From<StoreError> + Send>(
        &self,
        by: &str,
        decide: impl FnOnce(Vec<PriceRecord>) -> Result<PriceRecord, E> + Send,
    ) -> Result<(PriceRecord, u64), E> {
        const OP: &str = "change prices";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let rows: Vec<Row> = on_tx!(&mut tx, |c, Db| {
            sqlx::query_as(concat!(
                "SELECT ",
                price_columns!(),
                " FROM price_rows ORDER BY created_at_ms, id"
            ))
            .fetch_all(&mut *c)
            .await
            .during(OP)?
        });
        let rows: Result<Vec<PriceRecord>, StoreError> =
            rows.into_iter().map(|row| row.into_record(OP)).collect();
        let record = decide(rows?)?;
        tx.write_price(&record, by, revision).await?;
        tx.commit().await.during(OP)?;
        Ok((record, revision))
    }

    /// All price rows, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn prices(&self) -> Result<Vec<PriceRecord>, StoreError> {
        self.prices_since(0).await
    }

    /// Price rows that changed after a policy revision.
    pub(super) async fn prices_since(&self, revision: i64) -> Result<Vec<PriceRecord>, StoreError> {
        const OP: &str = "read prices";
        let rows: Vec<Row> = on_pool!(read self.pool, |c, Db| {
            const SQL: &str = concat!(
                "SELECT ",
                price_columns!(),
                " FROM price_rows WHERE revision > $1 ORDER BY created_at_ms, id"
            );
            sqlx::query_as(SQL).bind(revision).fetch_all(c).await.during(OP)?
        });
        rows.into_iter().map(|row| row.into_record(OP)).collect()
    }

    /// The catalogue in force, if one was ever loaded, when it changed after a policy revision.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn catalogue_since(&self, revision: i64) -> Result<Option<StoredCatalogue>, StoreError> {
        let row: Option<(String, String)> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_as(
                "SELECT version, body FROM price_catalogues WHERE revision > $1 ORDER BY revision DESC LIMIT 1",
            )
            .bind(revision)
            .fetch_optional(c)
            .await
            .during("read the price catalogue")?
        });
        Ok(row.map(|(version, text)| StoredCatalogue { version, text }))
    }

    /// Puts a catalogue in force unless it is already. Answers the policy revision when it was not.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_catalogue(
        &self,
        catalogue: &StoredCatalogue,
        now_ms: i64,
    ) -> Result<Option<u64>, StoreError> {
        const OP: &str = "put a price catalogue in force";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        let current: Option<String> = on_tx!(&mut tx, |c, Db| {
            sqlx::query_scalar("SELECT body FROM price_catalogues ORDER BY revision DESC LIMIT 1")
                .fetch_optional(&mut *c)
                .await
                .during(OP)?
        });
        if current.as_deref() == Some(catalogue.text.as_str()) {
            return Ok(None);
        }
        on_tx!(&mut tx, |c, Db| {
            sqlx::query("INSERT INTO price_catalogues (revision, version, body, loaded_at_ms) VALUES ($1, $2, $3, $4)")
                .bind(i64::try_from(revision).unwrap_or(i64::MAX))
                .bind(&catalogue.version)
                .bind(&catalogue.text)
                .bind(now_ms)
                .execute(&mut *c)
                .await
                .during(OP)?;
        });
        tx.commit().await.during(OP)?;
        Ok(Some(revision))
    }

    /// The organisation that was founded first: its owners look after what belongs to everybody.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn operating_org(&self) -> Result<Option<OrgId>, StoreError> {
        const OP: &str = "find the operating organisation";
        let id: Option<String> = on_pool!(read self.pool, |c, Db| {
            sqlx::query_scalar("SELECT id FROM organisations ORDER BY created_at_ms, id LIMIT 1")
                .fetch_optional(c)
                .await
                .during(OP)?
        });
        Reader(OP).optional_id("id", id.as_deref())
    }

    /// Sets what happens to calls of models without a price; answers the policy revision.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_unpriced_hold(&self, org: OrgId, hold_nanos: Option<i64>) -> Result<u64, StoreError> {
        const OP: &str = "set the unpriced policy";
        let mut tx = self.pool.begin().await.during(OP)?;
        let revision = tx.next_revision().await?;
        on_tx!(&mut tx, |c, Db| {
            sqlx::query("UPDATE organisations SET unpriced_hold_nanos = $2, revision = $3 WHERE id = $1")
                .bind(org.bare())
                .bind(hold_nanos)
                .bind(i64::try_from(revision).unwrap_or(i64::MAX))
                .execute(&mut *c)
                .await
                .during(OP)?;
        });
        tx.commit().await.during(OP)?;
        Ok(revision)
    }

    /// The ends a row had, by version, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn price_versions(&self, price: PriceId) -> Result<Vec<(i64, Option<i64>)>, StoreError> {
        Ok(on_pool!(read self.pool, |c, Db| {
            sqlx::query_as("SELECT version, until_ms FROM price_row_versions WHERE price_id = $1 ORDER BY version")
                .bind(price.bare())
                .fetch_all(c)
                .await
                .during("read a price's versions")?
        }))
    }
}

impl Tx {
    async fn write_price(&mut self, record: &PriceRecord, by: &str, revision: u64) -> Result<(), StoreError> {
        const OP: &str = "write a price";
        let row = &record.row;
        on_tx!(self, |c, Db| {
            sqlx::query(
                "INSERT INTO price_rows (id, version, org_id, from_ms, until_ms, terms, reason, created_by, \
                 created_at_ms, updated_at_ms, revision) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
                 ON CONFLICT (id) DO UPDATE SET version = excluded.version, until_ms = excluded.until_ms, \
                 updated_at_ms = excluded.updated_at_ms, revision = excluded.revision",
            )
            .bind(row.id.bare())
            .bind(i64::from(row.version))
            .bind(row.org.map(OrgId::bare))
            .bind(row.from_ms)
            .bind(row.until_ms)
            .bind(row.terms.to_json())
            .bind(&record.reason)
            .bind(&record.created_by)
            .bind(record.created_at_ms)
            .bind(record.updated_at_ms)
            .bind(i64::try_from(revision).unwrap_or(i64::MAX))
            .execute(&mut *c)
            .await
            .during(OP)?;
            sqlx::query(
                "INSERT INTO price_row_versions (price_id, version, until_ms, changed_by, changed_at_ms) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(row.id.bare())
            .bind(i64::from(row.version))
            .bind(row.until_ms)
            .bind(by)
            .bind(record.updated_at_ms)
            .execute(&mut *c)
            .await
            .during(OP)?;
            Ok(())
        })
    }
}
