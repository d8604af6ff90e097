//! Owns: how values of the tree are taken, and how the others are noted.
//! Invariant: a value that is not taken is noted with its path.
//! Must not know: what a key means.

use std::time::Duration;

use super::node::{Data, Map, Node};
use super::reasons::NONE;
use super::toml::Table;
use super::units;

/// Takes a map in a map; another kind of value is noted.
pub(super) fn map_in<'n>(map: &'n Map, key: &str, path: &str, notes: &mut Table) -> Option<&'n Map> {
    let node = map.take(key)?;
    if node.map().is_none() {
        note(path, node.line, node, NONE, notes);
    }
    node.map()
}

/// Takes a list in a map; another kind of value is noted.
pub(super) fn list_in<'n>(map: &'n Map, key: &str, path: &str, notes: &mut Table) -> &'n [Node] {
    let Some(node) = map.take(key) else { return &[] };
    if node.list().is_empty() {
        note(path, node.line, node, NONE, notes);
    }
    node.list()
}

/// Takes a number in a map; another kind of value is noted.
pub(super) fn number_in(map: &Map, key: &str, path: &str, notes: &mut Table) -> Option<u64> {
    let node = map.take(key)?;
    let number = node.text().and_then(|text| text.parse().ok());
    if number.is_none() {
        note(&format!("{path}.{key}"), node.line, node, "not a number", notes);
    }
    number
}

/// Parses a duration; without a unit, it is in seconds.
pub(super) fn duration(node: &Node) -> Option<Duration> {
    units::seconds(node.text()?)
}

/// Notes the values of a map that were not taken.
pub(super) fn left(map: &Map, path: &str, why: &str, notes: &mut Table) {
    for (key, line, node) in map.left() {
        note(&format!("{path}.{key}"), line, node, why, notes);
    }
}

/// Notes each text of a value with its path; of maps, only values that were not taken.
pub(super) fn note(path: &str, line: usize, node: &Node, why: &str, notes: &mut Table) {
    match &node.data {
        Data::Text(text) if text.is_empty() => notes.unsupported(line, path, why),
        Data::Text(text) => notes.unsupported(line, &format!("{path}: {text}"), why),
        Data::List(nodes) if nodes.is_empty() => notes.unsupported(line, path, why),
        Data::List(nodes) => nodes.iter().for_each(|each| note(path, each.line, each, why, notes)),
        Data::Map(map) if map.is_empty() => notes.unsupported(line, path, why),
        Data::Map(map) => left(map, path, why, notes),
    }
}
