//! Owns: the conversion of `resolvers` sections.
//! Invariant: a section is converted for the servers that use it, and noted if none does.
//! Must not know: servers.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::super::toml::Table;
use super::syntax::note_whole;
use super::syntax::{Section, Statement};

/// The DNS servers of each section, by its name.
#[derive(Default)]
pub(super) struct Resolvers {
    named: HashMap<String, Vec<String>>,
    used: RefCell<HashSet<String>>,
}

impl Resolvers {
    pub(super) fn read(sections: &[Section]) -> Resolvers {
        let all = sections.iter().filter(|section| section.header.word(0) == "resolvers");
        let named = all
            .map(|section| (section.header.word(1).to_owned(), section.statements.iter().filter_map(server).collect()));
        Resolvers { named: named.collect(), used: RefCell::default() }
    }

    /// Returns the DNS servers of a section, and marks it as used.
    pub(super) fn of(&self, name: &str) -> &[String] {
        self.used.borrow_mut().insert(name.to_owned());
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// Notes the lines of a section that are not converted.
    pub(super) fn note(&self, section: &Section, notes: &mut Table) {
        if !self.used.borrow().contains(section.header.word(1)) {
            return note_whole(&section.header, &section.statements, "no imported name uses it", notes);
        }
        for statement in section.statements.iter().filter(|statement| server(statement).is_none()) {
            let (line, text) = (statement.line, statement.text.as_str());
            match statement.word(0) {
                "parse-resolv-conf" => {
                    notes.unneeded(line, text, "without `resolver`, Linchpin asks the system's resolvers")
                }
                "hold" | "timeout" | "resolve_retries" | "accepted_payload_size" => notes.unneeded(
                    line,
                    text,
                    "a DNS answer is valid for its TTL, within `min_interval` and `max_interval` of [[pools.discover]]",
                ),
                _ => notes.unsupported(line, text, super::super::reasons::NONE),
            }
        }
    }
}

/// Returns the DNS server of a `nameserver` line.
fn server(statement: &Statement) -> Option<String> {
    let address = statement.word(2);
    let address = address.strip_prefix("udp@").or_else(|| address.strip_prefix("tcp@")).unwrap_or(address);
    let address: SocketAddr = address.parse().ok().or_else(|| Some(SocketAddr::new(address.parse().ok()?, 53)))?;
    let can_be = statement.word(0) == "nameserver" && address.port() != 0 && !address.ip().is_unspecified();
    can_be.then(|| address.to_string())
}
