//! Every field kind, in and out: golden answers, and a property test of the wire writer against a plain one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use proptest::prelude::*;
use prost_reflect::{DynamicMessage, MapKey, MessageDescriptor, ReflectMessage, Value as Proto};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use super::{issue::Issues, json as text, read::Reader};
use crate::schema::{FieldShape, Kind, Label, MessageShape, Schema, time, write::Writer};
use prost::Message as _;

const PROTO: &str = r#"
syntax = "proto3";
package nullspend.v1;
import "google/protobuf/timestamp.proto";
import "google/api/annotations.proto";
import "nullspend/v1/common.proto";
import "nullspend/v1/options.proto";
import "nullspend/v1/keys.proto";

service KindsService {
  rpc Echo(Kinds) returns (Kinds) {
    option (google.api.http) = {post: "/api/kinds" body: "*"};
    option (access) = {public: true};
  }
}
enum Colour { COLOUR_UNSPECIFIED = 0; COLOUR_DARK_RED = 1; COLOUR_BLUE = 2; }
message Kinds {
  string zeta = 20;
  bool flag = 1;
  int32 small = 2;
  uint32 small_positive = 3;
  int64 big = 4;
  uint64 big_positive = 5;
  int64 exact = 6 [(json_string) = true];
  float single = 7;
  double twice = 8;
  Colour colour = 9;
  optional string maybe_text = 10;
  optional int64 maybe_big = 11;
  google.protobuf.Timestamp at = 12;
  repeated string texts = 13;
  repeated int32 numbers = 14;
  repeated Kinds kinds = 15;
  map<string, string> tags = 16;
  map<string, int64> counts = 17;
  map<string, Kinds> by_name = 18;
  optional StringList models = 19;
  optional TagMap tag_map = 21;
  oneof either { string left = 22; int64 right = 23; }
  int32 hidden_zero = 24 [(omit_default) = true];
  string named = 25 [json_name = "snake_named"];
  repeated Colour colours = 26;
  repeated google.protobuf.Timestamp times = 27;
  repeated double doubles = 28;
}
"#;

static SCHEMA: LazyLock<Schema> = LazyLock::new(schema);

fn schema() -> Schema {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut resolver = protox::file::ChainFileResolver::new();
    resolver.add(Virtual);
    resolver.add(protox::file::IncludeFileResolver::new(dir.into()));
    resolver.add(protox::file::GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("kinds.proto").unwrap();
    Schema::from_descriptors(&compiler.encode_file_descriptor_set()).unwrap()
}

struct Virtual;

impl protox::file::FileResolver for Virtual {
    fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
        if name == "kinds.proto" {
            protox::file::File::from_source(name, PROTO)
        } else {
            Err(protox::Error::file_not_found(name))
        }
    }
}

fn kinds(schema: &Schema) -> (usize, MessageDescriptor) {
    let method = schema.method("/nullspend.v1.KindsService/Echo").unwrap();
    (method.input, method.descriptor.input())
}

fn read(schema: &Schema, json: &str) -> Result<DynamicMessage, Vec<(String, String)>> {
    let (id, descriptor) = kinds(schema);
    let mut message = DynamicMessage::new(descriptor);
    let mut reader = Reader { shapes: &schema.shapes, issues: Issues::default(), ignore_unknown: false };
    reader.object(id, &text::parse(json.as_bytes()).unwrap(), &mut message, &[]);
    reader.issues.into_result().map(|()| message).map_err(|issues| {
        issues.into_iter().map(|i| (serde_json::to_string(&i.path).unwrap(), i.message)).collect()
    })
}

fn write(schema: &Schema, bytes: &[u8]) -> String {
    let (id, _) = kinds(schema);
    String::from_utf8(Writer { shapes: &schema.shapes }.write(id, bytes, None).unwrap()).unwrap()
}

#[test]
fn an_empty_message_shows_every_field() {
    let expected = concat!(
        r#"{"zeta":"","flag":false,"small":0,"smallPositive":0,"big":0,"bigPositive":0,"exact":"0","single":0,"#,
        r#""twice":0,"colour":null,"maybeText":null,"maybeBig":null,"at":null,"texts":[],"numbers":[],"kinds":[],"#,
        r#""tags":{},"counts":{},"byName":{},"models":null,"tagMap":null,"snake_named":"","colours":[],"times":[],"#,
        r#""doubles":[]}"#
    );
    assert_eq!(write(&SCHEMA, &[]), expected);
}

