//! No import cycle between files: you can read the files of a module one after the other, leaves first.
//!
//! Importing an item through its parent counts as importing the parent, even if the parent only re-exports it: a child
//! imports from the file that defines the item. A fourth line `Cycle with NAME: why` in a file's header excuses its
//! imports from and by the file of that name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Source, assert_none, code, is_product, source, sources, without_tests};

/// Modules whose files still have import cycles. Remove a module once it has none; never add one.
const TANGLED: [&str; 0] = [];

/// What each file imports, by the path of its module: `tls::reload`.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn graph(sources: &[Source]) -> Graph {
    let files: BTreeMap<_, _> = sources.iter().filter_map(|source| Some((module(&source.path)?, source))).collect();
    let names: BTreeSet<_> = files.keys().cloned().collect();
    files.iter().map(|(name, source)| (name.clone(), imported(name, source, &names))).collect()
}

/// The module of a file; `None` for the two roots and for tests.
fn module(path: &str) -> Option<String> {
    let is_root = path == "src/lib.rs" || path == "src/main.rs";
    let source = Source { path: path.to_owned(), text: String::new() };
    let name = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    (!is_root && is_product(&source)).then(|| name.replace('/', "::"))
}

/// The module of `src/` that a file belongs to.
fn area(file: &str) -> &str {
    file.split("::").next().unwrap_or(file)
}

fn imported(name: &str, source: &Source, files: &BTreeSet<String>) -> BTreeSet<String> {
    let code = code(without_tests(&source.text));
    let (uses, rest) = split_uses(&code);
    let here: Vec<String> = name.split("::").map(str::to_owned).collect();
    let mut aliases = BTreeMap::new();
    let mut paths = Vec::new();
    for (path, alias) in uses {
        if let Some(path) = absolute(&here, &path, &BTreeMap::new(), files) {
            aliases.insert(alias, path.clone());
            paths.push(path);
        }
    }
    paths.extend(inline_paths(&rest).iter().filter_map(|path| absolute(&here, path, &aliases, files)));
    paths.iter().filter_map(|path| file_of(path, files)).filter(|file| file != name).collect()
}

/// A path from the root of the crate; `None` for what is of another crate or of this file.
fn absolute(
    here: &[String],
    path: &[String],
    aliases: &BTreeMap<String, Vec<String>>,
    files: &BTreeSet<String>,
) -> Option<Vec<String>> {
    let (first, rest) = path.split_first()?;
    let ups = path.iter().take_while(|segment| *segment == "super").count();
    let child = || format!("{}::{first}", here.join("::"));
    let (base, rest) = match first.as_str() {
        "crate" => (Vec::new(), rest),
        "self" => (here.to_vec(), rest),
        "super" => (here.get(..here.len().checked_sub(ups)?)?.to_vec(), &path[ups..]),
        _ if aliases.contains_key(first) => (aliases[first].clone(), rest),
        _ if files.contains(&child()) => (here.to_vec(), path),
        _ => return None,
    };
    Some([&base, rest].concat())
}

/// The file that a path leads to: the longest beginning of it that is one.
fn file_of(path: &[String], files: &BTreeSet<String>) -> Option<String> {
    (1..=path.len()).rev().map(|length| path[..length].join("::")).find(|name| files.contains(name))
}

/// The paths that `use` brings in, each with the name it has here, and the code without them.
fn split_uses(code: &str) -> (Vec<(Vec<String>, String)>, String) {
    let (mut uses, mut rest, mut from) = (Vec::new(), String::new(), 0);
    while let Some(at) = code[from..].find("use ").map(|at| from + at) {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let end = code[at..].find(';').map_or(code.len(), |end| at + end);
        if is_word {
            rest.push_str(&code[from..at]);
            expand(&code[at + "use ".len()..end], &[], &mut uses);
            from = end;
        } else {
            rest.push_str(&code[from..at + 1]);
            from = at + 1;
        }
    }
    rest.push_str(&code[from..]);
    (uses, rest)
}

