//! JSON into request messages, collecting every issue instead of stopping at the first.
//!
//! JSON `null` means "not given" everywhere, so that what an answer shows can be sent back; where the request has a
//! `clear` list, the names of the fields given as `null` go there, so that a method can tell both apart.

use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, Value};

use super::{
    issue::{Issues, Step},
    json::Json,
};
use crate::schema::{FieldShape, Kind, Label, MessageShape, ShapeId, Shapes, time};

/// Largest whole number that a JSON number with a decimal point or exponent carries exactly.
const EXACT_FLOAT: f64 = 9_007_199_254_740_992.0;

/// Reads request messages of one method.
pub(super) struct Reader<'a> {
    pub(super) shapes: &'a Shapes,
    pub(super) issues: Issues,
    pub(super) ignore_unknown: bool,
}

impl Reader<'_> {
    /// Reads an object into `message`. `given` names fields that the path has already filled: the path wins over the
    /// body, and they count as given.
    pub(super) fn object(&mut self, id: ShapeId, json: &Json, message: &mut DynamicMessage, given: &[usize]) {
        let Json::Object(entries) = json else {
            self.issues.here(format!("must be an object, not {}", json.noun()));
            return;
        };
        let shapes = self.shapes;
        let shape = shapes.get(id);
        let mut seen: HashSet<usize> = given.iter().copied().collect();
        let mut names = HashSet::new();
        let mut cleared = Vec::new();
        for (name, value) in entries {
            if !names.insert(name.as_str()) {
                self.issues.at(name, "is given more than once");
                continue;
            }
            let Some(index) = shape.index_of_json(name) else {
                if !self.ignore_unknown {
                    self.issues.at(name, unknown_field(shape, name));
                }
                continue;
            };
            if given.contains(&index) {
                continue;
            }
            let field = &shape.fields[index];
            if matches!(value, Json::Null) {
                if !field.required {
                    cleared.push(Value::String(name.clone()));
                }
                continue;
            }
            seen.insert(index);
            self.issues_within(name, |reader| reader.field(field, value, message));
        }
        self.missing(shape, &seen);
        if let Some(clear) = shape.clear
            && !cleared.is_empty()
        {
            message.set_field(&shape.fields[clear].descriptor, Value::List(cleared));
        }
    }

    /// Tells of required fields that are not among `seen`.
    pub(super) fn missing(&mut self, shape: &MessageShape, seen: &HashSet<usize>) {
        for (index, field) in shape.fields.iter().enumerate() {
            if field.required && !seen.contains(&index) {
                self.issues.at(&field.json_name, "is required");
            }
        }
    }

    fn issues_within<T>(&mut self, name: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.step(Step::Name(name.to_owned()), read)
    }

    fn step<T>(&mut self, step: Step, read: impl FnOnce(&mut Self) -> T) -> T {
        self.issues.enter(step);
        let result = read(self);
        self.issues.leave();
        result
    }

    /// Reads one field's value into its message.
    pub(super) fn field(&mut self, field: &FieldShape, json: &Json, message: &mut DynamicMessage) {
        let value = match field.label {
            Label::Single { .. } | Label::OneOf => self.value(field, json),
            Label::List => self.list(field, json),
            Label::Map => self.map(field, json),
        };
        if let Some(value) = value {
            message.set_field(&field.descriptor, value);
        }
    }

    fn list(&mut self, field: &FieldShape, json: &Json) -> Option<Value> {
        let Json::List(items) = json else {
            self.issues.here(format!("must be an array, not {}", json.noun()));
            return None;
        };
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in (0_u64..).zip(items) {
            if let Some(value) = self.step(Step::Index(index), |reader| reader.value(field, item)) {
                values.push(value);
            }
        }
        Some(Value::List(values))
    }

    fn map(&mut self, field: &FieldShape, json: &Json) -> Option<Value> {
        let Json::Object(entries) = json else {
            self.issues.here(format!("must be an object, not {}", json.noun()));
            return None;
        };
        let mut values = HashMap::with_capacity(entries.len());
        for (key, item) in entries {
            let value = self.issues_within(key, |reader| {
                if key.contains('\0') {
                    reader.issues.here("must not contain the character U+0000");
                }
                reader.value(field, item)
            });
            let Some(value) = value else { continue };
            if values.insert(MapKey::String(key.clone()), value).is_some() {
                self.issues.at(key, "is given more than once");
            }
        }
        Some(Value::Map(values))
    }

    /// Reads one value of a field's kind.
    fn value(&mut self, field: &FieldShape, json: &Json) -> Option<Value> {
        match (&field.kind, json) {
            (Kind::Bool, Json::Bool(value)) => Some(Value::Bool(*value)),
            (Kind::Text, Json::Text(text)) => self.text(text).map(Value::String),
            (Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Uint64, _) => self.whole(field, json),
            (Kind::Float | Kind::Double, _) => self.float(&field.kind, json),
            (Kind::Enum(words), Json::Text(word)) => {
                let number = words.number(word);
                if number.is_none() {
                    let known: Vec<_> = words.words.iter().map(|(_, word)| word.as_str()).collect();
                    self.issues.here(format!("must be one of {}", known.join(", ")));
                }
                number.map(Value::EnumNumber)
            }
            (Kind::Time, Json::Text(text)) => {
                let value = time::parse(text).and_then(|time| timestamp(&field.descriptor, &time));
                if value.is_none() {
                    self.issues.here("must be a time like 2026-04-12T09:00:00.000Z");
                }
                value
            }
            (Kind::Message(id), _) => self.message(*id, field, json),
            _ => {
                let expected = match &field.kind {
                    Kind::Bool => "true or false",
                    Kind::Time => "a time as text",
                    _ => "text",
                };
                self.issues.here(format!("must be {expected}, not {}", json.noun()));
                None
            }
        }
    }

    fn message(&mut self, id: ShapeId, field: &FieldShape, json: &Json) -> Option<Value> {
        let shapes = self.shapes;
        let shape = shapes.get(id);
        let mut message = empty_value(&field.descriptor)?;
        if shape.transparent {
            self.field(&shape.fields[0], json, &mut message);
        } else {
            self.object(id, json, &mut message, &[]);
        }
        Some(Value::Message(message))
    }

    pub(super) fn text(&mut self, text: &str) -> Option<String> {
        if text.contains('\0') {
            // Databases and logs cut or refuse it; no field needs it.
            self.issues.here("must not contain the character U+0000");
            return None;
        }
        Some(text.to_owned())
    }

    fn whole(&mut self, field: &FieldShape, json: &Json) -> Option<Value> {
        let number = match json {
            Json::Whole(number) => Some(*number),
            #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and within 2^53")]
            Json::Fraction(number) if number.fract() == 0.0 && number.abs() <= EXACT_FLOAT => {
                Some(*number as i128)
            }
            Json::Text(text) if field.json_string => text.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            let expected = if field.json_string { "a whole number as text" } else { "a whole number" };
            match json {
                Json::Fraction(_) => self.issues.here(format!("must be {expected}")),
                Json::Text(_) if field.json_string => self.issues.here(format!("must be {expected}")),
                _ => self.issues.here(format!("must be {expected}, not {}", json.noun())),
            }
            return None;
        };
        let (value, least, most) = match field.kind {
            Kind::Int32 => {
                (i32::try_from(number).ok().map(Value::I32), i128::from(i32::MIN), i128::from(i32::MAX))
            }
            Kind::Uint32 => (u32::try_from(number).ok().map(Value::U32), 0, i128::from(u32::MAX)),
            Kind::Uint64 => (u64::try_from(number).ok().map(Value::U64), 0, i128::from(u64::MAX)),
            _ => (i64::try_from(number).ok().map(Value::I64), i128::from(i64::MIN), i128::from(i64::MAX)),
        };
        if value.is_none() {
            self.issues.here(format!("must be between {least} and {most}"));
        }
        value
    }

    fn float(&mut self, kind: &Kind, json: &Json) -> Option<Value> {
        #[expect(clippy::cast_precision_loss, reason = "a double field holds what a double can")]
        let number = match json {
            Json::Whole(number) => *number as f64,
            Json::Fraction(number) => *number,
            _ => {
                self.issues.here(format!("must be a number, not {}", json.noun()));
                return None;
            }
        };
        #[expect(clippy::cast_possible_truncation, reason = "a float field holds what a float can")]
        Some(if matches!(kind, Kind::Float) { Value::F32(number as f32) } else { Value::F64(number) })
    }
}

fn unknown_field(shape: &MessageShape, name: &str) -> String {
    let lower = name.to_lowercase().replace(['_', '-'], "");
    let similar =
        shape.fields.iter().find(|field| !field.internal && field.json_name.to_lowercase() == lower);
    match similar {
        Some(field) => format!("is not known; did you mean {}?", field.json_name),
        None => "is not known".to_owned(),
    }
}

/// An empty message of a field's type (of the value's type, for a map).
pub(super) fn empty_value(field: &FieldDescriptor) -> Option<DynamicMessage> {
    let kind = field.kind();
    let message = kind.as_message()?;
    if !field.is_map() {
        return Some(DynamicMessage::new(message.clone()));
    }
    message.map_entry_value_field().kind().as_message().map(|value| DynamicMessage::new(value.clone()))
}

/// A time as the value of a field.
pub(super) fn timestamp(field: &FieldDescriptor, time: &prost_types::Timestamp) -> Option<Value> {
    let mut message = empty_value(field)?;
    message.set_field_by_name("seconds", Value::I64(time.seconds));
    message.set_field_by_name("nanos", Value::I32(time.nanos));
    Some(Value::Message(message))
}
