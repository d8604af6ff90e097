//! One name, one meaning: words that `src/` does not use, and the field's term for each.

use std::collections::{BTreeMap, BTreeSet};

use super::support::repository::{read, rust_files};

/// Words that appear nowhere in `src/`, and what to write instead.
const ANYWHERE: [(&str, &str); 14] = [
    ("house", "the process, the thread's connections, or the module that is meant"),
    ("houses", "see `house`"),
    ("door", "listener, ListenerInfo"),
    ("doors", "see `door`"),
    ("guest", "client, connection"),
    ("guests", "see `guest`"),
    ("greet", "handshake"),
    ("greets", "see `greet`"),
    ("greeted", "see `greet`"),
    ("greeting", "see `greet`"),
    ("shelf", "pool, list"),
    ("glance", "entry, snapshot"),
    ("whoever", "name who it is: the client, the backend, the caller"),
    ("helpers", "call the file or function by what it does"),
];

/// Words that name nothing in code (types, functions, variables, modules). In comments they have their usual meaning.
const IN_NAMES: [(&str, &str); 15] = [
    ("bell", "ReadinessWaker"),
    ("letter", "PendingWrite"),
    ("letters", "see `letter`"),
    ("way", "route, path, or entry"),
    ("ways", "see `way`"),
    ("home", "BackendRef"),
    ("resting", "idle"),
    ("beside", "housekeeping, or the state that is meant"),
    ("said", "parsed, reported, or the field that is meant"),
    ("asked", "requested, or the request that is meant"),
    ("told", "notified, or the event that is meant"),
    ("came", "received, arrived"),
    ("aside", "sessionless"),
    ("utils", "call it by what it owns"),
    ("common", "ConnContext, or what the parts have in common"),
];

/// Modules that still have some of these words. The owner of each strikes it here.
const EXCUSED: &[&str] = &[];

/// The words of a name: `ConnContext` and `conn_context` have `conn` and `context`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for c in name.chars() {
        if c == '_' || (c.is_uppercase() && words.last().is_some_and(|word| !word.is_empty())) {
            words.push(String::new());
        }
        if c != '_' {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
    }
    words
}

/// A line's code, and its comment. Texts in quotes belong to neither: a message is written for users.
fn parts(line: &str) -> (String, String) {
    let (mut code, mut quoted) = (String::new(), false);
    let mut rest = line.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '\\' if quoted => drop(rest.next()),
            '"' => quoted = !quoted,
            '/' if !quoted && line[at..].starts_with("//") => return (code, line[at..].to_owned()),
            _ if !quoted => code.push(c),
            _ => {}
        }
    }
    (code, String::new())
}

fn complaints(path: &str, text: &str, anywhere: &BTreeMap<&str, &str>, in_names: &BTreeMap<&str, &str>) -> Vec<String> {
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let (code, comment) = parts(line);
        // The name that X.509 has for it.
        let code = code.replace("CommonName", "").replace("common_name", "");
        let names =
            |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').flat_map(words).collect::<Vec<_>>();
        let mut complain = |word: &str, instead: &str| {
            complaints.push(format!("{path}:{}: `{word}`; write: {instead}", number + 1));
        };
        for word in names(&code) {
            if let Some(instead) = anywhere.get(&*word).or(in_names.get(&*word)) {
                complain(&word, instead);
            }
        }
        for word in names(&comment) {
            if let Some(instead) = anywhere.get(&*word) {
                complain(&word, instead);
            }
        }
    }
    complaints
}

/// The module of `src/` that a file belongs to.
fn module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or(path)
}

#[test]
fn the_code_uses_the_terms_of_the_field() {
    let (anywhere, in_names) = (ANYWHERE.into(), IN_NAMES.into());
    let mut excused = BTreeSet::new();
    let mut all = Vec::new();
    for path in rust_files("src") {
        let found = complaints(&path, &read(&path), &anywhere, &in_names);
        match EXCUSED.iter().find(|excused| **excused == module(&path)) {
            Some(module) if !found.is_empty() => drop(excused.insert(*module)),
            _ => all.extend(found),
        }
    }
    all.extend(
        EXCUSED
            .iter()
            .filter(|module| !excused.contains(*module))
            .map(|module| format!("`{module}` has none of these words any more: strike it from EXCUSED")),
    );
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn a_word_is_found_in_names_and_comments_and_not_in_texts() {
    let (anywhere, in_names) = (ANYWHERE.into(), IN_NAMES.into());
    let found = |line: &str| complaints("a.rs", line, &anywhere, &in_names).len();
    assert_eq!(found("struct FrontDoor; // the house"), 2);
    assert_eq!(found("let carrier_of = house.letters();"), 2);
    assert_eq!(found("// a way home, in capital letters"), 0);
    assert_eq!(found(r#"let text = "the \"house\" // way"; let way = 1;"#), 1);
}
