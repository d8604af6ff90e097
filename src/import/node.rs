//! Owns: the parser of YAML and TOML into one kind of tree, with the line of each key.
//! Invariant: a syntax error names its line; the depth and size of the tree are bounded.
//! Must not know: what a key means.

use std::cell::Cell;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};
use toml::de::{DeTable, DeValue};

use super::source::{DEEPEST, SyntaxError};

/// The most values that anchors may repeat.
const MOST_REPEATED: usize = 100_000;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    /// Its line, from 1.
    pub(super) line: usize,
    pub(super) data: Data,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Data {
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

/// A map that records which of its keys were taken.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Map {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    key: String,
    line: usize,
    value: Node,
    is_taken: Cell<bool>,
}

impl Map {
    /// Takes the value of a key. As in Traefik, the case of keys does not matter.
    pub(super) fn take(&self, key: &str) -> Option<&Node> {
        let entry = self.entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key))?;
        entry.is_taken.set(true);
        Some(&entry.value)
    }

    /// Takes the text of a key. Other values are not taken.
    pub(super) fn take_text(&self, key: &str) -> Option<&str> {
        let entry = self.entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key))?;
        let text = entry.value.text()?;
        entry.is_taken.set(true);
        Some(text)
    }

    /// Takes the texts of a key's list. Other values are not taken.
    pub(super) fn take_texts(&self, key: &str) -> Vec<&Node> {
        let Some(entry) = self.entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(key)) else {
            return Vec::new();
        };
        let nodes = entry.value.list();
        let are_texts = !nodes.is_empty() && nodes.iter().all(|node| node.text().is_some());
        entry.is_taken.set(entry.is_taken.get() || are_texts);
        if are_texts { nodes.iter().collect() } else { Vec::new() }
    }

    /// Takes all keys and values.
    pub(super) fn take_all(&self) -> impl Iterator<Item = (&str, usize, &Node)> {
        self.entries.iter().map(|entry| {
            entry.is_taken.set(true);
            (entry.key.as_str(), entry.line, &entry.value)
        })
    }

    /// Returns all keys and values without taking them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&str, usize, &Node)> {
        self.entries.iter().map(|entry| (entry.key.as_str(), entry.line, &entry.value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the keys and values that were not taken.
    pub(super) fn left(&self) -> impl Iterator<Item = (&str, usize, &Node)> {
        let left = self.entries.iter().filter(|entry| !entry.is_taken.get());
        left.map(|entry| (entry.key.as_str(), entry.line, &entry.value))
    }
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn map(&self) -> Option<&Map> {
        match &self.data {
            Data::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn list(&self) -> &[Node] {
        match &self.data {
            Data::List(nodes) => nodes,
            _ => &[],
        }
    }

    fn empty(line: usize) -> Node {
        Node { line, data: Data::Map(Map::default()) }
    }

    fn count(&self) -> usize {
        match &self.data {
            Data::Text(_) => 1,
            Data::List(nodes) => nodes.iter().map(Node::count).fold(1, usize::saturating_add),
            Data::Map(map) => map.entries.iter().map(|entry| entry.value.count()).fold(1, usize::saturating_add),
        }
    }
}

/// Returns the value of a key without taking it.
pub(super) fn peek<'n>(map: &'n Map, key: &str) -> Option<&'n Node> {
    map.all().find(|(other, ..)| other.eq_ignore_ascii_case(key)).map(|(_, _, node)| node)
}

/// Returns whether `name`, which may end in `@file`, refers to `key`.
pub(super) fn is_named(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name.strip_suffix("@file").unwrap_or(name))
}

/// Parses YAML or TOML.
pub(super) fn read(text: &str) -> Result<Node, SyntaxError> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    // A YAML mapping never begins with a bracket, and has no line `key = value`.
    let is_toml = first
        .is_some_and(|line| line.starts_with('[') || line.split_once('=').is_some_and(|(key, _)| !key.contains(':')));
    if is_toml { toml(text) } else { yaml(text) }
}

