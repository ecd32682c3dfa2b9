//! `FreezeService`.

use nullspend_core::id::FreezeId;
use nullspend_proto::v1::{self, freeze_service_server::FreezeService};
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{id, timestamp},
    status::caller,
};
use crate::{app::NewFreeze, store::FreezeRecord};

#[async_trait]
impl FreezeService for Services {
    async fn create_freeze(
        &self,
        request: Request<v1::CreateFreezeRequest>,
    ) -> Result<Response<v1::CreateFreezeResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let new = NewFreeze {
            entity_type: type_of(wanted.entity_type()),
            entity_id: wanted.entity_id,
            reason: wanted.reason,
        };
        let frozen = self.app.create_freeze(&caller, new).await?;
        let data = Some(freeze(&frozen.record));
        Ok(Response::new(v1::CreateFreezeResponse { data, enforced: frozen.enforced }))
    }

    async fn list_freezes(
        &self,
        request: Request<v1::ListFreezesRequest>,
    ) -> Result<Response<v1::ListFreezesResponse>, Status> {
        let records = self.app.list_freezes(&caller(&request)?).await?;
        Ok(Response::new(v1::ListFreezesResponse { data: records.iter().map(freeze).collect() }))
    }

    async fn delete_freeze(
        &self,
        request: Request<v1::DeleteFreezeRequest>,
    ) -> Result<Response<v1::DeleteFreezeResponse>, Status> {
        let caller = caller(&request)?;
        let freeze_id: FreezeId = id("id", &request.into_inner().id)?;
        self.app.lift_freeze(&caller, freeze_id).await?;
        Ok(Response::new(v1::DeleteFreezeResponse { deleted: true }))
    }
}

fn type_of(kind: v1::FrozenType) -> Option<&'static str> {
    match kind {
        v1::FrozenType::Unspecified => None,
        v1::FrozenType::Org => Some("org"),
        v1::FrozenType::User => Some("user"),
        v1::FrozenType::ApiKey => Some("api_key"),
        v1::FrozenType::Tag => Some("tag"),
        v1::FrozenType::Customer => Some("customer"),
        v1::FrozenType::Model => Some("model"),
    }
}

fn freeze(record: &FreezeRecord) -> v1::Freeze {
    let freeze = &record.freeze;
    let kind = match freeze.target.kind() {
        "org" => v1::FrozenType::Org,
        "user" => v1::FrozenType::User,
        "api_key" => v1::FrozenType::ApiKey,
        "tag" => v1::FrozenType::Tag,
        "customer" => v1::FrozenType::Customer,
        _ => v1::FrozenType::Model,
    };
    v1::Freeze {
        id: freeze.freeze.to_string(),
        entity_type: kind.into(),
        entity_id: freeze.target.shown_id(),
        reason: freeze.reason.clone(),
        created_by: record.created_by.clone(),
        created_at: Some(timestamp(freeze.since_ms)),
    }
}
