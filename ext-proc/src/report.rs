//! Brings the spool's records to the control plane, in order, until each is acknowledged (design §3, law 3).

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nullspend_core::id::KeyId;
use nullspend_proto::internal::{
    ReportRequest, ReportResponse, data_plane_service_client::DataPlaneServiceClient,
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::{
    backoff::Backoff,
    join::ControlPlane,
    metrics::Metrics,
    spool::{Spool, SpoolBatch, SpoolError},
};

/// How records are gathered and sent.
#[derive(Clone, Debug)]
pub struct ReportConfig {
    /// Most records of one message.
    pub max_records: usize,
    /// About the most bytes of one message.
    pub max_bytes: usize,
    /// Messages sent and not yet acknowledged.
    pub in_flight: usize,
    /// How long records are gathered between two messages.
    pub linger: Duration,
    /// A stream that acknowledges nothing for this long is given up.
    pub ack_timeout: Duration,
    /// The spool does not survive this process (configuration `ephemeral_spool`).
    pub ephemeral_spool: bool,
}

impl Default for ReportConfig {
    fn default() -> Self {
        Self {
            max_records: 500,
            max_bytes: 1 << 20,
            in_flight: 4,
            linger: Duration::from_millis(100),
            ack_timeout: Duration::from_secs(30),
            ephemeral_spool: false,
        }
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the control plane ended the report stream: {} ({:?})", .0.message(), .0.code())]
    Status(Box<tonic::Status>),
    #[error("the control plane closed the report stream")]
    Closed,
    #[error("the control plane acknowledged nothing for {0:?}")]
    Stalled(Duration),
    #[error("reading the spool")]
    Spool(#[from] SpoolError),
    #[error("reading the spool was cancelled")]
    Cancelled,
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

/// The task that reports. A record the control plane cannot use is its to set aside and acknowledge: records are
/// never skipped here, so none is lost without a trace.
#[derive(Debug)]
pub struct Reporter {
    spool: Arc<Spool>,
    channel: ControlPlane,
    config: ReportConfig,
    metrics: Arc<Metrics>,
}

impl Reporter {
    /// A reporter of `spool` over `channel`, which may be unconnected yet.
    #[must_use]
    pub fn new(
        spool: Arc<Spool>,
        channel: ControlPlane,
        config: ReportConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { spool, channel, config, metrics }
    }

    /// Reports until `shutdown`, through any number of lost connections. To leave nothing behind, call [`flush`]
    /// before cancelling.
    pub async fn run(self, shutdown: CancellationToken) {
        let _ = shutdown.run_until_cancelled(self.report()).await;
    }

    async fn report(&self) {
        let mut client = DataPlaneServiceClient::new(self.channel.clone());
        let mut backoff = Backoff::new(self.spool.dataplane_id());
        let mut reported = self.spool.reported();
        let acked = self.spool.acked();
        loop {
            // The spool outlives this task, and with it the sender.
            let _ = reported.wait_for(|&newest| newest > *acked.borrow()).await;
            let before = *acked.borrow();
            let ended = self.stream(&mut client).await;
            self.metrics.report_failures.inc();
            if let Err(error) = ended {
                tracing::warn!(error = %error, source = ?std::error::Error::source(&error), "reporting failed, will go on after the last acknowledgement");
            }
            if *acked.borrow() > before {
                backoff.reset();
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// One stream, to its end.
    async fn stream(&self, client: &mut DataPlaneServiceClient<ControlPlane>) -> Result<(), Ended> {
        let (requests, stream) = mpsc::channel(self.config.in_flight.max(1));
        let mut sending = Sending {
            reporter: self,
            requests,
            next_seq: *self.spool.acked().borrow() + 1,
            in_flight: VecDeque::new(),
            last_progress: Instant::now(),
            last_sent: Instant::now(),
        };
        // The first message goes out with the call: a server may read before it answers.
        sending.send().await?;
        let call = client.report(ReceiverStream::new(stream));
        let stalled = || Ended::Stalled(self.config.ack_timeout);
        let answers = tokio::time::timeout(self.config.ack_timeout, call).await.map_err(|_| stalled())??;
        sending.run(answers.into_inner(), self.spool.reported()).await
    }
}

/// State of one stream.
struct Sending<'a> {
    reporter: &'a Reporter,
    requests: mpsc::Sender<ReportRequest>,
    next_seq: u64,
    /// Last seq and number of records of each message sent, oldest first.
    in_flight: VecDeque<(u64, u64)>,
    last_progress: Instant,
    last_sent: Instant,
}

impl Sending<'_> {
    async fn run(
        &mut self,
        mut answers: Streaming<ReportResponse>,
        mut reported: watch::Receiver<u64>,
    ) -> Result<(), Ended> {
        let config = &self.reporter.config;
        loop {
            let waiting = *reported.borrow_and_update() >= self.next_seq;
            let may_send = waiting && self.in_flight.len() < config.in_flight;
            // After a pause at once; under load in batches, since every batch is a transaction with an fsync.
            let send_at = self.last_sent + config.linger;
            tokio::select! {
                answer = answers.message() => match answer? {
                    Some(answer) => self.acked(answer.acked_seq),
                    None => return Err(Ended::Closed),
                },
                () = tokio::time::sleep_until(send_at), if may_send => self.send().await?,
                changed = reported.changed(), if !waiting => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep_until(self.last_progress + config.ack_timeout), if !self.in_flight.is_empty() => {
                    return Err(Ended::Stalled(config.ack_timeout));
                }
            }
        }
    }

    /// Sends the next message, if there is anything for it.
    async fn send(&mut self) -> Result<(), Ended> {
        let Reporter { spool, config, .. } = self.reporter;
        let (from, max_records, max_bytes) = (self.next_seq, config.max_records, config.max_bytes);
        let reader = Arc::clone(spool);
        let read = tokio::task::spawn_blocking(move || reader.read_from(from, max_records, max_bytes));
        let SpoolBatch { records, next_seq } = read.await.map_err(|_| Ended::Cancelled)??;
        self.next_seq = next_seq;
        let Some(last) = records.last() else { return Ok(()) };
        if self.in_flight.is_empty() {
            self.last_progress = Instant::now();
        }
        self.in_flight.push_back((last.seq, records.len() as u64));
        let request = ReportRequest {
            dataplane_id: spool.dataplane_id().to_owned(),
            ephemeral_spool: config.ephemeral_spool,
            records,
        };
        self.last_sent = Instant::now();
        self.requests.send(request).await.map_err(|_| Ended::Closed)
    }

    /// Takes an acknowledgement, never beyond what was sent on this stream.
    fn acked(&mut self, seq: u64) {
        let Some(&(last_sent, _)) = self.in_flight.back() else { return };
        let seq = seq.min(last_sent);
        while let Some(&(last, records)) = self.in_flight.front() {
            if last > seq {
                break;
            }
            self.in_flight.pop_front();
            self.reporter.metrics.events_acked.inc_by(records);
            self.last_progress = Instant::now();
        }
        self.reporter.spool.ack(seq);
    }
}

/// Waits until everything appended so far is acknowledged; false when `deadline` came first.
pub async fn flush(spool: &Spool, deadline: Duration) -> bool {
    tokio::time::timeout(deadline, spool.drained()).await.is_ok()
}

/// Caps denial records for each key and minute: a denied agent in a loop must not fill the spool.
#[derive(Debug)]
pub struct Denials {
    per_minute: u32,
    keys: Mutex<HashMap<KeyId, Minute>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Minute {
    minute: i64,
    admitted: u32,
    suppressed: u64,
}

impl Denials {
    /// Keys remembered at most; beyond it those of past minutes are forgotten.
    const MOST_KEYS: usize = 10_000;

    /// At most `per_minute` records for each key.
    #[must_use]
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, keys: Mutex::default() }
    }

    /// Whether this denial gets a record: then the number of earlier ones that got none. Count `None` in
    /// [`Metrics::denials_suppressed`].
    pub fn admit(&self, key: KeyId, now_ms: i64) -> Option<u64> {
        let minute = now_ms.div_euclid(60_000);
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.len() >= Self::MOST_KEYS && !keys.contains_key(&key) {
            keys.retain(|_, seen| seen.minute >= minute);
        }
        let seen = keys.entry(key).or_default();
        if seen.minute != minute {
            *seen = Minute { minute, admitted: 0, suppressed: seen.suppressed };
        }
        if seen.admitted >= self.per_minute {
            seen.suppressed += 1;
            return None;
        }
        seen.admitted += 1;
        Some(std::mem::take(&mut seen.suppressed))
    }
}

#[cfg(test)]
mod tests;