#[test]
fn values_are_written_exactly() {
    let schema = &*SCHEMA;
    let message = read(
        schema,
        r#"{"flag":true,"small":-7,"smallPositive":4294967295,"big":9007199254740993,"bigPositive":18446744073709551615,
        "exact":"-9223372036854775808","single":0.1,"twice":1e300,"colour":"dark_red","maybeText":"","maybeBig":0,
        "at":"2026-04-12T11:00:00.5+02:00","texts":["ü","\"\n"],"numbers":[3,-1,2e2],"kinds":[{"zeta":"in"}],
        "tags":{"b":"2","a":""},"counts":{"x":0},"models":[],"tagMap":{"k":"v"},"right":0,"hiddenZero":0,
        "colours":["blue","dark_red"],"doubles":[1.0,0.5]}"#,
    )
    .unwrap();
    let written = write(schema, &message.encode_to_vec());
    for part in [
        r#""big":9007199254740993,"bigPositive":18446744073709551615,"exact":"-9223372036854775808","single":0.1,"#,
        r#""twice":1e+300,"colour":"dark_red","maybeText":"","maybeBig":0,"at":"2026-04-12T09:00:00.500Z","#,
        r#""texts":["ü","\"\n"],"numbers":[3,-1,200],"#,
        r#""tags":{"a":"","b":"2"},"counts":{"x":0},"#,
        r#""models":[],"tagMap":{"k":"v"},"right":0,"#,
        r#""colours":["blue","dark_red"],"times":[],"doubles":[1,0.5]"#,
    ] {
        assert!(written.contains(part), "{part}\n{written}");
    }
    assert!(!written.contains("left") && !written.contains("hiddenZero"));
}

