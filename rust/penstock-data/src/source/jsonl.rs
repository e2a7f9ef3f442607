//! One JSON object a line. Only the wanted fields are kept; the rest is parsed over, never built.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::decompress::Plain;
use super::lines::{Lines, Span};
use super::{Compression, Outcome, Record, RecordReader, SourceOptions};
use crate::error::{BadLine, Result};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const MAX_REASON_CHARS: usize = 160;

pub(super) struct JsonLines {
    lines: Lines,
    fields: Fields,
    max_line_bytes: u64,
}

impl JsonLines {
    pub(super) fn open(
        path: &Path,
        compression: Compression,
        options: &SourceOptions,
        position: Arc<AtomicU64>,
    ) -> Result<Self> {
        let input = Plain::open(path, compression, options, position)?;
        let fields = Fields {
            text: options.text_field.clone(),
            source: options.source_field.clone(),
            id: options.id_field.clone(),
        };
        let max_line_bytes = options.max_line_bytes;
        Ok(Self { lines: Lines::new(input, max_line_bytes), fields, max_line_bytes })
    }

    /// The record of a line; `None` for a blank one.
    fn parse(&self, span: Span) -> Option<Outcome> {
        let origin = self.lines.input().origin();
        let Some(range) = span.range else {
            return Some(origin.bad(span.number, span.offset, BadLine::TooLong(self.max_line_bytes)));
        };
        let mut bytes = self.lines.bytes(range);
        let mut offset = span.offset;
        if offset == 0 && bytes.starts_with(BYTE_ORDER_MARK) {
            bytes = &bytes[BYTE_ORDER_MARK.len()..];
            offset = BYTE_ORDER_MARK.len() as u64;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        Some(self.fields.parse(bytes).or_else(|(at, problem)| origin.bad(span.number, offset + at, problem)))
    }
}

impl RecordReader for JsonLines {
    fn next_record(&mut self) -> Result<Option<Outcome>> {
        while let Some(span) = self.lines.advance()? {
            let outcome = self.parse(span);
            if outcome.is_some() {
                return Ok(outcome);
            }
        }
        Ok(None)
    }
}

/// The names of the wanted fields.
struct Fields {
    text: String,
    source: String,
    id: String,
}

#[derive(Clone, Copy)]
enum Field {
    Text,
    Source,
    Id,
    Other,
}

/// A wanted field's value.
enum Value {
    Text(String),
    Integer(String),
    Other(&'static str),
}

/// What one object holds.
#[derive(Default)]
struct Found {
    text: Option<Value>,
    source: Option<Value>,
    id: Option<Value>,
    duplicate: Option<Field>,
}

impl Fields {
    /// The record in a line's bytes, or what is wrong and at which of its bytes.
    fn parse(&self, bytes: &[u8]) -> std::result::Result<Record, (u64, BadLine)> {
        let line = simdutf8::basic::from_utf8(bytes).map_err(|_| {
            let at = std::str::from_utf8(bytes).err().map_or(0, |e| e.valid_up_to());
            (at as u64, BadLine::InvalidUtf8)
        })?;
        let mut json = serde_json::Deserializer::from_str(line);
        let found = self
            .deserialize(&mut json)
            .and_then(|found| json.end().map(|()| found))
            .map_err(|error| (error.column().saturating_sub(1) as u64, explain(&error)))?;
        if let Some(field) = found.duplicate {
            return Err((0, BadLine::DuplicateField(self.name(field).to_owned())));
        }
        let text = match found.text {
            Some(Value::Text(text)) => text,
            Some(Value::Integer(_)) => return Err((0, self.not_text("a number"))),
            Some(Value::Other(kind)) => return Err((0, self.not_text(kind))),
            None => return Err((0, BadLine::MissingText(self.text.clone()))),
        };
        let label = |value| match value {
            Some(Value::Text(label) | Value::Integer(label)) => Some(label),
            Some(Value::Other(_)) | None => None,
        };
        Ok(Record { text, source: label(found.source), id: label(found.id) })
    }

    fn not_text(&self, found: &'static str) -> BadLine {
        BadLine::NotText { field: self.text.clone(), found }
    }

