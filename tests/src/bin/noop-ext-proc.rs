//! An ext_proc service that decides nothing: the bench's middle arm, and the experiment on ending a stream early.
//!
//! `noop-ext-proc SOCKET [--end-after N]`: with `--end-after` it replaces the N-th response chunk by a last event
//! of its own with `end_of_stream`, as a data plane does when a budget ends in mid-stream.

use std::{env, error::Error, pin::Pin};

use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeadersResponse, HttpBody, ProcessingRequest,
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

const LAST_EVENT: &[u8] = b"data: {\"ended\":\"early\"}\n\ndata: [DONE]\n\n";

struct Noop {
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
        let end_after = self.end_after;
        tokio::spawn(async move {
            let mut chunks = 0;
            while let Ok(Some(message)) = from_envoy.message().await {
                let Some(answer) = answer(message, &mut chunks, end_after) else { continue };
                if to_envoy.send(Ok(answer)).await.is_err() {
                    break;
                }
            }
            if end_after.is_some() {
                eprintln!("stream over after {chunks} chunks");
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn answer(
    message: ProcessingRequest,
    chunks: &mut u64,
    end_after: Option<u64>,
) -> Option<ProcessingResponse> {
    let response = match message.request? {
        From::RequestHeaders(_) => To::RequestHeaders(HeadersResponse::default()),
        From::ResponseHeaders(_) => To::ResponseHeaders(HeadersResponse::default()),
        From::RequestBody(_) => To::RequestBody(BodyResponse::default()),
        From::ResponseBody(HttpBody { body, end_of_stream, .. }) => {
            *chunks += 1;
            match end_after {
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

fn streamed(body: Vec<u8>, end_of_stream: bool) -> To {
    let chunk = StreamedBodyResponse { body, end_of_stream, ..Default::default() };
    let common = CommonResponse {
        body_mutation: Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(chunk)) }),
        ..Default::default()
    };
    To::ResponseBody(BodyResponse { response: Some(common) })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut words = env::args().skip(1);
    let socket = words.next().ok_or("usage: noop-ext-proc SOCKET [--end-after N]")?;
    let end_after = match (words.next().as_deref(), words.next()) {
        (Some("--end-after"), Some(n)) => Some(n.parse()?),
        _ => None,
    };
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    let service = ExternalProcessorServer::new(Noop { end_after }).max_decoding_message_size(64 << 20);
    Server::builder().add_service(service).serve_with_incoming(incoming).await?;
    Ok(())
}
