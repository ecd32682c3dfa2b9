//! Failures in the one shape of the REST API: `{"error":{"code","message","details"}}` (contract §5.1).

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    issue::{Issue, path_of_violation},
    respond::{self, Answer},
};

/// A failure, ready to be written.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: String,
    message: String,
    details: Value,
    headers: Box<HeaderMap>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'a str,
    message: &'a str,
    details: &'a Value,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.to_owned(),
            message: message.into(),
            details: Value::Null,
            headers: Box::default(),
        }
    }

    pub(super) fn not_found() -> Self {
        let message = "there is nothing at this path with this method; /api/openapi.json lists what there is";
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn validation(issues: &[Issue]) -> Self {
        let message = match issues {
            [only] => format!("the request is not valid: {}", sentence(only)),
            [first, rest @ ..] => {
                format!("the request is not valid: {} (and {} more)", sentence(first), rest.len())
            }
            [] => "the request is not valid".to_owned(),
        };
        let mut failure = Self::new(StatusCode::BAD_REQUEST, "validation_error", message);
        failure.details = json!({ "issues": issues });
        failure
    }

    pub(super) fn internal() -> Self {
        let message =
            "something went wrong on our side; the server's log has it under this answer's x-request-id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// What a service answered.
    pub(super) fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let (http, word) = of_code(status.code());
        let known = details.error_info();
        let word = known.map_or_else(|| word.to_owned(), |info| info.reason.to_lowercase());
        let mut failure = match (status.code(), known) {
            // Messages of unplanned failures may tell about our insides.
            (Code::Internal | Code::Unknown | Code::DataLoss, None) => Self::internal(),
            _ => Self::new(http, &word, status.message()),
        };
        if let Some(text) = known.and_then(|info| info.metadata.get("details")) {
            failure.details = serde_json::from_str(text).unwrap_or(Value::Null);
        } else if let Some(bad) = details.bad_request() {
            let issues: Vec<_> = bad
                .field_violations
                .iter()
                .map(|v| Issue { path: path_of_violation(&v.field), message: v.description.clone() })
                .collect();
            failure.details = json!({ "issues": issues });
        }
        let metadata = status.metadata().clone().into_headers();
        if let Some(status) = respond::status_override(&metadata) {
            failure.status = status;
        }
        respond::copy_metadata(&metadata, &mut failure.headers);
        if failure.status == StatusCode::SERVICE_UNAVAILABLE {
            failure.headers.entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static("5"));
        }
        failure
    }

    /// The same, with headers that every answer to this caller has.
    pub(super) fn telling(mut self, headers: HeaderMap) -> Self {
        self.headers.extend(headers);
        self
    }

    /// Whether our side is to blame, so that the log should have it.
    pub(super) fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    pub(super) fn answer(self) -> Answer {
        let body = Body { error: Inner { code: &self.code, message: &self.message, details: &self.details } };
        // A struct of strings and a JSON value always serialises.
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        Answer {
            status: self.status,
            headers: *self.headers,
            content_type: respond::JSON,
            body: bytes.into(),
        }
    }
}

fn sentence(issue: &Issue) -> String {
    use super::issue::Step;
    let mut path = String::new();
    for step in &issue.path {
        match step {
            Step::Name(name) if path.is_empty() => path.push_str(name),
            Step::Name(name) => path.extend([".", name]),
            Step::Index(index) => path.push_str(&format!("[{index}]")),
        }
    }
    if path.is_empty() { format!("it {}", issue.message) } else { format!("{path} {}", issue.message) }
}

fn of_code(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument | Code::OutOfRange => (StatusCode::BAD_REQUEST, "validation_error"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "authentication_required"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "forbidden"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => (StatusCode::CONFLICT, "conflict"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded"),
        Code::Unavailable | Code::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "not_implemented"),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal_error")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_of(status: &Status) -> (u16, Value) {
        let answer = Failure::from_status(status).answer();
        (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap())
    }

    #[test]
    fn words_and_details_come_from_error_info() {
        let mut details = tonic_types::ErrorDetails::new();
        let facts = std::collections::HashMap::from([("details".to_owned(), r#"{"limit":5}"#.to_owned())]);
        details.set_error_info("LIMIT_EXCEEDED", crate::status::DOMAIN, facts);
        let status = Status::with_error_details(Code::AlreadyExists, "too many", details);
        let expected = json!({"error":{"code":"limit_exceeded","message":"too many","details":{"limit":5}}});
        assert_eq!(json_of(&status), (409, expected));
    }

    #[test]
    fn violations_become_issues() {
        let details = tonic_types::ErrorDetails::with_bad_request_violation(
            "thresholds[0].percent",
            "must be positive",
        );
        let (status, body) =
            json_of(&Status::with_error_details(Code::InvalidArgument, "not valid", details));
        assert_eq!(status, 400);
        assert_eq!(body["error"]["code"], "validation_error");
        assert_eq!(
            body["error"]["details"]["issues"],
            json!([{"path":["thresholds",0,"percent"],"message":"must be positive"}])
        );
    }

    #[test]
    fn unplanned_failures_tell_nothing() {
        let (status, body) = json_of(&Status::internal("type nullspend.v1.Key at line 3"));
        assert_eq!(status, 500);
        assert_eq!(body["error"]["code"], "internal_error");
        assert!(!body.to_string().contains("line 3"));
    }

    #[test]
    fn outages_say_when_to_retry() {
        let failure = Failure::from_status(&Status::unavailable("no database"));
        assert_eq!(failure.headers[header::RETRY_AFTER], "5");
        let failure = Failure::from_status(&crate::status::unavailable("request_in_progress", "wait", 1));
        assert_eq!(failure.headers[header::RETRY_AFTER], "1");
        assert_eq!(failure.code, "request_in_progress");
    }
}
