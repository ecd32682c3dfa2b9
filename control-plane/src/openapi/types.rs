//! JSON schemas of messages.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::comments::Comments;
use crate::schema::{BodyRule, FieldShape, Kind, Label, Schema, ShapeId};

/// Which way a message travels: answers carry every field, requests what the caller gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Request,
    Answer,
}

/// The schemas of one API.
pub(super) struct Types<'a> {
    pub(super) schema: &'a Schema,
    comments: &'a Comments,
    requests: HashSet<ShapeId>,
    answers: HashSet<ShapeId>,
}

impl<'a> Types<'a> {
    pub(super) fn new(schema: &'a Schema, comments: &'a Comments) -> Self {
        let mut types = Self { schema, comments, requests: HashSet::new(), answers: HashSet::new() };
        for method in schema.methods.iter().filter(|method| !method.bindings.is_empty()) {
            let mut requests = std::mem::take(&mut types.requests);
            if method.bindings.iter().any(|binding| binding.body != BodyRule::Absent) {
                types.reach(method.input, &mut requests);
            } else {
                // The message itself is spread over path and query; only what its fields refer to needs a schema.
                for field in &schema.shapes.get(method.input).fields {
                    if let Kind::Message(id) = field.kind {
                        types.reach(id, &mut requests);
                    }
                }
            }
            types.requests = requests;
            let mut answers = std::mem::take(&mut types.answers);
            if let Some(output) = method.output {
                types.reach(output, &mut answers);
            }
            types.answers = answers;
        }
        types
    }

    fn reach(&self, id: ShapeId, into: &mut HashSet<ShapeId>) {
        if !into.insert(id) {
            return;
        }
        for field in &self.schema.shapes.get(id).fields {
            if let Kind::Message(inner) = field.kind {
                self.reach(inner, into);
            }
        }
    }

    /// A message that travels both ways has two schemas.
    fn name(&self, id: ShapeId, way: Way) -> String {
        let name = self.schema.shapes.get(id).descriptor.name();
        let both = self.requests.contains(&id) && self.answers.contains(&id);
        if both && way == Way::Request { format!("{name}Input") } else { name.to_owned() }
    }

    /// `components.schemas`.
    pub(super) fn components(&self) -> Value {
        let mut schemas = Map::new();
        for (ids, way) in [(&self.requests, Way::Request), (&self.answers, Way::Answer)] {
            for id in ids.iter().filter(|id| !self.schema.shapes.get(**id).transparent) {
                schemas.insert(self.name(*id, way), self.object(*id, way));
            }
        }
        schemas.insert("Error".to_owned(), error());
        Value::Object(schemas)
    }

    fn object(&self, id: ShapeId, way: Way) -> Value {
        let shape = self.schema.shapes.get(id);
        let in_path = self.path_fields(id);
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in shape.fields.iter().filter(|field| !field.internal) {
            if way == Way::Request && in_path.contains(field.descriptor.name()) {
                continue;
            }
            let nullable = match way {
                Way::Request => shape.clear.is_some() && field.label == (Label::Single { presence: true }),
                Way::Answer => true,
            };
            properties.insert(field.json_name.clone(), self.field(field, way, nullable));
            let present = !field.omit_default && field.label != Label::OneOf;
            if if way == Way::Request { field.required } else { present } {
                required.push(field.json_name.clone());
            }
        }
        let mut object = json!({ "type": "object", "properties": properties });
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        self.describe(&mut object, shape.descriptor.parent_file().name(), shape.descriptor.path());
        object
    }

    /// Fields of a request that the path gives.
    fn path_fields(&self, id: ShapeId) -> HashSet<String> {
        let methods = self.schema.methods.iter().filter(|method| method.input == id);
        let bindings = methods.flat_map(|method| &method.bindings);
        bindings.flat_map(|binding| binding.template.fields().map(str::to_owned)).collect()
    }

    /// The schema of a field, with its comment.
    pub(super) fn field(&self, field: &FieldShape, way: Way, nullable: bool) -> Value {
        let mut schema = match field.label {
            Label::List => json!({ "type": "array", "items": self.value(field, way, false) }),
            Label::Map => json!({ "type": "object", "additionalProperties": self.value(field, way, false) }),
            Label::OneOf => self.value(field, way, false),
            Label::Single { presence } => {
                let unspecified = matches!(field.kind, Kind::Enum(_)) && way == Way::Answer;
                self.value(field, way, nullable && (presence || unspecified))
            }
        };
        self.describe(&mut schema, field.descriptor.parent_file().name(), field.descriptor.path());
        schema
    }

    fn value(&self, field: &FieldShape, way: Way, nullable: bool) -> Value {
        let mut schema = match &field.kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::Text => json!({ "type": "string" }),
            Kind::Int64 | Kind::Uint64 if field.json_string => {
                json!({ "type": "string", "pattern": "^-?[0-9]+$" })
            }
            Kind::Int32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 => json!({ "type": "integer", "format": "int64", "minimum": 0 }),
            Kind::Int64 => json!({ "type": "integer", "format": "int64" }),
            Kind::Uint64 => json!({ "type": "integer", "minimum": 0 }),
            Kind::Float | Kind::Double => json!({ "type": "number" }),
            Kind::Time => json!({ "type": "string", "format": "date-time" }),
            Kind::Enum(words) => {
                let words: Vec<_> = words.words.iter().map(|(_, word)| word).collect();
                json!({ "type": "string", "enum": words })
            }
            Kind::Message(id) => {
                let shape = self.schema.shapes.get(*id);
                if !shape.transparent {
                    let reference =
                        json!({ "$ref": format!("#/components/schemas/{}", self.name(*id, way)) });
                    return if nullable {
                        json!({ "anyOf": [reference, { "type": "null" }] })
                    } else {
                        reference
                    };
                }
                self.field(&shape.fields[0], way, false)
            }
        };
        if nullable {
            schema["type"] = json!([schema["type"], "null"]);
            if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
                words.push(Value::Null);
            }
        }
        schema
    }

    fn describe(&self, schema: &mut Value, file: &str, path: &[i32]) {
        let comment = self.comments.at(file, path);
        if !comment.is_empty() {
            schema["description"] = json!(comment);
        }
    }
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "message", "details"],
            "properties": {
                "code": { "type": "string", "description": "A word for programs, e.g. validation_error." },
                "message": { "type": "string", "description": "A sentence for people that says what to change." },
                "details": {
                    "type": ["object", "null"],
                    "properties": { "issues": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["path", "message"],
                            "properties": {
                                "path": { "type": "array", "items": { "type": ["string", "integer"] } },
                                "message": { "type": "string" },
                            },
                        },
                    } },
                },
            },
        } },
    })
}
