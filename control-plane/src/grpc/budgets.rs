//! `BudgetService`.

use nullspend_core::{
    id::BudgetId,
    money::Nanos,
    policy::{BudgetRule, Entity},
};
use nullspend_proto::v1::{self, budget_service_server::BudgetService};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{enforcement, enforcement_of, id, interval, interval_of, timestamp},
    status::caller,
};
use crate::app::{BudgetRequest, BudgetView};

#[async_trait]
impl BudgetService for Services {
    async fn upsert_budget(
        &self,
        request: Request<v1::UpsertBudgetRequest>,
    ) -> Result<Response<v1::UpsertBudgetResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let request = BudgetRequest {
            entity_type: entity_type_of(wanted.entity_type()),
            interval: interval_of(wanted.reset_interval()),
            enforcement: enforcement_of(wanted.policy()),
            entity_id: wanted.entity_id,
            name: wanted.name,
            max_budget_microdollars: wanted.max_budget_microdollars,
            time_zone: wanted.time_zone,
            thresholds: wanted.threshold_percentages,
            velocity_limit_microdollars: wanted.velocity_limit_microdollars,
            velocity_window_s: wanted.velocity_window_seconds,
            velocity_cooldown_s: wanted.velocity_cooldown_seconds,
            session_limit_microdollars: wanted.session_limit_microdollars,
            finalization_reserve_microdollars: wanted.finalization_reserve_microdollars,
            clamp_output: wanted.clamp_output,
            incremental_hold: wanted.incremental_hold,
            loop_max_calls: wanted.loop_max_calls,
            outage_credit_microdollars: wanted.outage_credit_microdollars,
        };
        let view = self.app.upsert_budget(&caller, request).await?;
        Ok(Response::new(v1::UpsertBudgetResponse { data: Some(budget(&view)) }))
    }

    async fn list_budgets(
        &self,
        request: Request<v1::ListBudgetsRequest>,
    ) -> Result<Response<v1::ListBudgetsResponse>, Status> {
        let views = self.app.list_budgets(&caller(&request)?).await?;
        Ok(Response::new(v1::ListBudgetsResponse { data: views.iter().map(budget).collect() }))
    }

    async fn get_budget_status(
        &self,
        request: Request<v1::GetBudgetStatusRequest>,
    ) -> Result<Response<v1::GetBudgetStatusResponse>, Status> {
        let views = self.app.budget_status(&caller(&request)?).await?;
        Ok(Response::new(v1::GetBudgetStatusResponse { entities: views.iter().map(standing).collect() }))
    }

    async fn get_budget(
        &self,
        request: Request<v1::GetBudgetRequest>,
    ) -> Result<Response<v1::GetBudgetResponse>, Status> {
        let caller = caller(&request)?;
        let budget_id: BudgetId = id("id", &request.into_inner().id)?;
        let view = self.app.budget(&caller, budget_id).await?;
        Ok(Response::new(v1::GetBudgetResponse { data: Some(budget(&view)) }))
    }

    async fn reset_budget(
        &self,
        request: Request<v1::ResetBudgetRequest>,
    ) -> Result<Response<v1::ResetBudgetResponse>, Status> {
        let caller = caller(&request)?;
        let budget_id: BudgetId = id("id", &request.into_inner().id)?;
        let view = self.app.reset_budget(&caller, budget_id).await?;
        Ok(Response::new(v1::ResetBudgetResponse { data: Some(budget(&view)) }))
    }

    async fn delete_budget(
        &self,
        request: Request<v1::DeleteBudgetRequest>,
    ) -> Result<Response<v1::DeleteBudgetResponse>, Status> {
        let caller = caller(&request)?;
        let budget_id: BudgetId = id("id", &request.into_inner().id)?;
        self.app.delete_budget(&caller, budget_id).await?;
        Ok(Response::new(v1::DeleteBudgetResponse { deleted: true }))
    }
}

