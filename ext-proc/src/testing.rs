//! A control plane for tests: the planes' protocol over in-memory pipes, with faults on command.

pub(crate) mod mute;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{ControlPlane, Join};
use futures::{Stream, StreamExt as _};
use hyper_util::rt::TokioIo;
use nullspend_proto::internal::{
    ConfirmPolicyRequest, ConfirmPolicyResponse, DeliverRequest, DeliverResponse, LeaveRequest,
    LeaveResponse, ReportRequest, ReportResponse, SpoolRecord, WatchRequest, WatchResponse,
    data_plane_service_server::{DataPlaneService, DataPlaneServiceServer},
};
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
pub(crate) type WatchScript = mpsc::UnboundedReceiver<Result<WatchResponse, Status>>;

/// What a report stream does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnReport {
    /// Keeps and acknowledges it.
    Ack,
    /// Keeps it and says nothing.
    Stall,
    /// Keeps it and breaks the stream before acknowledging.
    KeepAndBreak,
    /// Breaks the stream.
    Break,
    /// Acknowledges far more than it got.
    AckTooMuch,
}

#[derive(Default)]
struct State {
    records: BTreeMap<u64, SpoolRecord>,
    deliveries: Vec<u64>,
    script: VecDeque<OnReport>,
    watches: VecDeque<WatchScript>,
    watch_requests: Vec<WatchRequest>,
    confirmed: Vec<u64>,
    left: usize,
}

/// The fake; clones share everything.
#[derive(Clone)]
pub(crate) struct FakePlane {
    state: Arc<Mutex<State>>,
    delivered: tokio::sync::broadcast::Sender<DeliverRequest>,
    calls: Arc<AtomicUsize>,
}

impl Default for FakePlane {
    fn default() -> Self {
        let (state, calls) = (Arc::default(), Arc::default());
        Self { state, calls, delivered: tokio::sync::broadcast::Sender::new(16) }
    }
}

impl FakePlane {
    /// Revisions that were said to be enforced.
    pub(crate) fn confirmed(&self) -> Vec<u64> {
        self.state().confirmed.clone()
    }

    /// What data planes have under way, as they deliver it from now on.
    pub(crate) fn delivered(&self) -> tokio::sync::broadcast::Receiver<DeliverRequest> {
        self.delivered.subscribe()
    }

    /// How often a data plane has left.
    pub(crate) fn left(&self) -> usize {
        self.state().left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What the next messages of report streams meet; afterwards all are acknowledged.
    pub(crate) fn on_reports(&self, script: impl IntoIterator<Item = OnReport>) {
        self.state().script.extend(script);
    }

    /// Answers the next watch call from the returned sender.
    pub(crate) fn next_watch(&self) -> mpsc::UnboundedSender<Result<WatchResponse, Status>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state().watches.push_back(receiver);
        sender
    }

    pub(crate) fn watch_requests(&self) -> Vec<WatchRequest> {
        self.state().watch_requests.clone()
    }

    /// The records kept, each once, in order.
    pub(crate) fn records(&self) -> Vec<SpoolRecord> {
        self.state().records.values().cloned().collect()
    }

    /// Numbers of the records kept, each once.
    pub(crate) fn kept(&self) -> Vec<u64> {
        self.state().records.keys().copied().collect()
    }

    /// Numbers in order of delivery, repeats included.
    pub(crate) fn deliveries(&self) -> Vec<u64> {
        self.state().deliveries.clone()
    }

    /// Report streams opened so far.
    pub(crate) fn report_streams(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// A channel to this fake, whose server runs until the channel is gone.
    pub(crate) fn channel(&self) -> ControlPlane {
        let (connections, incoming) = mpsc::unbounded_channel::<Result<DuplexStream, io::Error>>();
        let service = DataPlaneServiceServer::new(self.clone());
        tokio::spawn(
            Server::builder()
                .add_service(service)
                .serve_with_incoming(UnboundedReceiverStream::new(incoming)),
        );
        let connect = tower::service_fn(move |_| {
            let connections = connections.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 20);
                connections.send(Ok(theirs)).map_err(io::Error::other)?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        Join::default().over(Endpoint::from_static("http://fake").connect_with_connector_lazy(connect))
    }
}

#[async_trait::async_trait]
impl DataPlaneService for FakePlane {
    type WatchStream = Answers<WatchResponse>;
    type ReportStream = Answers<ReportResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut state = self.state();
        state.watch_requests.push(request.into_inner());
        let script = state.watches.pop_front().ok_or_else(|| Status::unavailable("no watch is scripted"))?;
        Ok(Response::new(UnboundedReceiverStream::new(script).boxed()))
    }

    async fn confirm_policy(
        &self,
        request: Request<ConfirmPolicyRequest>,
    ) -> Result<Response<ConfirmPolicyResponse>, Status> {
        self.state().confirmed.push(request.into_inner().revision);
        Ok(Response::new(ConfirmPolicyResponse {}))
    }

    async fn deliver(&self, request: Request<DeliverRequest>) -> Result<Response<DeliverResponse>, Status> {
        let _ = self.delivered.send(request.into_inner());
        Ok(Response::new(DeliverResponse {}))
    }

    async fn leave(&self, _: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        self.state().left += 1;
        Ok(Response::new(LeaveResponse {}))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(16);
        let plane = self.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = requests.message().await {
                let (what, last) = plane.take(message);
                let answer = match what {
                    OnReport::Ack => Ok(ReportResponse { acked_seq: last }),
                    OnReport::AckTooMuch => Ok(ReportResponse { acked_seq: last + 1000 }),
                    OnReport::Stall => continue,
                    OnReport::Break | OnReport::KeepAndBreak => Err(Status::unavailable("broken on purpose")),
                };
                let end = answer.is_err();
                if answers.send(answer).await.is_err() || end {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream).boxed()))
    }
}

impl FakePlane {
    fn take(&self, message: ReportRequest) -> (OnReport, u64) {
        let mut state = self.state();
        let what = state.script.pop_front().unwrap_or(OnReport::Ack);
        let last = message.records.last().map_or(0, |record| record.seq);
        if what != OnReport::Break {
            for record in message.records {
                state.deliveries.push(record.seq);
                state.records.insert(record.seq, record.read().unwrap_or_default());
            }
        }
        (what, last)
    }
}