/// The leaves of a tree `a::{b, c::{self, d as e}}`.
fn expand(tree: &str, prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    let (head, group) = tree.split_once('{').map_or((tree, None), |(head, group)| (head, Some(group)));
    let (path, alias) = head.split_once(" as ").map_or((head, None), |(path, alias)| (path, Some(alias.trim())));
    let segments = path.split("::").map(str::trim).filter(|segment| !segment.is_empty() && *segment != "*");
    let mut path: Vec<String> = prefix.iter().cloned().chain(segments.map(str::to_owned)).collect();
    if let Some(group) = group {
        let group = group.trim_end().strip_suffix('}').unwrap_or(group);
        members(group).into_iter().for_each(|member| expand(member, &path, leaves));
        return;
    }
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(name) = alias.map(str::to_owned).or_else(|| path.last().cloned()) {
        leaves.push((path, name));
    }
}

/// The members of a group, of which each may have one of its own.
fn members(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut members) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    members.push(&group[start..]);
    members.into_iter().filter(|member| !member.trim().is_empty()).collect()
}

/// The paths of two segments or more that stand in code, such as `super::settings::Settings`.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    // A path that says who may see an item imports nothing.
    let code = code.replace("pub(in crate::", "pub(in ");
    let words = code.split(|c: char| !is_part(c));
    let paths = words.filter(|word| word.contains("::") && !word.starts_with(':'));
    paths.map(|path| path.split(':').filter(|segment| !segment.is_empty()).map(str::to_owned).collect()).collect()
}

// === excuses ===

/// The names of the files that a header excuses cycles with.
fn excuses(source: &Source) -> Vec<&str> {
    let line = source.text.lines().nth(3).and_then(|line| line.strip_prefix("//! Cycle with "));
    let names = line.and_then(|line| line.split_once(':')).map_or("", |(names, _)| names);
    names.split([' ', ',', '`']).filter(|name| !name.is_empty() && *name != "and").collect()
}

/// Removes the excused imports; complains about an excuse without a cycle.
fn excuse(graph: &mut Graph, sources: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources {
        let Some(name) = module(&source.path) else { continue };
        for other in excuses(source) {
            let is_other = |file: &String| file == other || file.ends_with(&format!("::{other}"));
            let others: Vec<_> =
                graph.keys().filter(|file| area(file) == area(&name) && is_other(file)).cloned().collect();
            let is_excused = others.iter().any(|other| reaches(&name, other, graph) && reaches(other, &name, graph));
            for other in others {
                graph.entry(name.clone()).or_default().remove(&other);
                graph.entry(other.clone()).or_default().remove(&name);
            }
            if !is_excused {
                complaints
                    .push(format!("{}: its header excuses a cycle with `{other}` that is not there", source.path));
            }
        }
    }
    complaints
}

// === cycles ===

/// Whether a file imports another one, directly or through others.
fn reaches(from: &str, to: &str, graph: &Graph) -> bool {
    let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
    while let Some(imports) = next.pop().and_then(|file| graph.get(file)) {
        if imports.contains(to) {
            return true;
        }
        next.extend(imports.iter().map(String::as_str).filter(|file| seen.insert(file)));
    }
    false
}