fn toml(text: &str) -> Result<Node, SyntaxError> {
    let line_starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let line_of = |at: usize| line_starts.partition_point(|start| *start <= at);
    let table = DeTable::parse(text).map_err(|error| {
        SyntaxError::new(
            line_of(error.span().map_or(0, |span| span.start)),
            format!("invalid TOML: {}", error.message()),
        )
    })?;
    table_node(table.get_ref(), 1, 0, &line_of)
}

fn table_node(
    table: &DeTable<'_>,
    line: usize,
    depth: usize,
    line_of: &impl Fn(usize) -> usize,
) -> Result<Node, SyntaxError> {
    if depth > DEEPEST {
        return Err(SyntaxError::too_deep(line));
    }
    let mut entries = Vec::new();
    for (key, value) in table {
        let line = line_of(key.span().start);
        let value = value_node(value.get_ref(), line, depth + 1, line_of)?;
        entries.push(Entry { key: key.get_ref().to_string(), line, value, is_taken: Cell::new(false) });
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(Node { line, data: Data::Map(Map { entries }) })
}

fn value_node(
    value: &DeValue<'_>,
    line: usize,
    depth: usize,
    line_of: &impl Fn(usize) -> usize,
) -> Result<Node, SyntaxError> {
    let data = match value {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Integer(number) => Data::Text(number.as_str().to_owned()),
        DeValue::Float(number) => Data::Text(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Data::Text(flag.to_string()),
        DeValue::Datetime(time) => Data::Text(time.to_string()),
        DeValue::Array(values) if depth <= DEEPEST => {
            let nodes =
                values.iter().map(|value| value_node(value.get_ref(), line_of(value.span().start), depth + 1, line_of));
            Data::List(nodes.collect::<Result<_, _>>()?)
        }
        DeValue::Array(_) => return Err(SyntaxError::too_deep(line)),
        DeValue::Table(table) => return table_node(table, line, depth, line_of),
    };
    Ok(Node { line, data })
}

/// Parses a stream of YAML documents.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Yaml::default();
    let mut documents = Vec::new();
    while let Some(event) = parser.next_event() {
        let (event, span) = event
            .map_err(|error| SyntaxError::new(error.marker().line(), format!("invalid YAML: {}", error.info())))?;
        if matches!(event, Event::DocumentStart(_)) {
            documents.extend(reader.root.take());
            reader = Yaml::default();
        }
        reader.event(event, span)?;
    }
    documents.extend(reader.root);
    Ok(documents)
}

fn yaml(text: &str) -> Result<Node, SyntaxError> {
    let mut parser = Parser::new_from_str(text);
    let mut reader = Yaml::default();
    while let Some(event) = parser.next_event() {
        let (event, span) = event
            .map_err(|error| SyntaxError::new(error.marker().line(), format!("invalid YAML: {}", error.info())))?;
        reader.event(event, span)?;
    }
    Ok(reader.root.unwrap_or_else(|| Node::empty(1)))
}

/// The state of the YAML parser. It does not recurse, so the depth of a document can't exhaust the stack.
#[derive(Default)]
struct Yaml {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    repeated: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// The key of the next value.
    key: Option<(String, usize)>,
}

impl Yaml {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                return Err(SyntaxError::new(line, "the file has more than one YAML document"));
            }
            Event::Scalar(text, _, anchor, _) => {
                self.add(Node { line, data: Data::Text(text.into_owned()) }, anchor)?
            }
            Event::SequenceStart(anchor, _) => self.open(Data::List(Vec::new()), line, anchor)?,
            Event::MappingStart(anchor, _) => self.open(Data::Map(Map::default()), line, anchor)?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.add(open.node, open.anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let node =
                    self.anchors.get(&anchor).cloned().ok_or_else(|| SyntaxError::new(line, "unknown anchor"))?;
                self.repeated = self.repeated.saturating_add(node.count());
                if self.repeated > MOST_REPEATED {
                    return Err(SyntaxError::new(line, "anchors repeat too much"));
                }
                if self.open.len() + depth(&node) > DEEPEST {
                    return Err(SyntaxError::too_deep(line));
                }
                self.add(node, 0)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, data: Data, line: usize, anchor: usize) -> Result<(), SyntaxError> {
        if self.open.len() >= DEEPEST {
            return Err(SyntaxError::too_deep(line));
        }
        self.open.push(Open { node: Node { line, data }, anchor, key: None });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        if anchor > 0 {
            self.repeated = self.repeated.saturating_add(node.count());
            if self.repeated > MOST_REPEATED {
                return Err(SyntaxError::new(node.line, "anchors repeat too much"));
            }
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.data, open.key.take()) {
            (Data::List(nodes), _) => nodes.push(node),
            (Data::Map(map), Some((key, line))) => {
                map.entries.push(Entry { key, line, value: node, is_taken: Cell::new(false) });
            }
            (Data::Map(_), None) => match node.data {
                Data::Text(key) => open.key = Some((key, node.line)),
                _ => return Err(SyntaxError::new(node.line, "a key must be text")),
            },
            (Data::Text(_), _) => {}
        }
        Ok(())
    }
}

