//! Text columns to domain values and back. What cannot be read is an inconsistency, never a default.

use std::{collections::BTreeMap, str::FromStr};

use nullspend_core::{attempt::BudgetCharge, ledger::CounterKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::StoreError;

/// Reads values of one operation's rows; errors name the operation.
#[derive(Clone, Copy)]
pub(super) struct Reader(pub(super) &'static str);

impl Reader {
    pub(super) fn id<T: FromStr>(self, column: &str, text: &str) -> Result<T, StoreError> {
        text.parse().map_err(|_| self.bad(column, text))
    }

    pub(super) fn optional_id<T: FromStr>(
        self,
        column: &str,
        text: Option<&str>,
    ) -> Result<Option<T>, StoreError> {
        text.map(|text| self.id(column, text)).transpose()
    }

    pub(super) fn word<T>(
        self,
        column: &str,
        word: &str,
        parse: fn(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        parse(word).ok_or_else(|| self.bad(column, word))
    }

    pub(super) fn json<T: DeserializeOwned>(self, column: &str, text: &str) -> Result<T, StoreError> {
        serde_json::from_str(text).map_err(|_| self.bad(column, text))
    }

    pub(super) fn number<T: TryFrom<i64>>(self, column: &str, value: i64) -> Result<T, StoreError> {
        T::try_from(value).map_err(|_| self.bad(column, &value.to_string()))
    }

    pub(super) fn charges(self, text: &str) -> Result<Vec<BudgetCharge>, StoreError> {
        let stored: Vec<StoredCharge> = self.json("charges", text)?;
        stored
            .into_iter()
            .map(|charge| {
                Ok(BudgetCharge {
                    counter: CounterKey {
                        budget: self.id("charges", &charge.budget_id)?,
                        generation: charge.generation,
                        window_start_ms: charge.window_start_ms,
                    },
                    window_end_ms: charge.window_end_ms,
                    of_session: charge.of_session,
                })
            })
            .collect()
    }

    pub(super) fn bad(self, column: &str, value: &str) -> StoreError {
        let shown: String = value.chars().take(80).collect();
        StoreError::Inconsistent { op: self.0, what: format!("{column} holds {shown:?}") }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredCharge {
    budget_id: String,
    generation: u32,
    window_start_ms: i64,
    window_end_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    of_session: bool,
}

/// The JSON text of what has only strings for keys and only plain values, which is never refused.
#[expect(
    clippy::expect_used,
    reason = "only keys that are no strings, or a Serialize of one's own, are refused"
)]
fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("JSON has a text for it")
}

/// Charges as the JSON text of a column.
pub(super) fn charges_json(charges: &[BudgetCharge]) -> String {
    let stored: Vec<StoredCharge> = charges
        .iter()
        .map(|charge| StoredCharge {
            budget_id: charge.counter.budget.bare(),
            generation: charge.counter.generation,
            window_start_ms: charge.counter.window_start_ms,
            window_end_ms: charge.window_end_ms,
            of_session: charge.of_session,
        })
        .collect();
    written(&stored)
}

/// Names as the JSON text of a column.
pub(super) fn list_json(list: &[String]) -> String {
    written(&list)
}

/// A map as the JSON text of a column.
pub(super) fn map_json(map: &BTreeMap<String, String>) -> String {
    written(&map)
}
