//! Owns: a backend of the output: one server, or the servers that DNS finds.
//! Invariant: a backend without a usable address, or with another protocol than its pool, is disabled.
//! Must not know: the formats of sources; other pools.

use super::super::toml::{Table, Value};
use super::super::units::Address;

/// The largest `max_requests`.
const MOST_REQUESTS: u64 = 1_000_000;

/// A server, or a name by which DNS finds servers.
pub(in crate::import) struct Backend {
    pub(super) name: String,
    /// Its line in the source, for notes.
    line: usize,
    text: String,
    /// The application's route for it, and its line in the source.
    pub(super) route: Option<(usize, String)>,
    pub(in crate::import) table: Table,
    /// The DNS records by which servers are found.
    found: Option<Found>,
    /// Its weight, as the source has it.
    weight: Option<u64>,
    is_off: bool,
    is_out: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Addresses,
    Services,
    Kubernetes,
}

impl Backend {
    /// Returns a backend at an address; `line` and `text` are those of the source, for notes.
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
                table.unsupported(
                    line,
                    text,
                    "a backend needs an IP address and port, a socket path or a host name: fill it in and remove the #",
                );
                is_off = true;
            }
        }
        Backend {
            name: name.into(),
            line,
            text: text.into(),
            route: None,
            table,
            found,
            weight: None,
            is_off,
            is_out: false,
        }
    }

    /// Returns the pods of a Service of Kubernetes.
    pub(super) fn of_kubernetes(service: &str, port: &Value, line: usize, text: &str) -> Backend {
        let mut table = Table::default();
        table.set("kubernetes", Value::text(service));
        table.set("port", port.clone());
        let (found, route) = (Some(Found::Kubernetes), None);
        Backend {
            name: service.into(),
            line,
            text: text.into(),
            route,
            table,
            found,
            weight: None,
            is_off: false,
            is_out: false,
        }
    }

    /// Disables it, with the reason.
    pub(in crate::import) fn switch_off(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.is_off = true;
        self.table.unsupported(line, text, why);
    }

    /// Disables it, as it is a listener of the source.
    pub(super) fn leave_out(&mut self) {
        let (line, text) = (self.line, std::mem::take(&mut self.text));
        self.switch_off(
            line,
            &text,
            "this server is the listener itself: requests would loop; write the servers behind it",
        );
    }

    /// Disables it until the operator has done something.
    pub(super) fn leave(&mut self, what: &str) {
        self.is_off = true;
        self.table.comment(what);
    }

    /// Returns whether it can serve requests.
    pub(super) fn can_serve(&self) -> bool {
        !self.is_off && !self.is_out
    }

    pub(super) fn is_found(&self) -> bool {
        self.found.is_some()
    }

    pub(in crate::import) fn weight(&mut self, weight: u64, line: usize, text: &str) {
        match self.found {
            Some(Found::Services) => self.table.unneeded(line, text, "the SRV records give each server's weight"),
            _ => {
                self.weight = Some(weight);
                self.table.set("weight", Value::number(weight));
            }
        }
    }

    pub(super) fn given_weight(&self) -> Option<u64> {
        self.weight
    }

    /// Scales its weight, so that `most` becomes `largest`. A weight of 1 is the default.
    pub(super) fn scale_weight(&mut self, largest: u64, most: u64) {
        let weight = self.weight.unwrap_or(1);
        let scaled = u128::from(weight) * u128::from(largest) / u128::from(most.max(1));
        let scaled = u64::try_from(scaled).unwrap_or(largest);
        self.table.set("weight", Value::number(if weight == 0 { 0 } else { scaled.max(1) }));
    }

    /// Makes it a backup: it gets new sessions only if no other backend can take them.
    pub(in crate::import) fn backup(&mut self, line: usize, text: &str) {
        self.or_lost("backup", Value::flag(true), line, text);
    }

    /// Puts it into maintenance.
    pub(in crate::import) fn out(&mut self, line: usize, text: &str) {
        match self.found {
            Some(_) => self.switch_off(line, text, "servers that DNS finds can't start in maintenance"),
            None => self.table.set("state", Value::text("maintenance")),
        }
        self.is_out = true;
    }

    /// Drains it: it keeps its sessions and gets no new ones.
    pub(in crate::import) fn drain(&mut self, line: usize, text: &str) {
        self.or_lost("state", Value::text("drain"), line, text);
    }

    pub(in crate::import) fn max_requests(&mut self, count: u64) {
        self.table.set("max_requests", Value::number(count.min(MOST_REQUESTS)));
    }

    /// Limits the number of servers that DNS finds.
    pub(in crate::import) fn at_most(&mut self, count: u64) {
        if self.found.is_some() {
            self.table.set("max_backends", Value::number(count.clamp(1, 100_000)));
        }
    }

    /// Sets the DNS servers.
    pub(in crate::import) fn resolvers(&mut self, resolvers: &[String]) {
        if self.found.is_some() && !resolvers.is_empty() {
            self.table.set("resolver", Value::list(resolvers.iter().map(String::as_str)));
        }
    }

    fn or_lost(&mut self, key: &'static str, value: Value, line: usize, text: &str) {
        match self.found {
            Some(_) => self.table.unsupported(line, text, format!("servers that DNS finds can't have `{key}`")),
            None => self.table.set(key, value),
        }
    }

    pub(super) fn write(&self, is_off: bool, text: &mut String) {
        let header = if self.found.is_some() { "[[pools.discover]]" } else { "[[pools.backends]]" };
        self.table.write(header, is_off || self.is_off, text);
    }
}
