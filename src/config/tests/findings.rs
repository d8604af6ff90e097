//! `findings.txt` has configuration files and all their findings, so that messages are reviewed as text.
//! A case starts with `=== KIND TITLE`. A case `file` is a whole file; `top` is the start of a valid file;
//! `pool` follows the start of a valid pool, and its lines count from 1. The findings are after `---`.

use super::*;

const CASES: &str = include_str!("findings.txt");

/// Seven lines.
const POOL: &str = "[[listeners]]\naddress = \"127.0.0.1:8080\"\n[[pools]]\nname = \"app\"\n\
                    [[pools.backends]]\nname = \"a\"\naddress = \"127.0.0.1:9001\"\n";

/// Findings of every pool that pins clients. Cases of kind `pool` leave them out.
const USUAL: [&str; 2] = ["no [[keys]]", "clients are pinned, but"];

fn findings(kind: &str, text: &str) -> String {
    let (text, lines_before) = match kind {
        "file" => (text.to_owned(), 0),
        "top" => (format!("{text}{GOOD}"), 0),
        "pool" => (format!("{POOL}{text}"), POOL.lines().count()),
        _ => panic!("no such kind: {kind}"),
    };
    let report = parse(&text, &origin()).map_or_else(|report| report, |(_, report)| report);
    let is_of_interest =
        |finding: &&Finding| kind != "pool" || !USUAL.iter().any(|usual| finding.problem.starts_with(usual));
    let line = |finding: &Finding| {
        let position = finding.position.as_ref().unwrap();
        let line = position.line as i64 - lines_before as i64;
        format!("{line}:{} {}: {}; {}\n", position.column, finding.severity, finding.problem, finding.remedy)
    };
    report.findings().iter().filter(is_of_interest).map(line).collect()
}

#[test]
fn each_mistake_is_named_with_its_place_and_its_remedy() {
    let (mut actual, mut count) = (String::new(), 0);
    for case in CASES.split("=== ").filter(|case| !case.is_empty()) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("---\n").unwrap();
        let (kind, _) = title.split_once(' ').unwrap();
        actual += &format!("=== {title}\n{text}---\n{}\n", findings(kind, text));
        count += 1;
    }
    if actual != CASES {
        let path = std::env::temp_dir().join(format!("linchpin-findings-{}.txt", std::process::id()));
        std::fs::write(&path, &actual).unwrap();
        let first = actual.lines().zip(CASES.lines()).find(|(actual, expected)| actual != expected);
        panic!("differs at {first:#?}: diff {} src/config/tests/findings.txt", path.display());
    }
    assert!(count > 40);
}
