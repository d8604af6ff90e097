//! Owns: the keys of `[log]` that say what a line of the access log has.
//! Invariant: a field that has no effect is noted; a query is logged only if the file names it.
//! Must not know: how lines are written.

use toml::de::DeValue;

use super::reader::{Spanned, Table};
use super::values::{Value, known, must_be, shown, text, word};
use crate::telemetry::{AccessField, AccessFormat, AccessLayout, LogFormat};

/// The word for all fields of [`AccessField::DEFAULT`].
const DEFAULT: &str = "default";

/// Reads `access_format` and `access_fields`; `format` is that of messages. With `is_traced`, the default fields have the
/// id of the trace.
pub(super) fn layout(table: &Table<'_>, format: LogFormat, is_traced: bool) -> AccessLayout {
    let words = [("text", AccessFormat::Text), ("json", AccessFormat::Json), ("combined", AccessFormat::Combined)];
    let format = table.get("access_format", word(words)).unwrap_or(match format {
        LogFormat::Text => AccessFormat::Text,
        LogFormat::Json => AccessFormat::Json,
    });
    let Some(entries) = table.filled_list("access_fields", |value| entry(value, is_traced)) else {
        return AccessLayout::new(format, default_fields(is_traced));
    };
    if format == AccessFormat::Combined {
        warn_of_fixed_fields(table, &entries, &default_fields(is_traced));
    }
    let mut fields = Vec::new();
    for Spanned { value, span } in &entries {
        for field in value {
            if !fields.contains(field) {
                fields.push(*field);
            } else if let [field] = value[..]
                && !(is_traced && field == AccessField::TraceId)
            {
                // With `[tracing]` it is among the default ones, and the section may have been added later.
                let problem = format!("`{}` is in this list twice", field.as_str());
                table.notes().error(span, problem, "remove one");
            }
        }
    }
    AccessLayout::new(format, fields)
}

/// Returns the fields of a line unless the file names others.
fn default_fields(is_traced: bool) -> Vec<AccessField> {
    let more = is_traced.then_some(AccessField::TraceId);
    AccessField::DEFAULT.into_iter().chain(more).collect()
}

/// Reads one entry: a field, or the word for the default ones.
fn entry(value: &DeValue<'_>, is_traced: bool) -> Value<Vec<AccessField>> {
    let text = text(value)?;
    if text == DEFAULT {
        return Ok(default_fields(is_traced));
    }
    let field = AccessField::ALL.into_iter().find(|field| field.as_str() == text);
    field.map(|field| vec![field]).ok_or_else(|| {
        let names = [DEFAULT].into_iter().chain(AccessField::ALL.into_iter().map(AccessField::as_str));
        must_be("a field of the access log", shown(text), known("fields", text, names))
    })
}

fn warn_of_fixed_fields(table: &Table<'_>, entries: &[Spanned<Vec<AccessField>>], default: &[AccessField]) {
    let added = |entry: &&Spanned<Vec<AccessField>>| entry.value != [AccessField::Query];
    // A file may spell the default out.
    let is_explicit = |entry: &&Spanned<Vec<AccessField>>| entry.value != default;
    if let Some(entry) = entries.iter().filter(is_explicit).find(added) {
        let problem = "this has no effect: the combined format has fixed fields, and of `access_fields` it heeds only \
                       \"query\"";
        table.notes().warn(&entry.span, problem, "remove it, or write access_format = \"json\"");
    }
}
