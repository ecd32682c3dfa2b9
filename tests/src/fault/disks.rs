//! A disk fills up under load. Needs the right to mount.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    HEADERS,
    audit::{Audit, audit},
    five_budgets,
    fleet::{Fleet, Mix},
};
use crate::{console::eventually, stack::Stack};

const AGENTS: usize = 16;

/// A small disk of its own, in memory.
#[derive(Debug)]
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, mebibytes: u32) -> Self {
        fs::create_dir_all(at).expect("a directory");
        let size = format!("size={mebibytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(at).output();
        let mounted = mounted.expect("mount is installed");
        assert!(mounted.status.success(), "{}", String::from_utf8_lossy(&mounted.stderr));
        Self(at.to_owned())
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let of = format!("of={}", self.filler().display());
        // Ends with "no space left", which is what is wanted.
        let _ = Command::new("dd").args(["if=/dev/zero", &of, "bs=4k"]).output();
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Which disk fills up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The spool's: nothing new passes, and what is under way waits for room to end.
    Spool,
    /// The database's: calls go on, and their events wait in the spool.
    Database,
}

/// One node whose disk is full for a while.
pub async fn full(which: Full) -> Audit {
    let directory = tempfile::Builder::new().prefix("ns").tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let database = Disk::mount(&data, 64);
    let spool = Disk::mount(&data.join("spool"), 16);
    let stack = Stack::builder().start_in(directory).await;
    let agent = stack.agent().await;
    let budgets = five_budgets(&stack, &agent, 1_000_000_000).await;
    let mix = Mix { leave: true, pace_ms: 4, headers: HEADERS.to_vec(), seed: 40 };
    let running = Fleet::new(vec![(*stack).clone()], agent, mix).start(AGENTS);
    let calls = || stack.provider.calls().len();
    let goes_on = async |more: usize| {
        let before = calls();
        eventually("more calls", async || (calls() > before + more).then_some(())).await;
    };
    goes_on(AGENTS).await;
    let disk = if which == Full::Spool { &spool } else { &database };
    disk.fill();
    match which {
        Full::Spool => {
            let url = format!("{}/health/ready", stack.url);
            eventually("not ready", async || {
                let live = stack.http.open(&http::Method::GET, &url, &[], bytes::Bytes::new()).await.ok()?;
                (live.status == 503).then_some(())
            })
            .await;
        }
        Full::Database => goes_on(4 * AGENTS).await,
    }
    disk.free();
    goes_on(2 * AGENTS).await;
    let seen = running.stop().await;
    audit(&stack, &stack.provider, &budgets, &seen).await
}
