//! `cargo xtask ci`: the one command that a change must pass.

use std::process::Command;

use crate::{
    openapi::openapi,
    run::{cargo, root, run, step},
    test::test,
    tidy::tidy,
    tools,
};

/// Everything, cheapest first.
pub fn ci() -> anyhow::Result<()> {
    step("Formatting");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    step("Tidy");
    tidy()?;
    step("Protos");
    let proto = root().join("proto");
    run(Command::new(tools::buf()?).arg("lint").current_dir(&proto))?;
    run(Command::new(tools::buf()?).args(["breaking", "--against", "image.binpb"]).current_dir(&proto))?;
    step("Clippy");
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("Dependencies");
    run(Command::new(tools::cargo_deny()?)
        .args(["check", "bans", "licenses", "sources"])
        .current_dir(root()))?;
    step("OpenAPI");
    openapi(true)?;
    test(&[])
}
