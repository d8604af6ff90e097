//! Owns: the keys of a file with their values, as its author wrote them, to compare it with the next one.
//! Invariant: entries of a list of sections are told apart by what names them, never by their position alone.
//! Must not know: what a key means, or what its default is.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use toml::de::{DeTable, DeValue};

/// Shown instead of a value that may contain a secret.
const HIDDEN: &str = "(not shown)";

/// The keys that name an entry of a list of sections; the first that the entry has counts.
const NAMES: [&str; 6] = ["name", "id", "address", "dns", "file", "cert"];

/// A file's keys and values.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Document(pub(super) Section);

/// The keys of one section, in the order of the alphabet.
pub(super) type Section = BTreeMap<String, Node>;

/// The value of a key.
#[derive(Clone, PartialEq)]
pub(super) enum Node {
    /// A value, which is shown unless it may contain a secret.
    Value { value: Value, is_secret: bool },
    /// A section, or an inline table.
    Section(Section),
    /// A list of sections, each with what names it, in the order of the file.
    Sections(Vec<(String, Section)>),
}

/// Shows no secret.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shown().fmt(f)
    }
}

impl Document {
    /// Reads the keys of a file whose text is TOML.
    pub(super) fn parse(text: &str) -> Document {
        let (root, _) = DeTable::parse_recoverable(text);
        Document(section(root.get_ref(), &[]))
    }
}

impl Node {
    /// Returns the value as it may be shown.
    pub(super) fn shown(&self) -> Value {
        match self {
            Node::Value { is_secret: true, .. } => HIDDEN.into(),
            Node::Value { value, .. } => value.clone(),
            Node::Section(section) => shown(section),
            Node::Sections(all) => all.iter().map(|(_, section)| shown(section)).collect(),
        }
    }
}

/// Returns a section as an object, as it may be shown.
pub(super) fn shown(section: &Section) -> Value {
    section.iter().map(|(key, node)| (key.clone(), node.shown())).collect()
}

/// Reads a section; `above` are the keys that lead to it.
fn section(table: &DeTable<'_>, above: &[&str]) -> Section {
    let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        let path = [above, &[key.as_ref()]].concat();
        (key.to_string(), node(value.get_ref(), &path))
    };
    table.iter().map(entry).collect()
}

fn node(value: &DeValue<'_>, path: &[&str]) -> Node {
    match value {
        DeValue::Table(table) => Node::Section(section(table, path)),
        DeValue::Array(list) if !list.is_empty() && list.iter().all(|entry| entry.get_ref().is_table()) => {
            let tables = list.iter().filter_map(|entry| entry.get_ref().as_table());
            Node::Sections(named(tables.map(|table| section(table, path)).collect()))
        }
        _ => Node::Value { value: plain(value), is_secret: is_secret(path) },
    }
}

/// Returns whether the value of a key may contain a secret: the address of a store a password, a header field that is
/// added to requests a token.
fn is_secret(path: &[&str]) -> bool {
    matches!(path, [.., "learned" | "copies", "store"] | [.., "request_headers" | "response_headers", "set" | "add", _])
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or_else(|_| number.to_string().into(), Value::from)
        }
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or_else(|_| number.as_str().into(), Value::from),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(list) => list.iter().map(|entry| plain(entry.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref()))).collect()
        }
    }
}

/// Names the entries of a list. Of several with one name, all but the first get a number.
fn named(sections: Vec<Section>) -> Vec<(String, Section)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let name = |section: Section| {
        let name = name_of(&section);
        let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_insert(1);
        (if *count == 1 { name } else { format!("{name}#{count}") }, section)
    };
    sections.into_iter().map(name).collect()
}

/// Returns what names an entry: one of its keys, or for a route the first host and the prefix of the path.
fn name_of(section: &Section) -> String {
    let text = |key: &str| match section.get(key) {
        Some(Node::Value { value: Value::String(text), .. }) => Some(text.clone()),
        Some(Node::Value { value: Value::Array(list), .. }) => {
            list.first().and_then(|first| first.as_str()).map(str::to_owned)
        }
        _ => None,
    };
    NAMES.iter().find_map(|key| text(key)).unwrap_or_else(|| {
        let (host, prefix) = (text("hosts").unwrap_or_default(), text("path_prefix").unwrap_or_else(|| "/".into()));
        format!("{host}{prefix}")
    })
}
