//! Raw API keys: made from the operating system's randomness, kept only as SHA-256.

use rand::{TryRngCore, rngs::OsRng};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{AppError, Kind};
use crate::store::KeyHash;

const KEY_PREFIX: &str = "ns_live_sk_";
const KEY_BYTES: usize = 16;
/// How much of a raw key is kept readable (contract §1.2).
const SHOWN: usize = 19;

/// A raw key with what is kept of it.
pub(super) struct NewSecret {
    pub(super) raw: SecretString,
    pub(super) prefix: String,
}

impl NewSecret {
    /// A new key.
    pub(super) fn make() -> Result<Self, AppError> {
        let mut bytes = [0; KEY_BYTES];
        OsRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| AppError::internal("The operating system gave no randomness", error))?;
        Self::from_raw(format!("{KEY_PREFIX}{}", hex::encode(bytes)).into())
    }

    /// A key that the operator chose.
    pub(super) fn from_raw(raw: SecretString) -> Result<Self, AppError> {
        let text = raw.expose_secret();
        let digits = text.strip_prefix(KEY_PREFIX).unwrap_or_default();
        let good =
            digits.len() == KEY_BYTES * 2 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !good {
            let message = "The bootstrap key must be ns_live_sk_ followed by 32 lower-case hex digits";
            return Err(AppError::new(Kind::Invalid, "validation_error", message));
        }
        let prefix = text.chars().take(SHOWN).collect();
        Ok(Self { raw, prefix })
    }
}

/// What the database knows of a raw key.
pub(super) fn hash_key(raw: &SecretString) -> KeyHash {
    Sha256::digest(raw.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_contracts_form_and_differ() {
        let (a, b) = (NewSecret::make().unwrap(), NewSecret::make().unwrap());
        assert_ne!(a.raw.expose_secret(), b.raw.expose_secret());
        assert_eq!(a.raw.expose_secret().len(), 43);
        assert_eq!(a.prefix, a.raw.expose_secret()[..19]);
        assert!(NewSecret::from_raw(a.raw.clone()).is_ok());
    }

    #[test]
    fn chosen_keys_must_have_that_form_too() {
        for raw in ["", "ns_live_sk_", "ns_live_sk_0123", "ns_test_sk_0123456789abcdef0123456789abcdef"] {
            assert!(NewSecret::from_raw(raw.to_owned().into()).is_err(), "{raw}");
        }
    }
}
