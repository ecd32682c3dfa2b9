//! Who may follow this control plane as a data plane.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tonic::{Request, Status, service::Interceptor};

/// Lets in data planes that know the join token; everybody where there is none (a private unix socket).
#[derive(Clone, Default)]
pub struct JoinCheck(Option<Arc<[u8; 32]>>);

impl std::fmt::Debug for JoinCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinCheck").field("required", &self.0.is_some()).finish()
    }
}

impl JoinCheck {
    /// Requires this token.
    #[must_use]
    pub fn token(token: &SecretString) -> Self {
        Self(Some(Arc::new(digest(token.expose_secret().as_bytes()))))
    }
}

impl Interceptor for JoinCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(expected) = &self.0 else { return Ok(request) };
        let given = request.metadata().get("authorization").map(|value| value.as_bytes());
        let given = given.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
        // Digests have one length and tell nothing of the token, whatever was sent.
        if digest(given).ct_eq(expected.as_slice()).into() {
            return Ok(request);
        }
        tracing::warn!("a data plane without the right join token was refused");
        Err(Status::unauthenticated(
            "the join token is missing or wrong; set internal.join_token to the control plane's",
        ))
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(check: &JoinCheck, authorization: Option<&'static str>) -> bool {
        let mut request = Request::new(());
        if let Some(value) = authorization {
            request.metadata_mut().insert("authorization", value.parse().unwrap());
        }
        check.clone().call(request).is_ok()
    }

    #[test]
    fn only_the_very_token_is_let_in() {
        let check = JoinCheck::token(&"0123456789abcdef0123456789abcdef".to_owned().into());
        assert!(admitted(&check, Some("Bearer 0123456789abcdef0123456789abcdef")));
        for other in [
            None,
            Some(""),
            Some("Bearer "),
            Some("Bearer 0123456789abcdef0123456789abcde"),
            Some("0123456789abcdef0123456789abcdef"),
        ] {
            assert!(!admitted(&check, other), "{other:?}");
        }
        assert!(admitted(&JoinCheck::default(), None), "a private socket needs none");
    }

    #[test]
    fn a_check_does_not_show_what_it_knows() {
        let shown = format!("{:?}", JoinCheck::token(&"0123456789abcdef0123456789abcdef".to_owned().into()));
        assert_eq!(shown, "JoinCheck { required: true }");
    }
}
