//! Starting a process that cannot outlive this one. The only unsafe code of the program.

use std::{
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

/// Starts `command` in a process group of its own (a terminal's Ctrl-C goes to us alone, who end it in order), killed by
/// the kernel when the *thread* that called this ends: call it from one that lives as long as the process.
///
/// # Errors
/// The process cannot be started.
#[expect(
    unsafe_code,
    reason = "pre_exec has no safe form; the hook makes two system calls and allocates nothing"
)]
pub fn spawn_bound_to_this_thread(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec only prctl and getppid are called, both async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have died before the line above: then nobody would ever send that signal.
            if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
        });
    }
    command.spawn()
}
