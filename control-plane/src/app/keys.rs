//! API keys: made, listed, changed, revoked. A key never grants more than whoever makes it has.

use std::collections::BTreeMap;

use nullspend_core::{
    id::{KeyId, OrgId, UserId},
    policy::{KeyIdentity, Role},
    price::Prices,
};
use secrecy::SecretString;

use super::{
    App, AppError, Caller,
    check::{Checks, page_size},
    models::providers_of,
    secret::{NewSecret, hash_key},
};
use crate::store::{Cursor, KeyRecord, Revoked};

/// What `NullSpend-Version` defaults to.
pub(super) const API_VERSION: &str = "2026-04-01";
const MAX_NAMES: usize = 50;
const MAX_NAME: usize = 100;

/// A key to make.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// 1 to 50 characters after trimming.
    pub name: String,
    /// Agent unless given.
    pub role: Option<Role>,
    /// The owner; the caller unless given.
    pub user: Option<String>,
    /// Tags of every request of the key.
    pub default_tags: BTreeMap<String, String>,
    /// Default tags that requests may not override.
    pub locked_tags: Vec<String>,
    /// Tags without which a request is refused.
    pub required_tags: Vec<String>,
    /// `None`: every model.
    pub allowed_models: Option<Vec<String>>,
    /// `None`: every provider.
    pub allowed_providers: Option<Vec<String>>,
}

/// A key at the only moment its secret is known.
#[derive(Clone, Debug)]
pub struct CreatedKey {
    /// The key.
    pub record: KeyRecord,
    /// The raw key.
    pub raw: SecretString,
}

/// Changes to a key; `None` keeps what is there.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// New name.
    pub name: Option<String>,
    /// New default tags, all of them.
    pub default_tags: Option<BTreeMap<String, String>>,
    /// New locked tags, all of them.
    pub locked_tags: Option<Vec<String>>,
    /// New required tags, all of them.
    pub required_tags: Option<Vec<String>>,
    /// New allowed models; `Some(None)` allows every model.
    pub allowed_models: Option<Option<Vec<String>>>,
    /// New allowed providers; `Some(None)` allows every provider.
    pub allowed_providers: Option<Option<Vec<String>>>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Where the next page begins; `None` when there is none.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Cuts a list that was read one longer than the page.
    pub(super) fn cut(mut items: Vec<T>, limit: i64, cursor: impl Fn(&T) -> Cursor) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }
}

impl App {
    /// Makes a key.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`.
    pub async fn create_key(&self, caller: &Caller, new: NewKey) -> Result<CreatedKey, AppError> {
        caller.require(Role::Member)?;
        let role = new.role.unwrap_or(Role::Agent);
        self.check_grant(caller, role)?;
        let user = self.key_owner(caller, new.user.as_deref(), role).await?;
        let secret = NewSecret::make()?;
        let record = KeyRecord {
            identity: KeyIdentity {
                key: KeyId(self.ids.v4()),
                org: caller.org,
                user,
                name: new.name.trim().to_owned(),
                role,
                default_tags: new.default_tags,
                locked_tags: new.locked_tags,
                required_tags: new.required_tags,
                allowed_models: new.allowed_models,
                allowed_providers: new.allowed_providers,
                api_version: API_VERSION.to_owned(),
            },
            prefix: secret.prefix.clone(),
            last_used_at_ms: None,
            created_at_ms: self.clock.now_ms(),
            revoked_at_ms: None,
        };
        self.check_key(caller, &record.identity).await?;
        let revision = self.store.insert_key(&record, &hash_key(&secret.raw)).await?;
        self.policy_changed(revision).await;
        Ok(CreatedKey { record, raw: secret.raw })
    }

