//! The policy document: what a key may spend and call, for agents that plan ahead (contract §2.10).

use std::collections::BTreeMap;

use super::{
    App, AppError, BudgetView, Caller,
    models::{CheapModel, rate},
};

/// The published Python client 0.4.0 (which calls itself 0.2.1) over-estimates every call a million times when it sees
/// a budget here, and then refuses nearly all; it is given none, and the proxy enforces (contract §0.3-13).
const OVERESTIMATING_SDK: &str = "python/0.2.1";

/// What a caller may spend and call.
#[derive(Clone, Debug)]
pub struct PolicyDocument {
    /// The budget with least left among those that bind the caller.
    pub budget: Option<BudgetView>,
    /// `None`: every model.
    pub allowed_models: Option<Vec<String>>,
    /// `None`: every provider.
    pub allowed_providers: Option<Vec<String>>,
    /// Cheapest allowed model of each provider.
    pub cheapest: BTreeMap<String, CheapModel>,
    /// Smallest session limit, in micro-dollars.
    pub session_limit_microdollars: Option<i64>,
}

impl PolicyDocument {
    /// Cheapest of all.
    #[must_use]
    pub fn cheapest_overall(&self) -> Option<&CheapModel> {
        self.cheapest.values().min_by(|a, b| rate(a).total_cmp(&rate(b)))
    }

    /// Whether either list restricts.
    #[must_use]
    pub fn restricted(&self) -> bool {
        self.allowed_models.is_some() || self.allowed_providers.is_some()
    }
}

impl App {
    /// The policy of a caller, who says which SDK it is.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn policy_document(
        &self,
        caller: &Caller,
        sdk: Option<&str>,
    ) -> Result<PolicyDocument, AppError> {
        let budgets =
            if sdk == Some(OVERESTIMATING_SDK) { Vec::new() } else { self.budget_status(caller).await? };
        let session_limit_microdollars = budgets
            .iter()
            .filter_map(|budget| budget.record.rule.session_limit)
            .min()
            .map(|limit| limit.microdollars_half_up());
        let allowed = |list: fn(&nullspend_core::policy::KeyIdentity) -> &Option<Vec<String>>| {
            caller.key.as_ref().and_then(|key| list(key).clone())
        };
        let allowed_models = allowed(|key| &key.allowed_models);
        let allowed_providers = allowed(|key| &key.allowed_providers);
        let prices = self.prices().await?;
        let cheapest =
            self.cheapest(&prices, caller.org, allowed_models.as_deref(), allowed_providers.as_deref());
        let budget = budgets.into_iter().min_by_key(BudgetView::remaining);
        Ok(PolicyDocument { budget, allowed_models, allowed_providers, cheapest, session_limit_microdollars })
    }
}
