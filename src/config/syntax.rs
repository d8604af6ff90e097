//! Owns: errors about text that is not TOML, and reading the rest of the file anyway.
//! Invariant: every byte keeps its position, and no readable part is lost.
//! Must not know: the keys.

use std::ops::Range;

use toml::de::DeTable;

use super::report::Notes;
use super::values::{clipped, shown};

/// The number of lines with a key without a value that are skipped.
const MAX_BLANKED: usize = 100;

/// Notes what isn't TOML, and returns the text with spaces in its place.
pub(super) fn readable(text: &str, notes: &Notes<'_>) -> String {
    let mut text = text.to_owned();
    for _ in 0..MAX_BLANKED {
        let (_, errors) = DeTable::parse_recoverable(&text);
        let mut end_of_reading = None;
        for error in errors {
            let span = error.span().unwrap_or_default();
            let line = notes.line_of(span.start);
            let (span, problem, remedy) = describe(error.message(), &text, span);
            notes.broken(line..end_of(line, &text, notes), &span, problem, remedy);
            // The parser stops at a key without a value.
            if error.message().starts_with("key with no value") {
                end_of_reading = end_of_reading.or(Some(line));
            }
        }
        let Some(line) = end_of_reading else { break };
        blank(&mut text, notes.line(line));
    }
    text
}

/// Returns the line after the last that is unreadable because of `line`: after a broken section header, the section of
/// its keys is unknown.
fn end_of(line: usize, text: &str, notes: &Notes<'_>) -> usize {
    let starts_section = |line| text.get(notes.line(line)).is_some_and(|line: &str| line.trim_start().starts_with('['));
    let last = notes.line_of(text.len());
    if starts_section(line) {
        (line + 1..=last).find(|line| starts_section(*line)).unwrap_or(last + 1)
    } else {
        line + 1
    }
}

fn blank(text: &mut String, range: Range<usize>) {
    if let Some(line) = text.get(range.clone()) {
        let blanks: String = line.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        text.replace_range(range, &blanks);
    }
}

/// Returns the TOML parser's message, where it helps, and the remedy.
fn describe(message: &str, text: &str, span: Range<usize>) -> (Range<usize>, String, String) {
    const NO_VALUE: &str = "a key without a value";
    const BARE: [&str; 4] = ["string values must be quoted", "invalid boolean", "invalid float", "invalid integer"];
    let found = text.get(span.clone()).unwrap_or_default();
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let (what, remedy) = match what {
        "duplicate key" => (format!("{} appears twice", shown(found)), "keep one of the two".into()),
        "key with no value" => (NO_VALUE.into(), "write key = value".into()),
        _ if BARE.contains(&what) && found.is_empty() => (NO_VALUE.into(), "write a value".into()),
        _ if BARE.contains(&what) => {
            let span = whole_word(text, &span);
            let word = text.get(span.clone()).unwrap_or_default();
            if may_be_secret(text, span.start) {
                return (span, "not TOML: the value needs quotes".into(), "put it in quotes".into());
            }
            let problem = format!("not TOML: `{}` needs quotes", clipped(word));
            return (span, problem, format!("write {}", shown(word)));
        }
        _ if expected.is_empty() || expected == "nothing" => (what.into(), "see https://toml.io for the syntax".into()),
        _ => (what.into(), format!("expected here: {expected}")),
    };
    (span, format!("not TOML: {what}"), remedy)
}

/// Returns whether a value that begins at `start` may be a store's address with a password, or a header field with a
/// token: a reload logs the finding. In a text that is not TOML, only the words around the value can say so.
fn may_be_secret(text: &str, start: usize) -> bool {
    let before = text.get(..start).unwrap_or_default();
    let (above, line) = before.rsplit_once('\n').unwrap_or(("", before));
    let section = above.lines().rev().find(|line| line.trim_start().starts_with('[')).unwrap_or_default();
    line.contains("store") || [line, section].iter().any(|place| place.contains("_headers"))
}

/// Returns the word that ends with `span`: the parser may have taken its start for a number.
fn whole_word(text: &str, span: &Range<usize>) -> Range<usize> {
    let before = text.get(..span.start).unwrap_or_default();
    let is_outside = |c: char| c.is_whitespace() || "=[,{".contains(c);
    let start = before.char_indices().rev().find(|(_, c)| is_outside(*c)).map_or(0, |(at, c)| at + c.len_utf8());
    start..span.end
}
