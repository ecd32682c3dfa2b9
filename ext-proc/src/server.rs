//! The ext_proc service: one gRPC stream is one HTTP request, driven through the core's stages.

use std::{panic::AssertUnwindSafe, pin::Pin, sync::Arc};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    external_processor_server::ExternalProcessor, processing_request::Request as Phase,
};
use futures::{FutureExt as _, Stream};
use nullspend_core::{
    exchange::{
        Admission, Answered, AwaitingBody, Begin, End, Opening, Origin, ResponseHead, Tightening, Verdict,
        begin, limit_client,
    },
    id::AttemptId,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    DataPlane,
    flight::{Flight, Piece},
    health,
    plane::Asked,
    wire,
};

/// Bodies above this are parsed off the async threads: a 32 MiB body takes tens of milliseconds.
const PARSE_INLINE_MAX_BYTES: usize = 256 * 1024;
/// Answers waiting for Envoy; one is the rule, two at an answer's end.
const ANSWERS_QUEUED: usize = 8;

/// Serves Envoy's ext_proc filter.
#[derive(Clone)]
pub struct ExtProcService(pub Arc<DataPlane>);

#[tonic::async_trait]
impl ExternalProcessor for ExtProcService {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (to_envoy, answers) = mpsc::channel(ANSWERS_QUEUED);
        let failed = to_envoy.clone();
        let session = Session { plane: Arc::clone(&self.0), from_envoy: request.into_inner(), to_envoy };
        // Read in a task of its own: polled from the answer stream, the last message is lost when Envoy resets at once.
        tokio::spawn(guarded(Box::pin(session.run()), failed));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// Turns a panic into an error: to a stream that merely ends Envoy shows no more of the exchange, and lets it pass.
async fn guarded(
    run: impl Future<Output = ()> + Unpin,
    to_envoy: mpsc::Sender<Result<ProcessingResponse, Status>>,
) {
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        let _ = to_envoy.send(Err(Status::internal("the data plane failed on this exchange"))).await;
    }
}

/// Works off the async threads. A panic there is one here.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Gone> {
    tokio::task::spawn_blocking(work).await.map_err(|cause| match cause.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Gone,
    })
}

/// The gRPC stream is over, whatever the reason; the caller's state says what that means.
struct Gone;

struct Session {
    plane: Arc<DataPlane>,
    from_envoy: Streaming<ProcessingRequest>,
    to_envoy: mpsc::Sender<Result<ProcessingResponse, Status>>,
}

impl Session {
    async fn run(mut self) {
        let _in_flight = self.plane.enter();
        // An error here is Envoy's reset, which every aborted request ends with: nothing to report.
        let _: Result<(), Gone> = self.exchange().await;
    }

    async fn next(&mut self) -> Result<ProcessingRequest, Gone> {
        self.from_envoy.message().await.ok().flatten().ok_or(Gone)
    }

    async fn send(&self, message: ProcessingResponse) -> Result<(), Gone> {
        self.to_envoy.send(Ok(message)).await.map_err(|_| Gone)
    }

    async fn exchange(&mut self) -> Result<(), Gone> {
        let mut first = self.next().await?;
        let (headers, end_of_stream) = match first.request.take() {
            Some(Phase::RequestHeaders(HttpHeaders { headers, end_of_stream, .. })) => {
                (headers, end_of_stream)
            }
            other => {
                // Envoy refused what it could not parse: its answer passes through us.
                first.request = other;
                return self.pass(first).await;
            }
        };
        let headers = wire::headers(headers);
        let now = self.plane.now();
        let attempt = AttemptId(self.plane.ids.v7(now.ms));
        let client = wire::source_address(&first);
        if let Some(answered) =
            self.plane.guards.limited(|by| limit_client(by, &headers, client, attempt, now))
        {
            return self.answer(*answered).await;
        }
        let known = match begin(self.plane.policy(), &headers, attempt, now) {
            Begin::Known(known) => known,
            Begin::Answer(answered) => return self.answer(*answered).await,
            Begin::Health => return self.send(wire::immediate(health::alive())).await,
            Begin::Ready => {
                let ready = self.plane.readiness();
                return self.send(wire::immediate(health::ready(&ready))).await;
            }
        };
        if let Some(answered) = self.plane.guards.limited(|by| known.limit_key(by, now)) {
            return self.answer(*answered).await;
        }
        let mut awaiting = match known.accept(&self.plane.settings, &headers) {
            Ok(awaiting) => awaiting,
            Err(answered) => return self.answer(*answered).await,
        };
        awaiting.headers_took(self.plane.now());
        let body = if end_of_stream {
            Vec::new()
        } else {
            self.send(wire::request_headers_pass()).await?;
            let message = self.next().await?;
            match message.request {
                Some(Phase::RequestBody(HttpBody { body, .. })) => body,
                // Envoy refused the body itself (413, or the client left): its answer passes through us.
                _ => return self.pass(message).await,
            }
        };
        // In a place of its own, or all that it may hold would be copied wherever the exchange is.
        Box::pin(self.body(*awaiting, body)).await
    }

