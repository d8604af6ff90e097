//! Owns: frontend, backend and listen sections, and what each inherits from `defaults`.
//! Invariant: a line that a later one overrides does not count.
//! Must not know: how a line is handled.

use std::collections::{HashMap, HashSet};

use super::rules;
use super::syntax::{Section, Statement};

/// A frontend, backend or listen section, and what it inherits.
pub(super) struct ProxySection<'s> {
    pub(super) header: &'s Statement,
    pub(super) own: &'s [Statement],
    inherited: Vec<&'s Statement>,
    /// Lines that a later line of the section overrides.
    pub(super) overridden: HashSet<usize>,
}

/// Returns the frontend, backend and listen sections, each with the lines of its `defaults`.
pub(super) fn proxies(sections: &[Section]) -> Vec<ProxySection<'_>> {
    let mut last: Vec<&Statement> = Vec::new();
    let mut named: HashMap<&str, Vec<&Statement>> = HashMap::new();
    let mut proxies = Vec::new();
    for section in sections {
        let header = &section.header;
        let from = header.words.iter().position(|word| word == "from").and_then(|at| named.get(header.word(at + 1)));
        match header.word(0) {
            "defaults" => {
                let above = from.cloned().unwrap_or_default();
                last = over(&section.statements, &above);
                let overridden = overridden(&section.statements);
                last.extend(section.statements.iter().filter(|statement| !overridden.contains(&statement.line)));
                if !matches!(header.word(1), "" | "from") {
                    named.insert(header.word(1), last.clone());
                }
            }
            "frontend" | "backend" | "listen" => {
                let inherited = over(&section.statements, from.unwrap_or(&last));
                let overridden = overridden(&section.statements);
                proxies.push(ProxySection { header, own: &section.statements, inherited, overridden });
            }
            _ => {}
        }
    }
    proxies
}

/// Returns the lines of `above` that a section inherits: those that it does not override.
pub(super) fn over<'s>(own: &[Statement], above: &[&'s Statement]) -> Vec<&'s Statement> {
    let anew: HashSet<_> = own.iter().map(subject).collect();
    above
        .iter()
        .filter(|statement| !anew.contains(&subject(statement)) || statement.word(0) == "default-server")
        .copied()
        .collect()
}

/// Returns the lines that a later line overrides.
pub(super) fn overridden(own: &[Statement]) -> HashSet<usize> {
    let is_single = |statement: &&Statement| {
        let (word, _) = subject(statement);
        matches!(
            word,
            "timeout" | "retries" | "retry-on" | "balance" | "mode" | "hash-type" | "maxconn" | "default_backend"
        )
    };
    let mut seen = HashSet::new();
    let later = own.iter().rev().filter(is_single).filter(|statement| !seen.insert(subject(statement)));
    later.map(|statement| statement.line).collect()
}

impl<'s> ProxySection<'s> {
    pub(super) fn all(&self) -> impl Iterator<Item = (&'s Statement, bool)> {
        let own = self.own.iter().filter(|statement| !self.overridden.contains(&statement.line));
        let own = own.map(|statement| (statement, false));
        own.chain(self.inherited.iter().map(|statement| (*statement, true)))
    }

    /// Returns the statements that begin with a word, the section's own before inherited ones.
    pub(super) fn each<'p>(&'p self, word: &'p str) -> impl Iterator<Item = &'s Statement> + use<'p, 's> {
        self.all().map(|(statement, _)| statement).filter(move |statement| statement.word(0) == word)
    }

    pub(super) fn is_frontend(&self) -> bool {
        self.header.word(0) != "backend"
    }

    fn is_backend(&self) -> bool {
        self.header.word(0) != "frontend"
    }

    pub(super) fn has_pool(&self) -> bool {
        self.is_backend() && (self.header.word(0) == "backend" || self.has_servers())
    }

    fn has_servers(&self) -> bool {
        self.own.iter().any(|statement| matches!(statement.word(0), "server" | "server-template"))
    }

    /// Returns why the whole section has no equivalent, if so.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let leads = |statement: &Statement| {
            matches!(statement.word(0), "use_backend" | "default_backend") || rules::redirect(statement).is_some()
        };
        match self.each("mode").next().map_or("http", |statement| statement.word(1)) {
            _ if self.own.iter().any(|statement| statement.word(0) == "disabled") => Some("the section is disabled"),
            "http" if self.has_servers() || self.header.word(0) == "backend" => None,
            "http" if self.is_frontend() && self.all().any(|(statement, _)| leads(statement)) => None,
            "http" if self.own.iter().any(|statement| matches!(statement.word(0), "stats" | "monitor-uri")) => {
                Some("[admin] serves status, metrics and a dashboard")
            }
            "http" => Some("it sends no request to a backend"),
            _ => Some("Linchpin handles only HTTP"),
        }
    }
}

/// Returns the setting that a line is for: a line overrides another one for the same setting.
fn subject(statement: &Statement) -> (&str, &str) {
    match statement.word(0) {
        "no" => (statement.word(1), statement.word(2)),
        word @ ("timeout" | "option" | "http-check") => (word, statement.word(1)),
        // Each status has a page of its own.
        word @ "errorfile" => (word, statement.word(1)),
        word @ "http-error" => (word, statement.word(2)),
        "clitimeout" => ("timeout", "client"),
        "srvtimeout" => ("timeout", "server"),
        "contimeout" => ("timeout", "connect"),
        word => (word, ""),
    }
}
