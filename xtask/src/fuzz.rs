//! `cargo xtask fuzz`: every fuzz target for its share of the time. New inputs stay in `.cache/fuzz`; a finding lies in
//! `fuzz/artifacts`, and belongs into `fuzz/corpus`, small, once it is mended.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    run::{cache, output, root, run, step},
    tools,
};

/// An input that takes longer is a finding, in seconds.
const TIMEOUT_S: u64 = 10;
/// More memory than this is a finding. AddressSanitizer takes a few times of what the code itself takes.
const MEMORY_MIB_MAX: u64 = 1024;

/// What became of one target.
struct Outcome {
    target: String,
    executions: u64,
    findings: usize,
}

/// Fuzzes every target for its share of `minutes`.
pub fn fuzz(minutes: u64) -> anyhow::Result<()> {
    if !output(Command::new("rustup").args(["toolchain", "list"]))?.contains("nightly") {
        bail!("fuzzing needs a nightly toolchain: rustup toolchain install nightly --profile minimal");
    }
    let cargo_fuzz = tools::cargo_fuzz()?;
    step("Building the fuzz targets");
    run(fuzzer(&cargo_fuzz).arg("build"))?;
    let listed = output(fuzzer(&cargo_fuzz).arg("list"))?;
    let targets: Vec<&str> = listed.lines().collect();
    let seconds = (minutes * 60 / targets.len().max(1) as u64).max(1);
    let mut outcomes = Vec::new();
    for target in targets {
        step(&format!("Fuzzing {target} for {seconds} s"));
        outcomes.push(one(&cargo_fuzz, target, seconds)?);
    }
    println!("{}", table(&outcomes));
    let findings: usize = outcomes.iter().map(|outcome| outcome.findings).sum();
    if findings > 0 {
        bail!("{findings} findings; see fuzz/artifacts, and `cargo +nightly fuzz run TARGET FILE`");
    }
    Ok(())
}

fn fuzzer(cargo_fuzz: &Path) -> Command {
    let mut command = Command::new(cargo_fuzz);
    // The cargo that runs us is a stable one.
    command.arg("fuzz").env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").current_dir(root());
    command
}

fn one(cargo_fuzz: &Path, target: &str, seconds: u64) -> anyhow::Result<Outcome> {
    let grown = cache().join("fuzz").join(target);
    fs::create_dir_all(&grown).with_context(|| format!("create {}", grown.display()))?;
    let artifacts = root().join("fuzz/artifacts").join(target);
    let before = files(&artifacts);
    let log = cache().join("fuzz").join(format!("{target}.log"));
    let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let ended = fuzzer(cargo_fuzz)
        .args(["run", target])
        .args([grown.as_path(), &root().join("fuzz/corpus").join(target)])
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={TIMEOUT_S}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg("-print_final_stats=1")
        .stderr(file)
        .status()
        .context("cannot run cargo-fuzz")?;
    let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let new = files(&artifacts).saturating_sub(before);
    // One that left no file (it could not start, or the same input again) is one all the same.
    let findings = if ended.success() { new } else { new.max(1) };
    if findings > 0 {
        eprintln!("{target}: the end of {} says\n{}", log.display(), last_lines(&text, 40));
    }
    Ok(Outcome { target: target.to_owned(), executions: executions(&text), findings })
}

fn files(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// What libFuzzer counted.
fn executions(log: &str) -> u64 {
    let counts = log.lines().filter_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    counts.filter_map(|count| count.trim().parse::<u64>().ok()).sum()
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}

fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!("{:<20}{:>14}{:>10}", "target", "executions", "findings");
    for Outcome { target, executions, findings } in outcomes {
        text.push_str(&format!("\n{target:<20}{executions:>14}{findings:>10}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_are_read_from_the_final_statistics() {
        let log = "#2\tINITED\nstat::number_of_executed_units: 1234\nstat::average_exec_per_sec:     77\n";
        assert_eq!((executions(log), executions("")), (1234, 0));
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
    }
}
