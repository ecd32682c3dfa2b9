//! Defaults, file, environment and flags, merged key by key into one table before anything is understood.
//!
//! The embedded `config.default.toml` is at once the reference, the list of known keys and their types: a key it does
//! not have is refused by name, a value of another type likewise, and every one of its scalars has an environment name.

use toml::{Table, Value};

use super::ConfigError;

/// The reference every other layer is checked against.
pub const DEFAULTS: &str = include_str!("../../config.default.toml");

/// Environment names that do not follow from the key's path.
const SHORT_NAMES: &[(&str, &str)] = &[("envoy.binary", "NULLSPEND_ENVOY")];

/// The two rows whose base URL has an environment name of its own.
const UPSTREAM_NAMES: &[(&str, &str)] =
    &[("openai", "NULLSPEND_UPSTREAM_OPENAI"), ("anthropic", "NULLSPEND_UPSTREAM_ANTHROPIC")];

/// Environment names that are read elsewhere or belong to clients and tests.
const FOREIGN_NAMES: &[&str] =
    &["NULLSPEND_CONFIG", "NULLSPEND_API_KEY", "NULLSPEND_BASE_URL", "NULLSPEND_KEY"];

/// The embedded defaults.
///
/// # Errors
/// Never in a released program: a test reads them.
pub fn defaults() -> Result<Table, ConfigError> {
    DEFAULTS.parse().map_err(|source| ConfigError::Syntax {
        file: "config.default.toml".into(),
        source: Box::new(source),
    })
}

/// Lays a configuration file over `config`.
///
/// # Errors
/// Not TOML, or a key or type the defaults do not have.
pub fn apply_file(config: &mut Table, file: &str, text: &str) -> Result<(), ConfigError> {
    let table: Table = text
        .parse()
        .map_err(|source| ConfigError::Syntax { file: file.to_owned(), source: Box::new(source) })?;
    merge(config, table, "", file)
}

fn merge(into: &mut Table, from: Table, path: &str, file: &str) -> Result<(), ConfigError> {
    for (key, value) in from {
        let here = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(known) = into.get_mut(&key) else {
            return Err(ConfigError::UnknownKey { key: here, file: file.to_owned() });
        };
        match (known, value) {
            (Value::Table(known), Value::Table(value)) => merge(known, value, &here, file)?,
            (Value::Array(rows), Value::Array(value)) => merge_rows(rows, value, &here, file)?,
            (known, value) if known.same_type(&value) => *known = value,
            (known, value) => {
                return Err(ConfigError::WrongType {
                    key: here,
                    from: file.to_owned(),
                    expected: words(known),
                    found: words(&value),
                });
            }
        }
    }
    Ok(())
}

/// Rows of a table array are one by their `name`.
fn merge_rows(rows: &mut Vec<Value>, from: Vec<Value>, path: &str, file: &str) -> Result<(), ConfigError> {
    let blank = rows.first().and_then(Value::as_table).map(blank_row).unwrap_or_default();
    let mut seen = Vec::new();
    for row in from {
        let Value::Table(row) = row else {
            return Err(ConfigError::WrongType {
                key: path.to_owned(),
                from: file.to_owned(),
                expected: "a list of [[tables]]",
                found: words(&row),
            });
        };
        let Some(name) = row.get("name").and_then(Value::as_str).map(str::to_owned) else {
            return Err(ConfigError::UnnamedRow { key: path.to_owned(), file: file.to_owned() });
        };
        if seen.contains(&name) {
            return Err(ConfigError::RepeatedRow { key: path.to_owned(), name, file: file.to_owned() });
        }
        let here = format!("{path}.{name}");
        let known = rows.iter().position(|known| row_name(known) == Some(&name));
        let index = known.unwrap_or_else(|| {
            rows.push(Value::Table(blank.clone()));
            rows.len() - 1
        });
        if let Some(Value::Table(known)) = rows.get_mut(index) {
            merge(known, row, &here, file)?;
        }
        seen.push(name);
    }
    Ok(())
}

fn row_name(row: &Value) -> Option<&str> {
    row.get("name").and_then(Value::as_str)
}

