//! The two databases behind one query body.

use nullspend_core::ledger::CounterKey;
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool, Transaction};

/// Native pools. SQLite has one writer and several read-only readers.
#[derive(Clone, Debug)]
pub(super) enum Pool {
    Sqlite { w: SqlitePool, r: SqlitePool },
    Postgres(PgPool),
}

/// An open transaction; dropped without commit it rolls back.
pub(super) enum Tx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Pool {
    /// Begins a writing transaction. SQLite takes the write lock at once, since a reader that becomes a writer in the
    /// middle fails without waiting.
    pub(super) async fn begin(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { w, .. } => Tx::Sqlite(w.begin_with("BEGIN IMMEDIATE").await?),
            Self::Postgres(pool) => Tx::Postgres(pool.begin().await?),
        })
    }
}

impl Pool {
    /// Begins a transaction that reads everything as it is at one moment.
    pub(super) async fn begin_reading(&self) -> Result<Tx, sqlx::Error> {
        Ok(match self {
            Self::Sqlite { r, .. } => Tx::Sqlite(r.begin().await?),
            Self::Postgres(pool) => {
                Tx::Postgres(pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?)
            }
        })
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(tx) => tx.commit().await,
            Self::Postgres(tx) => tx.commit().await,
        }
    }
}

/// The database's clock in SQL, in Unix milliseconds: the one that all control planes share.
pub(super) trait ServerClock {
    const NOW_MS: &'static str;
}

impl ServerClock for Sqlite {
    const NOW_MS: &'static str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";
}

impl ServerClock for Postgres {
    const NOW_MS: &'static str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
}

/// Rows for statements of many rows: 64, or a smaller power of two. So seven statements serve batches of any size, the
/// driver keeps each prepared, and 64 rows of any table here have fewer than SQLite's 32 766 parameters.
pub(super) fn in_statements<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let count = 1 << rows.len().min(64).checked_ilog2()?;
        let (now, rest) = rows.split_at(count);
        rows = rest;
        Some(now)
    })
}

/// Writes these windows as a table `asked`, and `table`, which is keyed by window, joined to it: neither database looks rows
/// up by key for a list of triples.
pub(super) fn push_join_of<Db: sqlx::Database>(
    query: &mut sqlx::QueryBuilder<Db>,
    table: &str,
    counters: &[CounterKey],
) where
    String: sqlx::Type<Db> + for<'q> sqlx::Encode<'q, Db>,
    i64: sqlx::Type<Db> + for<'q> sqlx::Encode<'q, Db>,
{
    query.push("(");
    query.push_values(counters, |mut row, counter| {
        row.push_bind(counter.budget.bare())
            .push_bind(i64::from(counter.generation))
            .push_bind(counter.window_start_ms);
    });
    query.push(format_args!(
        ") AS asked JOIN {table} ON {table}.budget_id = asked.column1 AND {table}.generation = asked.column2 \
         AND {table}.window_start_ms = asked.column3"
    ));
}

/// Expands one query body for both drivers: `on_pool!(read self.pool, |c, Db| …)`; `c` is the pool, `Db` the driver.
macro_rules! on_pool {
    (read $pool:expr, |$c:ident, $db:ident| $body:expr) => {
        match &$pool {
            $crate::store::pool::Pool::Sqlite { r: $c, .. } => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Sqlite;
                $body
            }
            $crate::store::pool::Pool::Postgres($c) => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Postgres;
                $body
            }
        }
    };
    (write $pool:expr, |$c:ident, $db:ident| $body:expr) => {
        match &$pool {
            $crate::store::pool::Pool::Sqlite { w: $c, .. } => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Sqlite;
                $body
            }
            $crate::store::pool::Pool::Postgres($c) => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Postgres;
                $body
            }
        }
    };
}

/// Expands one body for both drivers inside a transaction; `c` is the connection, reborrowed as `&mut *c` at each use.
macro_rules! on_tx {
    ($tx:expr, |$c:ident, $db:ident| $body:expr) => {
        match $tx {
            $crate::store::pool::Tx::Sqlite(tx) => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Sqlite;
                let $c = &mut **tx;
                $body
            }
            $crate::store::pool::Tx::Postgres(tx) => {
                #[allow(dead_code, reason = "not every body names the driver")]
                type $db = sqlx::Postgres;
                let $c = &mut **tx;
                $body
            }
        }
    };
}

pub(super) use {on_pool, on_tx};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_statement_and_sizes_are_few() {
        for len in 0..200 {
            let rows: Vec<usize> = (0..len).collect();
            assert_eq!(in_statements(&rows).flatten().copied().collect::<Vec<_>>(), rows);
            assert!(
                in_statements(&rows).all(|some| some.len() <= 64 && some.len().is_power_of_two()),
                "{len}"
            );
        }
    }
}
