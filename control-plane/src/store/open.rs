//! Connecting and migrating.

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    Connection as _, PgConnection, SqliteConnection,
    error::DatabaseError,
    migrate::{Migrate, MigrateError},
    postgres::{PgConnectOptions, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{
    Store,
    error::{During, StoreError},
    pool::{Pool, on_pool},
};

/// How long an operation waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long SQLite waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 10;
/// Statements that each connection keeps prepared: more than there are, so that none is prepared twice.
const STATEMENTS: usize = 512;

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Neither `sqlite:…` nor `postgres://…`. The text itself is not shown: it may hold a password.
    #[error("the database URL must begin with sqlite: or postgres://")]
    UnknownScheme,
    /// The URL has the right scheme and cannot be read.
    #[error("the database URL cannot be read; see the driver's reason")]
    BadUrl(#[source] sqlx::Error),
    /// No connection.
    #[error("cannot connect to the database")]
    Connect(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("cannot migrate the database")]
    Migrate(#[source] MigrateError),
    /// It cannot be told which schema it has.
    #[error("cannot read which version of the tables the database has")]
    Examine(#[source] MigrateError),
    /// The first query failed.
    #[error("cannot prepare the database")]
    Prepare(#[from] StoreError),
}

impl Store {
    /// Connects, migrates, and makes sure that the database has a history.
    ///
    /// `url` is `sqlite:PATH` (created when missing) or `postgres://…`; a PostgreSQL unix socket is named by the
    /// parameter `host`, as in `postgres:///nullspend?host=/run/postgresql`. `new_history_id` is used only when the
    /// database is new.
    ///
    /// # Errors
    /// [`OpenError`] says which step failed.
    pub async fn open(url: &SecretString, new_history_id: &str) -> Result<Self, OpenError> {
        let text = url.expose_secret();
        let pool = if text.starts_with("sqlite:") {
            open_sqlite(text).await?
        } else if is_postgres(text) {
            open_postgres(text).await?
        } else {
            return Err(OpenError::UnknownScheme);
        };
        let store = Self { pool };
        store.ensure_history(new_history_id).await?;
        Ok(store)
    }

    /// Looks at a database and changes nothing.
    ///
    /// # Errors
    /// [`OpenError`] when it does not answer.
    pub async fn examine(url: &SecretString) -> Result<Standing, OpenError> {
        let text = url.expose_secret();
        let (applied, migrator) = if text.starts_with("sqlite:") {
            let options = SqliteConnectOptions::from_str(text).map_err(OpenError::BadUrl)?;
            if !options.get_filename().exists() {
                return Ok(Standing::New);
            }
            let connected = SqliteConnection::connect_with(&options.read_only(true)).await;
            let mut connection = connected.map_err(OpenError::Connect)?;
            (applied(&mut connection).await?, sqlx::migrate!("migrations/sqlite"))
        } else if is_postgres(text) {
            let options = PgConnectOptions::from_str(text).map_err(OpenError::BadUrl)?;
            let mut connection = PgConnection::connect_with(&options).await.map_err(OpenError::Connect)?;
            (applied(&mut connection).await?, sqlx::migrate!("migrations/postgres"))
        } else {
            return Err(OpenError::UnknownScheme);
        };
        let latest = migrator.iter().map(|migration| migration.version).max();
        Ok(match applied {
            None => Standing::New,
            applied if applied < latest => Standing::Older,
            applied if applied == latest => Standing::Current,
            _ => Standing::Newer,
        })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        on_pool!(read self.pool, |c, Db| {
            sqlx::query("SELECT revision FROM policy_state WHERE id = 1").fetch_one(c).await.during("ping")?;
            Ok(())
        })
    }

    /// Closes every connection; SQLite checkpoints its log.
    pub async fn close(&self) {
        match &self.pool {
            Pool::Sqlite { w, r } => {
                r.close().await;
                w.close().await;
            }
            Pool::Postgres(pool) => pool.close().await,
        }
    }

    async fn ensure_history(&self, new_history_id: &str) -> Result<(), StoreError> {
        on_pool!(write self.pool, |c, Db| {
            sqlx::query("INSERT INTO policy_state (id, revision, history_id) VALUES (1, 1, $1) ON CONFLICT (id) DO NOTHING")
                .bind(new_history_id)
                .execute(c)
                .await
                .during("begin a policy history")?;
            Ok(())
        })
    }
}

async fn open_sqlite(url: &str) -> Result<Pool, OpenError> {
    let options = SqliteConnectOptions::from_str(url)
        .map_err(OpenError::BadUrl)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // An acknowledged event must survive a power cut (design §3).
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        // 16 MiB: pages that every batch changes, such as the ends of indices, go into the file once in many batches.
        .pragma("wal_autocheckpoint", "4000")
        .statement_cache_capacity(STATEMENTS)
        .foreign_keys(true);
    // The writer goes first: it makes the file, and SQLite has no migration lock.
    let w = SqlitePoolOptions::new()
        .max_connections(1)
        .min_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_release(|connection, _| Box::pin(is_between_transactions(connection)))
        .connect_with(options.clone())
        .await
        .map_err(OpenError::Connect)?;
    sqlx::migrate!("migrations/sqlite").run(&w).await.map_err(OpenError::Migrate)?;
    let r = SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options.read_only(true).create_if_missing(false))
        .await
        .map_err(OpenError::Connect)?;
    Ok(Pool::Sqlite { w, r })
}

/// Whether a connection can begin a transaction. SQLite ends one by itself when its disk is full; the driver then goes on
/// counting it, and every later one fails: such a connection is closed and made anew.
async fn is_between_transactions(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    // What was begun to be rolled back is done after this.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

async fn open_postgres(url: &str) -> Result<Pool, OpenError> {
    let options = PgConnectOptions::from_str(url)
        .map_err(OpenError::BadUrl)?
        .application_name("nullspend")
        .statement_cache_capacity(STATEMENTS);
    let pool = PgPoolOptions::new()
        .max_connections(POSTGRES_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_with(options)
        .await
        .map_err(OpenError::Connect)?;
    sqlx::migrate!("migrations/postgres").run(&pool).await.map_err(OpenError::Migrate)?;
    Ok(Pool::Postgres(pool))
}

/// How a database stands to this version of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has nothing of ours yet: the first start makes it.
    New,
    /// Its tables are of an earlier version: the next start, or `migrate`, brings them up to date.
    Older,
    /// Its tables are this version's.
    Current,
    /// Its tables are of a later version, which this one must not touch.
    Newer,
}

/// The latest migration that a database has.
async fn applied(database: &mut impl Migrate) -> Result<Option<i64>, OpenError> {
    match database.list_applied_migrations(MIGRATIONS).await {
        Ok(applied) => Ok(applied.last().map(|migration| migration.version)),
        Err(MigrateError::Execute(sqlx::Error::Database(error))) if is_no_such_table(error.as_ref()) => {
            Ok(None)
        }
        Err(error) => Err(OpenError::Examine(error)),
    }
}

/// Where the driver keeps which migrations a database has.
const MIGRATIONS: &str = "_sqlx_migrations";

/// SQLite has no code of its own for it.
fn is_no_such_table(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code == "42P01") || error.message().starts_with("no such table")
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}
