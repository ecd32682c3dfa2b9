//! What can be wrong with a configuration.

use std::path::PathBuf;

/// A configuration that cannot be used; every message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{file} is not valid TOML")]
    Syntax {
        /// The file.
        file: String,
        /// Where and why.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("unknown key `{key}` in {file}; config.default.toml lists every key")]
    UnknownKey {
        /// Dotted path.
        key: String,
        /// The layer.
        file: String,
    },
    /// A value of another type.
    #[error("`{key}` from {from} must be {expected}, not {found}")]
    WrongType {
        /// Dotted path.
        key: String,
        /// The layer.
        from: String,
        /// What belongs there.
        expected: &'static str,
        /// What was there.
        found: &'static str,
    },
    /// A table row without its identity.
    #[error("a row of [[{key}]] in {file} has no name; rows are told apart by `name`")]
    UnnamedRow {
        /// The table.
        key: String,
        /// The layer.
        file: String,
    },
    /// Two rows of one name in one file.
    #[error("[[{key}]] in {file} has two rows named {name:?}; join them")]
    RepeatedRow {
        /// The table.
        key: String,
        /// The name.
        name: String,
        /// The layer.
        file: String,
    },
    /// A value of the right type that cannot be.
    #[error("`{key}` {reason}")]
    Value {
        /// Dotted path.
        key: &'static str,
        /// What to change.
        reason: String,
    },
    /// An upstream that is not safe or not understood.
    #[error("upstream {name:?}: {reason}")]
    Upstream {
        /// The row's name.
        name: String,
        /// What to change.
        reason: String,
    },
    /// The checked table does not fit the program: a bug, caught by a test.
    #[error("the settings do not fit this program")]
    Shape(#[source] Box<toml::de::Error>),
}