fn entity_type_of(kind: v1::EntityType) -> Option<&'static str> {
    match kind {
        v1::EntityType::Unspecified => None,
        v1::EntityType::Org => Some("org"),
        v1::EntityType::User => Some("user"),
        v1::EntityType::ApiKey => Some("api_key"),
        v1::EntityType::Tag => Some("tag"),
        v1::EntityType::Customer => Some("customer"),
    }
}

fn entity_type(entity: &Entity) -> v1::EntityType {
    match entity {
        Entity::Org(_) => v1::EntityType::Org,
        Entity::User(_) => v1::EntityType::User,
        Entity::ApiKey(_) => v1::EntityType::ApiKey,
        Entity::Tag(_) => v1::EntityType::Tag,
        Entity::Customer(_) => v1::EntityType::Customer,
    }
}

fn budget(view: &BudgetView) -> v1::Budget {
    let (record, rule) = (&view.record, &view.record.rule);
    v1::Budget {
        id: rule.budget.to_string(),
        entity_type: entity_type(&rule.entity).into(),
        entity_id: rule.entity.shown_id(),
        name: rule.name.clone(),
        max_budget_microdollars: rule.limit.microdollars_half_up(),
        spend_microdollars: view.settled.microdollars_half_up(),
        spend_nanodollars: view.settled.0,
        held_microdollars: view.held.microdollars_half_up(),
        held_nanodollars: view.held.0,
        policy: enforcement(rule.enforcement).into(),
        reset_interval: interval(rule.interval),
        time_zone: rule.time_zone.name().to_owned(),
        current_period_start: Some(timestamp(view.period_start_ms())),
        current_period_end: view.window.end_ms.map(timestamp),
        threshold_percentages: record.thresholds.clone(),
        crossed_threshold_percentages: view.crossed.clone(),
        velocity_limit_microdollars: rule.velocity.map(|velocity| velocity.limit.microdollars_half_up()),
        velocity_window_seconds: record.velocity_window_s,
        velocity_cooldown_seconds: record.velocity_cooldown_s,
        session_limit_microdollars: rule.session_limit.map(Nanos::microdollars_half_up),
        finalization_reserve_microdollars: rule.finalization_reserve.microdollars_half_up(),
        created_at: Some(timestamp(record.created_at_ms)),
        updated_at: Some(timestamp(record.updated_at_ms)),
        clamp_output: rule.output.clamp,
        incremental_hold: rule.output.incremental,
        loop_max_calls: loop_max_calls(rule),
        outage_credit_microdollars: rule.outage_credit.microdollars_half_up(),
    }
}

/// A budget as its callers see it.
fn standing(view: &BudgetView) -> v1::BudgetStatus {
    let (record, rule) = (&view.record, &view.record.rule);
    v1::BudgetStatus {
        entity_type: entity_type(&rule.entity).into(),
        entity_id: rule.entity.shown_id(),
        name: rule.name.clone(),
        limit_microdollars: rule.limit.microdollars_half_up(),
        spend_microdollars: view.settled.microdollars_half_up(),
        spend_nanodollars: view.settled.0,
        held_microdollars: view.held.microdollars_half_up(),
        remaining_microdollars: view.remaining().microdollars_half_up(),
        policy: enforcement(rule.enforcement).into(),
        reset_interval: interval(rule.interval),
        current_period_start: Some(timestamp(view.period_start_ms())),
        threshold_percentages: record.thresholds.clone(),
        crossed_threshold_percentages: view.crossed.clone(),
        velocity_limit_microdollars: rule.velocity.map(|velocity| velocity.limit.microdollars_half_up()),
        velocity_window_seconds: record.velocity_window_s,
        velocity_cooldown_seconds: record.velocity_cooldown_s,
        session_limit_microdollars: rule.session_limit.map(Nanos::microdollars_half_up),
        finalization_reserve_microdollars: rule.finalization_reserve.microdollars_half_up(),
        loop_max_calls: loop_max_calls(rule),
    }
}

fn loop_max_calls(rule: &BudgetRule) -> Option<i32> {
    rule.loop_max_calls.and_then(|calls| i32::try_from(calls).ok())
}
