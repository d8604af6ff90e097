//! Owns: which keys differ between two files.
//! Invariant: two documents are equal exactly if the list of changes is empty; no change shows a secret.
//! Must not know: what a key means; running state.

use std::collections::HashMap;

use serde_json::Value;

use super::document::{Document, Node, Section, shown};

/// A key that the next file changes.
#[derive(Debug, Clone, PartialEq)]
pub struct KeyChange {
    /// The key with its sections, as TOML writes it: `pools.app.backends.b.weight`. An entry of a list of sections is
    /// called by its name.
    pub path: String,
    /// Its value in the file that is in use; null if that does not have it.
    pub was: Value,
    /// Its value in the next file; null if that does not have it.
    pub file: Value,
    /// What the next file did.
    pub because: &'static str,
}

const CHANGED: &str = "the file changed it";
const ADDED: &str = "the file added it";
const REMOVED: &str = "the file removed it";
const REORDERED: &str = "the file changed the order";

/// Lists the keys that differ between two texts of TOML, in the order of their paths. A section that only one of the two
/// has is one change.
pub(super) fn changes(old: &str, next: &str) -> Vec<KeyChange> {
    Document::parse(old).changes(&Document::parse(next))
}

impl Document {
    fn changes(&self, next: &Document) -> Vec<KeyChange> {
        let mut changes = Vec::new();
        sections("", &self.0, &next.0, &mut changes);
        changes
    }
}

/// Returns the path of a key, from the names of its sections and its own.
pub fn key_path(names: &[&str]) -> String {
    names.iter().fold(String::new(), |path, name| join(&path, name))
}

/// Returns the path of a key of the section at `path`.
fn join(path: &str, key: &str) -> String {
    let is_bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if is_bare { key.to_owned() } else { Value::from(key).to_string() };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

fn sections(path: &str, old: &Section, new: &Section, changes: &mut Vec<KeyChange>) {
    let mut keys: Vec<&String> = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))).collect();
    keys.sort_unstable();
    for key in keys {
        let path = join(path, key);
        match (old.get(key), new.get(key)) {
            (Some(Node::Section(old)), Some(Node::Section(new))) => sections(&path, old, new, changes),
            (Some(Node::Sections(old)), Some(Node::Sections(new))) => lists(&path, old, new, changes),
            (Some(Node::Sections(old)), None) => lists(&path, old, &[], changes),
            (None, Some(Node::Sections(new))) => lists(&path, &[], new, changes),
            (was, file) if was == file => {}
            (was, file) => changes.push(change(path, was.map(Node::shown), file.map(Node::shown))),
        }
    }
}

fn lists(path: &str, old: &[(String, Section)], new: &[(String, Section)], changes: &mut Vec<KeyChange>) {
    fn by_name(all: &[(String, Section)]) -> HashMap<&str, &Section> {
        all.iter().map(|(name, section)| (name.as_str(), section)).collect()
    }
    let (known, next) = (by_name(old), by_name(new));
    for (name, was) in old {
        let path = join(path, name);
        match next.get(name.as_str()) {
            Some(section) => sections(&path, was, section, changes),
            None => changes.push(change(path, Some(shown(was)), None)),
        }
    }
    for (name, section) in new.iter().filter(|(name, _)| !known.contains_key(name.as_str())) {
        changes.push(change(join(path, name), None, Some(shown(section))));
    }
    let kept = |all: &[(String, Section)]| -> Vec<String> {
        let in_both = |name: &&String| known.contains_key(name.as_str()) && next.contains_key(name.as_str());
        all.iter().map(|(name, _)| name).filter(in_both).cloned().collect()
    };
    let (was, file) = (kept(old), kept(new));
    if was != file {
        changes.push(KeyChange { path: path.into(), was: was.into(), file: file.into(), because: REORDERED });
    }
}

