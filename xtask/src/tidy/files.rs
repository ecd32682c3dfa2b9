//! Rules for single files: length, clocks and randomness, migrations in pairs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

/// Longest source file, in lines.
const LINES_MAX: usize = 500;
const SOURCES: [&str; 6] = ["rs", "py", "ts", "tsx", "js", "mjs"];
/// Directories that are not ours to judge.
const FOREIGN: [&str; 5] = ["target", "node_modules", ".git", ".cache", "__pycache__"];

/// Calls that read the clock or the randomness behind everybody's back. clippy.toml bans them too; this also sees code
/// that is not compiled here.
const AMBIENT: [&str; 6] =
    ["SystemTime::now(", "Instant::now(", "Timestamp::now(", "Zoned::now(", "Uuid::new_v4(", "Uuid::now_v7("];
/// The two modules that may, and code that measures or only tests.
const AMBIENT_ALLOWED: [&str; 5] =
    ["core/src/clock.rs", "core/src/id.rs", "xtask/src/", "tests/", "/benches/"];

/// Files below `dir` with one of the endings.
pub fn below(dir: &Path, endings: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir() {
                if !FOREIGN.iter().any(|foreign| name == *foreign) {
                    open.push(entry.path());
                }
            } else if entry.path().extension().is_some_and(|own| endings.iter().any(|ending| own == *ending))
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Breaches of the rules for source files.
pub fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in below(root, &SOURCES)? {
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        breaches.extend(breaches_of(&name, &text));
    }
    Ok(breaches)
}

fn breaches_of(name: &str, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        breaches.push(format!("{name} has {lines} lines, more than {LINES_MAX}: split it by what it does"));
    }
    let allowed = AMBIENT_ALLOWED.iter().any(|place| name.contains(place));
    if allowed || !name.ends_with(".rs") {
        return breaches;
    }
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if let Some(call) = AMBIENT.iter().find(|call| code.contains(*call)) {
            // tokio's Instant is for waiting and follows a paused test clock; clippy tells the two apart by type.
            if *call == "Instant::now("
                && text.contains("tokio::time::")
                && !text.contains("std::time::Instant")
            {
                continue;
            }
            breaches.push(format!("{name}:{}: {call}) is ambient; take a Clock or Ids", index + 1));
        }
    }
    breaches
}

/// Every migration exists for both databases, under the same name.
pub fn migrations(root: &Path) -> anyhow::Result<Vec<String>> {
    let names = |database: &str| -> anyhow::Result<BTreeSet<String>> {
        let files = below(&root.join("control-plane/migrations").join(database), &["sql"])?;
        Ok(files.iter().filter_map(|file| Some(file.file_name()?.to_str()?.to_owned())).collect())
    };
    let (sqlite, postgres) = (names("sqlite")?, names("postgres")?);
    let lonely = sqlite.symmetric_difference(&postgres);
    Ok(lonely.map(|name| format!("migration {name} exists for one database only")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_and_ambient_clocks_are_named() {
        assert_eq!(breaches_of("a.rs", &"x\n".repeat(LINES_MAX)), [] as [String; 0]);
        assert_eq!(breaches_of("a.py", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(breaches_of("core/src/x.rs", "let t = SystemTime::now();").len(), 1);
        assert!(breaches_of("core/src/clock.rs", "SystemTime::now()").is_empty());
        assert!(breaches_of("core/src/x.rs", "// SystemTime::now()").is_empty());
        assert_eq!(breaches_of("core/src/x.rs", "let id = Uuid::new_v4();").len(), 1);
    }

    #[test]
    fn files_are_found_below_but_not_in_foreign_directories() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [("a/b.rs", "x"), ("target/c.rs", "x"), ("a/d.txt", "x")] {
            let file = dir.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        assert_eq!(below(dir.path(), &["rs"]).unwrap(), [dir.path().join("a/b.rs")]);
    }
}
