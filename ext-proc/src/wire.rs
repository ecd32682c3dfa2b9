//! Envoy's messages from and to the core's types; nothing is decided here.

use envoy_types::pb::{
    envoy::{
        config::core::v3::{
            HeaderMap, HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction,
        },
        service::ext_proc::v3::{
            BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, ImmediateResponse,
            ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
            body_mutation::Mutation, processing_response::Response,
        },
        r#type::v3::HttpStatus,
    },
    google::protobuf::value::Kind,
};
use nullspend_core::exchange::{Forward, ResponseHead, answer::Answer, head::Headers};

/// Header by which the route finds the provider's cluster; a client's own is removed by Envoy before we are asked.
pub const CLUSTER_HEADER: &str = "x-nullspend-cluster";

/// The core's view of Envoy's headers. Envoy gives values as `raw_value` (older ones as `value`).
pub fn headers(map: Option<HeaderMap>) -> Headers {
    let fields = map.map(|map| map.headers).unwrap_or_default();
    Headers(
        fields
            .into_iter()
            .map(|field| {
                let value =
                    if field.raw_value.is_empty() { field.value.into_bytes() } else { field.raw_value };
                (field.key, value)
            })
            .collect(),
    )
}

/// Envoy's `response.code_details`, which says who made the answer.
pub fn code_details(message: &ProcessingRequest) -> &str {
    attribute(message, "response.code_details")
}

/// Envoy's `source.address`: the client's, with its port. Not what a header says, unless Envoy was told to trust proxies.
pub fn source_address(message: &ProcessingRequest) -> &str {
    attribute(message, "source.address")
}

/// An attribute of a message; empty where Envoy sent none.
fn attribute<'a>(message: &'a ProcessingRequest, name: &str) -> &'a str {
    message
        .attributes
        .get("envoy.filters.http.ext_proc")
        .and_then(|attributes| attributes.fields.get(name))
        .and_then(|value| match &value.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        })
        .unwrap_or_default()
}

/// Request headers may go on to the body.
pub fn request_headers_pass() -> ProcessingResponse {
    respond(Response::RequestHeaders(HeadersResponse::default()))
}

/// The body is accepted: route, headers and, where it changed, the body itself.
pub fn forward(forward: Forward) -> ProcessingResponse {
    let mut set = vec![
        header(CLUSTER_HEADER, forward.cluster),
        header(":path", forward.path),
        header(":authority", forward.authority),
        header("content-type", "application/json"),
    ];
    if let Some(body) = &forward.body {
        // Envoy answers 500 when a buffered body changes its length and the header does not.
        set.push(header("content-length", body.len().to_string()));
    }
    let common = CommonResponse {
        header_mutation: Some(HeaderMutation { set_headers: set, remove_headers: forward.remove_headers }),
        body_mutation: forward.body.map(|body| BodyMutation { mutation: Some(Mutation::Body(body)) }),
        clear_route_cache: true,
        ..Default::default()
    };
    respond(Response::RequestBody(BodyResponse { response: Some(common) }))
}

/// The answer's headers, with ours laid over them.
pub fn response_headers(head: ResponseHead) -> ProcessingResponse {
    let set = head.set.into_iter().map(|(name, value)| header(name, value)).collect();
    let common = CommonResponse {
        header_mutation: Some(HeaderMutation { set_headers: set, remove_headers: head.remove }),
        ..Default::default()
    };
    respond(Response::ResponseHeaders(HeadersResponse { response: Some(common) }))
}

/// A piece of the answer's body for the client.
pub fn response_chunk(body: Vec<u8>, end_of_stream: bool) -> ProcessingResponse {
    let chunk = StreamedBodyResponse { body, end_of_stream, ..Default::default() };
    let common = CommonResponse {
        body_mutation: Some(BodyMutation { mutation: Some(Mutation::StreamedResponse(chunk)) }),
        ..Default::default()
    };
    respond(Response::ResponseBody(BodyResponse { response: Some(common) }))
}

/// Trailers pass as they are.
pub fn response_trailers_pass() -> ProcessingResponse {
    respond(Response::ResponseTrailers(TrailersResponse::default()))
}

/// An answer of our own, which ends the request.
pub fn immediate(answer: Answer) -> ProcessingResponse {
    let mut set: Vec<HeaderValueOption> =
        answer.headers.into_iter().map(|(name, value)| header(name, value)).collect();
    set.push(header("content-type", "application/json"));
    respond(Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(answer.status) }),
        headers: Some(HeaderMutation { set_headers: set, remove_headers: Vec::new() }),
        body: answer.body,
        grpc_status: None,
        details: if answer.code.is_empty() {
            "nullspend".to_owned()
        } else {
            format!("nullspend_{}", answer.code)
        },
    }))
}

fn respond(response: Response) -> ProcessingResponse {
    ProcessingResponse { response: Some(response), ..Default::default() }
}

fn header(name: &str, value: impl Into<String>) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            raw_value: value.into().into_bytes(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}
