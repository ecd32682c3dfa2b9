//! Answers from wire bytes straight into JSON.
//!
//! A decoded dynamic message per row made lists several times dearer than this: the wire is scanned once, and values
//! are written in the order of the proto, with `null` for what is absent.

use std::{borrow::Cow, io::Write as _};

use prost::encoding::{WireType, decode_key, decode_varint};

use super::{FieldShape, Kind, Label, MessageShape, ShapeId, Shapes, time};

/// An answer of our own services that is not what its descriptor says: a bug, never the caller's fault.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The bytes are no protobuf.
    #[error("decoding the answer")]
    Wire(#[from] prost::DecodeError),
    /// A value is longer than its message.
    #[error("the answer is cut short")]
    Truncated,
    /// A field came with another wire type than its own.
    #[error("the answer's field {0} has the wrong wire type")]
    WrongType(String),
    /// A text is not UTF-8.
    #[error("the answer's field {0} is not text")]
    NotText(String),
    /// A time is out of range.
    #[error("the answer's field {0} is no time")]
    NotTime(String),
    /// Messages within messages without end.
    #[error("the answer nests too deep")]
    TooDeep,
    /// Writing JSON.
    #[error("writing the answer")]
    Json(#[from] serde_json::Error),
}

const MAX_DEPTH: usize = 64;

/// One value as it lies on the wire.
#[derive(Clone, Copy, Debug)]
enum Raw<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

/// Writes answers of one API.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) shapes: &'a Shapes,
}

impl<'a> Writer<'a> {
    /// The JSON of a whole message, or of one of its fields (`response_body`).
    pub(crate) fn write(&self, id: ShapeId, bytes: &[u8], only: Option<&str>) -> Result<Vec<u8>, WriteError> {
        let mut out = Vec::with_capacity(bytes.len() * 2 + 64);
        match only {
            None => self.message(id, bytes, &mut out, 0)?,
            Some(name) => {
                let shape = self.shapes.get(id);
                let found = scan(shape, bytes)?;
                if let Some(index) = shape.index_of_proto(name) {
                    self.field(&shape.fields[index], occurrences(&found, index), &mut out, 0)?;
                }
            }
        }
        Ok(out)
    }

