//! `cargo xtask tidy`: the house rules as a test (design §4).

mod edges;
mod files;

use anyhow::bail;

use crate::run::root;

/// Checks every rule and names every breach.
pub fn tidy() -> anyhow::Result<()> {
    let root = root();
    let mut breaches = edges::crates(&root)?;
    breaches.extend(edges::modules(&root)?);
    breaches.extend(files::check(&root)?);
    breaches.extend(files::migrations(&root)?);
    if breaches.is_empty() {
        return Ok(());
    }
    for breach in &breaches {
        eprintln!("tidy: {breach}");
    }
    bail!("{} breaches of the house rules", breaches.len())
}
