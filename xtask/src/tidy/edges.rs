//! Who may depend on whom: between crates from `cargo metadata`, inside control-plane from the `use` lines.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde_json::Value;

use crate::run::{cargo, output};

/// Each crate and all of the workspace it may use. `nullspend-cli` is the composition root.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("nullspend-core", &[]),
    ("nullspend-proto", &[]),
    ("nullspend-ledger", &["nullspend-core"]),
    ("nullspend-ext-proc", &["nullspend-core", "nullspend-ledger", "nullspend-proto"]),
    ("nullspend-control-plane", &["nullspend-core", "nullspend-ledger", "nullspend-proto"]),
    (
        "nullspend-cli",
        &[
            "nullspend-core",
            "nullspend-ledger",
            "nullspend-proto",
            "nullspend-ext-proc",
            "nullspend-control-plane",
        ],
    ),
    ("nullspend-e2e", &["nullspend-cli", "nullspend-core", "nullspend-proto"]),
    ("xtask", &[]),
];

/// What the pure crate may not even know.
const IMPURE: [&str; 6] = ["tokio", "tonic", "sqlx", "redis", "hyper", "axum"];

/// Inside control-plane: a folder, and the sibling folders it must not name. gateway → grpc → app → store.
const FORBIDDEN: [(&str, &[&str]); 3] =
    [("store", &["app", "grpc", "gateway", "auth"]), ("app", &["grpc", "gateway"]), ("grpc", &["gateway"])];

/// Breaches between crates.
pub fn crates(root: &Path) -> anyhow::Result<Vec<String>> {
    let text = output(
        cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(root),
    )?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    Ok(breaches_of(&metadata))
}

fn breaches_of(metadata: &Value) -> Vec<String> {
    let mut breaches = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            breaches.push(format!(
                "crate {name} is not in the layout; add it to xtask/src/tidy/edges.rs with an ADR"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            let ours = ALLOWED.iter().any(|(known, _)| *known == on);
            // A crate's own tests may use what stands beside it; the edge that counts is the shipped one.
            if ours && !for_tests && !allowed.contains(&on) {
                breaches.push(format!("{name} must not depend on {on}"));
            }
            if name == "nullspend-core" && !for_tests && IMPURE.contains(&on) {
                breaches.push(format!("nullspend-core is pure and must not depend on {on}"));
            }
        }
    }
    breaches
}

/// Breaches inside control-plane.
pub fn modules(root: &Path) -> anyhow::Result<Vec<String>> {
    let source = root.join("control-plane/src");
    let mut breaches = Vec::new();
    for (folder, forbidden) in FORBIDDEN {
        for file in super::files::below(&source.join(folder), &["rs"])? {
            let text = fs::read_to_string(&file)?;
            for (line, on) in named(&text, forbidden) {
                breaches.push(format!("{}:{line}: {folder} must not use {on}", file.display()));
            }
        }
    }
    Ok(breaches)
}

/// Lines that name a forbidden sibling, with the sibling.
fn named<'a>(text: &str, forbidden: &'a [&str]) -> Vec<(usize, &'a str)> {
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for on in forbidden {
            if code.contains(&format!("crate::{on}::")) || code.trim_start().starts_with(&format!("{on}::")) {
                found.push((index + 1, *on));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, on: &str, kind: &Value) -> Value {
        json!({"packages": [{"name": name, "dependencies": [{"name": on, "kind": kind}]}]})
    }

    #[test]
    fn forbidden_edges_are_named_and_tests_may_look_around() {
        let breach = breaches_of(&package("nullspend-ext-proc", "nullspend-control-plane", &Value::Null));
        assert_eq!(breach, ["nullspend-ext-proc must not depend on nullspend-control-plane"]);
        assert_eq!(breaches_of(&package("nullspend-core", "tokio", &Value::Null)).len(), 1);
        assert_eq!(breaches_of(&package("nullspend-utils", "serde", &Value::Null)).len(), 1);
        assert!(breaches_of(&package("nullspend-core", "tokio", &json!("dev"))).is_empty());
        assert!(breaches_of(&package("nullspend-cli", "nullspend-ext-proc", &Value::Null)).is_empty());
    }

    #[test]
    fn use_lines_are_read_and_comments_are_not() {
        let text =
            "use crate::gateway::Gateway;\n// crate::gateway::x\nuse crate::{\n    gateway::json,\n};\n";
        assert_eq!(named(text, &["gateway"]), [(1, "gateway"), (4, "gateway")]);
    }
}
