//! The examples of the pages for operators: each configuration is accepted, each command line is understood, and each
//! request to the admin API is answered.

use std::path::Path;

use linchpin::{cli, config};

use super::support::documents::{Block, completed, pages, write_files};
use super::support::reloads::Reloadable;
use super::support::repository::{path, read};
use super::support::tool::{Folder, run, try_run};
use super::support::{Backend, Proxy};

fn blocks(languages: &[&str]) -> Vec<Block> {
    let blocks = pages().into_iter().flat_map(|page| page.blocks());
    blocks.filter(|block| languages.contains(&block.language.as_str())).collect()
}

/// What `check` says of a configuration that is right, but a part of one.
fn is_expected(problem: &str) -> bool {
    [
        "no [[keys]]",
        "clients are pinned, but",
        "learned sessions are in this process only",
        "sessions that [pools.rebalance] moves",
    ]
    .iter()
    .any(|begin| problem.starts_with(begin))
}

#[test]
fn every_configuration_is_accepted() {
    let blocks = blocks(&["toml"]);
    for block in &blocks {
        let folder = Folder::new();
        // The folders of the packages.
        let mut text = completed(&block.text);
        for installed in ["/etc/linchpin/", "/run/linchpin/", "/var/log/linchpin/"] {
            text = text.replace(installed, &folder.file(""));
        }
        let storage = format!("agree_to_terms = true\nstorage = {:?}\n", folder.file("acme"));
        text = text.replace("agree_to_terms = true\n", &storage);
        let relative = text.replace(&folder.file(""), "");
        write_files(&relative, &folder);
        let report = config::parse(&text, Path::new(&folder.file("page.toml")));
        let report = report.map_or_else(|report| report, |(_, report)| report);
        let problems = report.findings().iter().map(|finding| finding.problem.as_str());
        let unexpected: Vec<_> = problems.filter(|problem| !is_expected(problem)).collect();
        assert!(unexpected.is_empty(), "{}: {unexpected:#?}\n{text}", block.place);
    }
    assert!(blocks.len() > 30, "{}", blocks.len());
}

