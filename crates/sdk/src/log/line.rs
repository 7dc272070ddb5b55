//! One event as one line of JSON, bounded in every part.

use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// The bridge cuts a line at 64 KiB; this leaves room for what it adds.
pub(crate) const LINE_MAX_BYTES: usize = 60 * 1024;

/// One field's text. Several large fields are cut together by [`LINE_MAX_BYTES`].
const TEXT_MAX_BYTES: usize = LINE_MAX_BYTES;

/// A control character is six bytes in JSON, so a message of this many bytes fits whatever it holds.
const CUT_MESSAGE_MAX_BYTES: usize = 8 * 1024;

#[derive(Serialize)]
struct Line<'a> {
    time: &'a str,
    level: &'a str,
    target: &'a str,
    message: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

/// The line of an event, with its newline.
pub(crate) fn encode<S>(event: &Event<'_>, context: &Context<'_, S>) -> Vec<u8>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let mut fields = Fields::default();
    event.record(&mut fields);
    let spans = context.event_scope(event).map(|scope| {
        let described = |span: tracing_subscriber::registry::SpanRef<'_, S>| {
            let mut described = Map::new();
            described.insert("name".to_owned(), span.name().into());
            if let Some(SpanFields(recorded)) = span.extensions().get::<SpanFields>() {
                described.extend(recorded.clone());
            }
            Value::Object(described)
        };
        scope.from_root().map(described).collect()
    });
    let metadata = event.metadata();
    finish(Line {
        time: &now(),
        level: metadata.level().as_str(),
        target: metadata.target(),
        message: &fields.message,
        fields: fields.others,
        spans: spans.unwrap_or_default(),
        truncated: false,
    })
}

/// The line that says how many are missing where it stands.
pub(crate) fn dropped_report(count: u64) -> Vec<u8> {
    format!("{{\"dropped\":{count},\"time\":\"{}\",\"level\":\"WARN\",\"message\":\"log lines dropped\"}}\n", now())
        .into_bytes()
}

/// Keeps a new span's fields with the span.
pub(crate) fn remember<S>(attributes: &Attributes<'_>, id: &Id, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let Some(span) = context.span(id) else { return };
    let mut fields = Fields::default();
    attributes.record(&mut fields);
    span.extensions_mut().replace(SpanFields(fields.all()));
}

/// Adds what was recorded later.
pub(crate) fn record<S>(id: &Id, values: &Record<'_>, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let Some(span) = context.span(id) else { return };
    let mut fields = Fields::default();
    values.record(&mut fields);
    let mut extensions = span.extensions_mut();
    match extensions.get_mut::<SpanFields>() {
        Some(SpanFields(recorded)) => recorded.extend(fields.all()),
        None => {
            extensions.replace(SpanFields(fields.all()));
        }
    }
}

struct SpanFields(Map<String, Value>);

fn finish(line: Line<'_>) -> Vec<u8> {
    let mut encoded = json(&line);
    if encoded.len() >= LINE_MAX_BYTES {
        let mut message = Text::new(CUT_MESSAGE_MAX_BYTES);
        message.push(line.message);
        encoded =
            json(&Line { message: &message.text, fields: Map::new(), spans: Vec::new(), truncated: true, ..line });
    }
    encoded.push(b'\n');
    encoded
}

fn json(line: &Line<'_>) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(256);
    // Writing text and numbers to memory cannot fail; an empty line would be the worst of it.
    drop(serde_json::to_writer(io::Write::by_ref(&mut encoded), line));
    encoded
}

/// RFC 3339 in UTC, in microseconds.
fn now() -> String {
    let mut time = String::with_capacity(32);
    match SystemTime.format_time(&mut Writer::new(&mut time)) {
        Ok(()) => time,
        Err(fmt::Error) => String::new(),
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn insert(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }

    fn insert_text(&mut self, field: &Field, text: Text) {
        if field.name() == "message" {
            self.message = text.text;
        } else {
            self.insert(field, Value::String(text.text));
        }
    }

    fn all(mut self) -> Map<String, Value> {
        if !self.message.is_empty() {
            self.others.insert("message".to_owned(), Value::String(self.message));
        }
        self.others
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Text::new(TEXT_MAX_BYTES);
        match write!(text, "{value:?}") {
            // An error is the text being full, or the value's own; what was written stands.
            Ok(()) | Err(fmt::Error) => self.insert_text(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let mut text = Text::new(TEXT_MAX_BYTES);
        text.push(value);
        self.insert_text(field, text);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value.into());
    }
}

/// A string that takes no more than its bound, cut between characters.
struct Text {
    text: String,
    max_bytes: usize,
}

impl Text {
    fn new(max_bytes: usize) -> Self {
        Self { text: String::new(), max_bytes }
    }

    /// False where it had to be cut.
    fn push(&mut self, more: &str) -> bool {
        let room = self.max_bytes.saturating_sub(self.text.len());
        let taken = more.get(..more.floor_char_boundary(room)).unwrap_or_default();
        self.text.push_str(taken);
        taken.len() == more.len()
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        if self.push(more) { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(message: &'a str, fields: Map<String, Value>) -> Line<'a> {
        Line { time: "t", level: "INFO", target: "x", message, fields, spans: Vec::new(), truncated: false }
    }

    #[test]
    fn a_line_is_one_line_of_json_within_its_bound_whatever_it_holds() {
        for message in [
            "plain".to_owned(),
            "two\nlines \u{1b}[31m \0".to_owned(),
            "\u{1}".repeat(200_000),
            "ü".repeat(50_000),
            "x".repeat(LINE_MAX_BYTES),
        ] {
            let mut fields = Map::new();
            fields.insert("long".to_owned(), message.clone().into());
            let encoded = finish(line(&message, fields));
            assert!(encoded.len() <= LINE_MAX_BYTES + 1, "{}", encoded.len());
            assert_eq!(encoded.iter().filter(|byte| **byte < 0x20).count(), 1, "only the newline at the end");
            let parsed: Value = serde_json::from_slice(&encoded).unwrap();
            assert!(message.starts_with(parsed["message"].as_str().unwrap()));
        }
    }

    #[test]
    fn the_time_is_rfc_3339_in_utc() {
        let time = now();
        assert!(time.ends_with('Z') && time.get(10..11) == Some("T") && time.len() >= 20, "{time}");
    }

    #[test]
    fn text_is_cut_between_characters() {
        let mut text = Text::new(5);
        assert!(write!(text, "üüü").is_err());
        assert_eq!(text.text, "üü");
    }
}
