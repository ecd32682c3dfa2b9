//! What to tell those who meet a model without a price.

use serde_json::{Value, json};

/// The call that adds a price, with places for the rates: as it stands it is refused.
#[must_use]
pub fn add_price_call(provider: &str, model: &str) -> Value {
    let rates = json!({"input": "<USD>", "output": "<USD>"});
    let tiers = json!([{"tier": "standard", "usdPerMillionTokens": rates}]);
    json!({"method": "POST", "path": "/api/prices", "body": {"provider": provider, "model": model, "tiers": tiers}})
}

/// The same as a sentence, for REST and for gRPC.
#[must_use]
pub fn how_to_add(provider: &str, model: &str) -> String {
    let body = &add_price_call(provider, model)["body"];
    format!(
        "have an administrator add a price: POST /api/prices {body}, or by gRPC: grpcurl -plaintext -H \
         'x-nullspend-key: <key>' -d '{body}' <host:port> nullspend.v1.PriceService/CreatePrice"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_the_rates_left_to_the_reader() {
        let text = how_to_add("openai", "a\"b");
        assert!(text.contains(r#"POST /api/prices {"model":"a\"b","provider":"openai""#), "{text}");
        assert!(text.contains("<USD>") && text.contains("PriceService/CreatePrice"));
    }
}