/// The shortest cycle of imports from a file back to itself.
fn cycle(start: &str, graph: &Graph) -> Option<Vec<String>> {
    let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(at) = queue.pop_front() {
        for next in graph.get(at)? {
            if next == start {
                let mut path = vec![start, at];
                while let Some(before) = came_from.get(path[path.len() - 1]) {
                    path.push(before);
                }
                path.reverse();
                return Some(path.into_iter().map(str::to_owned).collect());
            }
            if !came_from.contains_key(next.as_str()) {
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
    }
    None
}

/// The shortest cycle of each module that has one, and complaints about excuses.
fn cycles(sources: &[Source]) -> (BTreeMap<String, String>, Vec<String>) {
    let mut graph = graph(sources);
    let complaints = excuse(&mut graph, sources);
    let mut shortest: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in graph.keys() {
        let Some(found) = cycle(name, &graph) else { continue };
        let known = shortest.entry(area(name).to_owned()).or_insert_with(|| found.clone());
        if found.len() < known.len() {
            *known = found;
        }
    }
    let shown = |path: Vec<String>| path.join(" → ");
    (shortest.into_iter().map(|(area, path)| (area, shown(path))).collect(), complaints)
}

#[test]
fn no_file_imports_itself_through_others() {
    let (cycles, mut complaints) = cycles(&sources());
    for (area, cycle) in &cycles {
        if !TANGLED.contains(&area.as_str()) {
            complaints.push(format!("the files of `{area}` have an import cycle: {cycle}"));
        }
    }
    for area in TANGLED.iter().filter(|area| !cycles.contains_key(**area)) {
        complaints.push(format!("`{area}` has no import cycle any more: remove it from TANGLED"));
    }
    assert_none(&complaints);
}

// === the rule finds cycles ===

fn files(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(path, text)| source(path, text)).collect()
}

#[test]
fn a_cycle_is_found_in_every_spelling() {
    let parent = ("src/a.rs", "mod b;\nmod c;\npub use b::B;\npub use c::Settings;\npub struct Own;");
    for child in [
        "use super::Own;",
        "use super::Settings;",
        "use crate::a::{self, c};",
        "use crate::{a::Own, clock};",
        "fn f(own: super::Own) {}",
        "fn f() -> crate::a::Own {}",
        "pub(super) use super::Own;",
        "use crate::a as parent;\nfn f() { parent::f() }",
        "use super::c::C;\nuse super::{\n    c::{C, D},\n    Own,\n};",
    ] {
        let (cycles, _) = cycles(&files(&[parent, ("src/a/b.rs", child), ("src/a/c.rs", "pub struct Settings;")]));
        assert_eq!(cycles.get("a").map(String::as_str), Some("a → a::b → a"), "{child}");
    }
    // Through a sibling, and through a module that is imported by its name.
    let (cycles, _) = cycles(&files(&[
        ("src/a/b.rs", "use super::c::C;"),
        ("src/a/c.rs", "use super::d;\nfn f() { d::e::f() }"),
        ("src/a/d.rs", "mod e;"),
        ("src/a/d/e.rs", "use crate::a::b::B;"),
    ]));
    assert_eq!(cycles["a"], "a::b → a::c → a::d::e → a::b");
}

#[test]
fn what_is_no_cycle_is_accepted() {
    for text in [
        "use super::c::Settings;",
        "//! See [`super::Own`].\n// super::Own\nuse std::fmt;",
        "pub(in crate::a) struct B;",
        "use other::a::Own;\nfn f() { Other::super_a() }",
        "#[cfg(test)]\nmod tests {\n    use super::super::Own;\n}",
    ] {
        let all = files(&[("src/a.rs", "pub use b::B;"), ("src/a/b.rs", text), ("src/a/c.rs", "pub struct Settings;")]);
        assert_eq!(cycles(&all).0, BTreeMap::new(), "{text}");
    }
    // Tests may use whatever they test.
    let tests = files(&[
        ("src/a.rs", "use tests::t;"),
        ("src/a/tests.rs", "use super::*;"),
        ("src/a/tests/t.rs", "use crate::a::A;"),
    ]);
    assert_eq!(cycles(&tests).0, BTreeMap::new());
}

#[test]
fn a_header_excuses_a_cycle_and_an_excuse_without_one_is_refused() {
    let header = |excuse: &str| format!("//! Owns.\n//! Invariant.\n//! Must not know.\n{excuse}\nuse super::A;");
    for (excuse, is_excused, complaints) in [
        ("//! Cycle with a: why.", true, 0),
        ("//! Cycle with `a`, c and a: why.", true, 2),
        ("//! Cycle with c: why.", false, 1),
        ("//! A cycle.", false, 0),
    ] {
        let text = header(excuse);
        let all = files(&[("src/a.rs", "pub use b::B;"), ("src/a/b.rs", &text), ("src/a/c.rs", "")]);
        let (cycles, found) = cycles(&all);
        assert_eq!((cycles.is_empty(), found.len()), (is_excused, complaints), "{excuse}: {found:?}");
    }
    // An import is no cycle yet.
    let one_way = header("//! Cycle with a: why.");
    let all = files(&[("src/a.rs", ""), ("src/a/b.rs", &one_way)]);
    assert_eq!(cycles(&all).1.len(), 1);
}
