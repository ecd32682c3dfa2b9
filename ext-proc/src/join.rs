//! How a data plane reaches its control plane, and proves that it belongs to it.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

/// The internal service of a control plane, called with this data plane's join token where there is one.
pub type ControlPlane = InterceptedService<Channel, Join>;

/// Adds `authorization: Bearer <join token>` to every call.
#[derive(Clone, Default)]
pub struct Join(Option<MetadataValue<Ascii>>);

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join").field("token", &self.0.as_ref().map(|_| "hidden")).finish()
    }
}

impl Join {
    /// With a token of visible ASCII characters; `None` when it has others.
    #[must_use]
    pub fn with(token: &SecretString) -> Option<Self> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose_secret()).parse().ok()?;
        value.set_sensitive(true);
        Some(Self(Some(value)))
    }

    /// The internal service behind `channel`.
    #[must_use]
    pub fn over(self, channel: Channel) -> ControlPlane {
        InterceptedService::new(channel, self)
    }
}

impl Interceptor for Join {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}
