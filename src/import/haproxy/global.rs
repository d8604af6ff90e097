//! Owns: the `global` section.
//! Invariant: what holds for the process here held for the process there.
//! Must not know: proxies.

use std::time::Duration;

use super::super::output::Output;
use super::super::toml::Value;
use super::syntax::{Section, Statement};
use super::{duration, known};

/// The longest time that requests may have to end.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

pub(super) fn read(section: &Section, out: &mut Output) {
    for statement in &section.statements {
        let (line, text) = (statement.line, statement.text.as_str());
        match statement.word(0) {
            "maxconn" => number(statement, "max_connections", 1..=10_000_000, out),
            "nbthread" => number(statement, "threads", 0..=1024, out),
            "hard-stop-after" => {
                let time = duration(statement.word(1));
                out.server.share_time("shutdown_grace", time, Duration::ZERO..=YEAR, line, text);
            }
            _ => out.top.lost(line, text, known::global(statement)),
        }
    }
}

fn number(statement: &Statement, key: &'static str, range: std::ops::RangeInclusive<u64>, out: &mut Output) {
    match statement.word(1).parse().ok().filter(|number| range.contains(number)) {
        Some(number) => out.server.share(key, Value::number(number), statement.line, &statement.text),
        None => {
            let why = format!("`{key}` is a number from {} to {}", range.start(), range.end());
            out.top.lost(statement.line, &statement.text, why);
        }
    }
}
