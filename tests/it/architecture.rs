//! The rules of the architecture: which module imports which, and the shape of files.
//!
//! Each rule is a function from sources to complaints, so that the tests below it can pass it bad sources, too.

use std::collections::{BTreeMap, BTreeSet};

mod cycles;

use super::support::repository::{between, read, rust_files};

/// Files that may read the system's clock: everyone else takes the time from `clock`, or as an argument.
const CLOCK_READERS: [(&str, &str); 7] = [
    ("src/clock.rs", "it is the clock"),
    ("src/health/active.rs", "the probes' own timetable, on the control thread"),
    ("src/telemetry/writer.rs", "the log writer's own thread, which has no event loop"),
    ("src/demo/server.rs", "the demo backend knows nothing of the proxy, nor of its clock"),
    ("src/demo/copies.rs", "part of the demo backend"),
    ("src/demo/counter.rs", "part of the demo backend"),
    ("src/demo/shop.rs", "part of the demo backend"),
];

/// Lines of code in one file, tests not counted. Less is better: 300 is plenty.
const LONGEST: usize = 500;

struct Source {
    path: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let sources: Vec<_> = rust_files("src").into_iter().map(|path| Source { text: read(&path), path }).collect();
    assert!(sources.len() > 50, "{} files found in src/: the rules would hold for nothing", sources.len());
    sources
}

fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

// === imports ===

/// Which modules a module may use: the table in ARCHITECTURE.md, read. A table that isn't in order is refused.
fn table(document: &str) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let block = between(document, "imports");
    let rows: Vec<_> = block.lines().filter_map(|line| line.split_once('→')).collect();
    let modules: Vec<&str> = rows.iter().map(|(module, _)| module.trim()).collect();
    let free = rows.iter().filter(|(_, uses)| uses.contains("everyone may use it")).map(|(module, _)| module.trim());
    let free: BTreeSet<String> = free.map(str::to_owned).collect();
    let mut table = BTreeMap::new();
    for (index, (module, uses)) in rows.iter().enumerate() {
        let (module, below) = (module.trim(), &modules[index + 1..]);
        let mut may = free.clone();
        let uses = uses.trim();
        if let Some(but) = uses.strip_prefix("everything below") {
            let but = but.trim().strip_prefix("but ").unwrap_or_default();
            may.extend(below.iter().filter(|module| **module != but).map(|module| (*module).to_owned()));
        } else if !uses.starts_with("nothing") {
            for other in uses.split(',').map(str::trim) {
                if !below.contains(&other) {
                    return Err(format!("{module} may use {other}, which is no row below its own"));
                }
                may.insert(other.to_owned());
            }
        }
        table.insert(module.to_owned(), may);
    }
    Ok(table)
}

/// The modules that a source's code names, in `use crate::…`, in paths, and by way of `super`.
fn used(source: &Source) -> BTreeSet<String> {
    let code = code(&source.text);
    let root = if source.path == "src/main.rs" { "linchpin::" } else { "crate::" };
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + root.len()..];
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(heads(group)),
            None => modules.extend(word(rest)),
        }
    }
    // As many `super` as the file is deep lead to the root; inline test modules are one deeper.
    let depth = source.path.matches('/').count();
    for (at, _) in code.match_indices("super::") {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut ups = 0;
        while let Some(further) = rest.strip_prefix("super::") {
            (rest, ups) = (further, ups + 1);
        }
        let in_tests = source.text.contains("#[cfg(test)]") && at > without_tests(&code).len();
        if ups >= depth + usize::from(in_tests) {
            modules.extend(word(rest));
        }
    }
    modules
}

/// The first words of the members of a `{…}` group; what is behind its `{` is given.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (1, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            heads.extend(word(group[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn word(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    Some(text[..end].to_owned()).filter(|word| !word.is_empty())
}

/// The module that a file belongs to.
fn module(path: &str) -> &str {
    let path = path.strip_prefix("src/").unwrap_or(path);
    path.split(['/', '.']).next().unwrap_or(path)
}

