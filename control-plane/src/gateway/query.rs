//! Path and query parameters into request messages.

use std::collections::{HashMap, HashSet};

use prost_reflect::{DynamicMessage, MapKey, Value};

use super::{
    issue::Step,
    json::{self, Json},
    read::Reader,
};
use crate::schema::{FieldShape, Kind, Label, MessageShape, ShapeId};

impl Reader<'_> {
    /// Reads the path's values (percent-encoded). Answers the indices of the fields they fill.
    pub(super) fn path(
        &mut self,
        id: ShapeId,
        values: &[(&str, &str)],
        message: &mut DynamicMessage,
    ) -> Vec<usize> {
        let shapes = self.shapes;
        let shape = shapes.get(id);
        let mut given = Vec::new();
        for (name, encoded) in values {
            let Some(index) = shape.index_of_proto(name) else { continue };
            let field = &shape.fields[index];
            given.push(index);
            self.issues.enter(Step::Name(field.json_name.clone()));
            match percent_encoding::percent_decode_str(encoded).decode_utf8() {
                Ok(text) => self.parameter(field, &text, message),
                Err(_) => self.issues.here("must be UTF-8"),
            }
            self.issues.leave();
        }
        given
    }

    /// Reads a query string; fields of `taken` (path and body) are not accepted in it.
    pub(super) fn query(&mut self, id: ShapeId, query: &str, message: &mut DynamicMessage, taken: &[usize]) {
        let shapes = self.shapes;
        let shape = shapes.get(id);
        let mut lists: HashMap<usize, Vec<String>> = HashMap::new();
        let mut maps: HashMap<usize, HashMap<MapKey, Value>> = HashMap::new();
        let mut seen: HashSet<usize> = taken.iter().copied().collect();
        for (name, text) in form_urlencoded::parse(query.as_bytes()) {
            if let Some((index, key)) = prefixed(shape, &name) {
                seen.insert(index);
                self.issues.enter(Step::Name(name.clone().into_owned()));
                let value = self.text(&text);
                if key.is_empty() {
                    self.issues.here("must name a key after the prefix");
                }
                if let Some(value) = value
                    && maps
                        .entry(index)
                        .or_default()
                        .insert(MapKey::String(key.to_owned()), Value::String(value))
                        .is_some()
                {
                    self.issues.here("is given more than once");
                }
                self.issues.leave();
                continue;
            }
            let known = shape.index_of_json(&name).filter(|index| !taken.contains(index));
            let Some(index) = known.filter(|index| shape.fields[*index].label != Label::Map) else {
                if !self.ignore_unknown {
                    self.issues.at(&name, "is not a parameter of this method");
                }
                continue;
            };
            let field = &shape.fields[index];
            if field.label == Label::List {
                seen.insert(index);
                lists.entry(index).or_default().push(text.into_owned());
            } else if seen.insert(index) {
                self.issues.enter(Step::Name(field.json_name.clone()));
                self.parameter(field, &text, message);
                self.issues.leave();
            } else {
                self.issues.at(&field.json_name, "is given more than once");
            }
        }
        for (index, texts) in lists {
            let field = &shape.fields[index];
            let items = texts.iter().map(|text| typed(&field.kind, text)).collect();
            self.issues.enter(Step::Name(field.json_name.clone()));
            self.field(field, &Json::List(items), message);
            self.issues.leave();
        }
        for (index, map) in maps {
            message.set_field(&shape.fields[index].descriptor, Value::Map(map));
        }
        self.missing(shape, &seen);
    }

    /// Refuses the parameters of a method that takes everything from its body.
    pub(super) fn unknown_parameters(&mut self, query: &str) {
        if self.ignore_unknown {
            return;
        }
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            self.issues.at(&name, "is not a parameter of this method; send it in the body");
        }
    }

    fn parameter(&mut self, field: &FieldShape, text: &str, message: &mut DynamicMessage) {
        if matches!(field.kind, Kind::Message(_)) {
            // E.g. `cursor={"createdAt":…,"id":…}`.
            match json::parse(text.as_bytes()) {
                Ok(Json::Null) => {}
                Ok(value) => self.field(field, &value, message),
                Err(error) => self.issues.here(format!("must be a JSON object: {error}")),
            }
            return;
        }
        self.field(field, &typed(&field.kind, text), message);
    }
}

fn prefixed<'n>(shape: &MessageShape, name: &'n str) -> Option<(usize, &'n str)> {
    shape.fields.iter().enumerate().find_map(|(index, field)| {
        let prefix = field.query_prefix.as_deref()?;
        Some((index, name.strip_prefix(prefix)?))
    })
}

/// A parameter's text as the JSON value its field expects; text stays text and is then refused with the usual words.
fn typed(kind: &Kind, text: &str) -> Json {
    let value = match kind {
        Kind::Bool => match text {
            "true" => Some(Json::Bool(true)),
            "false" => Some(Json::Bool(false)),
            _ => None,
        },
        Kind::Int32 | Kind::Uint32 | Kind::Int64 | Kind::Uint64 => text.parse().ok().map(Json::Whole),
        Kind::Float | Kind::Double => {
            text.parse().ok().filter(|number: &f64| number.is_finite()).map(Json::Fraction)
        }
        _ => None,
    };
    value.unwrap_or_else(|| Json::Text(text.to_owned()))
}
