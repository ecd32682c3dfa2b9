//! REST in front of the gRPC services, from the descriptors at run time.
//!
//! Nothing here knows an endpoint: a call is found by its `google.api.http` rule, authorised by its gRPC path, read
//! into its request message, sent through the same service stack that gRPC clients use, and its answer written as
//! JSON. A path that the protos do not name is a 404.

mod codec;
mod error;
mod issue;
mod json;
mod query;
mod read;
mod respond;
mod routes;

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use nullspend_core::{clock::Clock, id::Ids};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use tonic::metadata::MetadataMap;
use tracing::Instrument;

use self::{codec::RawCodec, error::Failure, issue::Issues, read::Reader, respond::Answer, routes::Match};
use crate::{
    Api,
    auth::{Gatekeeper, Passed},
    schema::{BodyRule, Method, Schema, SchemaError, write::Writer},
};

/// Largest request body (contract §5.1).
const MAX_BODY: usize = 1_048_576;

/// The REST side of the API.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    schema: Arc<Schema>,
    router: routes::Router,
    gatekeeper: Gatekeeper,
    api: Api,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway").field("methods", &self.inner.schema.methods.len()).finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway in front of `api`, the stack that gRPC clients use.
    ///
    /// # Errors
    /// When two methods have one REST address.
    pub fn new(
        schema: Arc<Schema>,
        gatekeeper: Gatekeeper,
        api: Api,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Result<Self, SchemaError> {
        let router = routes::Router::new(&schema)?;
        Ok(Self { inner: Arc::new(Inner { schema, router, gatekeeper, api, clock, ids }) })
    }

    /// Answers one REST call. Every failure is an answer.
    pub async fn handle(&self, request: Request<axum::body::Body>) -> Response<axum::body::Body> {
        let (parts, body) = request.into_parts();
        let request_id = self.inner.request_id(&parts.headers);
        let found = self.inner.router.find(&parts.method, parts.uri.path());
        let method = found.as_ref().map(|found| Arc::clone(found.method));
        let span = tracing::info_span!("rest", path = parts.uri.path(), request_id = ?request_id);
        let answer = self.inner.answer(found, &parts, body).instrument(span.clone()).await;
        let answer = answer.unwrap_or_else(|failure| {
            if failure.is_ours() {
                span.in_scope(|| tracing::warn!(?failure, "REST call failed"));
            }
            failure.answer()
        });
        let mut response = answer.into_response(request_id);
        if let Some(method) = method {
            // For whoever counts answers by method.
            response.extensions_mut().insert(method);
        }
        response
    }
}

/// Answers that a REST call gets before it reaches a method, e.g. when the server has no room for it.
pub(crate) fn refuse(status: &tonic::Status, request_id: Option<&HeaderValue>) -> Response<axum::body::Body> {
    let id = request_id.cloned().unwrap_or(HeaderValue::from_static("none"));
    Failure::from_status(status).answer().into_response(id)
}

impl Inner {
    async fn answer(
        &self,
        found: Option<Match<'_>>,
        parts: &Parts,
        body: axum::body::Body,
    ) -> Result<Answer, Failure> {
        let found = found.ok_or_else(Failure::not_found)?;
        // Before the body: someone without rights learns nothing about what a body should look like.
        let passed = self.gatekeeper.check(found.method, &parts.headers).await;
        let passed = passed.map_err(|status| Failure::from_status(&status))?;
        let standing = passed.standing.clone();
        let answered = async {
            let message = self.read(&found, parts, body).await?;
            self.call(&found, &parts.headers, passed, message).await
        };
        answered.await.map_err(|failure| failure.telling(standing))
    }

    async fn read(
        &self,
        found: &Match<'_>,
        parts: &Parts,
        body: axum::body::Body,
    ) -> Result<DynamicMessage, Failure> {
        let json = match found.binding.body {
            BodyRule::Absent => None,
            BodyRule::Whole | BodyRule::Field(_) => Some(read_json(&parts.headers, body).await?),
        };
        let method = found.method;
        let shape = self.schema.shapes.get(method.input);
        let mut message = DynamicMessage::new(shape.descriptor.clone());
        let mut reader = Reader {
            shapes: &self.schema.shapes,
            issues: Issues::default(),
            ignore_unknown: method.ignore_unknown,
        };
        let mut taken = reader.path(method.input, &found.values, &mut message);
        let query = parts.uri.query().unwrap_or("");
        match (&found.binding.body, json) {
            (BodyRule::Whole, Some(json)) => {
                reader.object(method.input, &json, &mut message, &taken);
                reader.unknown_parameters(query);
            }
            (BodyRule::Field(name), Some(json)) => {
                if let Some(index) = shape.index_of_proto(name) {
                    taken.push(index);
                    reader.field(&shape.fields[index], &json, &mut message);
                }
                reader.query(method.input, query, &mut message, &taken);
            }
            _ => reader.query(method.input, query, &mut message, &taken),
        }
        reader.issues.into_result().map_err(|issues| Failure::validation(&issues))?;
        Ok(message)
    }

