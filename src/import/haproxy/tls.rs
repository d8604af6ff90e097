//! Owns: the parameters of `bind`, mostly TLS for clients.
//! Invariant: a listener that would admit more clients than before is disabled.
//! Must not know: frontends, servers, routes.

use super::super::acme::Issuer;
use super::super::grammar;
use super::super::listener::Listener;
use super::super::reasons::{NO_FILE, NONE};
use super::super::toml::Value;
use super::acme::Certificate;
use super::global::Globals;

/// The parameters after the address of a `bind`.
#[derive(Default)]
pub(super) struct Bind {
    is_tls: bool,
    h2: Option<bool>,
    certificates: Vec<Certificate>,
    authorities: Option<String>,
    verify: Option<bool>,
    is_min_13: bool,
    /// Parameters without an equivalent, with the reason.
    unsupported: Vec<(String, &'static str)>,
    /// The reason why the listener is disabled.
    off: Option<&'static str>,
}

const CHOSEN: &str = "Linchpin chooses ciphers and curves: see docs/tls.md";
const OLDEST: &str = "Linchpin supports only TLS 1.2 and 1.3";
const WHERE: &str = "this limited who could connect: set the address of the interface and remove the #";
const PROXY: &str = "any client could claim any address: set proxy_protocol = true, list the load balancers before this one in trusted_proxies, and remove the #";
const LISTED: &str = "its certificates are in a list or a folder: name them in [listeners.tls] and remove the #";

/// Parameters with an argument that have no equivalent.
const WITH_ARGUMENT: [(&str, &str); 21] = [
    ("backlog", NONE),
    ("ca-ignore-err", "Linchpin checks every client certificate"),
    ("ciphers", CHOSEN),
    ("ciphersuites", CHOSEN),
    ("crt-ignore-err", "Linchpin checks every client certificate"),
    ("curves", CHOSEN),
    ("ecdhe", CHOSEN),
    ("gid", NONE),
    ("group", NONE),
    ("id", NONE),
    ("level", NONE),
    ("maxconn", "use `max_connections` of [server], which counts all listeners together"),
    ("mode", NONE),
    ("npn", CHOSEN),
    ("process", NONE),
    ("ssl-max-ver", OLDEST),
    ("tcp-ut", NONE),
    ("thread", NONE),
    ("tls-ticket-keys", "Linchpin rotates ticket keys itself"),
    ("uid", NONE),
    ("user", NONE),
];

impl Bind {
    pub(super) fn read(words: &[String], globals: &Globals) -> Bind {
        let mut bind = Bind { is_min_13: globals.is_min_13, ..Bind::default() };
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut argument = || words.next().unwrap_or_default();
            match word {
                "ssl" => bind.is_tls = true,
                "crt" => match grammar::file(argument()) {
                    Some(path) if !path.ends_with('/') && !path.starts_with('@') => {
                        bind.certificates.push(Certificate::Files(globals.certificate(&path), None));
                    }
                    Some(name) if let Some(certificate) = globals.stores.find(&name) => {
                        bind.certificates.push(certificate);
                    }
                    _ => bind.off = Some(LISTED),
                },
                "crt-list" => {
                    argument();
                    bind.off = Some(LISTED);
                }
                "alpn" => bind.h2 = Some(argument().split(',').any(|protocol| protocol == "h2")),
                "proto" => match argument() {
                    "h2" => bind.h2 = Some(true),
                    "h1" => bind.h2 = Some(false),
                    other => bind.unsupported.push((format!("proto {other}"), NONE)),
                },
                "ca-file" | "ca-verify-file" => {
                    let text = argument();
                    bind.authorities = grammar::file(text).map(|path| globals.authority(&path));
                    if bind.authorities.is_none() {
                        bind.unsupported.push((format!("{word} {text}"), NO_FILE));
                    }
                }
                "verify" => match argument() {
                    "required" => bind.verify = Some(true),
                    "optional" => bind.verify = Some(false),
                    _ => bind.verify = None,
                },
                "crl-file" => {
                    argument();
                    bind.off =
                        Some("Linchpin reads no revocation lists, so clients with revoked certificates could connect");
                }
                "ssl-min-ver" => match argument() {
                    "TLSv1.3" => bind.is_min_13 = true,
                    "TLSv1.2" => bind.is_min_13 = false,
                    other => bind.unsupported.push((format!("ssl-min-ver {other}"), OLDEST)),
                },
                "no-tlsv12" | "force-tlsv13" => bind.is_min_13 = true,
                "no-sslv3" | "no-tlsv10" | "no-tlsv11" | "v4v6" | "no-tls-tickets" | "prefer-client-ciphers" => {}
                "accept-proxy" | "accept-netscaler-cip" => bind.off = Some(PROXY),
                "interface" | "namespace" => {
                    argument();
                    bind.off = Some(WHERE);
                }
                "name" => {
                    argument();
                }
                word => match WITH_ARGUMENT.iter().find(|(known, _)| *known == word) {
                    Some((_, why)) => bind.unsupported.push((format!("{word} {}", argument()), why)),
                    None => bind.unsupported.push((word.to_owned(), NONE)),
                },
            }
        }
        if bind.is_tls && bind.verify.is_some() && bind.authorities.is_none() {
            bind.off = Some("the source names no authority for client certificates: set `client_ca`");
        }
        bind
    }

    /// Adds the certificate of an `ssl-f-use`, if clients use TLS here; returns the words without an equivalent.
    pub(super) fn uses(&mut self, words: &[String], globals: &Globals) -> Vec<String> {
        let (certificate, others) = globals.stores.certificate(words, |file| globals.certificate(file));
        self.certificates.extend(certificate.filter(|_| self.is_tls));
        others
    }

    /// Applies the parameters to a listener.
    pub(super) fn apply(&self, listener: &mut Listener, line: usize, text: &str) {
        if self.is_tls {
            let table = listener.secure();
            if self.is_min_13 {
                table.set("min_version", Value::text("1.3"));
            }
            if self.h2 == Some(false) {
                table.set("http2", Value::flag(false));
            }
            if let (Some(authorities), Some(is_required)) = (&self.authorities, self.verify) {
                table.set("client_ca", Value::text(authorities));
                let word = if is_required { "required" } else { "optional" };
                table.set("client_certificate", Value::text(word));
            }
            for certificate in &self.certificates {
                match certificate {
                    Certificate::Files(file, key) => listener.certificate(file, key.as_deref()),
                    Certificate::Ordered(issuer, names) => order(listener, issuer, names, line, text),
                }
            }
        } else if self.h2 == Some(true) {
            listener.table.set("http2", Value::flag(true));
        }
        for (what, why) in &self.unsupported {
            listener.table.unsupported(line, what, *why);
        }
        if let Some(why) = self.off {
            listener.switch_off(line, text, format!("{why}; the listener is disabled"));
        }
    }
}

/// Orders certificates for these names at a listener.
fn order(listener: &mut Listener, issuer: &Issuer, names: &[String], line: usize, text: &str) {
    for name in names {
        if let Err(why) = listener.order(issuer, name) {
            listener.table.unsupported(line, &format!("{text}, for {name}"), why);
        }
    }
    if !issuer.is_usable() {
        listener.table.unsupported(line, text, "[listeners.tls.acme] has to be completed");
    }
}
