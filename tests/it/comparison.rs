//! `docs/comparison.md`: its figures are those of the benchmark's page. `WRITE_FIGURES=1` takes them over from there.

use std::fmt::Write;

use super::support::repository::{between, path, read};

const PAGE: &str = "docs/comparison.md";
const PROXIES: [&str; 3] = ["Linchpin", "HAProxy", "nginx"];

/// Returns the table of ratios that follows from the page of the benchmark: a row for each scenario and pattern in which
/// all three took part.
fn figures(results: &str) -> String {
    let programs = results.lines().find_map(|line| line.strip_prefix("- Programs: ")).unwrap();
    let programs = programs.split(", raw TCP relay").next().unwrap();
    let mut text = format!("\n{programs}:\n\n| | {} |\n| --- | --- | --- | --- |\n", PROXIES.join(" | "));
    for section in results.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        // Each table follows the name of its pattern, if the scenario has several.
        for table in section.split("\nPattern ") {
            let pattern = table.split('`').nth(1).filter(|_| table.starts_with('`'));
            let ratio = |proxy: &str| {
                let row = table.lines().find(|line| line.starts_with(&format!("| {proxy} |")))?;
                row.split('|').nth(3)?.trim().split(' ').next().filter(|ratio| ratio.parse::<f64>().is_ok())
            };
            let ratios: Vec<_> = PROXIES.into_iter().filter_map(ratio).collect();
            if ratios.len() == PROXIES.len() {
                let memory = if title.starts_with("Idle") { ", memory" } else { "" };
                let pattern = pattern.map_or(String::new(), |pattern| format!(", `{pattern}`"));
                writeln!(text, "| {title}{memory}{pattern} | {} |", ratios.join(" | ")).unwrap();
            }
        }
    }
    text
}

#[test]
fn the_figures_of_the_comparison_are_those_of_the_benchmark() {
    let (page, new) = (read(PAGE), figures(&read("bench/RESULTS.md")));
    let old = between(&page, "figures").to_owned();
    if std::env::var_os("WRITE_FIGURES").is_some() {
        std::fs::write(path(PAGE), page.replacen(&format!("-->{old}"), &format!("-->{new}"), 1)).unwrap();
        return;
    }
    assert_eq!(old, new, "take them over: WRITE_FIGURES=1 cargo test --test it comparison");
    assert!(new.lines().count() > 12, "{new}");
}

#[test]
fn a_scenario_with_two_patterns_has_two_rows() {
    let table = "| proxy | CPU | ratio |\n| --- | --- | --- |\n| Linchpin | 9 | 0.90 (0.8–1.0) |\n| HAProxy | 10 | 1.00 |\n\
                 | nginx | 11 | 1.10 |\n| raw TCP relay | 5 | 0.5 |\n";
    let page = format!(
        "- Programs: Linchpin 1, HAProxy 2, nginx 3, raw TCP relay. All.\n\n## Hit\n\nPattern `a`:\n\n{table}\nPattern `b`:\n\n{table}\n\
         ## Types\n\n| cookie | 1 | 1.00 |\n"
    );
    let rows: Vec<_> = figures(&page).lines().filter(|line| line.contains("0.90")).map(str::to_owned).collect();
    assert_eq!(rows, ["| Hit, `a` | 0.90 | 1.00 | 1.10 |", "| Hit, `b` | 0.90 | 1.00 | 1.10 |"]);
}
