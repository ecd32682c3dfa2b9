//! Identifiers: bare UUIDs inside, prefixed on the wire (contract §1.1), accepted in both spellings.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is no identifier of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {prefix}<uuid> or a bare UUID")]
pub struct InvalidId {
    /// The prefix that was expected, e.g. `ns_key_`.
    pub prefix: &'static str,
}

/// Where new identifiers come from.
pub trait Ids: Send + Sync + fmt::Debug {
    /// A time-ordered UUID (version 7) for the given Unix milliseconds.
    fn v7(&self, now_ms: i64) -> Uuid;
    /// A random UUID (version 4), as the contract shows for keys, budgets and the like.
    fn v4(&self) -> Uuid;
}

/// Identifiers from the operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl Ids for RandomIds {
    fn v7(&self, now_ms: i64) -> Uuid {
        let (seconds, millis) = (now_ms.div_euclid(1000), now_ms.rem_euclid(1000));
        let nanos = u32::try_from(millis).unwrap_or(0) * 1_000_000;
        let time = uuid::Timestamp::from_unix(uuid::NoContext, u64::try_from(seconds).unwrap_or(0), nanos);
        Uuid::new_v7(time)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that makes random ids")]
    fn v4(&self) -> Uuid {
        Uuid::new_v4()
    }
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The prefix of this kind on the wire.
            pub const PREFIX: &'static str = $prefix;

            /// The bare UUID text, as the database and the planes' own protocol hold it.
            #[must_use]
            pub fn bare(self) -> String {
                self.0.hyphenated().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.hyphenated())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            /// Accepts the prefixed and the bare spelling.
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bare = text.strip_prefix($prefix).unwrap_or(text);
                if bare.len() != 36 {
                    return Err(InvalidId { prefix: $prefix });
                }
                Uuid::try_parse(bare).map(Self).map_err(|_| InvalidId { prefix: $prefix })
            }
        }
    };
}

id_type!(
    /// An organisation.
    OrgId, "ns_org_");
id_type!(
    /// A person.
    UserId, "ns_usr_");
id_type!(
    /// An API key.
    KeyId, "ns_key_");
id_type!(
    /// A budget.
    BudgetId, "ns_bgt_");
id_type!(
    /// One attempt at a provider: at once the id of its hold and of its cost event.
    AttemptId, "ns_evt_");
id_type!(
    /// An operator's price row.
    PriceId, "ns_prc_");
id_type!(
    /// A freeze.
    FreezeId, "ns_frz_");
id_type!(
    /// A human-in-the-loop action.
    ActionId, "ns_act_");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_accepted_prefixed_or_bare_and_shown_prefixed() {
        let id = KeyId(RandomIds.v4());
        assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        assert_eq!(id.bare().parse::<KeyId>(), Ok(id));
        assert_eq!(id.bare().to_uppercase().parse::<KeyId>(), Ok(id));
        assert_eq!(id.to_string().parse::<BudgetId>(), Err(InvalidId { prefix: "ns_bgt_" }));
        assert!("ns_key_".parse::<KeyId>().is_err());
    }

    #[test]
    fn v7_ids_order_by_time() {
        assert!(RandomIds.v7(1_000) < RandomIds.v7(2_000));
    }
}
