//! What can go wrong in the store.

use sqlx::error::DatabaseError;

/// A failed store operation. Never a domain answer: "not found" and "already there" are values.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database did not answer, is full, or is not as it should be: the fault is its own, or of how it is run. The same
    /// call may succeed later.
    #[error("{op}: the database is unavailable")]
    Unavailable {
        /// The operation.
        op: &'static str,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// Another writer changed the same rows at the same moment; nothing was written.
    #[error("{op}: changed by another writer at the same time")]
    Conflict {
        /// The operation.
        op: &'static str,
        /// The driver's error, when the database noticed.
        #[source]
        source: Option<sqlx::Error>,
    },
    /// The database refused the data.
    #[error("{op}: the database refused it")]
    Refused {
        /// The operation.
        op: &'static str,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what this version cannot have written.
    #[error("{op}: inconsistent data: {what}")]
    Inconsistent {
        /// The operation.
        op: &'static str,
        /// What was found.
        what: String,
    },
}

impl StoreError {
    /// Sorts a driver's error by what the caller can do about it.
    #[must_use]
    pub fn from_sqlx(op: &'static str, source: sqlx::Error) -> Self {
        match &source {
            sqlx::Error::Database(error) if is_contention(error.as_ref()) => {
                Self::Conflict { op, source: Some(source) }
            }
            sqlx::Error::Database(error) if is_of_the_data(error.as_ref()) => Self::Refused { op, source },
            sqlx::Error::Encode(_) => Self::Refused { op, source },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::RowNotFound => Self::Inconsistent { op, what: source.to_string() },
            // What nobody thought of is no reason to give data up: a database that is read-only after a failover, a pooler
            // that lost a prepared statement, a table that a migration has not made yet.
            _ => Self::Unavailable { op, source },
        }
    }

    /// Whether repeating the call, unchanged, may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Conflict { .. })
    }

    /// Whether a unique index refused the row.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Refused { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }
}

/// Serialisation failures, deadlocks and lock time-outs. SQLite gives its extended code as a decimal number.
fn is_contention(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    match sqlite_primary_code(error, &code) {
        Some(primary) => matches!(primary, 5 | 6),
        None => matches!(code.as_ref(), "40001" | "40P01" | "55P03"),
    }
}

/// A value that does not fit its column, a constraint, a size: the same data is refused again, whenever it comes.
fn is_of_the_data(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    match sqlite_primary_code(error, &code) {
        // SQLITE_TOOBIG, SQLITE_CONSTRAINT, SQLITE_MISMATCH.
        Some(primary) => matches!(primary, 18..=20),
        // Data exception, integrity constraint violation, program limit exceeded.
        None => ["22", "23", "54"].iter().any(|class| code.starts_with(class)),
    }
}

fn sqlite_primary_code(error: &dyn DatabaseError, code: &str) -> Option<u32> {
    error.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    code.parse::<u32>().ok().map(|extended| extended & 0xff)
}

/// Names the operation of a driver's result.
pub(crate) trait During<T> {
    /// Turns the driver's error into a [`StoreError`] of `op`.
    fn during(self, op: &'static str) -> Result<T, StoreError>;
}

impl<T> During<T> for Result<T, sqlx::Error> {
    fn during(self, op: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::from_sqlx(op, source))
    }
}
