//! The JSON shape of messages: the one description that the JSON reader, the JSON writer and OpenAPI share.

use std::{collections::HashMap, sync::Arc};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, FieldDescriptor, MessageDescriptor};

use super::SchemaError;

/// Index of a message in [`Shapes`].
pub type ShapeId = usize;

/// What one value is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// Text.
    Text,
    /// `int32`.
    Int32,
    /// `uint32`.
    Uint32,
    /// `int64`; a JSON number, or a decimal string where the field says `json_string`.
    Int64,
    /// `uint64`.
    Uint64,
    /// `float`.
    Float,
    /// `double`.
    Double,
    /// One of a few words.
    Enum(Arc<EnumShape>),
    /// An ISO-8601 time with milliseconds.
    Time,
    /// An object.
    Message(ShapeId),
}

/// How often a field's value occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// Once; `presence` tells absence from the zero value.
    Single {
        /// Absence shows as `null`.
        presence: bool,
    },
    /// A member of a oneof: left out of answers when unset.
    OneOf,
    /// An array.
    List,
    /// An object with free keys.
    Map,
}

/// One field.
#[derive(Clone, Debug)]
pub struct FieldShape {
    /// Number on the wire.
    pub number: u32,
    /// Name in JSON.
    pub json_name: String,
    /// Value (of one element, for lists and maps).
    pub kind: Kind,
    /// How often.
    pub label: Label,
    /// Callers must give it.
    pub required: bool,
    /// A 64-bit number written as a decimal string.
    pub json_string: bool,
    /// Its zero value is left out of answers.
    pub omit_default: bool,
    /// Prefix of the query parameters that fill this map.
    pub query_prefix: Option<String>,
    /// Set by the gateway only, never by JSON (the request's `clear` list).
    pub internal: bool,
    /// The descriptor.
    pub descriptor: FieldDescriptor,
}

/// One message.
#[derive(Clone, Debug)]
pub struct MessageShape {
    /// Fields in the order of the proto.
    pub fields: Vec<FieldShape>,
    /// In JSON the message is the value of its only field: a wrapper that tells absent from empty.
    pub transparent: bool,
    /// Index of the `clear` list, which receives the names of fields given as JSON null.
    pub clear: Option<usize>,
    /// The descriptor.
    pub descriptor: MessageDescriptor,
    by_number: HashMap<u32, usize>,
    by_json_name: HashMap<String, usize>,
}

impl MessageShape {
    /// Index of the field with this number.
    #[must_use]
    pub fn index_of(&self, number: u32) -> Option<usize> {
        self.by_number.get(&number).copied()
    }

    /// Index of the field with this name in JSON.
    #[must_use]
    pub fn index_of_json(&self, name: &str) -> Option<usize> {
        self.by_json_name.get(name).copied().filter(|index| !self.fields[*index].internal)
    }

    /// Index of the field with this name in the proto.
    #[must_use]
    pub fn index_of_proto(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| field.descriptor.name() == name)
    }
}

/// The words of an enum: lower case, without the enum's name.
#[derive(Debug)]
pub struct EnumShape {
    /// Number and word; the zero value `UNSPECIFIED` is not among them, it is `null`.
    pub words: Vec<(i32, String)>,
}

impl EnumShape {
    fn new(descriptor: &prost_reflect::EnumDescriptor) -> Self {
        let prefix = format!("{}_", screaming_snake(descriptor.name()));
        let words = descriptor
            .values()
            .filter(|value| value.number() != 0)
            .map(|value| {
                (value.number(), value.name().strip_prefix(&prefix).unwrap_or(value.name()).to_lowercase())
            })
            .collect();
        Self { words }
    }

    /// The word of a number.
    #[must_use]
    pub fn word(&self, number: i32) -> Option<&str> {
        self.words.iter().find(|(known, _)| *known == number).map(|(_, word)| word.as_str())
    }

    /// The number of a word.
    #[must_use]
    pub fn number(&self, word: &str) -> Option<i32> {
        self.words.iter().find(|(_, known)| known == word).map(|(number, _)| *number)
    }
}