    fn name(&self, field: Field) -> &str {
        match field {
            Field::Text => &self.text,
            Field::Source => &self.source,
            Field::Id => &self.id,
            Field::Other => "",
        }
    }
}

/// serde_json names lone surrogates only in its message.
fn explain(error: &serde_json::Error) -> BadLine {
    let message = error.to_string();
    let of_surrogates = ["surrogate", "unexpected end of hex escape"];
    if error.is_syntax() && of_surrogates.iter().any(|part| message.contains(part)) {
        return BadLine::LoneSurrogate;
    }
    // The line number within one line says nothing, and a string in place of an object is repeated whole.
    let reason = message.rsplit_once(" at line ").map_or(message.as_str(), |(reason, _)| reason);
    BadLine::Json(reason.chars().take(MAX_REASON_CHARS).collect())
}

impl<'de> DeserializeSeed<'de> for &Fields {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Found, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &Fields {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the fields of one document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Found, A::Error> {
        let mut found = Found::default();
        while let Some(field) = map.next_key_seed(FieldName(self))? {
            let slot = match field {
                Field::Text => &mut found.text,
                Field::Source => &mut found.source,
                Field::Id => &mut found.id,
                Field::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value_seed(AnyValue)?).is_some() {
                found.duplicate = Some(field);
            }
        }
        Ok(found)
    }
}

struct FieldName<'f>(&'f Fields);

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Field;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Field, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> std::result::Result<Field, E> {
        let Self(fields) = self;
        Ok(if name == fields.text {
            Field::Text
        } else if name == fields.source {
            Field::Source
        } else if name == fields.id {
            Field::Id
        } else {
            Field::Other
        })
    }
}

struct AnyValue;

impl<'de> DeserializeSeed<'de> for AnyValue {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Value, E> {
        Ok(Value::Integer(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Value, E> {
        Ok(Value::Integer(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Value, E> {
        Ok(Value::Other("true or false"))
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Other("null"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an array"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> std::result::Result<Value, A::Error> {
        while items.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an object"))
    }

    fn visit_none<E: serde::de::Error>(self) -> std::result::Result<Value, E> {
        Err(E::custom("no value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[u8]) -> std::result::Result<Record, (u64, BadLine)> {
        Fields { text: "text".into(), source: "source".into(), id: "id".into() }.parse(line)
    }

    fn reason(line: &[u8]) -> &'static str {
        parse(line).err().map_or("fine", |(_, problem)| problem.reason())
    }

    #[test]
    fn takes_the_wanted_fields_only() {
        let record =
            parse(br#"{"meta":{"a":[1,{"text":"no"}]},"id":17,"text":"a\u00e9\ud83d\ude00\u0000\n","source":"web"}"#)
                .ok()
                .unwrap();
        assert_eq!(record.text, "a\u{e9}\u{1f600}\0\n");
        assert_eq!((record.source.as_deref(), record.id.as_deref()), (Some("web"), Some("17")));
    }

    #[test]
    fn a_message_does_not_repeat_the_line() {
        let line = format!("\"the word surrogate {}\"", "x".repeat(100_000));
        let (_, problem) = parse(line.as_bytes()).err().unwrap();
        assert_eq!(problem.reason(), "bad_json");
        assert!(problem.to_string().len() < 300);
    }

    #[test]
    fn names_each_way_to_be_wrong() {
        let deep = format!(r#"{{"x":{}{},"text":"t"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        for (line, expected) in [
            (&br#"{"text":"fine"}"#[..], "fine"),
            (br#"{"text":"fine","source":null,"id":{"a":1}}"#, "fine"),
            (br#"{"text":"fine"} "#, "fine"),
            (b"{\"text\":\"fine\"}\r", "fine"),
            (deep.as_bytes(), "fine"),
            (br#"{"text":"a\ud800"}"#, "lone_surrogate"),
            (br#"{"text":"a\ud800\n"}"#, "lone_surrogate"),
            (br#"{"text":"a\udc00b"}"#, "lone_surrogate"),
            (b"{\"text\":\"a\xff\"}", "invalid_utf8"),
            (b"\xff\xfe{\x00", "invalid_utf8"),
            (br#"{"text":12}"#, "text_not_string"),
            (br#"{"text":1.5}"#, "text_not_string"),
            (br#"{"text":null}"#, "text_not_string"),
            (br#"{"text":["a"]}"#, "text_not_string"),
            (br#"{"text":{"a":"b"}}"#, "text_not_string"),
            (br#"{"text":true}"#, "text_not_string"),
            (br#"{"txt":"a"}"#, "missing_text"),
            (br#"{}"#, "missing_text"),
            (br#"{"text":"a","text":"b"}"#, "duplicate_field"),
            (br#"{"text":"a","id":1,"id":2}"#, "duplicate_field"),
            (br#"{"text":"a"}{"text":"b"}"#, "bad_json"),
            (br#"[{"text":"a"}]"#, "bad_json"),
            (br#""text""#, "bad_json"),
            (br#"{"text":"a""#, "bad_json"),
            (br#"{"text":"a","n":NaN}"#, "bad_json"),
            (br#"{"text":'a'}"#, "bad_json"),
            (b"{\"text\":\"a\x01\"}", "bad_json"),
            (br#"{"text":"\x"}"#, "bad_json"),
            (br#"hello"#, "bad_json"),
        ] {
            assert_eq!(reason(line), expected, "{}", String::from_utf8_lossy(&line[..line.len().min(60)]));
        }
    }
}
