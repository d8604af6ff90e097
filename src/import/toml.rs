//! Owns: the writer of TOML values, tables and comments.
//! Invariant: no text of a source ends a comment or a string: the output is always valid TOML.
//! Must not know: which keys there are.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::reasons::{FILTER, NAMES, PASSWORDS, RATES};
use super::secret::hidden;

/// A value, written as TOML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value(String);

impl Value {
    pub(super) fn text(text: &str) -> Value {
        let mut written = String::with_capacity(text.len() + 2);
        written.push('"');
        for c in text.chars() {
            match c {
                '"' | '\\' => written.extend(['\\', c]),
                c if c.is_control() => {
                    let _ = write!(written, "\\u{:04X}", u32::from(c));
                }
                c => written.push(c),
            }
        }
        written.push('"');
        Value(written)
    }

    pub(super) fn number(number: u64) -> Value {
        Value(number.to_string())
    }

    pub(super) fn flag(flag: bool) -> Value {
        Value(flag.to_string())
    }

    pub(super) fn duration(duration: Duration) -> Value {
        const DAY: u64 = 24 * 60 * 60;
        // Whole days are written as days: months and years have no fixed length.
        match duration.as_secs() {
            seconds if seconds >= DAY && seconds.is_multiple_of(DAY) => Value::text(&format!("{}d", seconds / DAY)),
            _ => Value::text(&humantime::format_duration(duration).to_string()),
        }
    }

