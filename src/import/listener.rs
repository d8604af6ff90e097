//! Owns: a listener of the output, and its TLS.
//! Invariant: a listener with TLS never opens without it; without a certificate it is disabled.
//! Must not know: the formats of sources; routes.

use super::toml::{Table, Value};
use crate::net::Address;

/// An address that Linchpin listens on.
pub(super) struct Listener {
    pub(super) group: usize,
    /// The line of the source that it comes from; 0 if none.
    pub(super) line: usize,
    pub(super) text: String,
    pub(super) table: Table,
    address: String,
    tls: Option<Tls>,
    is_off: bool,
}

#[derive(Default)]
struct Tls {
    certificates: Vec<(String, Option<String>)>,
    table: Table,
}

impl Listener {
    /// Returns a listener without TLS; `line` and `text` are those of the source.
    pub(super) fn new(group: usize, address: &str, line: usize, text: &str) -> Listener {
        let mut table = Table::default();
        table.set("address", Value::text(address));
        Listener { group, line, text: text.into(), table, address: address.into(), tls: None, is_off: false }
    }

    /// Returns its address; `None` if it has no valid one.
    pub(super) fn address(&self) -> Option<Address> {
        self.address.parse().ok()
    }

    /// Returns whether another listener differs in nothing but its address and certificates.
    pub(super) fn is_like(&self, other: &Listener) -> bool {
        let is_same_tls = match (&self.tls, &other.tls) {
            (Some(one), Some(other)) => one.table.has_same_settings(&other.table),
            (None, None) => true,
            _ => false,
        };
        is_same_tls && self.table.has_same_settings_but("address", &other.table)
    }

    /// Takes over the certificates and comments of a listener that is like this one.
    pub(super) fn absorb(&mut self, other: Listener) {
        self.table.append(other.table);
        let Some(tls) = other.tls else { return };
        for (certificate, key) in &tls.certificates {
            self.certificate(certificate, key.as_deref());
        }
        self.secure().append(tls.table);
    }

    /// Turns TLS on; returns the table of its section.
    pub(super) fn secure(&mut self) -> &mut Table {
        &mut self.tls.get_or_insert_default().table
    }

    pub(super) fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Adds a certificate; the first one is the default.
    pub(super) fn certificate(&mut self, certificate: &str, key: Option<&str>) {
        let pair = (certificate.to_owned(), key.filter(|key| *key != certificate).map(str::to_owned));
        let tls = self.tls.get_or_insert_default();
        if !tls.certificates.contains(&pair) {
            tls.certificates.push(pair);
        }
    }

    /// Disables it, with the reason.
    pub(super) fn switch_off(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.is_off = true;
        self.table.unsupported(line, text, why);
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off || self.tls.as_ref().is_some_and(|tls| tls.certificates.is_empty())
    }

    pub(super) fn tables(&self) -> impl Iterator<Item = &Table> {
        [&self.table].into_iter().chain(self.tls.as_ref().map(|tls| &tls.table))
    }

    /// Writes the listener with its TLS.
    pub(super) fn write(&self, text: &mut String) {
        let is_off = self.is_off();
        self.table.write("[[listeners]]", is_off, text);
        let Some(tls) = &self.tls else { return };
        let mut table = Table::default();
        let pair = |table: &mut Table, (certificate, key): &(String, Option<String>)| {
            table.set("cert", Value::text(certificate));
            if let Some(key) = key {
                table.set("key", Value::text(key));
            }
        };
        let mut others = tls.certificates.iter();
        match others.next() {
            Some(first) => pair(&mut table, first),
            None => {
                table.set("cert", Value::text("FILE"));
                table.comment("no certificate could be imported: set the path of yours and remove the #");
            }
        }
        table.append(tls.table.clone());
        table.write("[listeners.tls]", is_off, text);
        for other in others {
            let mut table = Table::default();
            pair(&mut table, other);
            table.write("[[listeners.tls.certificates]]", is_off, text);
        }
    }
}
