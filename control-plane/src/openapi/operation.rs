//! One REST address as an OpenAPI operation.

use serde_json::{Map, Value, json};

use super::{
    comments::Comments,
    types::{Types, Way},
};
use crate::schema::{Access, Binding, BodyRule, FieldShape, Kind, Label, Method, Schema, Segment};

/// The path with the JSON names of its fields.
pub(super) fn path(schema: &Schema, method: &Method, binding: &Binding) -> String {
    let shape = schema.shapes.get(method.input);
    let mut path = String::new();
    for segment in &binding.template.segments {
        match segment {
            Segment::Literal(text) => path.extend(["/", text]),
            Segment::Field(name) => {
                let json_name =
                    shape.index_of_proto(name).map_or(name.as_str(), |i| &shape.fields[i].json_name);
                path.extend(["/{", json_name, "}"]);
            }
        }
    }
    path
}

pub(super) fn operation(
    types: &Types<'_>,
    comments: &Comments,
    method: &Method,
    binding: &Binding,
    index: usize,
) -> Value {
    let descriptor = &method.descriptor;
    let comment = comments.at(descriptor.parent_service().parent_file().name(), descriptor.path());
    let mut id = descriptor.name().to_owned();
    if index > 0 {
        // Further addresses of one method.
        id.push_str(&(index + 1).to_string());
    }
    let summary = comment.split_inclusive(". ").next().unwrap_or("").trim_end_matches([' ', '.']);
    let mut operation = json!({
        "operationId": id,
        "tags": [descriptor.parent_service().name()],
        "summary": summary,
        "description": format!("{comment}\n\n{}", access_sentence(method.access)).trim(),
        "security": if method.access == Access::Public { json!([]) } else { json!([{ "key": [] }]) },
        "responses": responses(types, method, binding),
    });
    let parameters = parameters(types, method, binding);
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    let body = match &binding.body {
        BodyRule::Absent => None,
        BodyRule::Whole => Some(reference(types, method)),
        BodyRule::Field(name) => {
            let shape = types.schema.shapes.get(method.input);
            shape.index_of_proto(name).map(|i| types.field(&shape.fields[i], Way::Request, false))
        }
    };
    if let Some(schema) = body {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn reference(types: &Types<'_>, method: &Method) -> Value {
    let name = types.schema.shapes.get(method.input).descriptor.name();
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn access_sentence(access: Access) -> String {
    match access {
        Access::Public => "No credential is needed.".to_owned(),
        Access::Least { role, agent: false } => format!("Needs a key of role {} or above.", role.as_str()),
        Access::Least { role, agent: true } => {
            format!("Needs an agent key, or a key of role {} or above.", role.as_str())
        }
    }
}

fn parameters(types: &Types<'_>, method: &Method, binding: &Binding) -> Vec<Value> {
    let shape = types.schema.shapes.get(method.input);
    let mut parameters = Vec::new();
    for field in shape.fields.iter().filter(|field| !field.internal) {
        let in_path = binding.template.fields().any(|name| name == field.descriptor.name());
        if in_path {
            let schema = types.field(field, Way::Request, false);
            parameters
                .push(json!({ "name": field.json_name, "in": "path", "required": true, "schema": schema }));
        } else if in_query(binding, field) {
            parameters.push(query_parameter(types, field));
        }
    }
    if method.idempotent {
        parameters.push(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
            "description": "Repeats with the same key within 24 hours get the first answer, marked with the header \
                X-Idempotent-Replayed.",
        }));
    }
    parameters
}

fn in_query(binding: &Binding, field: &FieldShape) -> bool {
    match &binding.body {
        BodyRule::Absent => true,
        BodyRule::Whole => false,
        BodyRule::Field(name) => field.descriptor.name() != name,
    }
}

fn query_parameter(types: &Types<'_>, field: &FieldShape) -> Value {
    if let Some(prefix) = &field.query_prefix {
        let description = types.field(field, Way::Request, false)["description"].clone();
        let name = format!("{prefix}<key>");
        return json!({ "name": name, "in": "query", "schema": { "type": "string" }, "description": description });
    }
    let mut schema = types.field(field, Way::Request, false);
    let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
    let mut parameter = json!({ "name": field.json_name, "in": "query", "required": field.required });
    if matches!(field.kind, Kind::Message(_)) && field.label != Label::List {
        parameter["content"] = json!({ "application/json": { "schema": schema } });
    } else {
        parameter["schema"] = schema;
    }
    if let Some(description) = description {
        parameter["description"] = description;
    }
    parameter
}

fn responses(types: &Types<'_>, method: &Method, binding: &Binding) -> Value {
    let mut responses = Map::new();
    let content = match method.output {
        None => json!({ "*/*": {} }),
        Some(output) => {
            let shape = types.schema.shapes.get(output);
            let field = binding.response_body.as_deref().and_then(|name| shape.index_of_proto(name));
            let schema = match field {
                Some(index) => types.field(&shape.fields[index], Way::Answer, true),
                None => json!({ "$ref": format!("#/components/schemas/{}", shape.descriptor.name()) }),
            };
            json!({ "application/json": { "schema": schema } })
        }
    };
    let success = json!({ "description": "Success.", "content": content });
    responses.insert(method.success_status.as_str().to_owned(), success);
    let keyed = method.access != Access::Public;
    let body = binding.body != BodyRule::Absent;
    let failures = [
        (true, "400", "The request is not valid; `details.issues` lists what to change."),
        (keyed, "401", "No API key, or one that is not known."),
        (keyed, "403", "The key's role may not do this."),
        (binding.template.fields().next().is_some(), "404", "There is no such thing in the organisation."),
        (
            method.idempotent,
            "409",
            "The Idempotency-Key was used with another request, or the state forbids it.",
        ),
        (body, "413", "The body is larger than 1 MiB."),
        (body, "415", "The body is not JSON."),
        (true, "503", "Something we depend on does not answer; `Retry-After` says when to try again."),
    ];
    for (applies, status, description) in failures {
        if applies {
            let content =
                json!({ "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } });
            responses.insert(status.to_owned(), json!({ "description": description, "content": content }));
        }
    }
    Value::Object(responses)
}
