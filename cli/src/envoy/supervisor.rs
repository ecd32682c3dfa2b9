//! Keeping one Envoy running: started from a thread of its own, noticed when it dies, restarted with backoff, ended with us.

use std::{
    collections::VecDeque,
    fs, io,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nullspend_core::clock::Clock;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::sync::watch;

use super::spawn::spawn_bound_to_this_thread;

const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// An Envoy that ran this long was well: the next restart begins at the first backoff again.
const WELL_AFTER_US: u64 = 30_000_000;
/// Lines of Envoy's stderr kept to explain its end.
const LAST_WORDS: usize = 15;
/// How long Envoy may take to end on SIGTERM.
const TERM_PATIENCE: Duration = Duration::from_secs(5);

/// How to start Envoy.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its executable.
    pub binary: PathBuf,
    /// Its configuration, read anew at each start.
    pub bootstrap: PathBuf,
    /// Where its process id is written while it runs.
    pub pid_file: PathBuf,
    /// Worker threads.
    pub concurrency: usize,
}

/// What Envoy is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet started.
    Starting,
    /// Running.
    Running {
        /// Its process id.
        pid: i32,
    },
    /// Ended by itself; a restart follows.
    Died {
        /// How, and its last words.
        reason: String,
    },
    /// Ended because we asked.
    Stopped,
}

/// One supervised Envoy. Dropping it does not end Envoy; the end of the process does.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    state: watch::Receiver<State>,
}

#[derive(Debug, Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    stopping: bool,
    /// Set exactly while the process exists un-reaped, so that a signal cannot reach another one.
    pid: Option<Pid>,
}

impl Supervisor {
    /// Starts Envoy.
    ///
    /// # Errors
    /// The supervising thread cannot be started.
    pub fn start(launch: Launch, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (states, state) = watch::channel(State::Starting);
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("envoy".into())
            .spawn(move || supervise(&launch, &for_thread, &states, clock.as_ref()))?;
        Ok(Self { shared, state })
    }

