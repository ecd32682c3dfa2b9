//! An ext_proc service that decides nothing: the bench's middle arm, and the experiment on ending a stream early.
//!
//! `noop-ext-proc SOCKET [--cluster NAME] [--end-after N]`: `--cluster` names the provider in `x-nullspend-cluster`, as
//! our Envoy configuration expects; with `--end-after` it replaces the N-th response chunk by a last event of its own
//! with `end_of_stream`, as a data plane does when a budget ends in mid-stream.

use std::{env, error::Error, pin::Pin};

use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody, ProcessingRequest,
    ProcessingResponse, StreamedBodyResponse, TrailersResponse,
    body_mutation::Mutation,
    external_processor_server::{ExternalProcessor, ExternalProcessorServer},
    processing_request::Request as From,
    processing_response::Response as To,
};
use futures::Stream;
use tokio::{net::UnixListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// As the product has, so that the bench compares what they do.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LAST_EVENT: &[u8] = b"data: {\"ended\":\"early\"}\n\ndata: [DONE]\n\n";

#[derive(Clone, Default)]
struct Noop {
    cluster: Option<String>,
    end_after: Option<u64>,
}

#[tonic::async_trait]
impl ExternalProcessor for Noop {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (to_envoy, answers) = mpsc::channel(16);
        let mut from_envoy = request.into_inner();
        let no_op = self.clone();
        tokio::spawn(async move {
            let mut chunks = 0;
            while let Ok(Some(message)) = from_envoy.message().await {
                let Some(answer) = no_op.answer(message, &mut chunks) else { continue };
                if to_envoy.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
            if no_op.end_after.is_some() {
                eprintln!("stream over after {chunks} chunks");
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

impl Noop {
    fn answer(&self, message: ProcessingRequest, chunks: &mut u64) -> Option<ProcessingResponse> {
        let response = match message.request? {
            From::RequestHeaders(_) => To::RequestHeaders(HeadersResponse { response: self.routing() }),
            From::ResponseHeaders(_) => To::ResponseHeaders(HeadersResponse::default()),
            From::RequestBody(_) => To::RequestBody(BodyResponse::default()),
            From::ResponseBody(HttpBody { body, end_of_stream, .. }) => {
                *chunks += 1;
                match self.end_after {
                    Some(last) if *chunks > last => return None,
                    Some(last) if *chunks == last => streamed(LAST_EVENT.to_vec(), true),
                    _ => streamed(body, end_of_stream),
                }
            }
            From::RequestTrailers(_) => To::RequestTrailers(TrailersResponse::default()),
            From::ResponseTrailers(_) => To::ResponseTrailers(TrailersResponse::default()),
        };
        Some(ProcessingResponse { response: Some(response), ..Default::default() })
    }

    fn routing(&self) -> Option<CommonResponse> {
        let cluster = self.cluster.as_ref()?;
        let header = HeaderValue {
            key: "x-nullspend-cluster".to_owned(),
            raw_value: cluster.clone().into_bytes(),
            ..Default::default()
        };
        let set = HeaderValueOption { header: Some(header), ..Default::default() };
        let mutation = HeaderMutation { set_headers: vec![set], ..Default::default() };
        Some(CommonResponse {
            header_mutation: Some(mutation),
            clear_route_cache: true,
            ..Default::default()
        })
    }
}

fn streamed(body: Vec<u8>, end_of_stream: bool) -> To {
    let chunk = StreamedBodyResponse { body, end_of_stream, ..Default::default() };
    let common = CommonResponse {
        body_mutation: Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(chunk)) }),
        ..Default::default()
    };
    To::ResponseBody(BodyResponse { response: Some(common) })
}

fn main() -> Result<(), Box<dyn Error>> {
    // As many threads as the product has beside Envoy, so that the bench compares what they do.
    let threads = (std::thread::available_parallelism()?.get() / 2).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(serve())
}

async fn serve() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let usage = "usage: noop-ext-proc SOCKET [--cluster NAME] [--end-after N]";
    let socket = words.next().ok_or(usage)?;
    let mut no_op = Noop::default();
    while let Some(word) = words.next() {
        let value = words.next().ok_or(usage)?;
        match word.as_str() {
            "--cluster" => no_op.cluster = Some(value),
            "--end-after" => no_op.end_after = Some(value.parse()?),
            _ => return Err(usage.into()),
        }
    }
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    let service = ExternalProcessorServer::new(no_op).max_decoding_message_size(64 << 20);
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}
