//! Thin gRPC services: protocol messages to use cases and back, nothing else.

mod auth;
mod budgets;
mod convert;
mod cost_detail;
mod cost_events;
mod explain;
mod freezes;
mod keys;
mod prices;
mod status;

use std::sync::Arc;

use nullspend_proto::v1::{
    auth_service_server::AuthServiceServer, budget_service_server::BudgetServiceServer,
    cost_event_service_server::CostEventServiceServer, explain_service_server::ExplainServiceServer,
    freeze_service_server::FreezeServiceServer, health_service_server::HealthServiceServer,
    key_service_server::KeyServiceServer, policy_service_server::PolicyServiceServer,
    price_service_server::PriceServiceServer,
};
use tonic::service::Routes;

use crate::app::App;

/// All services over one set of use cases. Callers come in the request's extensions, put there by authentication.
#[derive(Clone, Debug)]
struct Services {
    app: Arc<App>,
}

/// The API's services over the use cases.
#[must_use]
pub fn routes(app: &Arc<App>) -> Routes {
    let services = Services { app: Arc::clone(app) };
    Routes::new(KeyServiceServer::new(services.clone()))
        .add_service(BudgetServiceServer::new(services.clone()))
        .add_service(FreezeServiceServer::new(services.clone()))
        .add_service(CostEventServiceServer::new(services.clone()))
        .add_service(ExplainServiceServer::new(services.clone()))
        .add_service(AuthServiceServer::new(services.clone()))
        .add_service(PolicyServiceServer::new(services.clone()))
        .add_service(PriceServiceServer::new(services.clone()))
        .add_service(HealthServiceServer::new(services))
}