    /// What Envoy is doing, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Ends Envoy: SIGTERM, and SIGKILL if that is not enough. Returns when it is gone.
    pub async fn stop(&self) {
        self.shared.lock().stopping = true;
        self.shared.changed.notify_all();
        self.shared.signal(Signal::TERM);
        let mut state = self.state.clone();
        let gone = state.wait_for(|state| *state == State::Stopped);
        if tokio::time::timeout(TERM_PATIENCE, gone).await.is_err() {
            self.shared.signal(Signal::KILL);
            // An error means the thread has ended: then Envoy has, too.
            let _ = self.state.clone().wait_for(|state| *state == State::Stopped).await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.lock().pid {
            // It may have ended in between: nothing to do then.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits for `pause` or until the supervisor is stopped, and says whether it is.
    fn pause(&self, pause: Duration) -> bool {
        let inner = self.lock();
        let waited = self.changed.wait_timeout_while(inner, pause, |inner| !inner.stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }
}

fn supervise(launch: &Launch, shared: &Shared, states: &watch::Sender<State>, clock: &dyn Clock) {
    let mut backoff = FIRST_BACKOFF;
    while !shared.lock().stopping {
        let started_us = clock.monotonic_us();
        let reason = match run_once(launch, shared, states) {
            Ok(reason) => reason,
            Err(error) => format!("{} cannot be run: {error}", launch.binary.display()),
        };
        if shared.lock().stopping {
            break;
        }
        tracing::error!(%reason, "Envoy ended; starting it again");
        states.send_replace(State::Died { reason });
        if clock.monotonic_us().saturating_sub(started_us) > WELL_AFTER_US {
            backoff = FIRST_BACKOFF;
        }
        if shared.pause(backoff) {
            break;
        }
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
    states.send_replace(State::Stopped);
}

/// Runs Envoy to its end and says how that came.
fn run_once(launch: &Launch, shared: &Shared, states: &watch::Sender<State>) -> io::Result<String> {
    let mut child = spawn_bound_to_this_thread(&mut command(launch))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    shared.lock().pid = Some(pid);
    if shared.lock().stopping {
        shared.signal(Signal::TERM);
    }
    if let Err(error) = fs::write(&launch.pid_file, format!("{}\n", child.id())) {
        // Only a later start misses it; ending an Envoy that serves would be worse.
        tracing::warn!(%error, "Envoy's pid file cannot be written");
    }
    states.send_replace(State::Running { pid: pid.as_raw_nonzero().get() });
    let last_words = hear_out(&mut child);
    // Waits without reaping: until the pid is forgotten, it must stay Envoy's.
    while let Err(rustix::io::Errno::INTR) =
        waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
    {}
    shared.lock().pid = None;
    let status = child.wait()?;
    // A missing file is as good.
    let _ = fs::remove_file(&launch.pid_file);
    Ok(if last_words.is_empty() {
        status.to_string()
    } else {
        format!("{status}: {}", last_words.join(" / "))
    })
}

fn command(launch: &Launch) -> Command {
    let mut command = Command::new(&launch.binary);
    // Our environment may hold the database's password and the bootstrap key.
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("NULLSPEND_")));
    command
        .arg("-c")
        .arg(&launch.bootstrap)
        .args(["--concurrency", &launch.concurrency.to_string()])
        .args(["--disable-hot-restart", "--log-level", "warning", "--log-format", "%l %n: %v"])
        // What a drain sends (connection: close, GOAWAY) it sends at once.
        .args(["--drain-time-s", "1", "--drain-strategy", "immediate"])
        .args(["--file-flush-interval-msec", "1000"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Passes Envoy's warnings on to our log until it closes its stderr, and keeps the last of them.
fn hear_out(child: &mut Child) -> Vec<String> {
    let mut last = VecDeque::new();
    let Some(stderr) = child.stderr.take() else { return Vec::new() };
    for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        tracing::warn!(target: "envoy", "{line}");
        if last.len() == LAST_WORDS {
            last.pop_front();
        }
        last.push_back(line);
    }
    last.into()
}

/// Ends an Envoy that an earlier process of this data directory left behind.
///
/// # Errors
/// It does not end.
pub fn end_survivor(pid_file: &Path, bootstrap: &Path) -> io::Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    if !runs_with(pid, bootstrap) {
        return Ok(());
    }
    tracing::warn!(pid = pid.as_raw_nonzero(), "ending an Envoy that outlived its parent");
    let _ = kill_process(pid, Signal::KILL);
    for _ in 0..500 {
        if !runs_with(pid, bootstrap) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("Envoy {pid:?} of this data directory does not end; kill it"),
    ))
}

/// Whether a process has our file among its arguments: a reused pid has not, a zombie has none.
fn runs_with(pid: Pid, bootstrap: &Path) -> bool {
    let file = format!("/proc/{}/cmdline", pid.as_raw_nonzero());
    let cmdline = fs::read(file).unwrap_or_default();
    cmdline.split(|byte| *byte == 0).any(|argument| argument == bootstrap.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use nullspend_core::clock::SystemClock;

    use super::*;

    /// A stand-in for Envoy: a shell script that is given Envoy's arguments.
    fn launch(dir: &Path, script: &str) -> Launch {
        let binary = dir.join("envoy");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
        Launch { binary, bootstrap: dir.join("envoy.yaml"), pid_file: dir.join("envoy.pid"), concurrency: 1 }
    }

    fn start(launch: &Launch) -> Supervisor {
        Supervisor::start(launch.clone(), Arc::new(SystemClock::new())).unwrap()
    }

    #[tokio::test]
    async fn an_envoy_that_dies_is_started_again_and_its_last_words_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let launch = launch(
            dir.path(),
            &format!("echo run >> {0}/runs; echo 'no port' >&2; exit 3", dir.path().display()),
        );
        let supervisor = start(&launch);
        let mut state = supervisor.state();
        let died = state.wait_for(|state| matches!(state, State::Died { .. })).await.unwrap().clone();
        assert_eq!(died, State::Died { reason: "exit status: 3: no port".into() });
        state.wait_for(|state| matches!(state, State::Running { .. })).await.unwrap();
        state.wait_for(|state| matches!(state, State::Died { .. })).await.unwrap();
        supervisor.stop().await;
        assert!(fs::read_to_string(dir.path().join("runs")).unwrap().lines().count() >= 2);
        assert!(!launch.pid_file.exists());
    }

    #[tokio::test]
    async fn stop_ends_a_running_envoy_and_no_other_is_started() {
        let dir = tempfile::tempdir().unwrap();
        let supervisor = start(&launch(dir.path(), "exec sleep 60"));
        let mut state = supervisor.state();
        let running = state.wait_for(|state| matches!(state, State::Running { .. })).await.unwrap().clone();
        let State::Running { pid } = running else { unreachable!() };
        supervisor.stop().await;
        assert_eq!(*state.borrow(), State::Stopped);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn what_cannot_be_run_is_said_and_tried_again_until_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let mut missing = launch(dir.path(), "");
        missing.binary = dir.path().join("missing");
        let supervisor = start(&missing);
        let mut state = supervisor.state();
        let died = state.wait_for(|state| matches!(state, State::Died { .. })).await.unwrap().clone();
        assert!(format!("{died:?}").contains("missing cannot be run"));
        supervisor.stop().await;
    }

    #[test]
    fn only_a_process_that_runs_our_configuration_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let (pid_file, bootstrap) = (dir.path().join("pid"), dir.path().join("envoy.yaml"));
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&pid_file, other.id().to_string()).unwrap();
        end_survivor(&pid_file, &bootstrap).unwrap();
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();

        // It speaks once its command line is in place, and listens until it is ended.
        let mut ours = Command::new("sh")
            .args(["-c", "echo here; read line"])
            .arg(&bootstrap)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        BufReader::new(ours.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
        fs::write(&pid_file, ours.id().to_string()).unwrap();
        end_survivor(&pid_file, &bootstrap).unwrap();
        assert!(!ours.wait().unwrap().success());
        end_survivor(&dir.path().join("none"), &bootstrap).unwrap();
    }
}
