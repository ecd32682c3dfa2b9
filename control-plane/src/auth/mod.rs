//! Who calls, and whether they may: one check by gRPC path for gRPC and REST alike.

mod layer;
mod limit;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use http::HeaderMap;
use nullspend_core::policy::Role;
use sha2::{Digest, Sha256};
use tonic::{Code, Status, metadata::MetadataMap};

pub use self::{layer::Guarded, limit::KeyLimit};
use crate::{
    app::Caller,
    schema::{Access, Method, Schema},
    status::{status, unavailable},
};

/// The header (and gRPC metadata key) that carries an API key.
pub const KEY_HEADER: &str = "x-nullspend-key";

/// No key of ours is longer; anything longer is refused without asking the database.
const MAX_KEY_LENGTH: usize = 256;

/// The directory of keys could not be asked: nothing is known about the key.
#[derive(Debug, thiserror::Error)]
#[error("the key could not be looked up")]
pub struct LookupFailed(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Where callers are looked up: the store, or a table in tests.
#[async_trait]
pub trait Callers: Send + Sync {
    /// The caller whose key has this SHA-256, unless it is unknown or revoked.
    async fn by_key(&self, sha256: &[u8; 32]) -> Result<Option<Caller>, LookupFailed>;
}

/// Proof that a call was checked. It lives in the request's extensions, which no client can set.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Who called; `None` for a public method.
    pub caller: Option<Caller>,
    /// Headers that tell the caller how many more calls it may make.
    pub standing: HeaderMap,
}

/// Checks callers against the methods' `access` options.
#[derive(Clone)]
pub struct Gatekeeper {
    schema: Arc<Schema>,
    callers: Arc<dyn Callers>,
    limit: Option<Arc<KeyLimit>>,
}

impl fmt::Debug for Gatekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gatekeeper").finish_non_exhaustive()
    }
}

impl Gatekeeper {
    /// A gatekeeper over the API's access rules.
    #[must_use]
    pub fn new(schema: Arc<Schema>, callers: Arc<dyn Callers>) -> Self {
        Self { schema, callers, limit: None }
    }

    /// The same, counting the calls of each key.
    #[must_use]
    pub fn limiting(self, limit: Option<KeyLimit>) -> Self {
        Self { limit: limit.map(Arc::new), ..self }
    }

    /// The method of a gRPC path, when it is one of the API's.
    #[must_use]
    pub fn method(&self, grpc_path: &str) -> Option<&Arc<Method>> {
        self.schema.method(grpc_path)
    }

    /// Lets a call pass or says why not.
    ///
    /// # Errors
    /// `authentication_required`, `rate_limit_exceeded`, `forbidden`, or `service_unavailable` when nobody can tell.
    pub async fn check(&self, method: &Method, headers: &HeaderMap) -> Result<Passed, Status> {
        let Access::Least { role, agent } = method.access else {
            return Ok(Passed { caller: None, standing: HeaderMap::new() });
        };
        let caller = self.caller(headers).await?;
        let standing = match (&self.limit, caller.key_id()) {
            (Some(limit), Some(key)) => limit.count(key)?,
            _ => HeaderMap::new(),
        };
        if may(caller.role, role, agent) {
            return Ok(Passed { caller: Some(caller), standing });
        }
        let agents = if agent { ", or an agent key" } else { "" };
        let message = format!(
            "{} needs a key of role {} or above{agents}; this key's role is {}",
            method.descriptor.name(),
            role.as_str(),
            caller.role.as_str()
        );
        let mut refusal = status(Code::PermissionDenied, "forbidden", message);
        *refusal.metadata_mut() = MetadataMap::from_headers(standing);
        Err(refusal)
    }

    async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        let refused = |message: &str| status(Code::Unauthenticated, "authentication_required", message);
        let mut keys = headers.get_all(KEY_HEADER).iter();
        let raw = match (keys.next(), keys.next()) {
            (Some(raw), None) => raw.as_bytes(),
            (None, _) => return Err(refused("send an API key in the header X-NullSpend-Key")),
            (Some(_), Some(_)) => return Err(refused("send the header X-NullSpend-Key once")),
        };
        let unknown = "the API key in the header X-NullSpend-Key is not known or was revoked";
        if raw.is_empty() || raw.len() > MAX_KEY_LENGTH {
            return Err(refused(unknown));
        }
        let sha256: [u8; 32] = Sha256::digest(raw).into();
        match self.callers.by_key(&sha256).await {
            Ok(Some(caller)) => Ok(caller),
            Ok(None) => Err(refused(unknown)),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a caller could not be looked up");
                let message =
                    "the API key could not be checked because the database does not answer; try again";
                Err(unavailable("service_unavailable", message, 5))
            }
        }
    }
}

/// Agent keys are no rank among the others: they may call exactly the methods that say so.
fn may(role: Role, least: Role, agent: bool) -> bool {
    if role == Role::Agent { agent } else { role >= least }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_no_rank() {
        use Role::{Admin, Agent, Member, Owner, Viewer};
        assert!(may(Agent, Owner, true));
        assert!(!may(Agent, Viewer, false));
        assert!(may(Owner, Owner, false) && may(Owner, Viewer, true));
        assert!(!may(Member, Admin, true));
        assert!(may(Viewer, Viewer, false));
    }
}
