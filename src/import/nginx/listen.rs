//! Owns: the conversion of `listen`, and of a server's TLS for clients.
//! Invariant: an address with TLS never becomes a listener without; servers at one address share a listener.
//! Must not know: locations.

use super::super::grammar;
use super::super::reasons::NONE;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::super::listener::Listener;
use super::super::output::Output;
use super::super::toml::Value;
use super::super::units::{self, Address};
use super::acme;
use super::reader::{ClientCertificates, Reader};
use super::syntax::Directive;

/// Directives for TLS and for trusted proxies: those of a server replace those of `http`.
pub(super) const OF_LISTENERS: [&str; 12] = [
    "ssl",
    "ssl_certificate",
    "ssl_certificate_key",
    "ssl_client_certificate",
    "ssl_verify_client",
    "ssl_protocols",
    "ssl_crl",
    "http2",
    "set_real_ip_from",
    "real_ip_header",
    "real_ip_recursive",
    "ssl_trusted_certificate",
];

/// The listeners of a server.
pub(super) struct ServerListeners {
    pub(super) groups: Vec<usize>,
    /// The directive that required client certificates, if the listener can't.
    pub(super) guard: Option<usize>,
}

/// Returns the directives of a name that apply in a server.
fn of<'d>(server: &'d Directive, http: &'d [Directive], name: &str) -> Vec<&'d Directive> {
    let own: Vec<_> = server.inside().iter().filter(|each| each.word(0) == name).collect();
    if own.is_empty() { http.iter().filter(|each| each.word(0) == name).collect() } else { own }
}

/// Returns the TLS addresses of a server, and whether it asks clients for certificates there.
pub(super) fn demands(server: &Directive, http: &[Directive]) -> Vec<(String, ClientCertificates)> {
    let all = server.inside().iter().filter(|each| each.word(0) == "listen" && is_tls(each, server, http));
    all.filter_map(|each| Some((address(each.word(1))?, demand(server, http)))).collect()
}

fn demand(server: &Directive, http: &[Directive]) -> ClientCertificates {
    let verify = of(server, http, "ssl_verify_client").last().map_or("off", |each| each.word(1)).to_owned();
    let authorities = of(server, http, "ssl_client_certificate").last().and_then(|each| grammar::file(each.word(1)));
    match verify.as_str() {
        "on" => Some((authorities.unwrap_or_default(), true)),
        "optional" => Some((authorities.unwrap_or_default(), false)),
        // `optional_no_ca`: Linchpin can't accept certificates of any authority.
        "off" => None,
        _ => Some((String::new(), true)),
    }
}

fn is_tls(listen: &Directive, server: &Directive, http: &[Directive]) -> bool {
    let is_on = of(server, http, "ssl").last().is_some_and(|each| each.word(1) == "on");
    is_on || listen.from(2).iter().any(|word| word == "ssl")
}

impl<'d> Reader<'d> {
    /// Adds the listeners of a server.
    pub(super) fn listen(&mut self, server: &'d Directive, out: &mut Output) -> ServerListeners {
        let mut groups = Vec::new();
        let http = self.http;
        let demand = demand(server, http);
        let mut guard = None;
        let verify = of(server, http, "ssl_verify_client").last().map(|each| each.at);
        let listens: Vec<_> = server.inside().iter().filter(|each| each.word(0) == "listen").collect();
        if listens.is_empty() {
            let group = group("0.0.0.0:80", server, out);
            let table = &mut out.listener(group, "0.0.0.0:80", server.line, &server.text).table;
            if table.has_no_comments() {
                table.comment("nginx listens here by default");
            }
            groups.push(group);
        }
        for directive in listens {
            let (line, text) = (directive.line, directive.text.as_str());
            if directive.from(2).iter().any(|word| word == "quic") {
                out.clients.unsupported(line, text, "Linchpin does not support HTTP/3");
                continue;
            }
            let Some(address) = address(directive.word(1)) else {
                out.lost_listener(
                    line,
                    text,
                    "neither an IP address and port nor a socket path: add [[listeners]] with one",
                );
                continue;
            };
            let group = group(&address, server, out);
            if !groups.contains(&group) {
                groups.push(group);
            }
            let is_tls = is_tls(directive, server, http);
            let demands_here: Vec<_> =
                self.demands.iter().filter(|(other, _)| *other == address).map(|(_, each)| each).collect();
            let is_agreed = demands_here
                .iter()
                .all(|each| **each == demand && demand.as_ref().is_none_or(|(file, _)| !file.is_empty()));
            let listener = out.listener(group, &address, line, text);
            if is_tls {
                self.secure(server, directive, listener);
                match (&demand, is_agreed) {
                    (Some((authorities, is_required)), true) => {
                        let word = if *is_required { "required" } else { "optional" };
                        let table = listener.secure();
                        table.set("client_ca", Value::text(authorities));
                        table.set("client_certificate", Value::text(word));
                    }
                    (Some(_), false) => guard = verify,
                    (None, _) => {}
                }
            }
            self.parameters(directive, server, is_tls, listener);
        }
        groups.sort_unstable();
        ServerListeners { groups, guard }
    }

