//! Denials: a budget, a session or a spend rate that said no, with its numbers (contract §2.7).

use serde_json::{Map, Value, json};

use super::answer::{Answer, ErrorBody, recovery};
use crate::{
    attempt::Api,
    ledger::{Balance, Why},
    money::Nanos,
    policy::{BudgetRule, Entity},
};

/// A budget that said no.
#[derive(Clone, Debug)]
pub struct BudgetDenial<'a> {
    /// The budget that stopped the call.
    pub rule: &'a BudgetRule,
    /// What of it.
    pub why: Why,
    /// Its state.
    pub balance: Balance,
    /// The bound that did not fit.
    pub estimated: Nanos,
    /// The caller's session.
    pub session: Option<&'a str>,
    /// Whether the call may use what is kept back.
    pub finalize: bool,
    /// Milliseconds until its window or its cool-down ends.
    pub retry_after_ms: Option<i64>,
}

/// What a denial says, by its reason.
struct Said {
    code: &'static str,
    message: String,
    details: Map<String, Value>,
    /// Waiting helps, and nobody else is needed.
    retryable: bool,
    owner_action_required: bool,
}

impl BudgetDenial<'_> {
    /// 429 with the code of the reason.
    #[must_use]
    pub fn answer(&self, api: Api) -> Answer {
        let said = match self.why {
            Why::Budget => self.of_limit(),
            Why::Session { spend } => self.of_session(spend),
            Why::Velocity { rate } => self.of_rate(rate),
        };
        let retry_after_seconds = self.retry_after_ms.map(|ms| (ms.max(0) + 999) / 1000);
        let details = Value::Object(said.details);
        let error = ErrorBody {
            status: 429,
            code: said.code,
            message: said.message,
            details: details.clone(),
            param: None,
            recovery: Some(recovery(said.retryable, said.owner_action_required, retry_after_seconds)),
        };
        let mut headers = vec![
            ("x-nullspend-denied", "1".to_owned()),
            // Without it a provider SDK sends a denied call three times (contract §0.3-17).
            ("x-should-retry", "false".to_owned()),
        ];
        headers.extend(retry_after_seconds.map(|seconds| ("retry-after", seconds.to_string())));
        Answer { status: 429, headers, body: error.render(Some(api)), code: said.code, details }
    }

    fn of_limit(&self) -> Said {
        let (remaining, kept_back) = (self.balance.remaining(), self.rule.kept_back());
        let usable = self.rule.usable(remaining, self.finalize).max(Nanos::ZERO);
        let mut details = Map::new();
        let code = match &self.rule.entity {
            Entity::Customer(id) => {
                details.insert("customer_id".into(), json!(id));
                "customer_budget_exceeded"
            }
            Entity::Tag(pair) => {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                details.insert("tag_key".into(), json!(name));
                details.insert("tag_value".into(), json!(value));
                "tag_budget_exceeded"
            }
            Entity::Org(_) | Entity::User(_) | Entity::ApiKey(_) => "budget_exceeded",
        };
        self.name_budget(&mut details);
        let spend = (self.balance.settled + self.balance.held).microdollars_half_up();
        details.insert("budget_limit_microdollars".into(), json!(self.balance.limit.microdollars_half_up()));
        details.insert("budget_spend_microdollars".into(), json!(spend));
        details.insert("remaining_microdollars".into(), json!(floor_micro(usable)));
        details.insert("finalization_reserve_microdollars".into(), json!(kept_back.microdollars_half_up()));
        details.insert(
            "finalization_remaining_microdollars".into(),
            json!(floor_micro(remaining.max(Nanos::ZERO))),
        );
        let message = format!(
            "the {} budget of {} allows {} more, and this call may cost up to {}; lower max tokens, or have the budget raised",
            self.rule.entity.kind(),
            self.rule.entity.shown_id(),
            usable,
            self.estimated,
        );
        Said { code, message, details, retryable: false, owner_action_required: true }
    }

    fn of_session(&self, spend: Nanos) -> Said {
        let limit = self.rule.session_limit.unwrap_or_default();
        let mut details = Map::new();
        details.insert("session_id".into(), json!(self.session));
        details.insert("session_spend_microdollars".into(), json!(spend.microdollars_half_up()));
        details.insert("session_limit_microdollars".into(), json!(limit.microdollars_half_up()));
        self.name_budget(&mut details);
        let message = format!(
            "the session has spent {spend} of the {limit} that the {} budget of {} allows one session, and this call may \
             cost up to {}; start a new session, lower max tokens, or have the limit raised",
            self.rule.entity.kind(),
            self.rule.entity.shown_id(),
            self.estimated,
        );
        Said {
            code: "session_limit_exceeded",
            message,
            details,
            retryable: false,
            owner_action_required: false,
        }
    }

    /// These details are in camel case in the contract.
    fn of_rate(&self, rate: Nanos) -> Said {
        let (limit, window_s, cooldown_s) = self.rule.velocity.map_or((Nanos::ZERO, 0, 0), |velocity| {
            (velocity.limit, velocity.window_ms / 1000, velocity.cooldown_ms / 1000)
        });
        let entity = &self.rule.entity;
        let details = json!({
            "limitMicrodollars": limit.microdollars_half_up(),
            "windowSeconds": window_s,
            "cooldownSeconds": cooldown_s,
            "currentMicrodollars": rate.microdollars_half_up(),
            "estimatedCostMicrodollars": ceil_micro(self.estimated),
            "entityType": entity.kind(),
            "entityId": entity.shown_id(),
            "budgetId": self.rule.budget.to_string(),
        });
        let message = format!(
            "the {} budget of {} may be spent no faster than {limit} in {window_s} s; {rate} of that are gone, and this call \
             may cost up to {}; wait for as long as Retry-After says",
            entity.kind(),
            entity.shown_id(),
            self.estimated,
        );
        let details = match details {
            Value::Object(details) => details,
            _ => Map::new(),
        };
        Said { code: "velocity_exceeded", message, details, retryable: true, owner_action_required: false }
    }

    fn name_budget(&self, details: &mut Map<String, Value>) {
        details.insert("entity_type".into(), json!(self.rule.entity.kind()));
        details.insert("entity_id".into(), json!(self.rule.entity.shown_id()));
        details.insert("budget_id".into(), json!(self.rule.budget.to_string()));
        details.insert("estimated_cost_microdollars".into(), json!(ceil_micro(self.estimated)));
    }
}