    async fn body(&mut self, awaiting: AwaitingBody, body: Vec<u8>) -> Result<(), Gone> {
        let Some(permit) = self.plane.bodies.permit(body.len()) else {
            return self.answer(*awaiting.overloaded()).await;
        };
        let awaiting = match self.plane.policy() {
            Some(policy) => awaiting.under(policy),
            None => awaiting,
        };
        let (admission, body) = self.admit(awaiting, body).await?;
        let deciding = self.plane.deciding.enter();
        let (opening, body) = match self.decide(admission, body).await {
            Ok(decided) => decided,
            Err(answered) => return self.answer(*answered).await,
        };
        if self.to_envoy.is_closed() {
            self.plane.release(&opening);
            return Err(Gone);
        }
        // Deciding may have taken a while. What is refused here was never opened, and leaves no event.
        if let Some(answered) = self.plane.refused(&opening) {
            self.plane.release(&opening);
            return self.answer(*answered).await;
        }
        let (flight, forward) = match Flight::open(&self.plane, opening, body, permit).await {
            Ok(opened) => opened,
            Err(answered) => return self.answer(*answered).await,
        };
        drop(deciding);
        if self.send(wire::forward(forward)).await.is_err() {
            flight.close(End::NotForwarded).await;
            return Err(Gone);
        }
        self.response(flight).await
    }

    /// Parses and bounds the body; large ones off the async threads.
    async fn admit(&self, awaiting: AwaitingBody, body: Vec<u8>) -> Result<(Admission, Vec<u8>), Gone> {
        let plane = Arc::clone(&self.plane);
        let large = body.len() > PARSE_INLINE_MAX_BYTES;
        // Read here, so that the wait for a thread counts as ours.
        let now = plane.now();
        let admit = move || {
            let admission = awaiting.body(&plane.settings, &body, now);
            (admission, body)
        };
        if large { apart(admit).await } else { Ok(admit()) }
    }

    /// Takes the bound out of the budgets, where any match.
    async fn decide(
        &self,
        mut admission: Admission,
        mut body: Vec<u8>,
    ) -> Result<(Box<Opening>, Vec<u8>), Box<Answered>> {
        if let Admission::Reserve(reserving) = &mut admission
            && let Some(answered) = self.plane.guards.looping(reserving, self.plane.now())
        {
            return Err(answered);
        }
        loop {
            admission.took(self.plane.now());
            let reserving = match admission {
                Admission::Answer(answered) => return Err(answered),
                Admission::Open(opening) => return Ok((opening, body)),
                Admission::Reserve(reserving) => reserving,
            };
            let outcome = match self.plane.reserve(&reserving).await {
                Asked::Ledger(outcome) => outcome,
                Asked::OnCredit => return Ok((reserving.on_credit(self.plane.now()), body)),
            };
            let mut verdict = reserving.reserved(outcome, self.plane.now());
            if let Verdict::Tighten(tightening) = verdict {
                (verdict, body) = self.tighten(tightening, body).await?;
            }
            match verdict {
                Verdict::Answer(answered) => return Err(answered),
                Verdict::Open(opening) => return Ok((opening, body)),
                // A call is counted once.
                Verdict::Tighten(tightening) => return Err(tightening.undecided()),
                Verdict::Lowered(reserving) => admission = Admission::Reserve(reserving),
                Verdict::Refresh { reserving, revision } => {
                    let Some(policy) = self.plane.policy_at(revision).await else {
                        return Err(reserving.undecided());
                    };
                    admission = reserving.again(&policy, self.plane.clock.now_ms());
                }
                Verdict::Rewindow { reserving, now_ms } => {
                    let Some(policy) = self.plane.policy() else { return Err(reserving.undecided()) };
                    admission = reserving.again(&policy, now_ms);
                }
            }
        }
    }

    /// Counts the body's text off the async threads, few at a time: many denials must not take every core.
    async fn tighten(
        &self,
        tightening: Box<Tightening>,
        body: Vec<u8>,
    ) -> Result<(Verdict, Vec<u8>), Box<Answered>> {
        let undecided = tightening.undecided();
        let Ok(_turn) = self.plane.counting.acquire().await else { return Err(undecided) };
        let now = self.plane.now();
        let count = move || (tightening.count(&body, now), body);
        tokio::task::spawn_blocking(count).await.map_err(|_| undecided)
    }

