//! Statuses as this API makes them: a gRPC code, and the wire's error word in `google.rpc.ErrorInfo` (contract §5.1).

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of everything this product says.
pub const DOMAIN: &str = "nullspend";

/// A status whose word on the REST side is `word`, e.g. `authentication_required`.
#[must_use]
pub fn status(code: Code, word: &str, message: impl Into<String>) -> Status {
    let details =
        ErrorDetails::with_error_info(word.to_uppercase(), DOMAIN, HashMap::<String, String>::new());
    Status::with_error_details(code, message, details)
}

/// Something we depend on did not answer; the caller should come back after `retry_after` seconds.
#[must_use]
pub fn unavailable(word: &str, message: impl Into<String>, retry_after: u32) -> Status {
    let mut status = status(Code::Unavailable, word, message);
    status.metadata_mut().insert("retry-after", retry_after.into());
    status
}