    async fn call(
        &self,
        found: &Match<'_>,
        headers: &HeaderMap,
        passed: Passed,
        message: DynamicMessage,
    ) -> Result<Answer, Failure> {
        let method = found.method;
        let mut request = tonic::Request::new(Bytes::from(message.encode_to_vec()));
        *request.metadata_mut() = MetadataMap::from_headers(forwarded(headers));
        request.extensions_mut().insert(passed);
        let path =
            http::uri::PathAndQuery::try_from(method.grpc_path.as_str()).map_err(|_| Failure::internal())?;
        let mut client = tonic::client::Grpc::new(self.api.clone()).max_decoding_message_size(usize::MAX);
        client.ready().await.map_err(|_| Failure::internal())?;
        let response =
            client.unary(request, path, RawCodec).await.map_err(|status| Failure::from_status(&status))?;
        self.success(found, response)
    }

    fn success(&self, found: &Match<'_>, response: tonic::Response<Bytes>) -> Result<Answer, Failure> {
        let method: &Method = found.method;
        let (metadata, bytes, _) = response.into_parts();
        let metadata = metadata.into_headers();
        let mut headers = HeaderMap::new();
        respond::copy_metadata(&metadata, &mut headers);
        let status = respond::status_override(&metadata).unwrap_or(method.success_status);
        let failed = |error: &(dyn std::error::Error + 'static)| {
            tracing::error!(error, method = %method.grpc_path, "an answer could not be written");
            Failure::internal()
        };
        let body = match method.output {
            Some(output) => {
                let writer = Writer { shapes: &self.schema.shapes };
                let only = found.binding.response_body.as_deref();
                writer.write(output, &bytes, only).map_err(|error| failed(&error))?.into()
            }
            None => {
                let raw =
                    nullspend_proto::google::api::HttpBody::decode(bytes).map_err(|error| failed(&error))?;
                let content_type = HeaderValue::try_from(raw.content_type).map_err(|error| failed(&error))?;
                headers.insert(header::CONTENT_TYPE, content_type);
                Bytes::from(raw.data)
            }
        };
        Ok(Answer { status, headers, content_type: respond::JSON, body })
    }

    /// The caller's `x-request-id` when it is fit to be repeated, else a new one.
    fn request_id(&self, headers: &HeaderMap) -> HeaderValue {
        let given = headers
            .get("x-request-id")
            .filter(|id| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic));
        given.cloned().unwrap_or_else(|| {
            let id = self.ids.v7(self.clock.now_ms()).hyphenated().to_string();
            HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("none"))
        })
    }
}

async fn read_json(headers: &HeaderMap, body: axum::body::Body) -> Result<json::Json, Failure> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if !content_type.to_ascii_lowercase().contains(respond::JSON) {
        let message = "send the body as JSON, with the header content-type: application/json";
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message));
    }
    let too_large = || {
        let message = format!("the body is larger than {MAX_BODY} bytes; send less at a time");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message)
    };
    let announced =
        headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let invalid = |message: String| {
        Failure::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body {message}"))
    };
    let bytes = match Limited::new(body, MAX_BODY).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(_) => return Err(invalid("did not arrive whole".to_owned())),
    };
    if bytes.is_empty() {
        return Err(invalid("is empty; send a JSON object".to_owned()));
    }
    json::parse(&bytes).map_err(|error| invalid(format!("is not valid JSON: {error}")))
}

/// Request headers that services may read. Credentials have done their work, and the rest belongs to the connection
/// or the body.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    const DROPPED: [HeaderName; 13] = [
        header::AUTHORIZATION,
        header::COOKIE,
        header::CONNECTION,
        header::HOST,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::EXPECT,
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::PROXY_AUTHORIZATION,
        HeaderName::from_static(crate::auth::KEY_HEADER),
    ];
    let mut kept = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let text = name.as_str();
        let own = text.starts_with("content-") || text.starts_with("grpc-") || text.ends_with("-bin");
        if !own && text != "keep-alive" && text != "proxy-connection" && !DROPPED.contains(name) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}
