//! Errors of the use cases as gRPC statuses.

use std::{collections::HashMap, error::Error};

use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    app::{AppError, Caller, Kind},
    status::{DOMAIN, status},
};

/// Who called.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| {
        status(
            Code::Unauthenticated,
            "authentication_required",
            "send an API key in the header X-NullSpend-Key",
        )
    })
}

/// A metadata text of the request (on REST: the header of that name).
pub(super) fn header<'a, T>(request: &'a Request<T>, name: &str) -> Option<&'a str> {
    request.metadata().get(name)?.to_str().ok()
}

impl From<AppError> for Status {
    fn from(error: AppError) -> Self {
        let code = match error.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::Forbidden => Code::PermissionDenied,
            Kind::NotFound => Code::NotFound,
            Kind::Conflict => Code::AlreadyExists,
            Kind::TooMany => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::Internal => Code::Internal,
        };
        if matches!(error.kind, Kind::Unavailable | Kind::Internal) {
            tracing::error!(error = %error, cause = error.source(), "a call failed on our side");
        }
        let facts = error.details.as_ref().map(|details| ("details".to_owned(), details.to_string()));
        let mut details = ErrorDetails::new();
        details.set_error_info(
            error.code.to_uppercase(),
            DOMAIN,
            facts.into_iter().collect::<HashMap<_, _>>(),
        );
        for issue in &error.issues {
            details.add_bad_request_violation(issue.field(), issue.message.clone());
        }
        let mut status = Self::with_error_details(code, error.message, details);
        if let Some(seconds) = error.retry_after_s {
            status.metadata_mut().insert("retry-after", MetadataValue::from(seconds));
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Issue, PathSegment};

    #[test]
    fn issues_and_details_travel_in_the_status() {
        let path: Vec<PathSegment> = vec!["events".into(), 2.into(), "model".into()];
        let status =
            Status::from(AppError::validation(vec![Issue { path, message: "must be text".to_owned() }]));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "VALIDATION_ERROR");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "events[2].model");

        let mut error = AppError::new(Kind::Conflict, "limit_exceeded", "too many");
        error.details = Some(Box::new(serde_json::json!({"limit": 4})));
        let status = Status::from(error);
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(status.get_error_details().error_info().unwrap().metadata["details"], r#"{"limit":4}"#);
    }
}