    /// Returns whether a server trusts proxies in a way that Linchpin can, too.
    pub(super) fn believes(&self, server: &'d Directive) -> bool {
        let field = of(server, self.http, "real_ip_header").last().map_or("", |each| each.word(1)).to_ascii_lowercase();
        let listens = server.inside().iter().filter(|each| each.word(0) == "listen");
        let speaks = listens.flat_map(|each| each.from(2)).any(|word| word == "proxy_protocol");
        field == "x-forwarded-for" || speaks
    }

    /// Adds the certificates of a server to a listener.
    fn secure(&mut self, server: &'d Directive, listen: &Directive, listener: &mut Listener) {
        let http = self.http;
        let (line, text) = (listen.line, listen.text.as_str());
        listener.secure();
        let keys = of(server, http, "ssl_certificate_key");
        for (index, certificate) in of(server, http, "ssl_certificate").into_iter().enumerate() {
            let key = keys.get(index).map(|key| key.word(1));
            let is_file = |path: &str| {
                grammar::file(path).is_some()
                    && !path.contains('$')
                    && !path.starts_with("data:")
                    && !path.starts_with("engine:")
            };
            if certificate.word(1) == acme::CERTIFICATE {
                self.order(server, listener);
            } else if is_file(certificate.word(1)) && key.is_none_or(is_file) {
                listener.certificate(certificate.word(1), key);
            } else {
                let why = "its certificate is not in a fixed file: set [listeners.tls] and remove the #";
                listener.switch_off(line, text, why);
            }
        }
        if let Some(protocols) = of(server, http, "ssl_protocols").last() {
            let has = |version: &str| protocols.from(1).iter().any(|word| word == version);
            if has("TLSv1.3") && !has("TLSv1.2") {
                listener.secure().set("min_version", Value::text("1.3"));
            }
            if (has("TLSv1") || has("TLSv1.1")) && self.applied.insert(protocols.at) {
                listener.secure().unsupported(
                    protocols.line,
                    &protocols.text,
                    "Linchpin supports only TLS 1.2 and 1.3",
                );
            }
        }
        if let Some(list) = of(server, http, "ssl_crl").last() {
            let why = "Linchpin reads no revocation lists, so clients with revoked certificates could connect; the listener is disabled";
            listener.switch_off(list.line, &list.text, why);
        }
        if of(server, http, "http2").last().is_some_and(|each| each.word(1) == "off") {
            listener.secure().set("http2", Value::flag(false));
        }
    }

    /// Converts the words after an address, and the trusted proxies there.
    fn parameters(&mut self, listen: &Directive, server: &'d Directive, is_tls: bool, listener: &mut Listener) {
        let (line, text) = (listen.line, listen.text.as_str());
        let networks: Vec<&str> = of(server, self.http, "set_real_ip_from")
            .iter()
            .map(|each| each.word(1))
            .filter(|net| is_network(net))
            .collect();
        let field = of(server, self.http, "real_ip_header")
            .last()
            .map_or("X-Real-IP", |each| each.word(1))
            .to_ascii_lowercase();
        let speaks = listen.from(2).iter().any(|word| word == "proxy_protocol");
        if !networks.is_empty() && (speaks || field == "x-forwarded-for") {
            listener.table.set("trusted_proxies", Value::list(networks.iter().copied()));
        }
        for word in listen.from(2) {
            match word.as_str() {
                "ssl" | "default_server" | "default" | "reuseport" | "deferred" => {}
                word if word.starts_with("ipv6only=") => {}
                "http2" if is_tls => {}
                "http2" => listener.table.set("http2", Value::flag(true)),
                "proxy_protocol" if networks.is_empty() => listener.switch_off(
                    line,
                    text,
                    "any client could claim any address, so the listener is disabled: set proxy_protocol = true and list the load balancers before this one in trusted_proxies",
                ),
                "proxy_protocol" => listener.table.set("proxy_protocol", Value::flag(true)),
                word => listener.table.unsupported(line, word, NONE),
            }
        }
    }
}

/// Returns the listener group of an address, which all servers there share.
fn group(address: &str, server: &Directive, out: &mut Output) -> usize {
    let known = out.group_at(address);
    let name = address.rsplit_once(':').map_or("socket", |(_, end)| end);
    let name = if name.starts_with('/') { "socket".to_owned() } else { format!("port-{name}") };
    known.unwrap_or_else(|| out.listener_group(server.line, &server.text, &name))
}

/// Parses `80`, `*:80`, `10.0.0.1`, `10.0.0.1:80`, `[::]:80`, `localhost:80`, `unix:/run/nginx.sock`.
fn address(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match units::unix(path) {
            Address::Unix(path) => Some(format!("unix:{path}")),
            _ => None,
        };
    }
    if let Ok(port) = text.parse::<u16>() {
        return (port != 0).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port).to_string());
    }
    match units::address(text, Some(80)) {
        Address::Socket(socket) => Some(socket.to_string()),
        _ => units::listener(text).map(|socket| socket.to_string()),
    }
}

/// Returns whether `text` is a network such as `10.0.0.0/8`, or an address.
fn is_network(text: &str) -> bool {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else { return false };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| (1..=most).contains(&bits)))
}
