//! `nullspend cost` and `nullspend bound`: a JSON line in, a JSON line out.

use std::io::{BufRead as _, BufWriter, ErrorKind, Write as _, stdin, stdout};

use anyhow::Context as _;
use nullspend_core::{
    clock::{Clock as _, SystemClock},
    price::Catalogue,
    replay,
};

/// What to do with each line.
#[derive(Clone, Copy, Debug)]
pub enum Replay {
    /// Price recorded usage.
    Cost,
    /// Bound a request body.
    Bound,
}

/// Answers every line of standard input on standard output, in order. Empty lines are passed over; a line that cannot
/// be used gets an `error` and does not end the run.
///
/// # Errors
/// Standard input cannot be read, or standard output cannot be written. A reader that leaves early is no error.
pub fn run(what: Replay) -> anyhow::Result<()> {
    let catalogue = Catalogue::shipped();
    let now_ms = SystemClock::new().now_ms();
    let mut out = BufWriter::new(stdout().lock());
    let mut written = Ok(());
    let mut input = stdin().lock();
    let mut line = Vec::new();
    while written.is_ok() {
        line.clear();
        if input.read_until(b'\n', &mut line).context("read standard input")? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        // What is not UTF-8 becomes text that the reader refuses with a reason.
        let text = String::from_utf8_lossy(&line);
        let answer = match what {
            Replay::Cost => replay::cost_line(&catalogue, &text, now_ms),
            Replay::Bound => replay::bound_line(&catalogue, &text, now_ms),
        };
        written = writeln!(out, "{answer}");
    }
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("write standard output"),
        _ => Ok(()),
    }
}
