//! `cargo xtask mutants`: named wrong laws of the ledger. Each is one line of a copy of `core/` made wrong; the law's own
//! tests must notice it.

use std::{fs, path::Path, process::Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::run::{cargo, root, step, target};

/// One wrong law.
struct Mutant {
    name: &'static str,
    /// In `core/src/ledger`.
    file: &'static str,
    /// A piece of text that the file has exactly once.
    from: &'static str,
    to: &'static str,
}

const fn mutant(name: &'static str, file: &'static str, from: &'static str, to: &'static str) -> Mutant {
    Mutant { name, file, from, to }
}

const MUTANTS: [Mutant; 18] = [
    mutant(
        "a limit is passed by one",
        "books.rs",
        "wanted <= i128::from(limit.0)",
        "wanted <= i128::from(limit.0) + 1",
    ),
    mutant(
        "a limit is not reached",
        "books.rs",
        "wanted <= i128::from(limit.0)",
        "wanted < i128::from(limit.0)",
    ),
    mutant(
        "what is held is forgotten",
        "counter.rs",
        "i128::from(self.settled.0) + self.held",
        "i128::from(self.settled.0)",
    ),
    mutant(
        "only the first scope is asked",
        "law.rs",
        "Enforcement::StrictBlock if !fits && denied_by.is_none()",
        "Enforcement::StrictBlock if !fits && index == 0",
    ),
    mutant(
        "a settle leaves the hold",
        "counter.rs",
        "self.held -= i128::from(held.0);",
        "self.held -= 0 * i128::from(held.0);",
    ),
    mutant(
        "a repeated settle charges again",
        "law.rs",
        "if let Some(hold) = self.open.remove(&id) {",
        "if let Some(hold) = self.open.get(&id).cloned() {",
    ),
    mutant(
        "a late settle is added to the lapse",
        "counter.rs",
        "(self.settled - charged).max(Nanos::ZERO);",
        "self.settled.max(charged - charged);",
    ),
    mutant(
        "a lapse charges nothing",
        "books.rs",
        "counter.lapse(held, held)",
        "counter.lapse(held, Nanos::ZERO)",
    ),
    mutant(
        "a lease ends a moment late",
        "law.rs",
        "hold.lease_end_ms <= now_ms",
        "hold.lease_end_ms < now_ms",
    ),
    mutant(
        "a repeated extension takes again",
        "law.rs",
        "if number <= hold.extension {",
        "if number < hold.extension {",
    ),
    mutant(
        "an old limit replaces a new one",
        "books.rs",
        "budget.limit == Limit::Unknown || change.revision > budget.revision",
        "true || change.revision > budget.revision",
    ),
    mutant(
        "an old policy decides",
        "books.rs",
        "Limit::Of(_) => self.revision > scope.revision,",
        "Limit::Of(_) => self.revision > scope.revision + 1,",
    ),
    mutant(
        "a window is left a moment late",
        "law.rs",
        "is_none_or(|end| now_ms < end)",
        "is_none_or(|end| now_ms <= end)",
    ),
    mutant(
        "time runs backwards",
        "law.rs",
        "self.now_ms = self.now_ms.max(now_ms);",
        "self.now_ms = now_ms;",
    ),
    mutant(
        "a counter is dropped under its hold",
        "books.rs",
        "s.counter.named_by > 0 || !(ended || deleted)",
        "!(ended || deleted)",
    ),
    mutant(
        "a lapse is given up a moment late",
        "remembered.rs",
        "now_ms.saturating_sub(*at_ms) >= LAPSE_KEPT_MS",
        "now_ms.saturating_sub(*at_ms) > LAPSE_KEPT_MS",
    ),
    mutant(
        "a lapse that is given up keeps its counters",
        "books.rs",
        "|counter| counter.named_by -= 1)",
        "|counter| counter.named_by -= 0)",
    ),
    mutant(
        "who asks again of a lapse is not told",
        "law.rs",
        "self.done.lapsed.insert(id, lapse.charged);",
        "self.done.lapsed.remove(&id);",
    ),
];

/// Builds each wrong law in a scratch workspace and runs the law's tests against it. Fails when one is not noticed.
pub fn mutants() -> anyhow::Result<()> {
    let scratch = target().join("mutants");
    step("Copying core");
    prepare(&scratch)?;
    ensure!(passes(&scratch)?, "the law as it is fails its tests; mend that first");
    let mut survived = Vec::new();
    for Mutant { name, file, from, to } in MUTANTS {
        let path = scratch.join("core/src/ledger").join(file);
        let text = read(&path)?;
        ensure!(text.matches(from).count() == 1, "{name}: core/src/ledger/{file} must have `{from}` once");
        write(&path, &text.replace(from, to))?;
        ensure!(builds(&scratch)?, "{name} does not compile, so it is no mutant");
        let noticed = !passes(&scratch)?;
        println!("{:<45}{}", name, if noticed { "killed" } else { "SURVIVED" });
        if !noticed {
            survived.push(name);
        }
        write(&path, &text)?;
    }
    if !survived.is_empty() {
        bail!("no test notices: {}; add one to core/tests/ledger_law", survived.join(", "));
    }
    Ok(())
}

/// A workspace of core alone, with the versions and settings of ours.
fn prepare(scratch: &Path) -> anyhow::Result<()> {
    let manifest = read(&root().join("Cargo.toml"))?;
    let members = |line: &str| match line {
        line if line.starts_with("members = ") => "members = [\"core\"]".to_owned(),
        line if line.starts_with("default-members = ") || line.starts_with("exclude = ") => String::new(),
        line => line.to_owned(),
    };
    let manifest: Vec<String> = manifest.lines().map(members).collect();
    let _ = fs::remove_dir_all(scratch.join("core"));
    copy(&root().join("core"), &scratch.join("core"))?;
    write(&scratch.join("Cargo.toml"), &manifest.join("\n"))?;
    write(&scratch.join("Cargo.lock"), &read(&root().join("Cargo.lock"))?)
}

fn builds(scratch: &Path) -> anyhow::Result<bool> {
    law_tests(scratch, &["--no-run"])
}

fn passes(scratch: &Path) -> anyhow::Result<bool> {
    law_tests(scratch, &[])
}

fn law_tests(scratch: &Path, more: &[&str]) -> anyhow::Result<bool> {
    let status = cargo()
        .current_dir(scratch)
        .args(["test", "--quiet", "--offline", "-p", "nullspend-core", "--test", "ledger_law"])
        .args(more)
        .env("CARGO_TARGET_DIR", scratch.join("target"))
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Ok(status.context("cannot run cargo")?.success())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to).with_context(|| format!("write {}", to.display()))?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mutant of a line that is gone would prove nothing.
    #[test]
    fn every_mutant_changes_one_place() {
        for Mutant { name, file, from, to } in MUTANTS {
            let text = read(&root().join("core/src/ledger").join(file)).unwrap();
            assert_eq!(text.matches(from).count(), 1, "{name}: {from}");
            assert_ne!(from, to, "{name}");
        }
    }
}
