//! Commands that messages and documents name: each of them exists, with the options that they name.

use linchpin::cli;

use super::support::repository::{files, path, read};

/// What follows `linchpin ` and is no command: a label in cryptography, and an option's value.
const OTHERS: [(&str, &str); 2] = [("src/affinity/seal.rs", "pin"), ("demo/failover.sh", "and")];

/// What a user reads: documents, configurations, scripts, pages, and all that stands in the sources.
fn texts() -> impl Iterator<Item = String> {
    let root = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY"].map(|name| format!("{name}.md"));
    let folders = ["docs", "config", "demo", "src", "tests/it/import/expected"].into_iter().flat_map(files);
    let folders = folders.filter(|file| !file.ends_with(".png"));
    root.into_iter().chain(folders).chain(["bench/README.md".into(), "fuzz/README.md".into()])
}

/// The words of each command in a text: what stands behind `linchpin ` or a cargo's `-- `, up to where it ends.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let ends = |c: char| "`\"\n\\<>;|,()'#".contains(c);
    let begins = |at: usize, word: &str| {
        let is_inside = |c: char| c.is_alphanumeric() || "-_.@".contains(c);
        let by_cargo = || {
            let line = text[..at].rsplit('\n').next().unwrap_or_default();
            line.contains("cargo run")
        };
        match word {
            "-- " => by_cargo(),
            // A folder, and a user.
            _ => {
                !text[..at].ends_with(is_inside)
                    && !["/etc/", "sudo -u "].iter().any(|other| text[..at].ends_with(other))
            }
        }
    };
    ["linchpin ", "-- "]
        .into_iter()
        .flat_map(|word| text.match_indices(word).filter(move |(at, _)| begins(*at, word)))
        .map(|(at, word)| text[at + word.len()..].split(ends).next().unwrap_or_default())
        .map(|command| command.split_whitespace().map(|word| word.trim_end_matches(['.', ':', ']'])).collect())
        .filter(|words: &Vec<&str>| words.first().is_some_and(is_name))
        .collect()
}

/// Why no such command can be given.
fn wrong(words: &[&str], definition: &clap::Command) -> Option<String> {
    let Some(command) = definition.find_subcommand(words[0]) else { return Some("there is no such command".into()) };
    let has = |option: &str| {
        command.get_arguments().any(|argument| match option.strip_prefix("--") {
            Some(long) => argument.get_long() == Some(long.split('=').next().unwrap_or(long)),
            None => argument.get_short() == option.chars().nth(1),
        })
    };
    let options = words[1..].iter().map(|word| word.trim_start_matches('[')).filter(|word| word.starts_with('-'));
    options.filter(|option| option.len() > 1).find(|option| !has(option)).map(|option| format!("it has no {option}"))
}

#[test]
fn every_command_that_is_named_exists_with_its_options() {
    let (mut count, mut faults) = (0, Vec::new());
    let definition = cli::definition();
    for file in texts().filter(|file| path(file).is_file()) {
        // A string that goes on in the next line is one text.
        let text = read(&file).split("\\\n").map(str::trim_start).collect::<Vec<_>>().join("");
        for words in commands(&text) {
            if OTHERS.contains(&(file.as_str(), words[0])) {
                continue;
            }
            count += 1;
            faults.extend(
                wrong(&words, &definition).map(|fault| format!("{file}: linchpin {}: {fault}", words.join(" "))),
            );
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 30, "{count}");
}

#[test]
fn an_unknown_command_is_reported() {
    let definition = cli::definition();
    let faults =
        |text: &str| -> Vec<String> { commands(text).iter().filter_map(|words| wrong(words, &definition)).collect() };
    let none: [String; 0] = [];
    assert_eq!(faults("run `linchpin check -c FILE`, or linchpin keygen -o linchpin.key"), none);
    assert_eq!(faults("`linchpin dran POOL/BACKEND`"), ["there is no such command"]);
    assert_eq!(faults("`linchpin check --quiet`"), ["it has no --quiet"]);
    assert_eq!(faults("cargo run --release -- demmo"), ["there is no such command"]);
    assert_eq!(faults("Linchpin drains, and /etc/linchpin is a folder"), none);
    assert_eq!(faults("`sudo -u linchpin linchpin dran`"), ["there is no such command"]);
    assert_eq!(faults("`sudo -u linchpin linchpin check`"), none);
}

#[test]
fn the_readme_names_every_command() {
    let readme = read("README.md");
    let named: Vec<_> = commands(&readme).into_iter().map(|words| words[0].to_owned()).collect();
    for command in cli::definition().get_subcommands().map(clap::Command::get_name) {
        assert!(named.iter().any(|name| name == command), "README.md leaves out linchpin {command}");
    }
}
