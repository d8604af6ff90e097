//! Owns: a listener of the output, and its TLS.
//! Invariant: a listener with TLS never opens without it; without a certificate it is disabled.
//! Must not know: the formats of sources; routes.

use super::acme::{Issuer, Orders};
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
    /// The certificates that Linchpin obtains itself.
    orders: Option<Orders>,
    table: Table,
}

impl Tls {
    fn has_certificate(&self) -> bool {
        !self.certificates.is_empty() || self.orders.as_ref().is_some_and(Orders::can_be_had)
    }
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
            (Some(one), Some(other)) => {
                let is_like = |one: &Orders| other.orders.as_ref().is_none_or(|other| one.is_like(other));
                one.table.has_same_settings(&other.table) && one.orders.as_ref().is_none_or(is_like)
            }
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
        let own = &mut self.tls.get_or_insert_default().orders;
        match (own, tls.orders) {
            (Some(own), Some(other)) => own.absorb(other),
            (own, other) => *own = own.take().or(other),
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

    /// Orders a certificate for a name.
    ///
    /// # Errors
    /// The reason why this listener can't have it.
    pub(super) fn order(&mut self, issuer: &Issuer, name: &str) -> Result<(), String> {
        let orders = &mut self.tls.get_or_insert_default().orders;
        orders.get_or_insert_with(|| Orders::new(issuer)).add(issuer, name)
    }

    /// Disables it, with the reason.
    pub(super) fn switch_off(&mut self, line: usize, text: &str, why: impl Into<String>) {
        self.is_off = true;
        self.table.unsupported(line, text, why);
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off || self.tls.as_ref().is_some_and(|tls| !tls.has_certificate())
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
            None if tls.orders.as_ref().is_some_and(|orders| !orders.is_empty()) => {}
            None => {
                table.set("cert", Value::text("FILE"));
                table.comment("no certificate could be imported: set the path of yours and remove the #");
            }
        }
        table.append(tls.table.clone());
        table.write("[listeners.tls]", is_off, text);
        if let Some(orders) = &tls.orders {
            orders.write(is_off, text);
        }
        for other in others {
            let mut table = Table::default();
            pair(&mut table, other);
            table.write("[[listeners.tls.certificates]]", is_off, text);
        }
    }
}
