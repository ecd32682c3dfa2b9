//! `cargo xtask openapi`: the committed document is what the protos say.

use std::fs;

use anyhow::{Context as _, bail};

use crate::run::{cargo, output, root};

/// Writes the document, or compares.
pub fn openapi(check: bool) -> anyhow::Result<()> {
    let fresh = output(cargo().args(["run", "--quiet", "--package", "nullspend-cli", "--", "openapi"]))?;
    let file = root().join("docs/reference/openapi.json");
    if !check {
        fs::create_dir_all(root().join("docs/reference"))?;
        return fs::write(&file, fresh).with_context(|| format!("write {}", file.display()));
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    if committed != fresh {
        bail!(
            "docs/reference/openapi.json is not what the protos say; run `cargo xtask openapi` and commit it"
        );
    }
    Ok(())
}
