//! Who is calling.

use nullspend_core::{
    id::{KeyId, OrgId, UserId},
    policy::{KeyIdentity, Role},
};

use super::error::AppError;

/// An authenticated caller; the authentication layer puts it into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The organisation acted in.
    pub org: OrgId,
    /// The person, or the key's owner.
    pub user: UserId,
    /// The key, when the credential is one.
    pub key: Option<KeyIdentity>,
    /// What the caller may do: the key's role, never more than its owner's.
    pub role: Role,
}

impl Caller {
    /// The key's id.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.key.as_ref().map(|key| key.key)
    }

    /// Who acts, for records of what was done: the key's id, or the person's.
    #[must_use]
    pub fn by(&self) -> String {
        self.key_id().map_or_else(|| self.user.to_string(), |key| key.to_string())
    }

    /// Refuses a caller below `least`. An agent key is below every person's role.
    ///
    /// # Errors
    /// `forbidden`, naming the role that is needed.
    pub fn require(&self, least: Role) -> Result<(), AppError> {
        if self.role >= least {
            return Ok(());
        }
        let (has, needs) = (self.role.as_str(), least.as_str());
        Err(AppError::forbidden(format!("This needs the role {needs}; the credential has {has}")))
    }
}
