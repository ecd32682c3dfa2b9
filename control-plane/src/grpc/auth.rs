//! `AuthService`, `PolicyService` and `HealthService`.

use nullspend_proto::v1::{
    self, auth_service_server::AuthService, health_service_server::HealthService,
    policy_service_server::PolicyService,
};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{list, role, timestamp},
    status::{caller, header},
};
use crate::app::{BudgetView, CheapModel};

#[async_trait]
impl AuthService for Services {
    async fn introspect(
        &self,
        request: Request<v1::IntrospectRequest>,
    ) -> Result<Response<v1::IntrospectResponse>, Status> {
        let caller = caller(&request)?;
        let key_id = caller.key_id().map(|id| id.to_string()).unwrap_or_default();
        let api_version = caller.key.as_ref().map(|key| key.api_version.clone()).unwrap_or_default();
        let data = v1::IntrospectedKey {
            key_id: key_id.clone(),
            org_id: caller.org.to_string(),
            user_id: caller.user.to_string(),
            api_version,
            role: role(caller.role).into(),
        };
        Ok(Response::new(v1::IntrospectResponse {
            user_id: data.user_id.clone(),
            key_id,
            org_id: data.org_id.clone(),
            role: data.role,
            data: Some(data),
        }))
    }
}

#[async_trait]
impl PolicyService for Services {
    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::GetPolicyResponse>, Status> {
        let caller = caller(&request)?;
        let document = self.app.policy_document(&caller, header(&request, "x-nullspend-sdk")).await?;
        Ok(Response::new(v1::GetPolicyResponse {
            budget: document.budget.as_ref().map(budget),
            cheapest_overall: document.cheapest_overall().map(cheapest),
            restrictions_active: document.restricted(),
            cheapest_per_provider: document
                .cheapest
                .iter()
                .map(|(provider, model)| (provider.clone(), cheapest(model)))
                .collect(),
            allowed_models: list(document.allowed_models),
            allowed_providers: list(document.allowed_providers),
            session_limit_microdollars: document.session_limit_microdollars,
        }))
    }
}

#[async_trait]
impl HealthService for Services {
    async fn get_health(
        &self,
        _request: Request<v1::GetHealthRequest>,
    ) -> Result<Response<v1::GetHealthResponse>, Status> {
        let status = if self.app.healthy().await { "ok" } else { "degraded" };
        Ok(Response::new(v1::GetHealthResponse { status: status.to_owned() }))
    }
}

fn budget(view: &BudgetView) -> v1::PolicyBudget {
    let rule = &view.record.rule;
    v1::PolicyBudget {
        remaining_microdollars: view.remaining().microdollars_half_up(),
        max_microdollars: rule.limit.microdollars_half_up(),
        spend_microdollars: view.settled.microdollars_half_up(),
        period_end: view.window.end_ms.map(timestamp),
        entity_type: rule.entity.kind().to_owned(),
        entity_id: rule.entity.shown_id(),
        finalization_reserve_microdollars: view.record.rule.finalization_reserve.microdollars_half_up(),
        policy: rule.enforcement.as_str().to_owned(),
    }
}

fn cheapest(model: &CheapModel) -> v1::CheapestModel {
    v1::CheapestModel {
        model: model.model.clone(),
        provider: model.provider.clone(),
        input_per_mtok: model.input_per_mtok,
        output_per_mtok: model.output_per_mtok,
    }
}
