//! The sessions on the pages: with the configuration above it, every command prints the output below it.

use std::collections::HashMap;
use std::net::TcpListener;
use std::path::Path;

use linchpin::app::App;
use linchpin::config;

use super::support::documents::{pages, write_files};
use super::support::process::BINARY;
use super::support::tool::{Folder, try_run};
use super::support::{Backend, Reply};

/// Starts an application that names itself, and issues the session ids that the pages mention.
async fn application(name: &'static str, route: &'static str) -> Backend {
    Backend::start(name, move |seen| {
        let names_itself = if seen.path().contains(';') { format!("{name}1\n") } else { format!("{name}\n") };
        let ids = format!("set-cookie: JSESSIONID=5A0F.{route}; Path=/\r\nset-cookie: PHPSESSID={name}7e3; Path=/\r\n");
        let ids = if seen.field("cookie").is_some() { "" } else { &ids };
        Reply::new(200, &format!("x-served-by: {name}\r\n{ids}"), &names_itself)
    })
    .await
}

/// Compares a line of the page with the real one; `…` stands for anything. The balancer decides which server is `a`, but
/// it must always be the same one, and no other. Names that end with a digit are fixed by the page.
fn is_the_same(expected: &str, found: &str, names: &mut HashMap<String, String>) -> bool {
    if expected.chars().count() != 1 || expected == "…" {
        return matches(expected, found);
    }
    let is_free = !names.values().any(|name| name == found);
    match names.get(expected) {
        Some(name) => name == found,
        None => is_free && names.insert(expected.into(), found.into()).is_none(),
    }
}

/// Whether the text is the pattern, in which `…` stands for anything, and blanks for more or fewer blanks.
fn matches(pattern: &str, text: &str) -> bool {
    let blanks = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (pattern, text) = (blanks(pattern), blanks(text));
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default().trim_end()) else { return false };
    let Some(last) = pattern.split('…').skip(1).last() else { return rest.is_empty() };
    let middle = pattern.matches('…').count() - 1;
    for part in parts.take(middle) {
        let Some((_, after)) = rest.split_once(part.trim()) else { return false };
        rest = after;
    }
    rest.ends_with(last.trim_start())
}

/// Compares all lines. A line `…` stands for any number of lines.
fn are_the_same(expected: &[&str], found: &[&str], names: &mut HashMap<String, String>) -> bool {
    match (expected, found) {
        (["…", expected @ ..], _) => (0..=found.len()).any(|skipped| {
            let mut tried = names.clone();
            let is_same = are_the_same(expected, &found[skipped..], &mut tried);
            if is_same {
                *names = tried;
            }
            is_same
        }),
        ([], found) => found.is_empty(),
        ([first, expected @ ..], [line, found @ ..]) => {
            is_the_same(first, line, names) && are_the_same(expected, found, names)
        }
        _ => false,
    }
}

#[tokio::test]
async fn every_command_on_a_page_prints_the_output_below_it() {
    let (a, b) = (application("a", "node1").await, application("b", "node2").await);
    let (folder_of_binary, _) = BINARY.rsplit_once('/').unwrap();
    let mut count = 0;
    for page in pages() {
        let blocks = page.blocks();
        for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "console") {
            // What has a token of its own to fill in can't be run.
            if block.script().contains('…') {
                continue;
            }
            let toml = blocks[..at].iter().rev().find(|block| block.language == "toml").unwrap();
            // Commands find the admin listener by the file, so its address is not the system's choice.
            let free = TcpListener::bind("127.77.3.2:0").unwrap().local_addr().unwrap().to_string();
            let text = toml.text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9090", &free);
            let text = text
                .replace("127.0.0.1:9001", &a.address().to_string())
                .replace("127.0.0.1:9002", &b.address().to_string());
            // Each thread takes turns by itself.
            let text = format!("{text}\n[server]\nthreads = 1\n");
            let folder = Folder::new();
            write_files(&text, &folder);
            let file = folder.write("linchpin.toml", text.as_bytes());
            // The logs of requests would be in the output of the tests.
            let (mut plan, _) = config::load(Path::new(&file)).unwrap_or_else(|report| panic!("{report}"));
            plan.log.access = linchpin::telemetry::AccessTarget::Off;
            let app = App::start(plan).unwrap();
            let mut names = HashMap::new();
            for command in block.text.split("$ ").filter(|command| !command.trim().is_empty()) {
                let (command, expected) = command.split_once('\n').unwrap();
                let here = command.replace("127.0.0.1:8080", &app.listeners()[0].to_string());
                let setting = format!("cd {:?} && PATH={folder_of_binary}:$PATH", folder.file(""));
                let output = try_run("bash", &["-o", "pipefail", "-c", &format!("{setting}; {here}")]).await;
                let output = output.unwrap_or_else(|output| panic!("{}: {command}\n{output}", block.place));
                // `check` writes what it finds to standard error.
                let found = if command.starts_with("linchpin check") { output.err + &output.out } else { output.out };
                let (found_lines, expected_lines): (Vec<_>, Vec<_>) =
                    (found.lines().collect(), expected.lines().collect());
                assert!(
                    are_the_same(&expected_lines, &found_lines, &mut names),
                    "{}: {command}\n{found}instead of\n{expected}with\n{text}",
                    block.place
                );
                count += 1;
            }
        }
    }
    assert!(count >= 25, "{count}");
}

#[test]
fn only_what_a_page_leaves_open_may_differ() {
    let same = |expected: &str, found: &str| {
        let (expected, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
        are_the_same(&expected, &found, &mut HashMap::new())
    };
    assert!(same("up … s, … of 3", "up   7 s, 2 of 3") && !same("up … s, … of 3", "up 7 s, 2 of 4"));
    assert!(same("xx\n…\nyy", "xx\n1\n2\nyy") && same("xx\n…\nyy", "xx\nyy") && !same("xx\n…\nyy", "xx\n1"));
    assert!(same("a\nb\na", "b\na\nb") && !same("a\nb", "a\na") && !same("a1", "a2") && !same("a", ""));
}
