//! Errors of the use cases, in the words of contract §5.1.

use std::{error::Error, fmt};

use serde_json::Value;

use crate::store::StoreError;
use nullspend_core::ledger::LedgerUnavailable;

/// The sort of an error: decides the gRPC code and the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400.
    Invalid,
    /// 401.
    Unauthenticated,
    /// 403.
    Forbidden,
    /// 404.
    NotFound,
    /// 409.
    Conflict,
    /// 429.
    TooMany,
    /// 503.
    Unavailable,
    /// 500.
    Internal,
}

/// One step into a request: a field or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathSegment {
    /// A field's JSON name, or a map's key.
    Field(String),
    /// A position in a list.
    Index(usize),
}

impl PathSegment {
    /// The same, short enough to be told: a map's key may be of any length.
    #[must_use]
    pub fn clipped(&self) -> Self {
        match self {
            Self::Field(name) => Self::Field(name.chars().take(64).collect()),
            Self::Index(index) => Self::Index(*index),
        }
    }
}

impl From<&str> for PathSegment {
    fn from(name: &str) -> Self {
        Self::Field(name.to_owned())
    }
}

impl From<usize> for PathSegment {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// One thing wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub path: Vec<PathSegment>,
    /// What to change.
    pub message: String,
}

impl Issue {
    /// The path as text: `thresholdPercentages[0]`, `events[2].tags.team`.
    #[must_use]
    pub fn field(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                PathSegment::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                PathSegment::Index(index) => {
                    text.push_str(&format!("[{index}]"));
                }
            }
        }
        text
    }
}

/// An error as a caller sees it. The cause, for logs only, is its `source`.
#[derive(Debug)]
pub struct AppError {
    /// Wire code, e.g. `validation_error`.
    pub code: &'static str,
    /// Its sort.
    pub kind: Kind,
    /// A sentence that says what to change.
    pub message: String,
    /// Facts a program can act on.
    pub details: Option<Box<Value>>,
    /// Everything wrong with the request, all at once.
    pub issues: Vec<Issue>,
    /// When trying again makes sense.
    pub retry_after_s: Option<u16>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl AppError {
    /// An error with neither details nor cause.
    #[must_use]
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            kind,
            message: message.into(),
            details: None,
            issues: Vec::new(),
            retry_after_s: None,
            source: None,
        }
    }

    /// The request is wrong in these places.
    #[must_use]
    pub fn validation(issues: Vec<Issue>) -> Self {
        let message = match issues.as_slice() {
            [only] => format!("{}: {}", only.field(), only.message),
            _ => format!("The request has {} problems; see details.issues", issues.len()),
        };
        Self { issues, ..Self::new(Kind::Invalid, "validation_error", message) }
    }

    /// Nothing of that id is visible to the caller.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(Kind::NotFound, "not_found", format!("{what} not found"))
    }

    /// The caller may not.
    #[must_use]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, "forbidden", message)
    }

    /// The state of things forbids it.
    #[must_use]
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, "conflict", message)
    }

    /// Our own mistake; the cause goes to the log only.
    #[must_use]
    pub fn internal(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self { source: Some(Box::new(source)), ..Self::new(Kind::Internal, "internal_error", message) }
    }

    /// Something we depend on does not answer.
    #[must_use]
    pub fn unavailable(message: impl Into<String>, source: impl Error + Send + Sync + 'static) -> Self {
        Self {
            retry_after_s: Some(30),
            source: Some(Box::new(source)),
            ..Self::new(Kind::Unavailable, "service_unavailable", message)
        }
    }
}

impl fmt::Display for AppError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Error for AppError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            return Self::unavailable("The database does not answer; try again shortly", error);
        }
        let code = Self::new(
            Kind::Internal,
            "internal_error",
            "Something is wrong on our side; the log has the cause",
        );
        Self { source: Some(Box::new(error)), ..code }
    }
}

impl From<LedgerUnavailable> for AppError {
    fn from(error: LedgerUnavailable) -> Self {
        Self::unavailable("The ledger does not answer; try again shortly", error)
    }
}
