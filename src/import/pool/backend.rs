//! Owns: a backend of a pool in the making: one server, or those that a name stands for.
//! Invariant: one that can't be connected to, or not as it was, stands there switched off.
//! Must not know: how a source says it; other pools.

use super::super::toml::{Table, Value};
use super::super::units::Address;

/// The most requests in flight that a backend may be held to.
const MOST_REQUESTS: u64 = 1_000_000;

/// A server, or a name that servers are found by.
pub(in crate::import) struct Backend {
    pub(super) name: String,
    /// What the application calls it, and the line that says so.
    pub(super) route: Option<(usize, String)>,
    pub(in crate::import) table: Table,
    /// How servers are found, of a name.
    found: Option<Found>,
    is_off: bool,
    is_out: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Addresses,
    Services,
}

impl Backend {
    /// A backend at an address; of one that is no address, `line` and `text` say where it stands.
    pub(super) fn new(name: &str, address: &Address, line: usize, text: &str) -> Backend {
        let mut table = Table::default();
        let (mut found, mut is_off) = (None, false);
        match address {
            Address::Socket(socket) => {
                table.set("name", Value::text(name));
                table.set("address", Value::text(&socket.to_string()));
            }
            Address::Unix(path) => {
                table.set("name", Value::text(name));
                table.set("address", Value::text(&format!("unix:{path}")));
            }
            Address::Name(host, port) => {
                table.set("dns", Value::text(host));
                table.set("port", Value::number((*port).into()));
                table.set("type", Value::text("a+aaaa"));
                found = Some(Found::Addresses);
            }
            Address::Service(host) => {
                table.set("dns", Value::text(host));
                table.set("type", Value::text("srv"));
                found = Some(Found::Services);
            }
            Address::Other => {
                table.set("name", Value::text(name));
                table.set("address", Value::text("IP:PORT"));
                table.lost(
                    line,
                    text,
                    "a backend has an IP address and a port, a path or a name: write it, and take the # away",
                );
                is_off = true;
            }
        }
        Backend { name: name.into(), route: None, table, found, is_off, is_out: false }
    }

    /// Switches it off.
    pub(in crate::import) fn switch_off(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.is_off = true;
        self.table.lost(line, text, why);
    }

    /// Switches it off until the reader has done something.
    pub(super) fn leave(&mut self, what: &str) {
        self.is_off = true;
        self.table.remark(what);
    }

    /// Whether a request may be sent there.
    pub(super) fn can_serve(&self) -> bool {
        !self.is_off && !self.is_out
    }

    pub(super) fn is_found(&self) -> bool {
        self.found.is_some()
    }

    pub(in crate::import) fn weight(&mut self, weight: u64, line: usize, text: &str) {
        match self.found {
            Some(Found::Services) => self.table.needless(line, text, "the records say what each server weighs"),
            _ => self.table.set("weight", Value::number(weight.min(1000))),
        }
    }

    /// It gets new sessions only when all others can't take them.
    pub(in crate::import) fn backup(&mut self, line: usize, text: &str) {
        self.or_lost("backup", Value::flag(true), line, text);
    }

    /// It serves nothing.
    pub(in crate::import) fn out(&mut self, line: usize, text: &str) {
        match self.found {
            Some(_) => self.switch_off(line, text, "servers that are looked up can't be in maintenance beforehand"),
            None => self.table.set("state", Value::text("maintenance")),
        }
        self.is_out = true;
    }

    /// It keeps its sessions and gets no new ones.
    pub(in crate::import) fn drain(&mut self, line: usize, text: &str) {
        self.or_lost("state", Value::text("drain"), line, text);
    }

    pub(in crate::import) fn max_requests(&mut self, count: u64) {
        self.table.set("max_requests", Value::number(count.min(MOST_REQUESTS)));
    }

    /// At most so many of the servers that are found.
    pub(in crate::import) fn at_most(&mut self, count: u64) {
        if self.found.is_some() {
            self.table.set("max_backends", Value::number(count.clamp(1, 100_000)));
        }
    }

    /// Who is asked for the name, where that is said.
    pub(in crate::import) fn resolvers(&mut self, resolvers: &[String]) {
        if self.found.is_some() && !resolvers.is_empty() {
            self.table.set("resolver", Value::list(resolvers.iter().map(String::as_str)));
        }
    }

    fn or_lost(&mut self, key: &'static str, value: Value, line: usize, text: &str) {
        match self.found {
            Some(_) => self.table.lost(line, text, format!("servers that are looked up have no `{key}`")),
            None => self.table.set(key, value),
        }
    }

    pub(super) fn write(&self, is_off: bool, text: &mut String) {
        let header = if self.found.is_some() { "[[pools.discover]]" } else { "[[pools.backends]]" };
        self.table.write(header, is_off || self.is_off, text);
    }
}