fn depth(node: &Node) -> usize {
    match &node.data {
        Data::Text(_) => 0,
        Data::List(nodes) => 1 + nodes.iter().map(depth).max().unwrap_or_default(),
        Data::Map(map) => 1 + map.entries.iter().map(|entry| depth(&entry.value)).max().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'n>(node: &'n Node, path: &str) -> &'n Node {
        path.split('.').fold(node, |node, key| match key.parse::<usize>() {
            Ok(index) => &node.list()[index],
            Err(_) => node.map().unwrap().take(key).unwrap_or_else(|| panic!("no {key} of {path}")),
        })
    }

    #[test]
    fn both_are_one_tree_with_lines() {
        let yaml = read(
            "# x\nhttp:\n  services:\n    app:\n      servers:\n        - url: 'http://a'\n        - url: \"b\"\n",
        )
        .unwrap();
        let toml = read("[http.services.app]\n[[http.services.app.servers]]\nurl = \"http://a\"\n[[http.services.app.servers]]\nurl = \"b\"\n").unwrap();
        for tree in [&yaml, &toml] {
            assert_eq!(find(tree, "http.Services.app.servers.0.url").text(), Some("http://a"));
        }
        assert_eq!(find(&yaml, "http.services.app.servers.1.url").line, 7);
        assert_eq!(find(&toml, "http.services.app.servers.1.url").line, 5);
    }

    #[test]
    fn what_nobody_takes_is_left() {
        let tree = read("a: 1\nb: {c: true}\n").unwrap();
        let map = tree.map().unwrap();
        map.take("a");
        assert_eq!(map.left().map(|(key, line, _)| (key, line)).collect::<Vec<_>>(), [("b", 2)]);
    }

    #[test]
    fn anchors_are_repeated_within_bounds() {
        let tree = read("a: &x {b: 1}\nc: *x\n").unwrap();
        assert_eq!(find(&tree, "c.b").text(), Some("1"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..10 {
            let before = format!("*a{}, ", i - 1).repeat(10);
            bomb += &format!("a{i}: &a{i} [{}]\n", before.trim_end_matches(", "));
        }
        assert!(read(&bomb).unwrap_err().problem.contains("anchors"));
    }

    #[test]
    fn what_is_neither_is_refused_where_it_ends() {
        assert_eq!(read("a: 1\nb: [1\n").unwrap_err().line, 3);
        assert_eq!(read("[a]\nb = \n").unwrap_err().line, 2);
        assert!(read("a: 1\n---\nb: 2\n").is_err());
        assert!(read(&"[".repeat(100)).is_err());
        assert!(read(&("a: ".to_owned() + &"[".repeat(100) + &"]".repeat(100))).is_err());
        assert!(read(&("a: ".to_owned() + &"{a: ".repeat(70) + &"}".repeat(70))).unwrap_err().problem.contains("64"));
        assert_eq!(read("").unwrap(), Node::empty(1));
    }
}
