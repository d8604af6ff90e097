//! Owns: the side of a frontend or listen that clients see: addresses, and which pool a request goes to.
//! Invariant: what is bound with TLS is not opened without.
//! Must not know: backends.

use std::collections::HashMap;

use super::super::output::Output;
use super::super::pool::WAIT;
use super::super::units;
use super::acl::Acls;
use super::syntax::Statement;
use super::{Fate, Proxy, duration};

/// A frontend being read.
pub(super) struct Front<'p> {
    proxy: &'p Proxy<'p>,
    acls: &'p Acls,
    pools: &'p HashMap<String, String>,
    keeps_alive: bool,
    number: usize,
    default: Option<(&'p Statement, &'p str)>,
}

impl<'p> Front<'p> {
    pub(super) fn new(
        proxy: &'p Proxy<'p>,
        acls: &'p Acls,
        pools: &'p HashMap<String, String>,
        out: &mut Output,
    ) -> Front<'p> {
        let number = out.front(proxy.header.line, &proxy.header.text, proxy.header.word(1));
        let keeps_alive = proxy.each("timeout").any(|statement| statement.word(1) == "http-keep-alive");
        Front { proxy, acls, pools, keeps_alive, number, default: None }
    }

    /// The address that old versions wrote behind the name.
    pub(super) fn header(&mut self, out: &mut Output) {
        if let Some(address) = self.proxy.header.from(2).first().filter(|word| *word != "from") {
            self.bind(std::slice::from_ref(address), self.proxy.header, out);
        }
    }

    pub(super) fn read(&mut self, statement: &'p Statement, out: &mut Output) -> Fate {
        let (line, text) = (statement.line, statement.text.as_str());
        let time = |at: usize| duration(statement.word(at));
        match (statement.word(0), statement.word(1)) {
            ("mode", "http") => Fate::Kept,
            ("bind", _) => self.bind(statement.from(1), statement, out),
            ("use_backend", _) => self.use_backend(statement, out),
            ("default_backend", name) => match self.pools.get(name) {
                Some(pool) => {
                    self.default = Some((statement, pool));
                    Fate::Kept
                }
                None => Fate::Lost("there is no such backend".into()),
            },
            ("timeout", "http-request") => {
                out.limits.share_time("header_read_timeout", time(2), WAIT, line, text);
                Fate::Kept
            }
            ("timeout", "http-keep-alive") => {
                out.limits.share_time("idle_timeout", time(2), WAIT, line, text);
                Fate::Kept
            }
            ("timeout", "client") | ("clitimeout", _) if self.keeps_alive => Fate::Needless(
                "a silent connection ends after `idle_timeout` of [server.limits], a silent body after `idle` of [pools.timeouts]",
            ),
            ("timeout", "client") => {
                out.limits.share_time("idle_timeout", time(2), WAIT, line, text);
                Fate::Kept
            }
            ("clitimeout", _) => {
                out.limits.share_time("idle_timeout", time(1), WAIT, line, text);
                Fate::Kept
            }
            _ => Fate::Elsewhere,
        }
    }

    /// Adds what comes last: where everything else goes.
    pub(super) fn finish(self, own_pool: Option<&str>, out: &mut Output) {
        let header = self.proxy.header;
        match (self.default, own_pool) {
            (Some((statement, pool)), _) => {
                out.route(self.number, Vec::new(), "/", pool, statement.line, &statement.text);
            }
            (None, Some(pool)) => out.route(self.number, Vec::new(), "/", pool, header.line, &header.text),
            (None, None) => {}
        }
    }

    fn bind(&mut self, words: &[String], statement: &Statement, out: &mut Output) -> Fate {
        let (line, text) = (statement.line, statement.text.as_str());
        let Some((addresses, parameters)) = words.split_first() else {
            return Fate::Lost("it has no address".into());
        };
        let is_tls = parameters.iter().any(|word| word == "ssl");
        for address in addresses.split(',') {
            let plain = address.strip_prefix("ipv4@").or_else(|| address.strip_prefix("ipv6@")).unwrap_or(address);
            let Some(socket) = units::listener(plain) else {
                out.clients.lost(
                    line,
                    text,
                    format!("{address} is no IP address and port: write [[listeners]] with one"),
                );
                continue;
            };
            let table = out.listener(self.number, socket, is_tls);
            let others = parameters.iter().any(|word| word != "name")
                && parameters.first().is_none_or(|word| word != "name" || parameters.len() > 2);
            if is_tls {
                table.lost(line, text, "TLS is not taken over, so that this stands here switched off: write [listeners.tls], see docs/tls.md");
            } else if others {
                table.lost(line, text, "nothing but the address is taken over");
            }
        }
        Fate::Kept
    }

    fn use_backend(&mut self, statement: &Statement, out: &mut Output) -> Fate {
        let Some(pool) = self.pools.get(statement.word(1)) else {
            let is_dynamic = statement.word(1).contains("%[");
            let why = if is_dynamic {
                "a route leads to one pool: write [[routes]] for each"
            } else {
                "there is no such backend"
            };
            return Fate::Lost(why.into());
        };
        let condition = match statement.word(2) {
            "if" => self.acls.condition(statement.from(3)),
            "" => Ok(super::super::rule::Condition::always()),
            _ => Err("routes can't say what a request is not"),
        };
        let condition = match condition {
            Ok(condition) => condition,
            Err(why) => return Fate::Lost(why.into()),
        };
        for (hosts, prefix) in condition.routes() {
            out.route(self.number, hosts, &prefix, pool, statement.line, &statement.text);
        }
        Fate::Kept
    }
}