    /// Watches the answer. Any return without an explicit close settles the flight as broken.
    async fn response(&mut self, mut flight: Flight) -> Result<(), Gone> {
        loop {
            let message = match self.next().await {
                Ok(message) => message,
                Err(gone) => {
                    flight.close(End::Broken).await;
                    return Err(gone);
                }
            };
            let origin = Origin::of_code_details(wire::code_details(&message));
            let now = self.plane.now();
            match message.request {
                Some(Phase::ResponseHeaders(HttpHeaders { headers, end_of_stream, .. })) => {
                    let head = flight.response_head(&wire::headers(headers), origin, now);
                    if end_of_stream {
                        flight.close(End::Complete).await;
                        return self.send(wire::response_headers(head)).await;
                    }
                    self.send(wire::response_headers(head)).await?;
                }
                Some(Phase::ResponseBody(HttpBody { body, end_of_stream, .. })) => {
                    match flight.response_body(body, end_of_stream, now).await {
                        Piece::Passes(mut chunk) if end_of_stream => {
                            // Settled before the last byte leaves: a caller's next request sees the true balance.
                            chunk.extend(flight.close(End::Complete).await);
                            return self.send(wire::response_chunk(chunk, true)).await;
                        }
                        Piece::Passes(chunk) => {
                            if !chunk.is_empty() {
                                self.send(wire::response_chunk(chunk, false)).await?;
                            }
                            flight.ahead().await;
                        }
                        Piece::Last(chunk) => return self.cut(flight, chunk).await,
                        Piece::Breaks => return self.break_off(flight).await,
                    }
                }
                Some(Phase::ResponseTrailers(_)) => {
                    let (mut rest, end) = match flight.response_body(Vec::new(), true, now).await {
                        Piece::Passes(rest) => (rest, End::Complete),
                        Piece::Last(rest) => (rest, End::Cut),
                        Piece::Breaks => return self.break_off(flight).await,
                    };
                    rest.extend(flight.close(end).await);
                    if !rest.is_empty() {
                        self.send(wire::response_chunk(rest, false)).await?;
                    }
                    return self.send(wire::response_trailers_pass()).await;
                }
                Some(Phase::RequestHeaders(_) | Phase::RequestBody(_) | Phase::RequestTrailers(_)) | None => {
                }
            }
        }
    }

    /// Ends the client's stream; Envoy then resets the provider's. That comes first, since what the provider makes
    /// meanwhile is billed: only a caller that wants to be told the cost waits for the settlement.
    async fn cut(&mut self, flight: Flight, mut last: Vec<u8>) -> Result<(), Gone> {
        if flight.tells_cost() {
            last.extend(flight.close(End::Cut).await);
            self.send(wire::response_chunk(last, true)).await?;
        } else {
            self.send(wire::response_chunk(last, true)).await?;
            // Lets the end leave before its text is counted, which keeps this thread busy.
            tokio::task::yield_now().await;
            flight.close(End::Cut).await;
        }
        // What the provider had sent before is not answered; a stream of ours that ended first would let it pass.
        while self.next().await.is_ok() {}
        Ok(())
    }

    /// Ends the client's connection in the middle of an answer, the provider's with it.
    async fn break_off(&mut self, flight: Flight) -> Result<(), Gone> {
        flight.close(End::Cut).await;
        let _ =
            self.to_envoy.send(Err(Status::resource_exhausted("no more can be held for this answer"))).await;
        Err(Gone)
    }

    /// Lets an answer that Envoy made before we decided (413, say) pass as it is.
    async fn pass(&mut self, mut message: ProcessingRequest) -> Result<(), Gone> {
        loop {
            let answer = match message.request {
                Some(Phase::ResponseHeaders(_)) => wire::response_headers(ResponseHead::default()),
                Some(Phase::ResponseBody(HttpBody { body, end_of_stream, .. })) => {
                    wire::response_chunk(body, end_of_stream)
                }
                Some(Phase::ResponseTrailers(_)) => wire::response_trailers_pass(),
                _ => return Err(Gone),
            };
            self.send(answer).await?;
            message = self.next().await?;
        }
    }

    async fn answer(&self, mut answered: Answered) -> Result<(), Gone> {
        answered.took(self.plane.now());
        self.plane.answered(&answered);
        self.send(wire::immediate(answered.answer)).await
    }
}

#[cfg(test)]
mod tests;