fn wrong_imports(sources: &[Source], table: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut complaints = Vec::new();
    for source in sources.iter().filter(|source| source.path != "src/lib.rs") {
        let module = module(&source.path);
        let Some(may) = table.get(module) else {
            complaints.push(format!("{}: module `{module}` has no row in ARCHITECTURE.md", source.path));
            continue;
        };
        for other in used(source) {
            if other != module && !may.contains(&other) {
                complaints.push(format!("{}: `{module}` must not know `{other}`", source.path));
            }
        }
    }
    complaints
}

#[test]
fn imports_run_downward_only() {
    let table = table(&read("ARCHITECTURE.md")).unwrap();
    assert_none(&wrong_imports(&sources(), &table));
    let modules: BTreeSet<_> = sources().iter().map(|source| module(&source.path).to_owned()).collect();
    for row in table.keys() {
        assert!(modules.contains(row), "ARCHITECTURE.md has a row for `{row}`, and src/ no such module");
    }
}

// === the shape of a file ===

fn wrong_shapes(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut complain = |what: &str| complaints.push(format!("{}: {what}", source.path));
    let name = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    if name == "mod" {
        complain("a module's contract stands in a.rs beside a/, not in a/mod.rs");
    }
    if ["utils", "util", "common", "types", "helpers", "misc"].contains(&name) {
        complain("a name that says nothing: call it by what it owns");
    }
    if source.text.lines().take(3).filter(|line| line.starts_with("//!")).count() < 3 {
        complain("open with three lines of `//!`: what it owns, the invariant it keeps, what it must not know");
    }
    let lines = without_tests(&source.text).lines().count();
    if lines > LONGEST {
        complain(&format!(
            "{lines} lines without its tests, of {LONGEST} at most: find the part that is a file of its own"
        ));
    }
    // The lint in Cargo.toml forbids it as well; this finds what an attribute or a macro would bring back.
    let code = code(&source.text);
    let unsafes = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe(", "allow(unsafe_code)"];
    if unsafes.iter().any(|unsafes| code.contains(unsafes)) {
        complain("no unsafe code");
    }
    complaints
}

#[test]
fn every_file_has_the_prescribed_shape() {
    let complaints: Vec<_> = sources().iter().flat_map(wrong_shapes).collect();
    assert_none(&complaints);
    for path in rust_files("tests/it") {
        assert!(!path.ends_with("/mod.rs"), "{path}: a.rs beside a/, in tests as well");
    }
}

// === time ===

fn reads_clock(source: &Source) -> bool {
    let code = code(without_tests(&source.text));
    // A clock is also read by asking an instant how long ago it was.
    ["SystemTime::now", "Instant::now", ".elapsed()"].iter().any(|read| code.contains(read))
}

#[test]
fn time_is_read_in_one_place() {
    let readers = sources().into_iter().filter(|source| is_product(source) && reads_clock(source));
    let readers: BTreeSet<_> = readers.map(|source| source.path).collect();
    let allowed: BTreeSet<_> = CLOCK_READERS.iter().map(|(path, _)| (*path).to_owned()).collect();
    let new: Vec<_> = readers.difference(&allowed).map(|path| format!("{path}: take the time from `clock`")).collect();
    assert_none(&new);
    let unused: Vec<_> = allowed.difference(&readers).map(|path| format!("{path} reads no clock: strike it")).collect();
    assert_none(&unused);
}

/// Whether a file is more than tests.
fn is_product(source: &Source) -> bool {
    !source.path.contains("/tests/") && !source.path.ends_with("/tests.rs")
}

// === reading sources ===

/// What stands before the first `#[cfg(test)]` that opens a module of tests; `mod tests;` alone opens none.
fn without_tests(text: &str) -> &str {
    let mut from = 0;
    while let Some(at) = text[from..].find("#[cfg(test)]") {
        let behind = text[from + at..].trim_start_matches("#[cfg(test)]").trim_start();
        let line = behind.lines().next().unwrap_or_default();
        if line.starts_with("mod ") && line.ends_with('{') {
            return &text[..from + at];
        }
        from += at + 1;
    }
    text
}

/// The source without line comments. A `//` in a string takes the rest of its line with it: no path stands there.
fn code(text: &str) -> String {
    let uncommented = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().map(uncommented).collect::<Vec<_>>().join("\n")
}

// === the rules catch what they are for ===

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

fn document(rows: &str) -> String {
    format!("<!-- imports: begin -->\n```\n{rows}\n```\n<!-- imports: end -->")
}

#[test]
fn an_import_against_the_table_is_caught_in_every_spelling() {
    let table = table(&document(
        "app → everything below but demo\npool → nothing\ndemo → nothing\nclock → nothing, and everyone may use it",
    ))
    .unwrap();
    for (path, text) in [
        ("src/pool.rs", "use crate::app::App;"),
        ("src/pool/live.rs", "use crate::{clock, app};"),
        ("src/pool/live.rs", "use crate::{\n    clock::{self, Deadline},\n    app::{App, Other},\n};"),
        ("src/pool/live.rs", "fn a() -> crate::app::App {}"),
        ("src/pool/live.rs", "use super::super::app::App;"),
        ("src/pool.rs", "use super::app::App;"),
        ("src/pool.rs", "#[cfg(test)]\nmod tests {\n    use super::super::app::App;\n}"),
        ("src/app.rs", "use crate::demo;"),
        ("src/attic.rs", "use crate::clock;"),
    ] {
        assert_eq!(wrong_imports(&[source(path, text)], &table).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("src/pool/live.rs", "use crate::pool::Pool;\nuse crate::clock;\nuse super::Backend;"),
        ("src/pool/live.rs", "//! See [`crate::app::App`].\nuse mycrate::app;"),
        ("src/pool.rs", "#[cfg(test)]\nmod tests {\n    use super::Pool;\n}"),
        ("src/app.rs", "use crate::pool::Pool;"),
    ] {
        assert_none(&wrong_imports(&[source(path, text)], &table));
    }
}

#[test]
fn a_table_with_a_cycle_is_refused() {
    assert!(table(&document("a → b\nb → a")).is_err());
    assert!(table(&document("a → b\nb → nothing")).is_ok());
}

#[test]
fn files_out_of_shape_are_caught() {
    let good = "//! Owns.\n//! Invariant.\n//! Must not know.\n";
    assert_none(&wrong_shapes(&source("src/pool.rs", &format!("{good}#![forbid(unsafe_code)]\n// unsafe"))));
    let long = format!("{good}{}", "fn a() {}\n".repeat(LONGEST));
    let tests = format!("{good}#[cfg(test)]\nmod tests {{\n{}}}", "fn a() {}\n".repeat(LONGEST));
    assert_none(&wrong_shapes(&source("src/pool.rs", &tests)));
    for (path, text) in [
        ("src/pool/mod.rs", good),
        ("src/pool/utils.rs", good),
        ("src/pool.rs", "//! Owns.\n\nuse std::fmt;"),
        ("src/pool.rs", &long),
        ("src/pool.rs", &format!("{good}fn a() {{ unsafe {{ b() }} }}")),
    ] {
        assert_eq!(wrong_shapes(&source(path, text)).len(), 1, "{path}: {text}");
    }
}

#[test]
fn a_clock_that_is_read_is_seen() {
    for text in ["let now = Instant::now();", "std::time::SystemTime::now()", "since.elapsed() > LIMIT"] {
        assert!(reads_clock(&source("src/pool.rs", text)), "{text}");
    }
    for text in ["// Instant::now()", "now: Instant", "#[cfg(test)]\nmod tests {\n    let now = Instant::now();\n}"] {
        assert!(!reads_clock(&source("src/pool.rs", text)), "{text}");
    }
}
