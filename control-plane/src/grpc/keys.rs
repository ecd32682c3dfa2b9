//! `KeyService`.

use nullspend_core::{id::KeyId, policy::KeyIdentity};
use nullspend_proto::v1::{self, key_service_server::KeyService};
use secrecy::ExposeSecret;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Services,
    convert::{cursor, id, invalid, list, role, role_of, timestamp},
    status::caller,
};
use crate::{
    app::{AppError, KeyChange, NewKey},
    store::{Cursor, KeyRecord},
};

#[async_trait]
impl KeyService for Services {
    async fn create_key(
        &self,
        request: Request<v1::CreateKeyRequest>,
    ) -> Result<Response<v1::CreateKeyResponse>, Status> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let new = NewKey {
            role: role_of(wanted.role()),
            name: wanted.name,
            user: wanted.user_id,
            default_tags: wanted.default_tags,
            locked_tags: wanted.locked_tags,
            required_tags: wanted.required_tags,
            allowed_models: wanted.allowed_models.map(|list| list.values),
            allowed_providers: wanted.allowed_providers.map(|list| list.values),
        };
        let created = self.app.create_key(&caller, new).await?;
        let KeyRecord { identity, prefix, created_at_ms, .. } = created.record;
        let data = v1::CreatedKey {
            id: identity.key.to_string(),
            name: identity.name,
            key_prefix: prefix,
            role: role(identity.role).into(),
            user_id: identity.user.to_string(),
            default_tags: identity.default_tags,
            locked_tags: identity.locked_tags,
            required_tags: identity.required_tags,
            allowed_models: list(identity.allowed_models),
            allowed_providers: list(identity.allowed_providers),
            raw_key: created.raw.expose_secret().to_owned(),
            created_at: Some(timestamp(created_at_ms)),
        };
        Ok(Response::new(v1::CreateKeyResponse { data: Some(data) }))
    }

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let from = cursor::<KeyId>(request.cursor, KeyId::bare)?;
        let page = self.app.list_keys(&caller, request.limit, from).await?;
        Ok(Response::new(v1::ListKeysResponse {
            cursor: page.next.as_ref().map(next),
            data: page.items.into_iter().map(key).collect(),
        }))
    }

    async fn update_key(
        &self,
        request: Request<v1::UpdateKeyRequest>,
    ) -> Result<Response<v1::UpdateKeyResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let key_id: KeyId = id("id", &request.id)?;
        let changed = self.app.update_key(&caller, key_id, change(request)?).await?;
        Ok(Response::new(v1::UpdateKeyResponse { data: Some(key(changed)) }))
    }

    async fn revoke_key(
        &self,
        request: Request<v1::RevokeKeyRequest>,
    ) -> Result<Response<v1::RevokeKeyResponse>, Status> {
        let caller = caller(&request)?;
        let key_id: KeyId = id("id", &request.into_inner().id)?;
        let revoked_at_ms = self.app.revoke_key(&caller, key_id).await?;
        let data = v1::RevokedKey { id: key_id.to_string(), revoked_at: Some(timestamp(revoked_at_ms)) };
        Ok(Response::new(v1::RevokeKeyResponse { data: Some(data) }))
    }
}

/// Which fields change; names in `clear` lift a restriction.
fn change(request: v1::UpdateKeyRequest) -> Result<KeyChange, AppError> {
    let mut change = KeyChange {
        name: request.name,
        default_tags: request.default_tags.map(|map| map.values),
        locked_tags: request.locked_tags.map(|list| list.values),
        required_tags: request.required_tags.map(|list| list.values),
        allowed_models: request.allowed_models.map(|list| Some(list.values)),
        allowed_providers: request.allowed_providers.map(|list| Some(list.values)),
    };
    for field in request.clear {
        match field.as_str() {
            "allowedModels" => change.allowed_models = Some(None),
            "allowedProviders" => change.allowed_providers = Some(None),
            _ => return Err(invalid(&field, "cannot be null; leave it out to keep its value")),
        }
    }
    Ok(change)
}

fn next(cursor: &Cursor) -> v1::Cursor {
    v1::Cursor { created_at: Some(timestamp(cursor.at_ms)), id: format!("{}{}", KeyId::PREFIX, cursor.id) }
}

fn key(record: KeyRecord) -> v1::Key {
    let KeyRecord { identity, prefix, last_used_at_ms, created_at_ms, .. } = record;
    let KeyIdentity { key, user, name, default_tags, locked_tags, required_tags, .. } = identity;
    v1::Key {
        id: key.to_string(),
        name,
        key_prefix: prefix,
        role: role(identity.role).into(),
        user_id: user.to_string(),
        default_tags,
        locked_tags,
        required_tags,
        allowed_models: list(identity.allowed_models),
        allowed_providers: list(identity.allowed_providers),
        last_used_at: last_used_at_ms.map(timestamp),
        created_at: Some(timestamp(created_at_ms)),
    }
}