#[test]
fn wrong_values_say_what_is_expected() {
    let schema = &*SCHEMA;
    let got = read(
        schema,
        r#"{"flag":"yes","small":2147483648,"smallPositive":-1,"big":1.5,"bigPositive":1e300,"exact":"1x","single":"1",
        "colour":"DARK_RED","at":"noon","texts":{},"numbers":[1,"2"],"kinds":[{"small":true}],"counts":{"n":"1"},
        "models":{"values":[]},"times":[5]}"#,
    )
    .unwrap_err();
    let expected = [
        (r#"["flag"]"#, "must be true or false, not text"),
        (r#"["small"]"#, "must be between -2147483648 and 2147483647"),
        (r#"["smallPositive"]"#, "must be between 0 and 4294967295"),
        (r#"["big"]"#, "must be a whole number"),
        (r#"["bigPositive"]"#, "must be a whole number"),
        (r#"["exact"]"#, "must be a whole number as text"),
        (r#"["single"]"#, "must be a number, not text"),
        (r#"["colour"]"#, "must be one of dark_red, blue"),
        (r#"["at"]"#, "must be a time like 2026-04-12T09:00:00.000Z"),
        (r#"["texts"]"#, "must be an array, not an object"),
        (r#"["numbers",1]"#, "must be a whole number, not text"),
        (r#"["kinds",0,"small"]"#, "must be a whole number, not true or false"),
        (r#"["counts","n"]"#, "must be a whole number, not text"),
        (r#"["models"]"#, "must be an array, not an object"),
        (r#"["times",0]"#, "must be a time as text, not a number"),
    ];
    let expected: Vec<_> =
        expected.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
    assert_eq!(got, expected);
}

#[test]
fn pieces_of_a_message_are_put_together_and_broken_bytes_refused() {
    let schema = &*SCHEMA;
    // Field 12 (`at`) twice: seconds in the first piece, nanos in the second.
    let split = write(schema, b"\x62\x02\x08\x01\x62\x05\x10\xc0\x96\xb1\x02");
    assert!(split.contains(r#""at":"1970-01-01T00:00:01.005Z""#), "{split}");
    let (id, _) = kinds(schema);
    let writer = Writer { shapes: &schema.shapes };
    for broken in
        [&b"\x0a"[..], b"\x0a\x05ab", b"\x08", b"\x0b", b"\xa2\x01\x01\xff", b"\x00\x01", b"\x61\x01"]
    {
        assert!(writer.write(id, broken, None).is_err(), "{broken:?}");
    }
}

/// A random message; times are whole milliseconds, enums are never zero, floats are finite, so that reading back what
/// was written must give the same message.
fn random(rng: &mut StdRng, shape: &MessageShape, schema: &Schema, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(shape.descriptor.clone());
    let mut in_oneof = false;
    for field in &shape.fields {
        let count = rng.random_range(0..3);
        let value = match field.label {
            Label::List => {
                Some(Proto::List((0..count).filter_map(|_| value(rng, field, schema, depth)).collect()))
            }
            Label::Map => {
                let entries = (0..count).filter_map(|i| {
                    Some((
                        MapKey::String(format!("k{i}{}", rng.random_range(0..9))),
                        value(rng, field, schema, depth)?,
                    ))
                });
                Some(Proto::Map(entries.collect::<HashMap<_, _>>()))
            }
            Label::OneOf if in_oneof => None,
            Label::OneOf | Label::Single { .. } => {
                rng.random_bool(0.7).then(|| value(rng, field, schema, depth)).flatten()
            }
        };
        if let Some(value) = value {
            in_oneof |= field.label == Label::OneOf;
            message.set_field(&field.descriptor, value);
        }
    }
    message
}

fn value(rng: &mut StdRng, field: &FieldShape, schema: &Schema, depth: usize) -> Option<Proto> {
    let edge = rng.random_range(0..4);
    Some(match &field.kind {
        Kind::Bool => Proto::Bool(rng.random()),
        Kind::Text => Proto::String(["", "plain", "\"\\\u{7f}\n", "ü漢🦀"][edge].to_owned()),
        Kind::Int32 => Proto::I32([0, i32::MIN, i32::MAX, rng.random()][edge]),
        Kind::Uint32 => Proto::U32([0, 1, u32::MAX, rng.random()][edge]),
        Kind::Int64 => Proto::I64([0, i64::MIN, i64::MAX, rng.random()][edge]),
        Kind::Uint64 => Proto::U64([0, 1, u64::MAX, rng.random()][edge]),
        Kind::Float => Proto::F32([0.0, 0.1, f32::MAX, f32::MIN_POSITIVE][edge]),
        Kind::Double => Proto::F64([0.0, 0.1, f64::MAX, 9_007_199_254_740_993.0][edge]),
        Kind::Enum(_) => Proto::EnumNumber(rng.random_range(1..3)),
        Kind::Time => {
            let time = prost_types::Timestamp {
                seconds: rng.random_range(-62_000_000_000..253_000_000_000),
                nanos: rng.random_range(0..1000) * 1_000_000,
            };
            super::read::timestamp(&field.descriptor, &time)?
        }
        Kind::Message(_) if depth == 0 => return None,
        Kind::Message(id) => Proto::Message(random(rng, schema.shapes.get(*id), schema, depth - 1)),
    })
}

/// The obvious writer, to compare with.
fn plain(message: &DynamicMessage, shape: &MessageShape, schema: &Schema) -> Value {
    if shape.transparent {
        return plain_field(message, &shape.fields[0], schema);
    }
    let mut object = BTreeMap::new();
    for field in &shape.fields {
        let absent = !message.has_field(&field.descriptor);
        if absent && (field.omit_default || field.label == Label::OneOf) {
            continue;
        }
        object.insert(field.json_name.clone(), plain_field(message, field, schema));
    }
    json!(object)
}

fn plain_field(message: &DynamicMessage, field: &FieldShape, schema: &Schema) -> Value {
    let value = message.get_field(&field.descriptor);
    match field.label {
        Label::List => {
            value.as_list().unwrap().iter().map(|value| plain_value(value, field, schema)).collect()
        }
        Label::Map => {
            let entries = value.as_map().unwrap().iter();
            json!(
                entries
                    .map(|(key, value)| (key.as_str().unwrap().to_owned(), plain_value(value, field, schema)))
                    .collect::<BTreeMap<_, _>>()
            )
        }
        Label::Single { presence: true } if !message.has_field(&field.descriptor) => Value::Null,
        _ => plain_value(&value, field, schema),
    }
}

fn plain_value(value: &Proto, field: &FieldShape, schema: &Schema) -> Value {
    match (&field.kind, value) {
        (_, Proto::Bool(value)) => json!(value),
        (_, Proto::String(value)) => json!(value),
        (_, Proto::I32(value)) => json!(value),
        (_, Proto::U32(value)) => json!(value),
        (_, Proto::I64(value)) if field.json_string => json!(value.to_string()),
        (_, Proto::I64(value)) => json!(value),
        (_, Proto::U64(value)) => json!(value),
        (_, Proto::F32(value)) => whole(value.to_string().parse().unwrap()),
        (_, Proto::F64(value)) => whole(*value),
        (Kind::Enum(words), Proto::EnumNumber(number)) => json!(words.word(*number)),
        (Kind::Time, Proto::Message(time)) => {
            json!(time::format(&time.transcode_to::<prost_types::Timestamp>().unwrap()))
        }
        (Kind::Message(id), Proto::Message(message)) => plain(message, schema.shapes.get(*id), schema),
        _ => panic!("{value:?} in {}", message_name(field)),
    }
}

fn message_name(field: &FieldShape) -> &str {
    field.descriptor.full_name()
}

fn whole(value: f64) -> Value {
    let integral = value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0;
    if integral { json!(value as i64) } else { json!(value) }
}

proptest! {
    #[test]
    fn the_wire_writer_agrees_with_the_plain_one_and_reads_back(seed in any::<u64>()) {
        let schema = &*SCHEMA;
        let (id, _) = kinds(schema);
        let shape = schema.shapes.get(id);
        let message = random(&mut StdRng::seed_from_u64(seed), shape, schema, 2);
        let written = write(schema, &message.encode_to_vec());
        let parsed: Value = serde_json::from_str(&written).unwrap();
        prop_assert_eq!(&parsed, &plain(&message, shape, schema));
        let back = read(schema, &written).unwrap();
        prop_assert_eq!(back.descriptor(), message.descriptor());
        prop_assert_eq!(plain(&back, shape, schema), parsed);
    }

    #[test]
    fn no_bytes_make_the_writer_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let schema = &*SCHEMA;
        let (id, _) = kinds(schema);
        let writer = Writer { shapes: &schema.shapes };
        if let Ok(written) = writer.write(id, &bytes, None) {
            prop_assert!(serde_json::from_slice::<Value>(&written).is_ok());
        }
    }

    #[test]
    fn no_json_makes_the_reader_panic(text in "[\\[\\]{}\":,a-z0-9. \\\\-]{0,80}") {
        let _ = text::parse(text.as_bytes());
    }
}
