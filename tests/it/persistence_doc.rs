//! `docs/persistence.md`: every configuration on it can be run, and every command prints the output below it.

use std::collections::HashMap;
use std::path::Path;

use linchpin::app::App;
use linchpin::config;

use super::support::repository::read;
use super::support::tool::{Folder, run};
use super::support::{Backend, Reply};

/// Returns the blocks of code on the page, in order: language and text.
fn blocks() -> Vec<(String, String)> {
    let page = read("docs/persistence.md");
    let mut blocks = Vec::new();
    for block in page.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').unwrap();
        blocks.push((language.to_owned(), text.to_owned()));
    }
    blocks
}

/// Completes a part of a configuration, so that it can be run.
const REST: &str = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[pools]]\nname = \"app\"\n\
                    [[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9001\"\nmax_requests = 100\n";

#[test]
fn every_configuration_on_the_page_can_be_run() {
    let parts: Vec<_> = blocks().into_iter().filter(|(language, _)| language == "toml").collect();
    for (_, text) in &parts {
        let whole = if text.contains("[[listeners]]") { text.clone() } else { format!("{REST}{text}") };
        let report = config::parse(&whole, Path::new("page.toml")).map_or_else(|report| report, |(_, report)| report);
        let problems = report.findings().iter().map(|finding| finding.problem.as_str());
        let unusual: Vec<_> = problems
            .filter(|problem| !problem.starts_with("no [[keys]]") && !problem.starts_with("clients are pinned, but"))
            .filter(|problem| !problem.starts_with("learned sessions are in this process only"))
            .collect();
        assert!(unusual.is_empty(), "{unusual:?}\n{whole}");
    }
    assert!(parts.len() >= 9);
}

/// Starts an application that responds with its name, and issues the session ids that the page mentions.
async fn application(name: &'static str, route: &'static str) -> Backend {
    Backend::start(name, move |seen| {
        let names_itself = if seen.path().contains(';') { format!("{name}1\n") } else { format!("{name}\n") };
        let ids = format!("set-cookie: JSESSIONID=5A0F.{route}; Path=/\r\nset-cookie: PHPSESSID={name}7e3; Path=/\r\n");
        Reply::new(200, if seen.field("cookie").is_some() { "" } else { &ids }, &names_itself)
    })
    .await
}

/// Compares a word of the page with the real one. The balancer decides which server is `a`, but it must always be the
/// same one, and no other. Names that end with a digit are fixed by the page.
fn is_the_same(expected: &str, found: &str, names: &mut HashMap<String, String>) -> bool {
    if expected.len() > 1 {
        return expected == found;
    }
    let is_free = !names.values().any(|name| name == found);
    match names.get(expected) {
        Some(name) => name == found,
        None => is_free && names.insert(expected.into(), found.into()).is_none(),
    }
}

#[tokio::test]
async fn every_command_on_the_page_prints_the_output_below_it() {
    let (a, b) = (application("a", "node1").await, application("b", "node2").await);
    let blocks = blocks();
    let mut count = 0;
    for (at, (language, commands)) in blocks.iter().enumerate() {
        if language != "console" {
            continue;
        }
        let (_, text) = blocks[..at].iter().rev().find(|(language, _)| language == "toml").unwrap();
        let text =
            format!("[server]\nthreads = 1\n[log]\naccess = \"off\"\n{text}").replace("127.0.0.1:8080", "127.0.0.1:0");
        let text = text
            .replace("127.0.0.1:9001", &a.address().to_string())
            .replace("127.0.0.1:9002", &b.address().to_string());
        let (plan, _) = config::parse(&text, Path::new("page.toml")).unwrap_or_else(|report| panic!("{report}"));
        let app = App::start(plan).unwrap();
        let (folder, mut names) = (Folder::new(), HashMap::new());
        for command in commands.split("$ ").filter(|command| !command.is_empty()) {
            let (command, expected) = command.split_once('\n').unwrap();
            let here = command.replace("127.0.0.1:8080", &app.listeners()[0].to_string());
            let found =
                run("bash", &["-o", "pipefail", "-c", &format!("cd {:?} && {here}", folder.file(""))]).await.out;
            let same = expected.lines().count() == found.lines().count()
                && expected
                    .lines()
                    .zip(found.lines())
                    .all(|(expected, found)| is_the_same(expected, found, &mut names));
            assert!(same, "{command}\n{found}instead of\n{expected}with\n{text}");
            count += 1;
        }
    }
    assert!(count >= 12);
}