    /// The organisation's live keys, newest first.
    ///
    /// # Errors
    /// `validation_error`.
    pub async fn list_keys(
        &self,
        caller: &Caller,
        limit: Option<i32>,
        cursor: Option<Cursor>,
    ) -> Result<Page<KeyRecord>, AppError> {
        caller.require(Role::Viewer)?;
        let limit = page_size(limit, 50)?;
        let keys = self.store.list_keys(caller.org, cursor.as_ref(), limit + 1).await?;
        Ok(Page::cut(keys, limit, |key| Cursor { at_ms: key.created_at_ms, id: key.identity.key.bare() }))
    }

    /// Changes a key.
    ///
    /// # Errors
    /// `validation_error`, `forbidden`, `not_found`.
    pub async fn update_key(
        &self,
        caller: &Caller,
        key: KeyId,
        change: KeyChange,
    ) -> Result<KeyRecord, AppError> {
        caller.require(Role::Admin)?;
        let mut wanted = self.changeable_key(caller, key).await?.identity;
        if !change.clone().apply(&mut wanted) {
            let mut checks = Checks::default();
            checks.field("name", "or another field must be given: there is nothing to change");
            checks.finish()?;
        }
        self.check_key(caller, &wanted).await?;
        // Applied again to what the transaction reads: another change since must not be undone by this one.
        let applied = |identity: &mut KeyIdentity| _ = change.apply(identity);
        let changed = self.store.update_key(caller.org, key, applied).await?;
        let (record, revision) = changed.ok_or_else(|| AppError::not_found("Key"))?;
        self.policy_changed(revision).await;
        Ok(record)
    }

    /// Revokes a key for good; returns when.
    ///
    /// # Errors
    /// `forbidden`, `not_found` (also when it was revoked before).
    pub async fn revoke_key(&self, caller: &Caller, key: KeyId) -> Result<i64, AppError> {
        caller.require(Role::Admin)?;
        self.changeable_key(caller, key).await?;
        let now_ms = self.clock.now_ms();
        match self.store.revoke_key(caller.org, key, now_ms).await? {
            Revoked::At(revision) => {
                self.policy_changed(revision).await;
            }
            Revoked::NotFound => return Err(AppError::not_found("Key")),
            Revoked::LastOwner => {
                let message =
                    "This is the organisation's last owner key; make another one before revoking it";
                return Err(AppError::conflict(message));
            }
        }
        Ok(now_ms)
    }

    /// A live key whose role the caller has too.
    async fn changeable_key(&self, caller: &Caller, key: KeyId) -> Result<KeyRecord, AppError> {
        let record = self.store.key(caller.org, key).await?.filter(|key| key.revoked_at_ms.is_none());
        let record = record.ok_or_else(|| AppError::not_found("Key"))?;
        self.check_grant(caller, record.identity.role)?;
        Ok(record)
    }

    /// Nobody hands out, changes or takes away more than they have.
    #[expect(clippy::unused_self, reason = "reads as a rule of the app beside its siblings")]
    fn check_grant(&self, caller: &Caller, role: Role) -> Result<(), AppError> {
        if role <= caller.role {
            return Ok(());
        }
        let (key, has) = (role.as_str(), caller.role.as_str());
        Err(AppError::forbidden(format!(
            "A key of role {key} needs a caller of that role; the credential has {has}"
        )))
    }

    /// The owner of a new key: the caller, or for administrators another member who has the key's role too.
    async fn key_owner(&self, caller: &Caller, user: Option<&str>, role: Role) -> Result<UserId, AppError> {
        let Some(user) = user else { return Ok(caller.user) };
        let mut checks = Checks::default();
        let Ok(user) = user.parse::<UserId>() else {
            checks.field("userId", "must be ns_usr_<uuid> or a bare UUID");
            checks.finish()?;
            return Ok(caller.user);
        };
        if user == caller.user {
            return Ok(user);
        }
        if caller.role < Role::Admin {
            return Err(AppError::forbidden("Making keys for others needs the role admin"));
        }
        match self.store.member_role(caller.org, user).await? {
            None => checks.field("userId", "must be a member of the organisation"),
            Some(has) if has < role => checks.field("userId", "must have the key's role or a higher one"),
            Some(_) => {}
        }
        checks.finish()?;
        Ok(user)
    }

