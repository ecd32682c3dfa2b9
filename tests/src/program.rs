//! The processes that tests start, stop and look at.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

/// The program under test: `NULLSPEND_BIN`, else the one beside this test in the target directory.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("NULLSPEND_BIN") {
        return PathBuf::from(path);
    }
    sibling("nullspend")
}

/// A program of the workspace, built into the target directory of the running one.
#[must_use]
pub fn sibling(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the own path");
    // Tests lie in target/<profile>/deps, programs in target/<profile>.
    let built =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.exists());
    built.unwrap_or_else(|| {
        panic!("no {name} beside {}: build the workspace first, or set NULLSPEND_BIN", own.display())
    })
}

/// Starts a command of the program whose data, logs and working directory are `directory`.
#[must_use]
pub fn start(command: &str, directory: &Path, env: &BTreeMap<String, String>) -> Child {
    let log = |name: &str| -> File {
        let path = directory.join(name);
        OpenOptions::new().create(true).append(true).open(path).expect("a log file")
    };
    prepared(command, directory, env)
        .stdin(Stdio::null())
        .stdout(log("out.log"))
        .stderr(log("err.log"))
        .spawn()
        .expect("the program starts")
}

/// A command of the program with none of this process's own settings.
#[must_use]
pub fn prepared(command: &str, directory: &Path, env: &BTreeMap<String, String>) -> Command {
    let mut prepared = Command::new(program());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NULLSPEND_") && name != "NULLSPEND_ENVOY" {
            prepared.env_remove(name);
        }
    }
    prepared
        .arg(command)
        .envs(env)
        .env("NULLSPEND_DATA_DIR", directory.join("data"))
        .current_dir(directory)
        .kill_on_drop(true);
    prepared
}

/// Sends a signal, by its name without SIG.
pub fn signal(pid: u32, name: &str) {
    let command = format!("kill -{name} {pid}");
    let sent = std::process::Command::new("sh").args(["-c", &command]).status().expect("sh runs");
    assert!(sent.success(), "no process {pid} to signal");
}

/// The living child processes of a process: the Envoy of ours.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|child| parent_of(*child) == Some(pid))
        .collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.next()?.parse().ok() }
}

/// Whether a process runs; one that is only waiting to be reaped does not.
#[must_use]
pub fn alive(pid: u32) -> bool {
    parent_of(pid).is_some()
}
