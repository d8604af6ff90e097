//! Owns: the parameters of a `bind`: TLS for clients above all.
//! Invariant: what can't be done as it was is said, and where that would let in more than before, nothing is opened.
//! Must not know: frontends, servers, routes.

use super::super::listener::Listener;
use super::super::reasons::NONE;
use super::super::toml::Value;
use super::global::Globals;

/// What is said behind the address of a `bind`.
#[derive(Default)]
pub(super) struct Bind {
    is_tls: bool,
    h2: Option<bool>,
    certificates: Vec<String>,
    authorities: Option<String>,
    verify: Option<bool>,
    is_min_13: bool,
    /// What has no equivalent, and why.
    lost: Vec<(String, &'static str)>,
    /// Why nothing is to be opened.
    off: Option<&'static str>,
}

const CHOSEN: &str = "ciphers and curves are chosen by themselves, see docs/tls.md";
const OLDEST: &str = "TLS 1.2 is the oldest that is spoken, and 1.3 the newest";
const WHERE: &str = "who reaches it was limited by that: write the address of the interface, and take the # away";
const PROXY: &str = "whoever connects would be believed: write proxy_protocol = true, and trusted_proxies with the load balancers before this one, and take the # away";
const LISTED: &str = "its certificates are in another file: write them into [listeners.tls], and take the # away";

/// Parameters with an argument that have no equivalent.
const WITH_ARGUMENT: [(&str, &str); 21] = [
    ("backlog", NONE),
    ("ca-ignore-err", "every certificate of a client is checked"),
    ("ciphers", CHOSEN),
    ("ciphersuites", CHOSEN),
    ("crt-ignore-err", "every certificate of a client is checked"),
    ("curves", CHOSEN),
    ("ecdhe", CHOSEN),
    ("gid", NONE),
    ("group", NONE),
    ("id", NONE),
    ("level", NONE),
    ("maxconn", "`max_connections` of [server] is one for all listeners"),
    ("mode", NONE),
    ("npn", CHOSEN),
    ("process", NONE),
    ("ssl-max-ver", OLDEST),
    ("tcp-ut", NONE),
    ("thread", NONE),
    ("tls-ticket-keys", "keys of tickets change by themselves"),
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
                "crt" => match argument() {
                    path if path.ends_with('/') || path.starts_with('@') || path.is_empty() => bind.off = Some(LISTED),
                    path => bind.certificates.push(globals.certificate(path)),
                },
                "crt-list" => {
                    argument();
                    bind.off = Some(LISTED);
                }
                "alpn" => bind.h2 = Some(argument().split(',').any(|protocol| protocol == "h2")),
                "proto" => match argument() {
                    "h2" => bind.h2 = Some(true),
                    "h1" => bind.h2 = Some(false),
                    other => bind.lost.push((format!("proto {other}"), NONE)),
                },
                "ca-file" | "ca-verify-file" => bind.authorities = Some(globals.authority(argument())),
                "verify" => match argument() {
                    "required" => bind.verify = Some(true),
                    "optional" => bind.verify = Some(false),
                    _ => bind.verify = None,
                },
                "crl-file" => {
                    argument();
                    bind.off = Some(
                        "revocation lists are not read, so that clients would come in whose certificates were taken back",
                    );
                }
                "ssl-min-ver" => match argument() {
                    "TLSv1.3" => bind.is_min_13 = true,
                    "TLSv1.2" => bind.is_min_13 = false,
                    other => bind.lost.push((format!("ssl-min-ver {other}"), OLDEST)),
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
                    Some((_, why)) => bind.lost.push((format!("{word} {}", argument()), why)),
                    None => bind.lost.push((word.to_owned(), NONE)),
                },
            }
        }
        if bind.is_tls && bind.verify.is_some() && bind.authorities.is_none() {
            bind.off = Some("nobody says whose certificates of clients are good: write `client_ca`");
        }
        bind
    }

    /// Tells a listener.
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
                listener.certificate(certificate, None);
            }
        } else if self.h2 == Some(true) {
            listener.table.set("http2", Value::flag(true));
        }
        for (what, why) in &self.lost {
            listener.table.lost(line, what, *why);
        }
        if let Some(why) = self.off {
            listener.switch_off(line, text, format!("{why}; it is switched off"));
        }
    }
}
