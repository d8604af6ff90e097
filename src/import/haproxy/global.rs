//! Owns: the conversion of the `global` section.
//! Invariant: only settings of HAProxy's whole process become settings of Linchpin's.
//! Must not know: frontends and backends.

use std::time::Duration;

use super::super::output::Output;
use super::super::toml::Value;
use super::super::units;
use super::acme::Stores;
use super::known;
use super::syntax::{Section, Statement};

/// The longest `shutdown_grace`.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Settings of `global` that other sections depend on.
#[derive(Default)]
pub(super) struct Globals {
    pub(super) stores: Stores,
    crt_base: Option<String>,
    ca_base: Option<String>,
    /// Clients must use TLS 1.3.
    pub(super) is_min_13: bool,
    /// HAProxy does not verify servers' certificates by default.
    pub(super) trusts_servers: bool,
}

impl Globals {
    /// Returns the path of a certificate, relative to `crt-base`.
    pub(super) fn certificate(&self, path: &str) -> String {
        based(self.crt_base.as_deref(), path)
    }

    /// Returns the path of authorities, relative to `ca-base`.
    pub(super) fn authority(&self, path: &str) -> String {
        based(self.ca_base.as_deref(), path)
    }

    pub(super) fn read(&mut self, section: &Section, out: &mut Output) {
        for statement in &section.statements {
            let (line, text) = (statement.line, statement.text.as_str());
            match statement.word(0) {
                "maxconn" => number(statement, "max_connections", 1..=10_000_000, out),
                "nbthread" => number(statement, "threads", 0..=1024, out),
                "hard-stop-after" => {
                    let time = units::milliseconds(statement.word(1));
                    out.server.share_time("shutdown_grace", time, Duration::ZERO..=YEAR, line, text);
                }
                "crt-base" => self.crt_base = Some(statement.word(1).into()),
                "ca-base" => self.ca_base = Some(statement.word(1).into()),
                "ssl-server-verify" => self.trusts_servers = statement.word(1) == "none",
                "ssl-default-bind-options" if self.bind_options(statement.from(1)) => {}
                _ => out.top.unsupported(line, text, known::global(statement)),
            }
        }
    }

    /// Converts the options; returns whether all have an equivalent.
    fn bind_options(&mut self, words: &[String]) -> bool {
        let mut words = words.iter().map(String::as_str);
        let mut are_kept = true;
        while let Some(word) = words.next() {
            match word {
                "no-sslv3" | "no-tlsv10" | "no-tlsv11" | "no-tls-tickets" | "prefer-client-ciphers" => {}
                "no-tlsv12" | "force-tlsv13" => self.is_min_13 = true,
                "ssl-min-ver" => match words.next() {
                    Some("TLSv1.3") => self.is_min_13 = true,
                    Some("TLSv1.2") => self.is_min_13 = false,
                    _ => are_kept = false,
                },
                _ => are_kept = false,
            }
        }
        are_kept
    }
}

fn based(base: Option<&str>, path: &str) -> String {
    match base {
        Some(base) if !path.starts_with('/') => format!("{}/{path}", base.trim_end_matches('/')),
        _ => path.into(),
    }
}

fn number(statement: &Statement, key: &'static str, range: std::ops::RangeInclusive<u64>, out: &mut Output) {
    match statement.word(1).parse().ok().filter(|number| range.contains(number)) {
        Some(number) => out.server.share(key, Value::number(number), statement.line, &statement.text),
        None => {
            let why = format!("`{key}` must be a number from {} to {}", range.start(), range.end());
            out.top.unsupported(statement.line, &statement.text, why);
        }
    }
}