    /// Everything a key must satisfy, new or changed.
    async fn check_key(&self, caller: &Caller, key: &KeyIdentity) -> Result<(), AppError> {
        let mut checks = Checks::default();
        checks.text("name", &key.name, 1, 50);
        checks.tags("defaultTags", &key.default_tags, false);
        checks.tag_names("lockedTags", &key.locked_tags);
        checks.tag_names("requiredTags", &key.required_tags);
        for (index, name) in key.locked_tags.iter().enumerate() {
            if !key.default_tags.contains_key(name) {
                checks.add(&["lockedTags".into(), index.into()], "must name one of defaultTags");
            }
        }
        let parent = caller.key.as_ref();
        names(&mut checks, "allowedModels", key.allowed_models.as_deref());
        within(
            &mut checks,
            "allowedModels",
            key.allowed_models.as_deref(),
            parent.and_then(|p| p.allowed_models.as_deref()),
        );
        names(&mut checks, "allowedProviders", key.allowed_providers.as_deref());
        let of_parent = parent.and_then(|p| p.allowed_providers.as_deref());
        within(&mut checks, "allowedProviders", key.allowed_providers.as_deref(), of_parent);
        known_providers(&mut checks, &self.prices().await?, caller.org, key.allowed_providers.as_deref());
        checks.finish()
    }
}

fn known_providers(checks: &mut Checks, prices: &Prices, org: OrgId, given: Option<&[String]>) {
    let known = providers_of(prices, org);
    for (index, provider) in given.unwrap_or_default().iter().enumerate() {
        if !known.contains(provider.as_str()) {
            let list = known.iter().copied().collect::<Vec<_>>().join(", ");
            let message = format!("must be a provider that has prices: {list}");
            checks.add(&["allowedProviders".into(), index.into()], message);
        }
    }
}

impl KeyChange {
    /// False when nothing was asked for.
    fn apply(self, key: &mut KeyIdentity) -> bool {
        let mut asked = false;
        asked |= replace(&mut key.name, self.name.map(|name| name.trim().to_owned()));
        asked |= replace(&mut key.default_tags, self.default_tags);
        asked |= replace(&mut key.locked_tags, self.locked_tags);
        asked |= replace(&mut key.required_tags, self.required_tags);
        asked |= replace(&mut key.allowed_models, self.allowed_models);
        asked |= replace(&mut key.allowed_providers, self.allowed_providers);
        asked
    }
}

fn replace<T>(place: &mut T, value: Option<T>) -> bool {
    let Some(value) = value else { return false };
    *place = value;
    true
}

/// At most 50 names of 1 to 100 characters.
fn names(checks: &mut Checks, field: &str, list: Option<&[String]>) {
    let list = list.unwrap_or_default();
    checks.require(list.len() <= MAX_NAMES, field, format!("must have at most {MAX_NAMES} names"));
    for (index, name) in list.iter().enumerate() {
        if name.trim().is_empty() || name.chars().count() > MAX_NAME || name.contains('\0') {
            checks.add(&[field.into(), index.into()], format!("must be text of 1 to {MAX_NAME} characters"));
        }
    }
}

/// A restricted caller makes only keys within its own restriction.
fn within(checks: &mut Checks, field: &str, list: Option<&[String]>, of_caller: Option<&[String]>) {
    let Some(allowed) = of_caller else { return };
    let Some(list) = list else {
        checks.field(field, format!("must be given, within the caller's own: {}", allowed.join(", ")));
        return;
    };
    for (index, name) in list.iter().enumerate() {
        if !allowed.contains(name) {
            checks.add(
                &[field.into(), index.into()],
                format!("must be within the caller's own: {}", allowed.join(", ")),
            );
        }
    }
}
