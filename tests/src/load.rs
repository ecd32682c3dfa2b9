//! A closed-loop load: so many connections, each asking again as soon as it was answered.

use std::{fs, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nullspend_core::clock::{Clock, SystemClock};
use serde::Serialize;
use tokio::{net::TcpStream, task::JoinSet};

/// What to send, and how hard.
#[derive(Clone, Debug)]
pub struct Load {
    /// `http://host:port`.
    pub url: String,
    /// The route.
    pub path: String,
    /// Headers beside `host` and `content-length`.
    pub headers: Vec<(String, String)>,
    /// The request body.
    pub body: Bytes,
    /// HTTP/1.1 connections, each with one request at a time.
    pub connections: usize,
    /// Answers of this time are not counted.
    pub warm_up: Duration,
    /// How long answers are counted.
    pub measured: Duration,
}

/// What came back.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Complete answers with status 200 in the measured time.
    pub requests: usize,
    /// Anything else.
    pub errors: usize,
    /// Every exchange, the warm-up's included: what processor time was spent on.
    pub exchanges: usize,
    /// The measured time.
    pub seconds: f64,
    /// Answers per second.
    pub rate: f64,
    /// From sending to the first byte of the answer's body, in microseconds.
    pub first_byte: Percentiles,
    /// From sending to the last byte, in microseconds.
    pub whole: Percentiles,
}

/// Of a list of microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    /// Half are at most this.
    pub p50: u64,
    /// 99 of 100 are at most this.
    pub p99: u64,
}

impl Percentiles {
    pub(crate) fn of(mut micros: Vec<u64>) -> Self {
        micros.sort_unstable();
        let at = |percent: usize| {
            micros.get((micros.len() * percent / 100).min(micros.len().saturating_sub(1))).copied()
        };
        Self { p50: at(50).unwrap_or(0), p99: at(99).unwrap_or(0) }
    }
}

/// One answer: when it was asked for, its first byte and its last.
struct Sample {
    asked_us: u64,
    first_us: u64,
    last_us: u64,
    good: bool,
}

impl Load {
    /// Runs the load to its end.
    ///
    /// # Errors
    /// When no connection can be opened at all.
    pub async fn run(&self) -> io::Result<Report> {
        let clock = Arc::new(SystemClock::new());
        let begin = clock.monotonic_us() + micros(self.warm_up);
        let end = begin + micros(self.measured);
        let mut workers = JoinSet::new();
        for _ in 0..self.connections {
            workers.spawn(work(self.clone(), Arc::clone(&clock), end));
        }
        let mut samples = Vec::new();
        while let Some(done) = workers.join_next().await {
            samples.extend(done.map_err(io::Error::other)??);
        }
        let exchanges = samples.len();
        samples.retain(|sample| sample.asked_us >= begin && sample.last_us <= end);
        let good: Vec<&Sample> = samples.iter().filter(|sample| sample.good).collect();
        let seconds = self.measured.as_secs_f64();
        let count = u32::try_from(good.len()).unwrap_or(u32::MAX);
        Ok(Report {
            requests: good.len(),
            errors: samples.len() - good.len(),
            exchanges,
            seconds,
            rate: f64::from(count) / seconds,
            first_byte: Percentiles::of(
                good.iter().map(|sample| sample.first_us - sample.asked_us).collect(),
            ),
            whole: Percentiles::of(good.iter().map(|sample| sample.last_us - sample.asked_us).collect()),
        })
    }

    async fn connect(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        let socket = TcpStream::connect(self.url.trim_start_matches("http://")).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self) -> io::Result<Request<Full<Bytes>>> {
        let mut request =
            Request::post(&self.path).header(header::HOST, self.url.trim_start_matches("http://"));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).map_err(io::Error::other)
    }
}

async fn work(load: Load, clock: Arc<SystemClock>, end: u64) -> io::Result<Vec<Sample>> {
    let mut sender = load.connect().await?;
    let mut samples = Vec::new();
    while clock.monotonic_us() < end {
        if sender.ready().await.is_err() {
            sender = load.connect().await?;
            continue;
        }
        let asked_us = clock.monotonic_us();
        let (good, first) = exchange(&mut sender, load.request()?, &clock).await;
        let last_us = clock.monotonic_us();
        samples.push(Sample { asked_us, first_us: first.unwrap_or(last_us), last_us, good });
    }
    Ok(samples)
}

/// Whether it was a whole 200, and when the first byte of its body came.
async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
    clock: &SystemClock,
) -> (bool, Option<u64>) {
    let Ok(mut response) = sender.send_request(request).await else { return (false, None) };
    let (good, mut first) = (response.status() == 200, None);
    while let Some(frame) = response.frame().await {
        if frame.is_err() {
            return (false, first);
        }
        first.get_or_insert_with(|| clock.monotonic_us());
    }
    (good, first)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Processor time of a process so far, its threads included, in seconds.
///
/// # Errors
/// When the process is gone or `/proc` cannot be read.
pub fn cpu_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks =
        |index: usize| fields.get(index).and_then(|text| text.parse::<u32>().ok()).map_or(0.0, f64::from);
    // utime and stime are fields 14 and 15 of the line; Linux counts them in hundredths of a second.
    Ok((ticks(11) + ticks(12)) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::FakeProvider;

    #[tokio::test]
    async fn a_short_load_is_counted_and_timed() {
        let provider = FakeProvider::start().await.expect("a provider");
        let body = r#"{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"[[fake tokens=9 chunks=9]]"}]}"#;
        let load = Load {
            url: provider.url(),
            path: "/v1/chat/completions".into(),
            headers: vec![("authorization".into(), "Bearer x".into())],
            body: Bytes::from_static(body.as_bytes()),
            connections: 3,
            warm_up: Duration::from_millis(20),
            measured: Duration::from_millis(200),
        };
        let report = load.run().await.expect("a report");
        assert!(report.requests > 0 && report.errors == 0, "{report:?}");
        assert!(report.first_byte.p50 <= report.whole.p99, "{report:?}");
        assert!(cpu_seconds(std::process::id()).expect("our own times") >= 0.0);
    }
}
