//! PostgreSQL for the tests: a cluster of its own in a temporary directory, on a unix socket, never as root.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    run::{run, step},
    tools::is_root,
};

/// A running cluster; dropping it ends it and removes its files.
pub struct Postgres {
    server: Child,
    dir: PathBuf,
}

impl Postgres {
    /// The newest Debian release's programs.
    pub fn programs() -> Option<PathBuf> {
        let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .ok()?
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .filter(|bin| bin.join("initdb").is_file())
            .collect();
        found.sort();
        found.pop()
    }

    /// Makes and starts a cluster.
    pub fn start() -> anyhow::Result<Self> {
        step("Starting PostgreSQL");
        let programs = Self::programs().context("PostgreSQL is not installed")?;
        // Unix socket paths are short, so not in the workspace.
        let dir = env::temp_dir().join(format!("nullspend-pg-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("postgres").arg(&dir))?;
        }
        let data = dir.join("data");
        run(unprivileged(&programs.join("initdb"))
            .args([
                "--auth",
                "trust",
                "--username",
                "postgres",
                "--encoding",
                "UTF8",
                "--no-sync",
                "--pgdata",
            ])
            .arg(&data)
            .current_dir(&dir)
            .stdout(Stdio::null()))?;
        let settings = ["listen_addresses=", "fsync=off", "full_page_writes=off", "max_connections=200"];
        let mut command = unprivileged(&programs.join("postgres"));
        command.arg("-D").arg(&data).arg("-k").arg(&dir).current_dir(&dir);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let log = fs::File::create(env::temp_dir().join(format!("nullspend-pg-{}.log", std::process::id())))?;
        let server = command.stdout(log.try_clone()?).stderr(log).spawn().context("start PostgreSQL")?;
        let mut started = Self { server, dir };
        started.wait(&programs)?;
        Ok(started)
    }

    /// The administrator's URL.
    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.dir.display())
    }

    fn wait(&mut self, programs: &Path) -> anyhow::Result<()> {
        for _ in 0..600 {
            let ready = Command::new(programs.join("pg_isready")).arg("-q").arg("-h").arg(&self.dir).status();
            if ready.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            if let Some(status) = self.server.try_wait()? {
                bail!("PostgreSQL ended while starting ({status})");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("PostgreSQL was not ready within 30 s")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // `fast` ends it whatever is still connected; a failure leaves a process that the next reboot ends.
        if let Some(programs) = Self::programs() {
            let _ = unprivileged(&programs.join("pg_ctl"))
                .args(["stop", "--silent", "-m", "immediate", "-D"])
                .arg(self.dir.join("data"))
                .current_dir("/")
                .status();
        }
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_file(env::temp_dir().join(format!("nullspend-pg-{}.log", std::process::id())));
    }
}

fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}
