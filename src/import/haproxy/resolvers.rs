//! Owns: `resolvers` sections: who is asked for names.
//! Invariant: a line is kept where a name is asked for by it, and noted where none is.
//! Must not know: servers.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use super::super::toml::Table;
use super::syntax::note_whole;
use super::syntax::{Section, Statement};

/// DNS servers by the names of their sections.
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

    /// Those of a section.
    pub(super) fn of(&self, name: &str) -> &[String] {
        self.used.borrow_mut().insert(name.to_owned());
        self.named.get(name).map_or(&[], Vec::as_slice)
    }

    /// Notes what of a section nothing was made of.
    pub(super) fn note(&self, section: &Section, notes: &mut Table) {
        if !self.used.borrow().contains(section.header.word(1)) {
            return note_whole(
                &section.header,
                &section.statements,
                "no name that was taken over is asked for by it",
                notes,
            );
        }
        for statement in section.statements.iter().filter(|statement| server(statement).is_none()) {
            let (line, text) = (statement.line, statement.text.as_str());
            match statement.word(0) {
                "parse-resolv-conf" => notes.needless(line, text, "whom the system asks is asked where no `resolver` is named"),
                "hold" | "timeout" | "resolve_retries" | "accepted_payload_size" => notes.needless(
                    line,
                    text,
                    "an answer holds for its time to live, within `min_interval` and `max_interval` of [[pools.discover]]",
                ),
                _ => notes.lost(line, text, super::super::reasons::NONE),
            }
        }
    }
}

/// The DNS server of a `nameserver` line.
fn server(statement: &Statement) -> Option<String> {
    let address = statement.word(2);
    let address = address.strip_prefix("udp@").or_else(|| address.strip_prefix("tcp@")).unwrap_or(address);
    let address: SocketAddr = address.parse().ok().or_else(|| Some(SocketAddr::new(address.parse().ok()?, 53)))?;
    let can_be = statement.word(0) == "nameserver" && address.port() != 0 && !address.ip().is_unspecified();
    can_be.then(|| address.to_string())
}