/// The words of each simple command of a script: quotes group, `#` begins a comment, and `|`, `&&`, `;` and the end of a
/// line end a command. Redirections belong to no command.
fn simple_commands(script: &str) -> Vec<Vec<String>> {
    let (mut commands, mut words, mut word) = (Vec::new(), Vec::new(), None::<String>);
    let script = script.replace("\\\n", " ");
    let mut chars = script.chars().peekable();
    let mut is_redirected = false;
    while let Some(c) = chars.next() {
        let ends = c.is_whitespace() || "|&;<>".contains(c);
        if (ends || (c == '#' && word.is_none()))
            && let Some(word) = word.take()
            && !std::mem::take(&mut is_redirected)
        {
            words.push(word);
        }
        match c {
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '\'' | '"' => {
                let quoted = word.get_or_insert_default();
                while let Some(inner) = chars.next_if(|inner| *inner != c) {
                    quoted.push(inner);
                }
                chars.next();
            }
            '$' if chars.peek() == Some(&'(') => {
                let output = word.get_or_insert_default();
                output.push(c);
                output.extend(std::iter::from_fn(|| chars.next_if(|inner| *inner != ')')));
            }
            '<' | '>' => is_redirected = true,
            '\n' | '|' | '&' | ';' => commands.push(std::mem::take(&mut words)),
            c if c.is_whitespace() => {}
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    commands.push(words);
    commands.retain(|words| !words.is_empty());
    commands
}

/// What of a command is another one: behind `sudo`, variables, and the `--` of cargo or kubectl.
fn inner(words: &[String]) -> &[String] {
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sudo", "-u", ..] => inner(&words[3..]),
        ["sudo" | "while" | "until" | "!", ..] => inner(&words[1..]),
        ["cargo", ..] | ["kubectl", ..] => match words.iter().position(|word| word == "--") {
            Some(at) => &words[at + usize::from(words[0] == "kubectl")..],
            None => words,
        },
        [first, ..] if first.contains('=') && !first.starts_with('-') => inner(&words[1..]),
        _ => words,
    }
}

#[test]
fn every_command_line_is_understood() {
    let (mut count, mut faults) = (0, Vec::new());
    for block in blocks(&["sh", "console"]) {
        for words in simple_commands(&block.script()) {
            // What a command in an argument would print is a name.
            let words: Vec<_> = inner(&words).iter().map(|word| word.replace("$(cat server)", "a")).collect();
            let Some(first) = words.first() else { continue };
            if ["linchpin", "--"].contains(&first.rsplit('/').next().unwrap()) {
                count += 1;
                if let Err(error) = cli::definition().try_get_matches_from(&words) {
                    let is_help = [clap::error::ErrorKind::DisplayHelp, clap::error::ErrorKind::DisplayVersion];
                    if !is_help.contains(&error.kind()) {
                        faults.push(format!("{}: {}: {error}", block.place, words.join(" ")));
                    }
                }
            } else if first.contains('/') && !first.starts_with(['/', '$', '~']) {
                // A script of this repository says in its text which options it has.
                count += 1;
                assert!(path(first).exists(), "{}: there is no {first}", block.place);
                let text = read(first);
                let options = words.iter().filter(|word| word.starts_with("--"));
                let unknown = options.filter(|option| !text.contains(option.split('=').next().unwrap()));
                faults.extend(unknown.map(|option| format!("{}: {first} has no {option}", block.place)));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 60, "{count}");
}

#[test]
fn a_command_line_that_is_not_understood_is_found() {
    let words = |text: &str| -> Vec<String> { simple_commands(text).concat() };
    assert_eq!(words("a 'b c' \"d|e\" >f # g\n"), ["a", "b c", "d|e"]);
    assert_eq!(simple_commands("a && b; c | d\\\n e").len(), 4);
    assert_eq!(words("a b/$(c d) e"), ["a", "b/$(c d)", "e"]);
    let inner_of = |text: &str| inner(&words(text)).join(" ");
    assert_eq!(inner_of("sudo -u linchpin linchpin check"), "linchpin check");
    assert_eq!(inner_of("X=1 cargo run --release -- demo"), "-- demo");
    assert_eq!(inner_of("kubectl exec -n a b -- /usr/bin/linchpin status"), "/usr/bin/linchpin status");
    assert!(cli::definition().try_get_matches_from(["linchpin", "drain", "app/a", "--dedline", "1m"]).is_err());
    assert!(
        completed("[pools.queue]\nsize = 1\n").find("[[pools]]") < completed("[pools.queue]\n").find("[pools.queue]")
    );
}

/// Requests to the admin API of the examples, with the lines that prepare them.
fn requests(script: &str) -> String {
    let is_kept = |line: &&str| {
        let line = line.trim_start();
        let is_variable = line.split('=').next().is_some_and(|name| name.chars().all(|c| c.is_ascii_lowercase()));
        (line.starts_with("curl ") || is_variable) && !line.contains("127.0.0.1:8080")
    };
    script.lines().filter(is_kept).fold(String::new(), |text, line| text + line + "\n")
}

#[tokio::test]
async fn every_request_to_the_admin_api_is_answered() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let mut count = 0;
    for block in blocks(&["sh", "console"]) {
        let requests = requests(&block.script());
        if !requests.contains(":9090/") {
            continue;
        }
        let top = "[admin]\naddress = \"127.0.0.1:0\"\n";
        let linchpin = Reloadable::start(&Proxy::builder().top(top).backend(&a, "").backend(&b, "").text());
        let address = linchpin.proxy.admin().to_string();
        // A drain of a backend without sessions has ended before it can be cancelled, and `…` is somebody's token.
        let mut requests = requests;
        if requests.contains("/drain") || requests.contains('…') {
            linchpin.proxy.get(None).await;
            let pin = linchpin.proxy.get(None).await.pin().unwrap();
            requests = requests.replace("linchpin-app=AQ…", &pin).replace('…', &pin);
        }
        let here = requests.replace("localhost:9090", &address).replace("127.0.0.1:9090", &address);
        // A stream has no end: curl gives up with 28.
        let bounded = here.lines().map(|line| match line.contains("curl -N ") {
            true => format!("(\n{}\n) || [ $? -eq 28 ]\n", line.replace("curl ", "curl -f --max-time 0.3 ")),
            false => line.replace("curl ", "curl -f --max-time 10 ") + "\n",
        });
        let here: String = bounded.collect();
        for line in here.lines().filter(|line| line.contains("curl -f")) {
            count += 1;
            assert!(line.contains(&address) || line.contains("$url"), "{}: {line} asks somebody else", block.place);
        }
        let outcome = try_run("bash", &["-e", "-o", "pipefail", "-c", &here]).await;
        assert!(outcome.is_ok(), "{}: {}\n{here}", block.place, outcome.unwrap_err());
        drop(linchpin);
    }
    assert!(count >= 10, "{count}");
    // One that the API doesn't have fails.
    let top = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let proxy = Proxy::builder().top(top).backend(&a, "").start();
    assert!(try_run("curl", &["-sf", &format!("http://{}/api/v1/poools", proxy.admin())]).await.is_err());
    run("curl", &["-sf", &format!("http://{}/api/v1/status", proxy.admin())]).await;
}
