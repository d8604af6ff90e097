//! Owns: the parameters of `server` and `default-server`.
//! Invariant: the argument of a parameter is never read as a parameter.
//! Must not know: pools.

use std::time::Duration;

use super::super::backend_protocol::{BackendProtocol, BackendTls, server_name};
use super::super::grammar;
use super::super::reasons::{NO_FILE, NONE};
use super::super::toml::Value;
use super::super::units;
use super::global::Globals;

/// The parameters of a server.
#[derive(Debug, Clone, Default)]
pub(super) struct Parameters {
    pub(super) weight: Option<u64>,
    pub(super) is_backup: bool,
    pub(super) is_disabled: bool,
    pub(super) is_checked: bool,
    pub(super) inter: Option<Duration>,
    pub(super) rise: Option<u64>,
    pub(super) fall: Option<u64>,
    pub(super) maxconn: Option<u64>,
    /// The port that is probed.
    pub(super) probe_port: Option<u64>,
    /// Probes use TLS, whatever requests use.
    has_probe_tls: bool,
    probe_name: Option<String>,
    pub(super) slow_start: Option<Duration>,
    /// The number of consecutive failures that ejects the server.
    pub(super) error_limit: Option<u64>,
    is_observed: bool,
    is_tls: bool,
    verify: Option<String>,
    authorities: Option<String>,
    server_name: Option<String>,
    certificate: Option<String>,
    http2: bool,
    proxy: Option<&'static str>,
    /// The `resolvers` section for the server's name.
    pub(super) resolvers: Option<String>,
    /// Parameters without an equivalent, with the reason.
    pub(super) unsupported: Vec<(String, &'static str)>,
    /// Parameters that need no equivalent, with the reason.
    pub(super) unneeded: Vec<(String, &'static str)>,
}

const TLS: &str = "Linchpin chooses versions, ciphers and curves: see docs/tls.md";
const NAMES: &str = "a DNS answer is valid for its TTL, within `min_interval` and `max_interval` of [[pools.discover]]";
const ONE_PROBE: &str = "probes go to the backend's own address, at one interval";

/// Parameters with an argument that have no equivalent.
const WITH_ARGUMENT: [(&str, &str); 41] = [
    ("addr", ONE_PROBE),
    ("agent-inter", NONE),
    ("agent-addr", NONE),
    ("agent-port", NONE),
    ("agent-send", NONE),
    ("check-alpn", TLS),
    ("check-proto", ONE_PROBE),
    ("ciphers", TLS),
    ("ciphersuites", TLS),
    ("crl-file", "Linchpin reads no revocation lists"),
    ("curves", TLS),
    ("downinter", ONE_PROBE),
    ("fastinter", ONE_PROBE),
    ("guid", NONE),
    ("hash-key", NONE),
    ("id", NONE),
    ("idle-ping", NONE),
    ("init-addr", NAMES),
    ("init-state", NONE),
    ("log-proto", NONE),
    ("max-reuse", NONE),
    ("maxqueue", NONE),
    ("minconn", NONE),
    ("namespace", NONE),
    ("npn", TLS),
    ("on-error", "use `consecutive_failures` of [pools.ejection]"),
    ("on-marked-up", NONE),
    ("pool-low-conn", NONE),
    ("pool-max-conn", "use `max_idle_per_thread` of [pools.upstream], the same for all backends"),
    ("pool-purge-delay", "use `idle_timeout` of [pools.upstream], the same for all backends"),
    ("proxy-v2-options", NONE),
    ("redir", "this redirect is not imported: use `redirect` of [[routes]]"),
    ("resolve-net", NAMES),
    ("resolve-opts", NAMES),
    ("resolve-prefer", NAMES),
    ("shard", NONE),
    ("socks4", NONE),
    ("source", NONE),
    ("ssl-max-ver", TLS),
    ("ssl-min-ver", TLS),
    ("track", ONE_PROBE),
];

/// Parameters without an argument that have no equivalent.
const ALONE: [(&str, &str); 8] = [
    ("agent-check", NONE),
    ("check-via-socks4", ONE_PROBE),
    ("force-", TLS),
    ("no-", NONE),
    ("non-stick", NONE),
    ("sslv", TLS),
    ("tls", TLS),
    ("stick", NONE),
];

impl Parameters {
    /// Reads parameters; they override those that were read before.
    pub(super) fn read(&mut self, words: &[String]) {
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            let mut argument = || words.next().unwrap_or_default();
            match word {
                "weight" => self.weight = number(word, argument(), &mut self.unsupported).or(self.weight),
                "maxconn" => self.maxconn = number(word, argument(), &mut self.unsupported).or(self.maxconn),
                "rise" => self.rise = number(word, argument(), &mut self.unsupported).or(self.rise),
                "fall" => self.fall = number(word, argument(), &mut self.unsupported).or(self.fall),
                "error-limit" => {
                    self.error_limit = number(word, argument(), &mut self.unsupported).or(self.error_limit)
                }
                "inter" => {
                    let text = argument();
                    match units::milliseconds(text) {
                        Some(time) => self.inter = Some(time),
                        None => self.unsupported.push((format!("inter {text}"), "not a duration")),
                    }
                }
                "port" => self.probe_port = number(word, argument(), &mut self.unsupported).or(self.probe_port),
                "slowstart" => {
                    let text = argument();
                    match units::milliseconds(text) {
                        Some(time) => self.slow_start = Some(time),
                        None => self.unsupported.push((format!("slowstart {text}"), "not a duration")),
                    }
                }
                "backup" => self.is_backup = true,
                "no-backup" => self.is_backup = false,
                "disabled" => self.is_disabled = true,
                "enabled" => self.is_disabled = false,
                "ssl" => self.is_tls = true,
                "no-ssl" => self.is_tls = false,
                "verify" => self.verify = Some(argument().into()),
                "ca-file" => self.authorities = file(word, argument(), &mut self.unsupported),
                "verifyhost" => {
                    self.server_name = named(word, argument(), &mut self.unsupported).or(self.server_name.take())
                }
                "sni" => match argument() {
                    text if text.starts_with("str(") => {
                        let name = text.trim_start_matches("str(").trim_end_matches(')');
                        self.server_name = self.server_name.take().or(named(word, name, &mut self.unsupported));
                    }
                    text => self.unsupported.push((
                        format!("sni {text}"),
                        "`server_name` of [pools.upstream.tls] is the same for all requests",
                    )),
                },
                "crt" => self.certificate = file(word, argument(), &mut self.unsupported),
                "alpn" => self.http2 = argument().split(',').any(|protocol| protocol == "h2"),
                "proto" => match argument() {
                    "h2" => self.http2 = true,
                    "h1" => self.http2 = false,
                    other => self.unsupported.push((format!("proto {other}"), NONE)),
                },
                "send-proxy" => self.proxy = Some("v1"),
                "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => self.proxy = Some("v2"),
                "no-send-proxy" | "no-send-proxy-v2" => self.proxy = None,
                "check-ssl" => self.has_probe_tls = true,
                "no-check-ssl" => self.has_probe_tls = false,
                "check-sni" => {
                    self.probe_name = named(word, argument(), &mut self.unsupported).or(self.probe_name.take())
                }
                "check-send-proxy" => {
                    self.unneeded.push((word.into(), "probes use the same protocol as requests"));
                }
                "resolvers" => self.resolvers = Some(argument().into()),
                "check" => self.is_checked = true,
                "no-check" => self.is_checked = false,
                "observe" => {
                    argument();
                    self.is_observed = true;
                }
                // A pin already identifies the backend.
                "cookie" => {
                    argument();
                }
                "on-marked-down" => {
                    let text = format!("{word} {}", argument());
                    self.unneeded
                        .push((text, "Linchpin always takes back requests that wait for a backend that goes down"));
                }
                _ => {
                    if let Some((_, why)) = WITH_ARGUMENT.iter().find(|(known, _)| *known == word) {
                        self.unsupported.push((format!("{word} {}", argument()), why));
                    } else {
                        let why = ALONE.iter().find(|(known, _)| word.starts_with(known)).map_or(NONE, |(_, why)| why);
                        self.unsupported.push((word.into(), why));
                    }
                }
            }
        }
    }

    /// Returns the parameters that servers inherit: notes belong to `default-server` alone.
    pub(super) fn inherited(&self) -> Parameters {
        Parameters { unsupported: Vec::new(), unneeded: Vec::new(), ..self.clone() }
    }

    /// Returns the protocol between Linchpin and the server.
    pub(super) fn protocol(&self, globals: &Globals) -> BackendProtocol {
        let tls = self.is_tls.then(|| BackendTls {
            ca: self.authorities.as_deref().filter(|file| !file.starts_with('@')).map(|file| globals.authority(file)),
            server_name: self.server_name.clone(),
            cert: self.certificate.as_deref().map(|file| globals.certificate(file)),
            key: None,
            verify: match self.verify.as_deref() {
                Some(word) => word != "none",
                None => !globals.trusts_servers,
            },
        });
        BackendProtocol { http2: self.http2, proxy: self.proxy, tls }
    }

    /// Returns how probes use TLS, if not as requests do. HAProxy's probes of another port use none unless told to.
    pub(super) fn probe_tls(&self, globals: &Globals) -> Option<Value> {
        let has_tls = self.has_probe_tls || (self.is_tls && self.probe_port.is_none());
        let is_other_name = self.probe_name.is_some() && self.probe_name != self.server_name;
        match (has_tls, self.is_tls) {
            (false, true) => Some(Value::flag(false)),
            (true, is_tls) if !is_tls || is_other_name => {
                let as_if = Parameters { is_tls: true, ..self.clone() };
                let mut tls = as_if.protocol(globals).tls.unwrap_or_default();
                tls.server_name = self.probe_name.clone().or(tls.server_name);
                Some(tls.value())
            }
            _ => None,
        }
    }

    /// Returns the number of consecutive failures that ejects the server, if `observe` is set.
    pub(super) fn failures(&self) -> Option<u64> {
        self.error_limit.filter(|_| self.is_observed)
    }
}

/// Parses the name that a certificate must be for.
fn named(word: &str, text: &str, unsupported: &mut Vec<(String, &'static str)>) -> Option<String> {
    let name = server_name(text);
    if name.is_none() {
        unsupported.push((format!("{word} {text}"), "not a host name"));
    }
    name
}

fn file(word: &str, text: &str, unsupported: &mut Vec<(String, &'static str)>) -> Option<String> {
    let file = grammar::file(text);
    if file.is_none() {
        unsupported.push((format!("{word} {text}"), NO_FILE));
    }
    file
}

fn number(word: &str, text: &str, unsupported: &mut Vec<(String, &'static str)>) -> Option<u64> {
    let number = text.parse().ok();
    if number.is_none() {
        unsupported.push((format!("{word} {text}"), "not a number"));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        let mut parameters = Parameters::default();
        parameters.read(&words);
        parameters
    }

    #[test]
    fn arguments_belong_to_their_parameter() {
        let read = parameters("cookie check weight 5 inter 1s rise 4 fall 5 maxconn 50 slowstart 1m backup check");
        assert!(read.is_checked && read.is_backup && !read.is_disabled);
        assert_eq!((read.weight, read.rise, read.fall, read.maxconn), (Some(5), Some(4), Some(5), Some(50)));
        assert_eq!((read.slow_start, read.unsupported.len()), (Some(Duration::from_secs(60)), 0));
        assert!(!parameters("cookie check").is_checked);
    }

    #[test]
    fn an_incomplete_parameter_is_noted() {
        for text in ["weight", "weight x", "inter", "slowstart", "something", "ciphers"] {
            assert_eq!(parameters(text).unsupported.len(), 1, "{text}");
        }
    }

    #[test]
    fn failures_count_if_someone_looks() {
        assert_eq!(parameters("error-limit 10").failures(), None);
        assert_eq!(parameters("observe layer7 error-limit 10").failures(), Some(10));
    }
}
