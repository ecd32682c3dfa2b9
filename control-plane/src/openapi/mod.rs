//! The OpenAPI 3.1 document, derived from the same descriptors that the gateway serves from, so that it cannot drift.

mod comments;
mod operation;
mod types;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use self::{comments::Comments, types::Types};
use crate::schema::{Schema, SchemaError};

/// The document of the API compiled into this program, pretty-printed, with a final newline.
///
/// # Errors
/// When the descriptors cannot be served; see [`Schema::load`].
pub fn openapi_json() -> Result<String, SchemaError> {
    Ok(document(&Schema::load()?))
}

/// The document of a schema.
#[must_use]
pub fn document(schema: &Schema) -> String {
    let comments = Comments::read(&schema.pool);
    let types = Types::new(schema, &comments);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut tags = Vec::new();
    for method in &schema.methods {
        for (index, binding) in method.bindings.iter().enumerate() {
            let operation = operation::operation(&types, &comments, method, binding, index);
            let verb = binding.verb.as_str().to_lowercase();
            paths.entry(operation::path(schema, method, binding)).or_default().insert(verb, operation);
        }
        let service = method.descriptor.parent_service();
        if !tags.iter().any(|tag: &Value| tag["name"] == service.name()) {
            tags.push(json!({ "name": service.name(), "description": comments.of_service(service) }));
        }
    }
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "NullSpend",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "Budgets, keys and cost events of agents. The same methods answer over gRPC, with reflection. \
                64-bit numbers are JSON numbers, except nano-dollars, which are decimal strings; absent values are null; \
                times are ISO-8601 in UTC with milliseconds.",
        },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": types.components(),
            "securitySchemes": {
                "key": { "type": "apiKey", "in": "header", "name": "X-NullSpend-Key" },
            },
        },
    });
    // A JSON value always serialises.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed() -> Value {
        serde_json::from_str(&openapi_json().unwrap()).unwrap()
    }

    #[test]
    fn every_binding_is_documented() {
        let document = parsed();
        let schema = Schema::load().unwrap();
        let documented: usize =
            document["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(documented, schema.methods.iter().map(|method| method.bindings.len()).sum::<usize>());
        let mut ids: Vec<_> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count, "operation ids must be unique");
    }

    #[test]
    fn every_reference_exists() {
        fn walk(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        found.push(reference.clone());
                    }
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = parsed();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn shapes_are_those_of_the_gateway() {
        let document = parsed();
        let event = &document["components"]["schemas"]["CostEvent"];
        assert_eq!(event["properties"]["costNanodollars"]["type"], "string");
        assert_eq!(event["properties"]["costMicrodollars"], json!({ "type": "integer", "format": "int64" }));
        assert_eq!(event["properties"]["traceId"]["type"], json!(["string", "null"]));
        assert_eq!(event["properties"]["source"]["enum"], json!(["proxy", "api", "mcp", "adjustment", null]));
        let create = &document["components"]["schemas"]["CreateKeyRequest"];
        assert_eq!(create["required"], json!(["name"]));
        assert_eq!(create["properties"]["name"]["description"], "1 to 50 characters after trimming.");
        let update = &document["components"]["schemas"]["UpdateKeyRequest"];
        assert!(update["properties"].get("clear").is_none() && update["properties"].get("id").is_none());
        let operation = &document["paths"]["/api/keys"]["post"];
        assert_eq!(operation["security"], json!([{ "key": [] }]));
        assert!(operation["responses"].get("201").is_some() && operation["responses"].get("403").is_some());
        assert_eq!(document["paths"]["/api/health"]["get"]["security"], json!([]));
    }
}
