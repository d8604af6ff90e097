//! Owns: reading a section of the file: the keys that were read are the keys it knows.
//! Invariant: reading continues after every error; a key that nothing reads is an error.
//! Must not know: what any key means.

use std::cell::RefCell;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::report::Notes;
use super::synonyms::{self, Nearness};
use super::values::{Value, clipped, found, nearest, shown};

/// A value and its position in the file.
#[derive(Debug, Clone)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One section of the file, or an empty one if the file does not have it.
pub(super) struct Table<'a> {
    notes: &'a Notes<'a>,
    path: String,
    is_listed: bool,
    entries: Option<&'a DeTable<'a>>,
    span: Range<usize>,
    known_keys: RefCell<Vec<(&'static str, Shape)>>,
    refused: RefCell<Vec<&'static str>>,
}

/// The kind of value of a key.
#[derive(Clone, Copy)]
enum Shape {
    Value,
    Section,
    Sections,
}

/// Reads the whole file.
pub(super) fn read<'a, T>(root: &'a DeTable<'a>, notes: &'a Notes<'a>, read: impl FnOnce(&Table<'a>) -> T) -> T {
    Table::new(notes, String::new(), false, Some(root), 0..0).read_with(read)
}

impl<'a> Table<'a> {
    fn new(
        notes: &'a Notes<'a>,
        path: String,
        is_listed: bool,
        entries: Option<&'a DeTable<'a>>,
        span: Range<usize>,
    ) -> Table<'a> {
        Table { notes, path, is_listed, entries, span, known_keys: RefCell::default(), refused: RefCell::default() }
    }

    /// Whether the file has this section.
    pub(super) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// The position of its header.
    pub(super) fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The findings of this file.
    pub(super) fn notes(&self) -> &'a Notes<'a> {
        self.notes
    }

    /// Refuses a key with a message of its own, where "unknown" would mislead.
    pub(super) fn refuse(&self, key: &'static str, problem: String, remedy: &str) {
        if self.has(key) {
            self.notes.error(&self.at(key), problem, remedy);
        }
        self.refused.borrow_mut().push(key);
    }

    /// Whether the file has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// The position of a key's value; that of the header if the file does not have the key.
    pub(super) fn at(&self, key: &str) -> Range<usize> {
        self.entries.and_then(|entries| entries.get(key)).map_or_else(|| self.span.clone(), |value| value.span())
    }

    /// Returns the value of a key, if it is there and `convert` accepts it.
    pub(super) fn get<T>(&self, key: &'static str, convert: impl Fn(&DeValue<'_>) -> Value<T>) -> Option<T> {
        self.spot(key, convert).map(|spot| spot.value)
    }

    /// Like [`Table::get`], with the position.
    pub(super) fn spot<T>(&self, key: &'static str, convert: impl Fn(&DeValue<'_>) -> Value<T>) -> Option<Spanned<T>> {
        let (span, value) = self.find(key, Shape::Value)?;
        self.convert(key, &format!("`{key}`"), span, value, convert)
    }

    /// Like [`Table::spot`], for a key that must be there.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        convert: impl Fn(&DeValue<'_>) -> Value<T>,
    ) -> Option<Spanned<T>> {
        if self.is_present() && !self.has(key) {
            let problem = format!("{} has no `{key}`", self.label());
            self.notes.missing(&self.span, problem, format!("write for example {key} = {example}"));
        }
        self.spot(key, convert)
    }

    /// Returns the entries of a list, without those that `convert` refuses.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        convert: impl Fn(&DeValue<'_>) -> Value<T>,
    ) -> Option<Vec<Spanned<T>>> {
        let (span, value) = self.find(key, Shape::Value)?;
        let Some(entries) = value.as_array() else {
            let problem = format!("`{key}` must be a list, not {}", found(value));
            self.notes.error(&span, problem, format!("write {key} = [{}]", example_entry(value)));
            return None;
        };
        let subject = format!("an entry of `{key}`");
        Some(
            entries
                .iter()
                .filter_map(|entry| self.convert(key, &subject, entry.span(), entry.get_ref(), &convert))
                .collect(),
        )
    }

    /// Like [`Table::list`], for a list that must not be empty.
    pub(super) fn filled_list<T>(
        &self,
        key: &'static str,
        convert: impl Fn(&DeValue<'_>) -> Value<T>,
    ) -> Option<Vec<Spanned<T>>> {
        let list = self.list(key, convert);
        if self.find(key, Shape::Value).and_then(|(_, value)| value.as_array()).is_some_and(|list| list.is_empty()) {
            self.notes.error(&self.at(key), format!("`{key}` is empty"), "add an entry, or remove the key");
        }
        list.filter(|list| !list.is_empty())
    }

    /// Reads the section `[key]`, which may be missing.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Table<'a>) -> T) -> T {
        let path = self.path_of(key);
        let value = self.find(key, Shape::Section);
        let span = value.as_ref().map_or_else(|| self.span.clone(), |(span, _)| span.clone());
        let entries = value.and_then(|(span, value)| {
            let (problem, entries) = match value {
                DeValue::Table(entries) => return Some(entries),
                // Read it anyway, as the single section that it should be.
                DeValue::Array(list) => {
                    let first = list.iter().find_map(|entry| entry.get_ref().as_table());
                    (format!("[[{path}]] must be one section, not a list"), first)
                }
                other => (format!("`{key}` must be a section, not {}", kind(other)), None),
            };
            self.notes.error(&span, problem, format!("write [{path}]"));
            entries
        });
        Table::new(self.notes, path, false, entries, span).read_with(read)
    }

    /// Reads the section `[key]`, or `key = true`, which is the section with its defaults. `None` if it is not there or
    /// `false`.
    pub(super) fn switched_section<T>(&self, key: &'static str, read: impl FnOnce(&Table<'a>) -> T) -> Option<T> {
        match self.find(key, Shape::Section)? {
            (_, DeValue::Boolean(false)) => None,
            (span, DeValue::Boolean(true)) => {
                Some(Table::new(self.notes, self.path_of(key), false, None, span).read_with(read))
            }
            _ => Some(self.section(key, read)),
        }
    }

    /// Reads each section `[[key]]`.
    pub(super) fn sections<T>(&self, key: &'static str, read: impl Fn(&Table<'a>) -> T) -> Vec<T> {
        let path = self.path_of(key);
        let Some((span, value)) = self.find(key, Shape::Sections) else { return Vec::new() };
        let entries = match value {
            DeValue::Array(list) => list.iter().map(|entry| (entry.span(), entry.get_ref())).collect(),
            // Read it anyway, as the only entry.
            DeValue::Table(_) => {
                self.notes.error(
                    &span,
                    format!("[{path}] must be a list of sections"),
                    format!("write [[{path}]], in double brackets"),
                );
                vec![(span, value)]
            }
            _ => vec![(span, value)],
        };
        let tables = entries.into_iter().filter_map(|(span, entry)| {
            let Some(entries) = entry.as_table() else {
                let problem = format!("`{key}` must be a list of sections, not {}", found(entry));
                self.notes.error(&span, problem, format!("write [[{path}]]"));
                return None;
            };
            Some(Table::new(self.notes, path.clone(), true, Some(entries), span))
        });
        tables.map(|table| table.read_with(&read)).collect()
    }

    /// Returns the entries of the section `[key]`, whose keys the operator chooses.
    pub(super) fn entries<K, T>(
        &self,
        key: &'static str,
        name: impl Fn(&str) -> Value<K>,
        convert: impl Fn(&DeValue<'_>) -> Value<T>,
    ) -> Vec<(Spanned<K>, Spanned<T>)> {
        let Some((span, value)) = self.find(key, Shape::Value) else { return Vec::new() };
        let Some(entries) = value.as_table() else {
            let problem = format!("`{key}` must be a section, not {}", kind(value));
            self.notes.error(&span, problem, format!("write {key} = {{ \"X-Name\" = \"value\" }}"));
            return Vec::new();
        };
        let entry = |(key_of, value): (&toml::Spanned<_>, &'a toml::Spanned<DeValue<'a>>)| {
            let text: &std::borrow::Cow<'_, str> = key_of.get_ref();
            let name = match name(text) {
                Ok(value) => Some(Spanned { value, span: key_of.span() }),
                Err(wrong) => {
                    self.notes.error(&key_of.span(), format!("a key of `{key}` {}", wrong.problem), wrong.remedy);
                    None
                }
            };
            let subject = format!("`{}`", clipped(text));
            let value = self.convert(key, &subject, value.span(), value.get_ref(), &convert);
            name.zip(value)
        };
        entries.iter().filter_map(entry).collect()
    }

    fn read_with<T>(self, read: impl FnOnce(&Table<'a>) -> T) -> T {
        let result = read(&self);
        self.refuse_unknown();
        result
    }

    /// Returns a key's value and its position; the key is known from now on.
    fn find(&self, key: &'static str, shape: Shape) -> Option<(Range<usize>, &'a DeValue<'a>)> {
        let mut known_keys = self.known_keys.borrow_mut();
        if !known_keys.iter().any(|(known, _)| *known == key) {
            known_keys.push((key, shape));
        }
        let value = self.entries?.get(key)?;
        Some((value.span(), value.get_ref()))
    }

    fn convert<T>(
        &self,
        key: &str,
        subject: &str,
        span: Range<usize>,
        value: &DeValue<'_>,
        convert: impl Fn(&DeValue<'_>) -> Value<T>,
    ) -> Option<Spanned<T>> {
        match convert(value) {
            Ok(value) => Some(Spanned { value, span }),
            Err(wrong) => {
                let remedy = synonyms::value(&self.path_of(key), value).unwrap_or(wrong.remedy);
                self.notes.error(&span, format!("{subject} {}", wrong.problem), remedy);
                None
            }
        }
    }

    fn refuse_unknown(&self) {
        let known_keys = self.known_keys.borrow();
        #[cfg(test)]
        tests::KNOWN.with_borrow_mut(|known| {
            known.extend(known_keys.iter().map(|(key, shape)| match shape {
                Shape::Value => (self.path_of(key), self.has(key)),
                Shape::Section | Shape::Sections => (self.written((key, *shape)), self.has(key)),
            }));
        });
        for (key, value) in self.entries.into_iter().flatten() {
            let (name, span) = (key.get_ref().as_ref(), key.span());
            if known_keys.iter().any(|(key, _)| *key == name) || self.refused.borrow().contains(&name) {
                continue;
            }
            let what = self.name_of(name, value.get_ref());
            let near = nearest(name, known_keys.iter().map(|(key, _)| *key));
            let near = known_keys.iter().find(|(key, _)| Some(*key) == near);
            // Another proxy's name for something in this section is not a misspelling; for something elsewhere it may
            // be.
            let remedy = match (synonyms::key(&self.path, name), near) {
                (Some((Nearness::Here | Nearness::Below, remedy)), _) | (Some((_, remedy)), None) => remedy,
                (_, Some(near)) => format!("did you mean {}?", self.written(*near)),
                (None, None) => {
                    let known = known_keys.iter().map(|key| self.written(*key)).collect::<Vec<_>>();
                    format!("valid here: {}", known.join(", "))
                }
            };
            self.notes.error(&span, format!("unknown {what}"), remedy);
        }
    }

    /// Returns how a message names an unknown key.
    fn name_of(&self, key: &str, value: &DeValue<'_>) -> String {
        let key = clipped(key);
        match value {
            DeValue::Table(_) => format!("section [{}]", self.path_of(&key)),
            DeValue::Array(list) if list.iter().any(|entry| entry.get_ref().is_table()) => {
                format!("section [[{}]]", self.path_of(&key))
            }
            _ if self.path.is_empty() => format!("key `{key}` outside any section"),
            _ => format!("key `{key}` in {}", self.label()),
        }
    }

    /// Returns how a known key is written.
    fn written(&self, (key, shape): (&str, Shape)) -> String {
        match shape {
            Shape::Value => format!("`{key}`"),
            Shape::Section => format!("[{}]", self.path_of(key)),
            Shape::Sections => format!("[[{}]]", self.path_of(key)),
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    fn label(&self) -> String {
        if self.is_listed { format!("[[{}]]", self.path) } else { format!("[{}]", self.path) }
    }
}

/// Returns what is there instead of a section. A string is not repeated: it may be meant for a key of the section that
/// holds a secret.
fn kind(value: &DeValue<'_>) -> String {
    if value.is_str() { "a string".into() } else { found(value) }
}

/// Returns what the value would look like as an entry of a list.
fn example_entry(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => shown(text),
        DeValue::Integer(_) | DeValue::Float(_) => found(value),
        _ => "…".into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;

    thread_local! {
        /// Each key that was read on this thread, in brackets if it is a section, and whether the file had it.
        pub(in crate::config) static KNOWN: RefCell<Vec<(String, bool)>> = const { RefCell::new(Vec::new()) };
    }
}