/// A new row begins with every key of the first, empty; `enabled` is what a row is for.
fn blank_row(first: &Table) -> Table {
    first
        .iter()
        .map(|(key, value)| {
            let blank = match value {
                Value::Boolean(_) => Value::Boolean(key == "enabled"),
                Value::Integer(_) => Value::Integer(0),
                _ => Value::String(String::new()),
            };
            (key.clone(), blank)
        })
        .collect()
}

/// Lays the environment over `config`. Empty variables count as unset.
///
/// # Errors
/// A value that is no integer or boolean where the defaults have one.
pub fn apply_environment(
    config: &mut Table,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(), ConfigError> {
    for (path, name) in names(config) {
        if let Some(text) = variable(&name).filter(|text| !text.is_empty()) {
            set(config, &path, &text, &name)?;
        }
    }
    let rows = config.get_mut("upstreams").and_then(Value::as_array_mut).into_iter().flatten();
    for row in rows.filter_map(Value::as_table_mut) {
        let name = row.get("name").and_then(Value::as_str).unwrap_or_default();
        let Some((_, env)) = UPSTREAM_NAMES.iter().find(|(row, _)| *row == name) else { continue };
        if let Some(url) = variable(env).filter(|url| !url.is_empty()) {
            row.insert("base_url".into(), Value::String(url));
            row.insert("allow_private".into(), Value::Boolean(true));
            row.insert("enabled".into(), Value::Boolean(true));
        }
    }
    Ok(())
}

/// Lays one flag over `config`; `path` is dotted.
///
/// # Errors
/// As for the environment.
pub fn apply_flag(config: &mut Table, path: &str, flag: &str, text: &str) -> Result<(), ConfigError> {
    set(config, path, text, flag)
}

/// Those of `present` that look like settings but are none.
#[must_use]
pub fn unknown_variables(config: &Table, present: impl Iterator<Item = String>) -> Vec<String> {
    let known: Vec<String> = names(config).into_iter().map(|(_, name)| name).collect();
    let mut unknown: Vec<String> = present
        .filter(|name| name.starts_with("NULLSPEND_") && !name.starts_with("NULLSPEND_TEST_"))
        .filter(|name| !known.contains(name) && !FOREIGN_NAMES.contains(&name.as_str()))
        .filter(|name| !UPSTREAM_NAMES.iter().any(|(_, env)| env == name))
        .collect();
    unknown.sort();
    unknown
}

/// Every scalar's dotted path and environment name.
fn names(config: &Table) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (key, value) in config {
        match value {
            Value::Table(section) => found.extend(section.keys().map(|inner| format!("{key}.{inner}"))),
            Value::Array(_) => {}
            _ => found.push(key.clone()),
        }
    }
    found
        .into_iter()
        .map(|path| {
            let short =
                SHORT_NAMES.iter().find(|(known, _)| *known == path).map(|(_, name)| (*name).to_owned());
            let name =
                short.unwrap_or_else(|| format!("NULLSPEND_{}", path.to_uppercase().replace('.', "_")));
            (path, name)
        })
        .collect()
}

fn set(config: &mut Table, path: &str, text: &str, from: &str) -> Result<(), ConfigError> {
    let (section, key) = path.split_once('.').map_or((None, path), |(section, key)| (Some(section), key));
    let table = match section {
        Some(section) => config.get_mut(section).and_then(Value::as_table_mut),
        None => Some(config),
    };
    let Some(known) = table.and_then(|table| table.get_mut(key)) else {
        return Err(ConfigError::UnknownKey { key: path.to_owned(), file: from.to_owned() });
    };
    let value = match known {
        Value::Integer(_) => text.parse().ok().map(Value::Integer),
        Value::Boolean(_) => text.parse().ok().map(Value::Boolean),
        _ => Some(Value::String(text.to_owned())),
    };
    *known = value.ok_or_else(|| ConfigError::WrongType {
        key: path.to_owned(),
        from: from.to_owned(),
        expected: words(known),
        found: "another text",
    })?;
    Ok(())
}

fn words(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number with a fraction",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list of [[tables]]",
        Value::Table(_) => "a [section]",
    }
}