    fn message(&self, id: ShapeId, bytes: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<(), WriteError> {
        if depth == MAX_DEPTH {
            return Err(WriteError::TooDeep);
        }
        let shape = self.shapes.get(id);
        let found = scan(shape, bytes)?;
        if shape.transparent {
            return self.field(&shape.fields[0], &found, out, depth);
        }
        out.push(b'{');
        let mut rest = found.as_slice();
        let mut first = true;
        for (index, field) in shape.fields.iter().enumerate() {
            let count = rest.iter().take_while(|(at, _)| *at == index).count();
            let (values, later) = rest.split_at(count);
            rest = later;
            if is_left_out(field, values) {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            text(&field.json_name, out)?;
            out.push(b':');
            self.field(field, values, out, depth)?;
        }
        out.push(b'}');
        Ok(())
    }

    fn field(
        &self,
        field: &FieldShape,
        values: &[(usize, Raw<'_>)],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WriteError> {
        match (field.label, values) {
            (Label::List, _) => self.list(field, values, out, depth),
            (Label::Map, _) => self.map(field, values, out, depth),
            (Label::Single { presence: false }, []) => {
                let zero = match field.kind {
                    Kind::Text => Raw::Bytes(b""),
                    Kind::Float => Raw::Fixed32([0; 4]),
                    Kind::Double => Raw::Fixed64([0; 8]),
                    _ => Raw::Varint(0),
                };
                self.value(field, zero, out, depth)
            }
            (_, []) => null(out),
            // Several occurrences of a message field are one message in pieces; of a scalar, the last counts.
            (_, [.., (_, last)]) => match (&field.kind, *last) {
                (Kind::Message(_) | Kind::Time, Raw::Bytes(_)) => {
                    self.value(field, Raw::Bytes(&joined(values)), out, depth)
                }
                (_, last) => self.value(field, last, out, depth),
            },
        }
    }

    fn list(
        &self,
        field: &FieldShape,
        values: &[(usize, Raw<'_>)],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WriteError> {
        out.push(b'[');
        let start = out.len();
        for (_, raw) in values {
            match raw {
                Raw::Bytes(packed) if !matches!(field.kind, Kind::Text | Kind::Time | Kind::Message(_)) => {
                    let mut rest = *packed;
                    while !rest.is_empty() {
                        let raw = packed_value(&field.kind, &mut rest)
                            .ok_or_else(|| WriteError::WrongType(field.json_name.clone()))?;
                        separate(start, out);
                        self.value(field, raw, out, depth)?;
                    }
                }
                raw => {
                    separate(start, out);
                    self.value(field, *raw, out, depth)?;
                }
            }
        }
        out.push(b']');
        Ok(())
    }

    /// Keys come sorted, so that equal answers are equal bytes; of equal keys the last counts.
    fn map(
        &self,
        field: &FieldShape,
        values: &[(usize, Raw<'_>)],
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WriteError> {
        let mut entries: Vec<(&str, Option<Raw<'_>>)> = Vec::with_capacity(values.len());
        for (_, raw) in values {
            let Raw::Bytes(entry) = raw else { return Err(WriteError::WrongType(field.json_name.clone())) };
            let (mut key, mut value) = ("", None);
            fields_of(entry, |number, raw| {
                match (number, raw) {
                    (1, Raw::Bytes(bytes)) => {
                        key = std::str::from_utf8(bytes)
                            .map_err(|_| WriteError::NotText(field.json_name.clone()))?;
                    }
                    (2, raw) => value = Some(raw),
                    _ => {}
                }
                Ok(())
            })?;
            entries.push((key, value));
        }
        entries.sort_by(|a, b| a.0.cmp(b.0));
        out.push(b'{');
        let start = out.len();
        for (index, (key, value)) in entries.iter().enumerate() {
            if entries.get(index + 1).is_some_and(|next| next.0 == *key) {
                continue;
            }
            separate(start, out);
            text(key, out)?;
            out.push(b':');
            match (value, &field.kind) {
                (Some(raw), _) => self.value(field, *raw, out, depth)?,
                (None, Kind::Text | Kind::Message(_) | Kind::Time) => {
                    self.value(field, Raw::Bytes(b""), out, depth)?;
                }
                (None, Kind::Float) => self.value(field, Raw::Fixed32([0; 4]), out, depth)?,
                (None, Kind::Double) => self.value(field, Raw::Fixed64([0; 8]), out, depth)?,
                (None, _) => self.value(field, Raw::Varint(0), out, depth)?,
            }
        }
        out.push(b'}');
        Ok(())
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "protobuf varints are defined so"
    )]
    fn value(
        &self,
        field: &FieldShape,
        raw: Raw<'_>,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), WriteError> {
        match (&field.kind, raw) {
            (Kind::Bool, Raw::Varint(value)) => {
                out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
                Ok(())
            }
            (Kind::Int32, Raw::Varint(value)) => number(field, value as i32, out),
            (Kind::Uint32, Raw::Varint(value)) => number(field, value as u32, out),
            (Kind::Int64, Raw::Varint(value)) => number(field, value as i64, out),
            (Kind::Uint64, Raw::Varint(value)) => number(field, value, out),
            (Kind::Float, Raw::Fixed32(bytes)) => {
                // By way of its shortest text, so that 0.1 stays 0.1.
                let value = f32::from_le_bytes(bytes);
                float(value.to_string().parse().unwrap_or_else(|_| value.into()), out)
            }
            (Kind::Double, Raw::Fixed64(bytes)) => float(f64::from_le_bytes(bytes), out),
            (Kind::Enum(words), Raw::Varint(value)) => match (value as i32, words.word(value as i32)) {
                (_, Some(word)) => text(word, out),
                (0, None) => null(out),
                // A word that this gateway's descriptors do not have yet.
                (unknown, None) => number(field, unknown, out),
            },
            (Kind::Text, Raw::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                Ok(value) => text(value, out),
                Err(_) => Err(WriteError::NotText(field.json_name.clone())),
            },
            (Kind::Time, Raw::Bytes(bytes)) => {
                let value: prost_types::Timestamp = prost::Message::decode(bytes)?;
                let value =
                    time::format(&value).ok_or_else(|| WriteError::NotTime(field.json_name.clone()))?;
                text(&value, out)
            }
            (Kind::Message(id), Raw::Bytes(bytes)) => self.message(*id, bytes, out, depth + 1),
            _ => Err(WriteError::WrongType(field.json_name.clone())),
        }
    }
}

/// Unset members of a oneof never show; zero values do not where the proto says so.
fn is_left_out(field: &FieldShape, values: &[(usize, Raw<'_>)]) -> bool {
    match (field.label, values) {
        (Label::OneOf, []) => true,
        (Label::Single { .. } | Label::List | Label::Map, []) => field.omit_default,
        (Label::Single { presence: false }, [.., (_, Raw::Varint(0) | Raw::Bytes([]))]) => {
            field.omit_default && !matches!(field.kind, Kind::Message(_) | Kind::Time)
        }
        _ => false,
    }
}

/// The values of the known fields, by index in the shape, each field's in wire order.
fn scan<'a>(shape: &MessageShape, bytes: &'a [u8]) -> Result<Vec<(usize, Raw<'a>)>, WriteError> {
    let mut found = Vec::with_capacity(shape.fields.len());
    fields_of(bytes, |number, raw| {
        if let Some(index) = shape.index_of(number) {
            found.push((index, raw));
        }
        Ok(())
    })?;
    // Mostly sorted already, because encoders write in order of number.
    found.sort_by_key(|(index, _)| *index);
    Ok(found)
}

fn occurrences<'s, 'a>(found: &'s [(usize, Raw<'a>)], index: usize) -> &'s [(usize, Raw<'a>)] {
    let start = found.partition_point(|(at, _)| *at < index);
    let end = found.partition_point(|(at, _)| *at <= index);
    &found[start..end]
}

/// Calls `each` for every field of a message.
fn fields_of<'a>(
    mut bytes: &'a [u8],
    mut each: impl FnMut(u32, Raw<'a>) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    while !bytes.is_empty() {
        let (number, wire_type) = decode_key(&mut bytes)?;
        let raw = match wire_type {
            WireType::Varint => Raw::Varint(decode_varint(&mut bytes)?),
            WireType::ThirtyTwoBit => Raw::Fixed32(fixed(&mut bytes)?),
            WireType::SixtyFourBit => Raw::Fixed64(fixed(&mut bytes)?),
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
                let (value, rest) = bytes.split_at_checked(length).ok_or(WriteError::Truncated)?;
                bytes = rest;
                Raw::Bytes(value)
            }
            WireType::StartGroup | WireType::EndGroup => {
                return Err(WriteError::WrongType("(group)".to_owned()));
            }
        };
        each(number, raw)?;
    }
    Ok(())
}

fn fixed<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], WriteError> {
    let (value, rest) = bytes.split_first_chunk::<N>().ok_or(WriteError::Truncated)?;
    *bytes = rest;
    Ok(*value)
}

fn packed_value<'a>(kind: &Kind, rest: &mut &'a [u8]) -> Option<Raw<'a>> {
    match kind {
        Kind::Float => fixed(rest).ok().map(Raw::Fixed32),
        Kind::Double => fixed(rest).ok().map(Raw::Fixed64),
        _ => decode_varint(rest).ok().map(Raw::Varint),
    }
}

fn joined<'a>(values: &[(usize, Raw<'a>)]) -> Cow<'a, [u8]> {
    if let [(_, Raw::Bytes(bytes))] = values {
        return Cow::Borrowed(bytes);
    }
    let mut whole = Vec::new();
    for (_, raw) in values {
        if let Raw::Bytes(bytes) = raw {
            whole.extend_from_slice(bytes);
        }
    }
    Cow::Owned(whole)
}

fn separate(start: usize, out: &mut Vec<u8>) {
    if out.len() > start {
        out.push(b',');
    }
}

fn null(out: &mut Vec<u8>) -> Result<(), WriteError> {
    out.extend_from_slice(b"null");
    Ok(())
}

fn text(value: &str, out: &mut Vec<u8>) -> Result<(), WriteError> {
    Ok(serde_json::to_writer(out, value)?)
}

fn number(field: &FieldShape, value: impl std::fmt::Display, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let quote = if field.json_string { "\"" } else { "" };
    write!(out, "{quote}{value}{quote}").map_err(|error| WriteError::Json(serde_json::Error::io(error)))
}

/// Whole doubles below 2^53 are written without `.0`, as every JavaScript client would.
fn float(value: f64, out: &mut Vec<u8>) -> Result<(), WriteError> {
    #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
    if value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
        return Ok(serde_json::to_writer(out, &(value as i64))?);
    }
    Ok(serde_json::to_writer(out, &value)?)
}