fn screaming_snake(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_ascii_uppercase() && index > 0 {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

/// Whether the message is Google's raw HTTP body.
#[must_use]
pub fn is_http_body(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.api.HttpBody"
}

/// Every message reachable from the API's methods.
#[derive(Debug)]
pub struct Shapes {
    messages: Vec<MessageShape>,
    by_name: HashMap<String, ShapeId>,
    options: FieldOptions,
}

#[derive(Debug)]
struct FieldOptions {
    query_prefix: ExtensionDescriptor,
    required: ExtensionDescriptor,
    json_string: ExtensionDescriptor,
    omit_default: ExtensionDescriptor,
}

impl Shapes {
    /// No shapes yet.
    pub(super) fn new(pool: &DescriptorPool) -> Result<Self, SchemaError> {
        let options = FieldOptions {
            query_prefix: super::extension(pool, "nullspend.v1.query_prefix")?,
            required: super::extension(pool, "nullspend.v1.required")?,
            json_string: super::extension(pool, "nullspend.v1.json_string")?,
            omit_default: super::extension(pool, "nullspend.v1.omit_default")?,
        };
        Ok(Self { messages: Vec::new(), by_name: HashMap::new(), options })
    }

    /// A message's shape.
    #[must_use]
    pub fn get(&self, id: ShapeId) -> &MessageShape {
        &self.messages[id]
    }

    /// All shapes.
    pub fn iter(&self) -> impl Iterator<Item = &MessageShape> {
        self.messages.iter()
    }

    /// Adds a message and all it contains.
    pub(super) fn add(&mut self, message: &MessageDescriptor) -> Result<ShapeId, SchemaError> {
        if let Some(id) = self.by_name.get(message.full_name()) {
            return Ok(*id);
        }
        if message.full_name().starts_with("google.") {
            return Err(SchemaError::rule(
                message.full_name(),
                "the gateway has no JSON form for this message",
            ));
        }
        let id = self.messages.len();
        self.by_name.insert(message.full_name().to_owned(), id);
        self.messages.push(MessageShape {
            fields: Vec::new(),
            transparent: false,
            clear: None,
            descriptor: message.clone(),
            by_number: HashMap::new(),
            by_json_name: HashMap::new(),
        });
        let fields =
            declared_fields(message).map(|field| self.field(&field)).collect::<Result<Vec<_>, _>>()?;
        let shape = &mut self.messages[id];
        shape.by_number = fields.iter().enumerate().map(|(i, field)| (field.number, i)).collect();
        shape.by_json_name =
            fields.iter().enumerate().map(|(i, field)| (field.json_name.clone(), i)).collect();
        shape.transparent = matches!(fields.as_slice(), [only] if only.descriptor.name() == "values"
            && matches!(only.label, Label::List | Label::Map));
        shape.clear = fields.iter().position(|field| field.internal);
        shape.fields = fields;
        Ok(id)
    }

    fn field(&mut self, field: &FieldDescriptor) -> Result<FieldShape, SchemaError> {
        let options = field.options();
        let flag = |extension| options.get_extension(extension).as_bool().unwrap_or(false);
        let required = flag(&self.options.required);
        let json_string = flag(&self.options.json_string);
        let omit_default = flag(&self.options.omit_default);
        let query_prefix =
            options.get_extension(&self.options.query_prefix).as_str().unwrap_or("").to_owned();
        let label = label_of(field);
        let value = match (label, field.kind()) {
            (Label::Map, prost_reflect::Kind::Message(entry)) => {
                if !matches!(entry.map_entry_key_field().kind(), prost_reflect::Kind::String) {
                    return Err(SchemaError::rule(field.full_name(), "map keys must be strings"));
                }
                entry.map_entry_value_field().kind()
            }
            (_, kind) => kind,
        };
        let kind = self.kind(&value, field)?;
        if json_string && !matches!(kind, Kind::Int64 | Kind::Uint64) {
            return Err(SchemaError::rule(field.full_name(), "json_string is for 64-bit numbers"));
        }
        if !query_prefix.is_empty() && label != Label::Map {
            return Err(SchemaError::rule(field.full_name(), "query_prefix is for maps"));
        }
        let internal = field.name() == "clear" && label == Label::List && matches!(kind, Kind::Text);
        Ok(FieldShape {
            number: field.number(),
            json_name: field.json_name().to_owned(),
            kind,
            label,
            required,
            json_string,
            omit_default,
            query_prefix: (!query_prefix.is_empty()).then_some(query_prefix),
            internal,
            descriptor: field.clone(),
        })
    }

    fn kind(&mut self, kind: &prost_reflect::Kind, field: &FieldDescriptor) -> Result<Kind, SchemaError> {
        use prost_reflect::Kind as Proto;
        Ok(match kind {
            Proto::Bool => Kind::Bool,
            Proto::String => Kind::Text,
            Proto::Int32 => Kind::Int32,
            Proto::Uint32 => Kind::Uint32,
            Proto::Int64 => Kind::Int64,
            Proto::Uint64 => Kind::Uint64,
            Proto::Float => Kind::Float,
            Proto::Double => Kind::Double,
            Proto::Enum(descriptor) => Kind::Enum(Arc::new(EnumShape::new(descriptor))),
            Proto::Message(message) if message.full_name() == "google.protobuf.Timestamp" => Kind::Time,
            Proto::Message(message) => Kind::Message(self.add(message)?),
            other => {
                let problem = format!("the gateway has no JSON form for {other:?}");
                return Err(SchemaError::rule(field.full_name(), problem));
            }
        })
    }
}

/// `MessageDescriptor::fields` is ordered by number; JSON follows the proto's own order.
fn declared_fields(message: &MessageDescriptor) -> impl Iterator<Item = FieldDescriptor> + '_ {
    message.descriptor_proto().field.iter().filter_map(|field| {
        let number = u32::try_from(field.number()).ok()?;
        message.get_field(number)
    })
}

fn label_of(field: &FieldDescriptor) -> Label {
    if field.is_map() {
        Label::Map
    } else if field.is_list() {
        Label::List
    } else if field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic()) {
        Label::OneOf
    } else {
        Label::Single { presence: field.supports_presence() }
    }
}