fn change(path: String, was: Option<Value>, file: Option<Value>) -> KeyChange {
    let because = match (&was, &file) {
        (None, _) => ADDED,
        (_, None) => REMOVED,
        _ => CHANGED,
    };
    KeyChange { path, was: was.unwrap_or(Value::Null), file: file.unwrap_or(Value::Null), because }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn changes(old: &str, new: &str) -> Vec<(String, Value, Value, &'static str)> {
        let changes = super::changes(old, new);
        changes.into_iter().map(|change| (change.path, change.was, change.file, change.because)).collect()
    }

    #[test]
    fn a_key_is_called_by_the_names_of_its_sections_and_not_by_their_positions() {
        let pool = |backends: &str| format!("[[pools]]\nname = \"app\"\n{backends}");
        let backend =
            |name: &str, rest: &str| format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"h:1\"\n{rest}\n");
        let old = pool(&(backend("a", "weight = 1") + &backend("b", "")));
        let new = pool(&(backend("c", "") + &backend("a", "weight = 3\nbackup = true")));
        let expected = vec![
            ("pools.app.backends.a.backup".into(), Value::Null, json!(true), ADDED),
            ("pools.app.backends.a.weight".into(), json!(1), json!(3), CHANGED),
            ("pools.app.backends.b".into(), json!({ "name": "b", "address": "h:1" }), Value::Null, REMOVED),
            ("pools.app.backends.c".into(), Value::Null, json!({ "name": "c", "address": "h:1" }), ADDED),
        ];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn the_order_of_entries_and_names_with_dots_are_reported() {
        let keys = |ids: [&str; 2]| ids.map(|id| format!("[[keys]]\nid = \"{id}\"\n")).concat();
        let expected = vec![("keys".into(), json!(["1", "2"]), json!(["2", "1"]), REORDERED)];
        assert_eq!(changes(&keys(["1", "2"]), &keys(["2", "1"])), expected);
        let listener = |http2: &str| format!("[[listeners]]\naddress = \"127.0.0.1:80\"\nhttp2 = {http2}\n");
        let path = "listeners.\"127.0.0.1:80\".http2".to_owned();
        assert_eq!(changes(&listener("true"), &listener("false")), vec![(path, json!(true), json!(false), CHANGED)]);
        let route =
            |pool: &str| format!("[[routes]]\nhosts = [\"a.example\"]\npath_prefix = \"/x\"\npool = \"{pool}\"\n");
        assert_eq!(changes(&route("a"), &route("b"))[0].0, "routes.\"a.example/x\".pool");
    }

    #[test]
    fn a_change_of_a_secret_is_reported_and_not_shown() {
        let store = |password: &str| {
            format!("[[pools]]\nname = \"p\"\n[pools.persistence.learned]\nstore = \"redis://:{password}@h\"\n")
        };
        let reported = changes(&store("one"), &store("two"));
        let path = "pools.p.persistence.learned.store".to_owned();
        assert_eq!(reported, vec![(path, json!("(not shown)"), json!("(not shown)"), CHANGED)]);
        let headers = |token: &str| format!("[[routes]]\nrequest_headers = {{ set = {{ X = \"{token}\" }} }}\n");
        let reported = format!("{:?}{:?}", changes(&headers("s3cret"), ""), Document::parse(&headers("s3cret")));
        assert!(reported.contains("(not shown)") && !reported.contains("s3cret"), "{reported}");
    }

    #[test]
    fn a_section_that_becomes_a_value_is_a_change() {
        let expected = vec![("a".into(), json!({ "b": 1 }), json!(2.5), CHANGED)];
        assert_eq!(changes("[a]\nb = 1", "a = 2.5"), expected);
        assert_eq!(changes("a = 0x10", "a = 16"), vec![], "the same number");
        assert_eq!(changes("[a]\nb = 1", "a = { b = 1 }"), vec![], "the same section");
    }

    fn node() -> impl Strategy<Value = Node> {
        let value = (0i64..3).prop_map(|number| Node::Value { value: number.into(), is_secret: number == 2 });
        value.prop_recursive(3, 12, 3, |inner| {
            let section = proptest::collection::btree_map("[a-c]", inner, 0..3);
            prop_oneof![
                section.clone().prop_map(Node::Section),
                proptest::collection::btree_map("[a-c]", section, 1..3)
                    .prop_map(|sections| Node::Sections(sections.into_iter().rev().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn documents_are_equal_exactly_if_nothing_has_changed(
            old in proptest::collection::btree_map("[a-c]", node(), 0..3),
            new in proptest::collection::btree_map("[a-c]", node(), 0..3),
        ) {
            let (old, new) = (Document(old), Document(new));
            prop_assert_eq!(old.changes(&new).is_empty(), old == new);
            prop_assert!(old.changes(&old).is_empty());
            let paths = |changes: Vec<KeyChange>| {
                let mut paths: Vec<_> = changes.into_iter().map(|change| change.path).collect();
                paths.sort();
                paths
            };
            prop_assert_eq!(paths(old.changes(&new)), paths(new.changes(&old)));
        }
    }
}
