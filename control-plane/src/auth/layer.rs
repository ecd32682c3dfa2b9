//! The check in front of the gRPC services.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::{Code, body::Body};
use tower::Service;

use super::{Gatekeeper, Passed};
use crate::status::status;

/// Services that anyone may call: they tell nothing about an organisation.
const PUBLIC_SERVICES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// A service behind the gatekeeper. Calls that pass carry the [`Caller`](crate::app::Caller) in their extensions.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    gatekeeper: Gatekeeper,
    inner: S,
}

impl<S> Guarded<S> {
    /// Puts the gatekeeper before `inner`.
    pub fn new(gatekeeper: Gatekeeper, inner: S) -> Self {
        Self { gatekeeper, inner }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The instance that was polled ready must be the one called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let gatekeeper = self.gatekeeper.clone();
        Box::pin(async move {
            let path = request.uri().path();
            if PUBLIC_SERVICES.iter().any(|service| path.starts_with(service)) {
                return inner.call(request).await;
            }
            let Some(method) = gatekeeper.method(path) else {
                let unknown =
                    status(Code::Unimplemented, "not_implemented", format!("there is no method {path}"));
                return Ok(unknown.into_http());
            };
            let passed = match request.extensions_mut().remove::<Passed>() {
                Some(passed) => passed,
                None => match gatekeeper.check(method, request.headers()).await {
                    Ok(passed) => passed,
                    Err(refusal) => return Ok(refusal.into_http()),
                },
            };
            request.headers_mut().remove(super::KEY_HEADER);
            if let Some(caller) = passed.caller {
                request.extensions_mut().insert(caller);
            }
            let mut response = inner.call(request).await?;
            response.headers_mut().extend(passed.standing);
            Ok(response)
        })
    }
}