    pub(super) fn size(bytes: u64) -> Value {
        const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let exact = UNITS.into_iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
        Value::text(&exact.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit)))
    }

    pub(super) fn list<'t>(texts: impl IntoIterator<Item = &'t str>) -> Value {
        let texts: Vec<_> = texts.into_iter().map(|text| Value::text(text).0).collect();
        Value(format!("[{}]", texts.join(", ")))
    }

    pub(super) fn inline<'k>(pairs: impl IntoIterator<Item = (&'k str, Value)>) -> Value {
        let pairs: Vec<_> = pairs.into_iter().map(|(key, value)| format!("{key} = {}", value.0)).collect();
        Value(format!("{{ {} }}", pairs.join(", ")))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A line of a table.
#[derive(Debug, Clone)]
enum Line {
    Pair(&'static str, Value),
    Note(Note),
    Remark(String),
}

/// A line of the source that is a comment in the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) why: String,
    /// It has no equivalent, as opposed to needing none.
    pub(super) is_unsupported: bool,
    /// It restricted or limited requests.
    pub(super) is_guard: bool,
    /// It limited a rate or a number of requests of every client.
    pub(super) is_limit: bool,
}

/// A table: keys, values and comments in insertion order.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    lines: Vec<Line>,
    /// The index of each key in `lines`: a table may have many comments, but has few keys.
    keys: Vec<(&'static str, usize)>,
}

impl Table {
    /// Sets a key; replaces its old value.
    pub(super) fn set(&mut self, key: &'static str, value: Value) {
        let pair = Line::Pair(key, value);
        match self.place(key) {
            Some(at) => self.lines[at] = pair,
            None => {
                self.keys.push((key, self.lines.len()));
                self.lines.push(pair);
            }
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        match self.lines.get(self.place(key)?) {
            Some(Line::Pair(_, value)) => Some(value),
            _ => None,
        }
    }

    fn place(&self, key: &str) -> Option<usize> {
        self.keys.iter().find(|(other, _)| *other == key).map(|(_, at)| *at)
    }

    /// Sets a key that several lines share. The first value wins; a different one is noted.
    pub(super) fn share(&mut self, key: &'static str, value: Value, line: usize, text: &str) {
        match self.get(key) {
            Some(other) if *other != value => {
                let why = format!("Linchpin has one `{key}` for all, already set to {}", other.as_str());
                self.unsupported(line, text, why);
            }
            _ => self.set(key, value),
        }
    }

    /// Like [`Table::share`], for a time limit, which is clamped to `limits`.
    pub(super) fn share_time(
        &mut self,
        key: &'static str,
        time: Option<Duration>,
        limits: RangeInclusive<Duration>,
        line: usize,
        text: &str,
    ) {
        match time {
            None => self.unsupported(line, text, "not a duration"),
            Some(Duration::ZERO) if !limits.contains(&Duration::ZERO) => {
                self.unsupported(line, text, format!("Linchpin limits every wait; `{key}` keeps its default"));
            }
            Some(time) => self.share(key, Value::duration(time.clamp(*limits.start(), *limits.end())), line, text),
        }
    }

    /// Appends another table; existing keys keep their values.
    pub(super) fn append(&mut self, other: Table) {
        for line in other.lines {
            match line {
                Line::Pair(key, value) if self.get(key).is_none() => self.set(key, value),
                Line::Pair(..) => {}
                line => self.lines.push(line),
            }
        }
    }

    pub(super) fn note(&mut self, note: Note) {
        self.lines.push(Line::Note(note));
    }

    /// Notes a line without an equivalent, with the reason or what to do.
    pub(super) fn unsupported(&mut self, line: usize, text: &str, why: impl Into<String>) {
        let why = why.into();
        let is_guard = [FILTER, NAMES, PASSWORDS, RATES].contains(&why.as_str());
        let is_limit = why == RATES;
        self.note(Note { line, text: text.into(), why, is_unsupported: true, is_guard, is_limit });
    }

    /// Notes an access restriction without an equivalent.
    pub(super) fn guard(&mut self, line: usize, text: &str, why: impl Into<String>) {
        let why = why.into();
        let is_limit = why == RATES;
        self.note(Note { line, text: text.into(), why, is_unsupported: true, is_guard: true, is_limit });
    }

    /// Notes a limit of rates or numbers without an equivalent.
    pub(super) fn limit(&mut self, line: usize, text: &str, why: impl Into<String>) {
        let (text, why) = (text.into(), why.into());
        self.note(Note { line, text, why, is_unsupported: true, is_guard: true, is_limit: true });
    }

    /// Notes a line that needs no equivalent.
    pub(super) fn unneeded(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.note(Note {
            line,
            text: text.into(),
            why: why.into(),
            is_unsupported: false,
            is_guard: false,
            is_limit: false,
        });
    }

    /// Adds a comment.
    pub(super) fn comment(&mut self, text: impl Into<String>) {
        self.lines.push(Line::Remark(text.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Whether a line restricted access, as opposed to limiting rates.
    pub(super) fn has_restriction(&self) -> bool {
        self.lines.iter().any(|line| matches!(line, Line::Note(note) if note.is_guard && !note.is_limit))
    }

    /// Returns the lines that restricted or limited requests.
    pub(super) fn guard_lines(&self) -> impl Iterator<Item = usize> {
        self.lines.iter().filter_map(|line| match line {
            Line::Note(note) if note.is_guard => Some(note.line),
            _ => None,
        })
    }

    /// Returns whether both have the same keys and values.
    pub(super) fn has_same_settings(&self, other: &Table) -> bool {
        self.keys.len() == other.keys.len() && self.keys.iter().all(|(key, _)| self.get(key) == other.get(key))
    }

    /// Like [`Table::has_same_settings`], but `key` may differ.
    pub(super) fn has_same_settings_but(&self, key: &str, other: &Table) -> bool {
        let without = |keys: &[(&'static str, usize)]| -> Vec<&'static str> {
            keys.iter().map(|(each, _)| *each).filter(|each| *each != key).collect()
        };
        let own = without(&self.keys);
        own.len() == without(&other.keys).len() && own.iter().all(|each| self.get(each) == other.get(each))
    }

    /// Returns whether it has this key, and nothing else.
    pub(super) fn has_only(&self, key: &str) -> bool {
        self.lines.len() == 1 && self.get(key).is_some()
    }

    /// Returns its keys and values, without the comments.
    pub(super) fn settings(&self) -> Table {
        let mut settings = Table::default();
        for line in &self.lines {
            if let Line::Pair(key, value) = line {
                settings.set(key, value.clone());
            }
        }
        settings
    }

    /// Returns whether it has no comments.
    pub(super) fn has_no_comments(&self) -> bool {
        self.lines.len() == self.keys.len()
    }

    fn has_pairs(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns the lines without an equivalent.
    pub(super) fn unsupported_lines(&self) -> impl Iterator<Item = usize> {
        self.lines.iter().filter_map(|line| match line {
            Line::Note(note) if note.is_unsupported => Some(note.line),
            _ => None,
        })
    }

    /// Writes the header and the table; without keys, only the comments. A disabled table is behind
    /// `#`.
    pub(super) fn write(&self, header: &str, is_off: bool, out: &mut String) {
        let off = if is_off { "#" } else { "" };
        if self.is_empty() {
            return;
        }
        if !out.is_empty() && !out.ends_with("\n\n") {
            out.push('\n');
        }
        if self.has_pairs() && !header.is_empty() {
            let _ = writeln!(out, "{off}{header}");
        }
        for line in &self.lines {
            match line {
                Line::Pair(key, value) => {
                    let _ = writeln!(out, "{off}{key} = {}", value.as_str());
                }
                Line::Note(note) => {
                    comment(out, &format!("line {}: {}: {}", note.line, clipped(&hidden(&note.text)), note.why))
                }
                Line::Remark(text) => comment(out, text),
            }
        }
    }
}

/// Writes a comment of one line.
pub(super) fn comment(out: &mut String, text: &str) {
    out.push_str("# ");
    out.extend(text.chars().map(|c| if c.is_control() { ' ' } else { c }));
    out.push('\n');
}

/// Shortens a text to fit a line, and collapses white space.
pub(super) fn clipped(text: &str) -> String {
    const LONGEST: usize = 160;
    let words: Vec<_> = text.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_can_be_read_back() {
        for text in ["", "a", "a\"b\\c", "line\nbreak\u{7f}", "ünï", "a # b"] {
            let document = format!("key = {}", Value::text(text).as_str());
            let read: ::toml::Table = document.parse().unwrap();
            assert_eq!(read["key"].as_str(), Some(text), "{document}");
        }
    }

    #[test]
    fn a_comment_is_one_line() {
        let mut table = Table::default();
        table.unsupported(3, "a\nb\tc", "why\r\nnot");
        let mut out = String::new();
        table.write("[x]", false, &mut out);
        assert_eq!(out, "# line 3: a b c: why  not\n");
    }

    #[test]
    fn a_key_is_set_once() {
        let mut table = Table::default();
        table.share("a", Value::number(1), 1, "a 1");
        table.share("a", Value::number(1), 2, "a 1");
        table.share("a", Value::number(2), 3, "a 2");
        assert_eq!(table.unsupported_lines().collect::<Vec<_>>(), [3]);
        table.set("b", Value::flag(true));
        table.set("a", Value::size(64 << 10));
        let mut out = String::new();
        table.write("[x]", true, &mut out);
        assert_eq!(
            out,
            "#[x]\n#a = \"64KiB\"\n# line 3: a 2: Linchpin has one `a` for all, already set to 1\n#b = true\n"
        );
    }
}