/// What is left is never shown higher than it is.
fn floor_micro(nanos: Nanos) -> i64 {
    nanos.0.div_euclid(1000)
}

/// Nano to micro rounds up like pico to nano: a bound is never shown lower than it is.
fn ceil_micro(nanos: Nanos) -> i64 {
    Nanos::from_pico_ceil(i128::from(nanos.0)).0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::{BudgetId, KeyId, OrgId},
        policy::{Enforcement, OutputPolicy, Velocity},
        window::{Interval, TimeZone},
    };

    fn rule(entity: Entity) -> BudgetRule {
        let id = uuid::Uuid::from_u128(1);
        BudgetRule {
            budget: BudgetId(id),
            org: OrgId(id),
            entity,
            name: String::new(),
            limit: Nanos(5_000_000_000),
            enforcement: Enforcement::StrictBlock,
            output: OutputPolicy::default(),
            interval: Interval::None,
            time_zone: TimeZone::utc(),
            generation: 1,
            revision: 1,
            session_limit: None,
            velocity: None,
            finalization_reserve: Nanos::ZERO,
            loop_max_calls: None,
            outage_credit: Nanos::ZERO,
        }
    }

    fn denial(entity: Entity, api: Api) -> (Answer, Value) {
        let rule = rule(entity);
        let balance = Balance { limit: rule.limit, settled: Nanos(4_000_000_000), held: Nanos(990_000_000) };
        answered(&denied(&rule, Why::Budget, balance), api)
    }

    fn denied(rule: &BudgetRule, why: Why, balance: Balance) -> BudgetDenial<'_> {
        let estimated = Nanos(43_210_000);
        BudgetDenial {
            rule,
            why,
            balance,
            estimated,
            session: Some("s-1"),
            finalize: false,
            retry_after_ms: Some(1),
        }
    }

    fn answered(denial: &BudgetDenial<'_>, api: Api) -> (Answer, Value) {
        let answer = denial.answer(api);
        let body = serde_json::from_slice(&answer.body).unwrap();
        (answer, body)
    }

    fn without_retry(headers: &[(&str, String)]) -> bool {
        headers.iter().all(|(name, _)| *name != "retry-after")
    }

    #[test]
    fn a_session_is_told_its_own_numbers() {
        let rule =
            BudgetRule { session_limit: Some(Nanos(2_000_000)), ..rule(Entity::Customer("acme".into())) };
        let balance = Balance { limit: rule.limit, settled: Nanos::ZERO, held: Nanos::ZERO };
        let mut denial = denied(&rule, Why::Session { spend: Nanos(1_999_500) }, balance);
        denial.retry_after_ms = None;
        let (answer, body) = answered(&denial, Api::OpenAiChat);
        assert_eq!((answer.status, answer.code), (429, "session_limit_exceeded"));
        let details = &body["error"]["details"];
        assert_eq!(details["session_id"], "s-1");
        assert_eq!(details["session_spend_microdollars"], 2_000);
        assert_eq!(details["session_limit_microdollars"], 2_000);
        assert_eq!((&details["entity_type"], &details["entity_id"]), (&json!("customer"), &json!("acme")));
        assert_eq!(body["error"]["recovery"]["retryable"], false);
        assert!(without_retry(&answer.headers));
    }

    #[test]
    fn a_rate_says_when_to_come_back() {
        let velocity = Velocity { limit: Nanos(7_000_000), window_ms: 60_000, cooldown_ms: 90_000 };
        let rule = BudgetRule { velocity: Some(velocity), ..rule(Entity::Tag("team=a".into())) };
        let balance = Balance { limit: rule.limit, settled: Nanos::ZERO, held: Nanos::ZERO };
        let mut denial = denied(&rule, Why::Velocity { rate: Nanos(6_000_000) }, balance);
        denial.retry_after_ms = Some(1_001);
        let (answer, body) = answered(&denial, Api::AnthropicMessages);
        assert_eq!((answer.status, answer.code), (429, "velocity_exceeded"));
        assert!(answer.headers.contains(&("retry-after", "2".to_owned())), "whole seconds, rounded up");
        assert!(answer.headers.contains(&("x-should-retry", "false".to_owned())));
        let details = &body["error"]["details"];
        for (name, value) in [
            ("limitMicrodollars", 7_000),
            ("windowSeconds", 60),
            ("cooldownSeconds", 90),
            ("currentMicrodollars", 6_000),
            ("estimatedCostMicrodollars", 43_210),
        ] {
            assert_eq!(details[name], value, "{name}");
        }
        assert_eq!(body["error"]["recovery"]["retry_after_seconds"], 2);
    }

    #[test]
    fn what_is_kept_back_is_told_apart() {
        let reserve = Nanos(8_000_000);
        let rule =
            BudgetRule { finalization_reserve: reserve, ..rule(Entity::Org(OrgId(uuid::Uuid::nil()))) };
        let balance = Balance { limit: rule.limit, settled: Nanos(4_990_000_000), held: Nanos::ZERO };
        let numbers = |finalize| {
            let denial = BudgetDenial { finalize, ..denied(&rule, Why::Budget, balance) };
            let (answer, _) = answered(&denial, Api::OpenAiChat);
            ["remaining", "finalization_reserve", "finalization_remaining"]
                .map(|name| answer.details[format!("{name}_microdollars")].as_i64().unwrap())
        };
        assert_eq!(numbers(false), [2_000, 8_000, 10_000]);
        assert_eq!(numbers(true), [10_000, 8_000, 10_000]);
    }

    #[test]
    fn a_denial_carries_what_both_published_clients_read() {
        let key = KeyId(uuid::Uuid::from_u128(9));
        let (answer, body) = denial(Entity::ApiKey(key), Api::OpenAiChat);
        assert_eq!(answer.status, 429);
        assert!(answer.headers.contains(&("x-nullspend-denied", "1".into())));
        assert!(answer.headers.contains(&("x-should-retry", "false".into())));
        let error = &body["error"];
        assert_eq!(error["code"], "budget_exceeded");
        assert_eq!(error["details"]["entity_id"], json!(key.to_string()));
        assert_eq!(error["details"]["budget_limit_microdollars"], 5_000_000);
        assert_eq!(error["details"]["budget_spend_microdollars"], 4_990_000);
        assert_eq!(error["details"]["estimated_cost_microdollars"], 43_210);
        assert_eq!(error["details"]["remaining_microdollars"], 10_000);
        assert_eq!(error["recovery"]["retry_after_seconds"], 1);
        assert!(answer.headers.contains(&("retry-after", "1".into())));
    }

    #[test]
    fn tags_and_customers_have_codes_of_their_own() {
        let (_, body) = denial(Entity::Tag("team=core=x".into()), Api::OpenAiResponses);
        assert_eq!(body["error"]["code"], "tag_budget_exceeded");
        assert_eq!(body["error"]["details"]["tag_key"], "team");
        assert_eq!(body["error"]["details"]["tag_value"], "core=x");
        let (_, body) = denial(Entity::Customer("acme".into()), Api::AnthropicMessages);
        assert_eq!(body["error"]["code"], "customer_budget_exceeded");
        assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!("rate_limit_error")));
    }
}
