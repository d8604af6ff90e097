//! Owns: frontend, backend and listen sections, and what each inherits from `defaults`.
//! Invariant: a line that a later one overrules does not count.
//! Must not know: what becomes of a line.

use std::collections::{HashMap, HashSet};

use super::rules;
use super::syntax::{Section, Statement};

/// A frontend, backend or listen section, and what it inherits.
pub(super) struct Proxy<'s> {
    pub(super) header: &'s Statement,
    pub(super) own: &'s [Statement],
    inherited: Vec<&'s Statement>,
    /// Lines that a later one of the section says anew.
    pub(super) overruled: HashSet<usize>,
}

/// The frontends, backends and listens, each with what its defaults give it.
pub(super) fn proxies(sections: &[Section]) -> Vec<Proxy<'_>> {
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
                let overruled = overruled(&section.statements);
                last.extend(section.statements.iter().filter(|statement| !overruled.contains(&statement.line)));
                if !matches!(header.word(1), "" | "from") {
                    named.insert(header.word(1), last.clone());
                }
            }
            "frontend" | "backend" | "listen" => {
                let inherited = over(&section.statements, from.unwrap_or(&last));
                let overruled = overruled(&section.statements);
                proxies.push(Proxy { header, own: &section.statements, inherited, overruled });
            }
            _ => {}
        }
    }
    proxies
}

/// What is inherited of `above`: what is not said anew.
pub(super) fn over<'s>(own: &[Statement], above: &[&'s Statement]) -> Vec<&'s Statement> {
    let anew: HashSet<_> = own.iter().map(subject).collect();
    above
        .iter()
        .filter(|statement| !anew.contains(&subject(statement)) || statement.word(0) == "default-server")
        .copied()
        .collect()
}

/// The lines that a later one says anew: of such the last counts.
pub(super) fn overruled(own: &[Statement]) -> HashSet<usize> {
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

impl<'s> Proxy<'s> {
    pub(super) fn all(&self) -> impl Iterator<Item = (&'s Statement, bool)> {
        let own = self.own.iter().filter(|statement| !self.overruled.contains(&statement.line));
        let own = own.map(|statement| (statement, false));
        own.chain(self.inherited.iter().map(|statement| (*statement, true)))
    }

    /// The statements that begin with a word, its own before those it inherits.
    pub(super) fn each<'p>(&'p self, word: &'p str) -> impl Iterator<Item = &'s Statement> + use<'p, 's> {
        self.all().map(|(statement, _)| statement).filter(move |statement| statement.word(0) == word)
    }

    pub(super) fn is_front(&self) -> bool {
        self.header.word(0) != "backend"
    }

    fn is_back(&self) -> bool {
        self.header.word(0) != "frontend"
    }

    pub(super) fn has_pool(&self) -> bool {
        self.is_back() && (self.header.word(0) == "backend" || self.has_servers())
    }

    fn has_servers(&self) -> bool {
        self.own.iter().any(|statement| matches!(statement.word(0), "server" | "server-template"))
    }

    /// Why the section has no equivalent as a whole.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let leads = |statement: &Statement| {
            matches!(statement.word(0), "use_backend" | "default_backend") || rules::redirect(statement).is_some()
        };
        match self.each("mode").next().map_or("http", |statement| statement.word(1)) {
            _ if self.own.iter().any(|statement| statement.word(0) == "disabled") => Some("it is disabled"),
            "http" if self.has_servers() || self.header.word(0) == "backend" => None,
            "http" if self.is_front() && self.all().any(|(statement, _)| leads(statement)) => None,
            "http" if self.own.iter().any(|statement| matches!(statement.word(0), "stats" | "monitor-uri")) => {
                Some("status, metrics and a dashboard are at the address of [admin]")
            }
            "http" => Some("it sends nothing to a backend"),
            _ => Some("Linchpin speaks HTTP alone"),
        }
    }
}

/// What a line is about: two lines about the same don't add up.
fn subject(statement: &Statement) -> (&str, &str) {
    match statement.word(0) {
        "no" => (statement.word(1), statement.word(2)),
        word @ ("timeout" | "option" | "http-check") => (word, statement.word(1)),
        "clitimeout" => ("timeout", "client"),
        "srvtimeout" => ("timeout", "server"),
        "contimeout" => ("timeout", "connect"),
        word => (word, ""),
    }
}
