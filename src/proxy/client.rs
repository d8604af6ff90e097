//! Owns: what is known about a client connection, and the forwarding headers that describe the client to backends.
//! Invariant: only a trusted proxy may name another client; a chain of proxies is read from the nearest one.
//! Must not know: routes, backends.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;

use super::forwarded::{self, ForwardedField, ForwardedFor, X_FORWARDED_FOR, X_FORWARDED_PROTO};
use super::redirect::Redirect;
use super::request_id::{RequestId, X_REQUEST_ID};
use crate::affinity::PinCache;
use crate::copies::SessionCache;
use crate::handler::Peer;
use crate::tls;

const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// The identifier of a client whose address nobody has named (RFC 7239 §6.2).
const UNKNOWN: &str = "unknown";

/// The settings of a listener that its requests need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Identifies the listener for routes, as long as it is open.
    pub id: usize,
    /// The listener's name in the access log.
    pub name: Arc<str>,
    /// Whether clients connect to it with TLS.
    pub is_secure: bool,
    /// The networks of trusted proxies, which may name the client that they forward for.
    pub trusted: Vec<IpNet>,
    /// The field in which trusted proxies name the client.
    pub forwarded: ForwardedField,
    /// The value of Strict-Transport-Security (RFC 6797), if the listener sends one.
    pub hsts: Option<HeaderValue>,
    /// The redirect to HTTPS for clients that connect without TLS.
    pub https: Option<Redirect>,
}

impl ListenerInfo {
    /// Whether `address` belongs to a trusted proxy.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

/// The state of one client connection.
pub struct Client {
    listener: Arc<ListenerInfo>,
    address: IpAddr,
    is_trusted: bool,
    /// The subject of the client's certificate, if it presented one. Boxed, since few do.
    subject: Option<Box<HeaderValue>>,
    tls_version: Option<&'static str>,
    forwarding: ForwardingCache,
    pub(super) pin_cache: RefCell<PinCache>,
    /// The session of its last request, where the pool keeps session copies.
    pub(super) session_cache: RefCell<SessionCache>,
    /// Whether this process has abandoned the requests of the connection that have no response yet.
    pub(super) is_abandoned: Cell<bool>,
}

/// The client that sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The client's address. If a proxy does not name the client, this is the address of the nearest hop that
    /// can be parsed. Use it to tell clients apart; use [`ClientIdentity::client`] to grant access.
    pub address: IpAddr,
    is_known: bool,
    /// Whether the client uses TLS, with Linchpin or with the first proxy in front of it.
    pub is_secure: bool,
    /// Whether a trusted proxy forwarded the request; its forwarding headers are kept.
    pub(super) is_forwarded: bool,
}

impl ClientIdentity {
    /// The client's address, if it is known. Access rules by address must use this one.
    pub fn client(self) -> Option<IpAddr> {
        self.is_known.then_some(self.address)
    }

    fn scheme(self) -> &'static str {
        scheme_of(self.is_secure)
    }
}

fn scheme_of(is_secure: bool) -> &'static str {
    if is_secure { "https" } else { "http" }
}

impl Client {
    /// Makes the state of a connection of `peer` to `listener`.
    pub fn new(listener: &Arc<ListenerInfo>, peer: Peer) -> Client {
        let Peer { address, subject, tls_version } = peer;
        // A listener on [::] sees IPv4 clients at mapped addresses, which no application expects.
        let address = address.to_canonical();
        let is_trusted = listener.trusts(address);
        let forwarding = ForwardingCache::new(address);
        Client {
            listener: Arc::clone(listener),
            address,
            is_trusted,
            subject: subject.map(Box::new),
            tls_version,
            forwarding,
            pin_cache: RefCell::default(),
            session_cache: RefCell::default(),
            is_abandoned: Cell::new(false),
        }
    }

    /// Forgets what it remembers of the last request, which is computed anew with the next one: the connection has been
    /// idle for a while, and may stay so.
    pub(super) fn park(&self) {
        self.forwarding.last.take();
        self.pin_cache.take();
        self.session_cache.take();
    }

    /// The name of the listener in the access log.
    pub(super) fn listener_name(&self) -> &str {
        &self.listener.name
    }

    /// Whether the connection is that of a trusted proxy.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// The version of TLS of the connection, if it has TLS.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        self.tls_version
    }

    /// The id of the listener.
    pub(super) fn listener_id(&self) -> usize {
        self.listener.id
    }

    /// The address that the connection comes from, as text.
    pub(super) fn address_text(&self) -> &str {
        self.forwarding.address_text()
    }

    /// The address of the client that sent a request, as text; `unknown` if nobody has named it.
    pub(super) fn address_text_of(&self, identity: ClientIdentity) -> Cow<'_, str> {
        match identity.client() {
            Some(address) if identity.is_forwarded => address.to_string().into(),
            Some(_) => self.address_text().into(),
            None => UNKNOWN.into(),
        }
    }

    /// The id that a trusted proxy has given to a request with these fields.
    pub(super) fn request_id(&self, headers: &HeaderMap) -> Option<RequestId> {
        if self.is_trusted { RequestId::from_headers(headers) } else { None }
    }

    /// Identifies the client that sent a request with these fields.
    pub(super) fn identify(&self, headers: &HeaderMap) -> ClientIdentity {
        let own = ClientIdentity {
            address: self.address,
            is_known: true,
            is_secure: self.listener.is_secure,
            is_forwarded: false,
        };
        if !self.is_trusted {
            return own;
        }
        let field = self.listener.forwarded;
        match forwarded::client(field, headers, self.address, |address| self.listener.trusts(address)) {
            ForwardedFor::Client(address, is_secure) => {
                ClientIdentity { address, is_secure: is_secure.unwrap_or(own.is_secure), is_forwarded: true, ..own }
            }
            ForwardedFor::Unknown(address, is_secure) => ClientIdentity {
                address,
                is_known: false,
                is_secure: is_secure.unwrap_or(own.is_secure),
                is_forwarded: true,
            },
            // The proxy may have named the client in a PROXY header, or is itself the client.
            ForwardedFor::Nothing => {
                ClientIdentity { is_secure: forwarded::scheme(field, headers).unwrap_or(own.is_secure), ..own }
            }
        }
    }

    /// Whether a request from `identity` keeps the forwarding field `name` of a trusted proxy.
    pub(super) fn keeps_forwarding_field(&self, identity: ClientIdentity, name: &str) -> bool {
        identity.is_forwarded && self.listener.forwarded.permits(name)
    }

    /// The redirect for a request from `identity` that was sent without TLS, if the listener requires TLS.
    pub(super) fn redirect_to_tls(&self, identity: ClientIdentity) -> Option<&Redirect> {
        self.listener.https.as_ref().filter(|_| !identity.is_secure)
    }

    /// The value of Strict-Transport-Security in responses to `identity`; only responses over TLS have it (RFC 6797
    /// §7.2).
    pub(super) fn hsts(&self, identity: ClientIdentity) -> Option<&HeaderValue> {
        self.listener.hsts.as_ref().filter(|_| identity.is_secure)
    }

    /// Sets the headers that describe the client and name the request: X-Forwarded-*, Forwarded, X-Request-ID and the
    /// certificate's subject. Appends to the forwarding headers of trusted proxies; those of anyone else were already
    /// removed.
    pub(super) fn set_forwarding_headers(
        &self,
        headers: &mut HeaderMap,
        host: Option<&HeaderValue>,
        identity: ClientIdentity,
        id: &RequestId,
    ) {
        let forwarding = &self.forwarding;
        headers.insert(X_REQUEST_ID, id.value());
        if let Some(subject) = &self.subject {
            headers.insert(HeaderName::from_static(tls::SUBJECT_FIELD), (**subject).clone());
        }
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(identity.scheme()));
        if !identity.is_forwarded {
            headers.insert(X_FORWARDED_FOR, forwarding.address.clone());
            if let Some(host) = host {
                let (forwarded, port) = forwarding.values(host, identity.scheme());
                headers.insert(FORWARDED, forwarded);
                headers.insert(X_FORWARDED_HOST, host.clone());
                headers.insert(X_FORWARDED_PORT, port);
            }
            return;
        }
        // A backend reads only one of the two fields. A field that the proxy did not send starts with the client,
        // or the backend would take the proxy for the client. A chain that does not name the client starts again,
        // too: a backend that reads the chain from its far end would believe what a client wrote there.
        if identity.client().is_none() {
            headers.remove(X_FORWARDED_FOR);
            headers.remove(FORWARDED);
        }
        let address = self.address_text_of(identity);
        if !headers.contains_key(X_FORWARDED_FOR) {
            append(headers, X_FORWARDED_FOR, address.as_bytes().to_vec());
        }
        if !headers.contains_key(FORWARDED) {
            let [open, node, close] = forwarded_node(&address);
            let scheme = identity.scheme().as_bytes();
            append(headers, FORWARDED, [b"for=", open, node, close, b";proto=", scheme].concat());
        }
        headers.append(X_FORWARDED_FOR, forwarding.address.clone());
        let forwarded_host = forwarded::last_value(headers, &X_FORWARDED_HOST);
        if let Some(host) = host {
            // Each element of Forwarded describes one hop. This element describes the hop from the proxy to Linchpin.
            headers.append(FORWARDED, forwarding.values(host, scheme_of(self.listener.is_secure)).0);
        }
        if let Some(host) = forwarded_host.or(host.cloned()) {
            let port = forwarded::last_value(headers, &X_FORWARDED_PORT).filter(|port| is_valid_port(port.as_bytes()));
            headers.insert(X_FORWARDED_PORT, port.unwrap_or_else(|| port_of(&host, identity.scheme())));
            headers.insert(X_FORWARDED_HOST, host);
        }
    }
}

/// The values of forwarding headers for one client connection. Most of its requests have the same Host, so the
/// values are made once per host and not once per request.
#[derive(Debug)]
struct ForwardingCache {
    address: HeaderValue,
    /// Boxed, since most connections are idle, and then have none.
    last: RefCell<Option<Box<ForwardingValues>>>,
}

/// The values for the last request's host and scheme.
#[derive(Debug)]
struct ForwardingValues {
    host: HeaderValue,
    scheme: &'static str,
    forwarded: HeaderValue,
    port: HeaderValue,
}

impl ForwardingCache {
    fn new(address: IpAddr) -> ForwardingCache {
        let text = Bytes::from(format_address(address));
        let value = HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(UNKNOWN));
        ForwardingCache { address: value, last: RefCell::default() }
    }

    /// The client's address as text.
    fn address_text(&self) -> &str {
        self.address.to_str().unwrap_or_default()
    }

    /// The values of Forwarded (RFC 7239) and X-Forwarded-Port for a request to `host`.
    fn values(&self, host: &HeaderValue, scheme: &'static str) -> (HeaderValue, HeaderValue) {
        let mut last = self.last.borrow_mut();
        if let Some(last) = &*last
            && last.host == host
            && last.scheme == scheme
        {
            return (last.forwarded.clone(), last.port.clone());
        }
        // Concatenated, not formatted: a client that opens a connection for each request pays this each time.
        let [open, node, close] = forwarded_node(self.address_text());
        let text = [b"for=", open, node, close, b";host=\"", host.as_bytes(), b"\";proto=", scheme.as_bytes()].concat();
        // A valid host contains no quote and no backslash, so it needs no escape within quotes.
        let forwarded =
            HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static("for=unknown"));
        let port = port_of(host, scheme);
        // Copies the host: the request's value is a slice of the connection's read buffer, and would keep the
        // whole buffer in memory while the client is idle.
        *last = HeaderValue::from_bytes(host.as_bytes())
            .ok()
            .map(|host| Box::new(ForwardingValues { host, scheme, forwarded: forwarded.clone(), port: port.clone() }));
        (forwarded, port)
    }
}

/// The port that the client sent its request to: the port in Host, or the default port of the scheme (RFC 9110 §4.2).
/// It is not the listener's port: applications write this port into links, and behind a port mapping or a TCP
/// load balancer no client could connect to the listener's own port.
fn port_of(host: &HeaderValue, scheme: &'static str) -> HeaderValue {
    let host = host.as_bytes();
    let port = host.iter().rposition(|byte| *byte == b':').map(|at| &host[at + 1..]);
    let explicit = port.filter(|port| is_valid_port(port)).and_then(|port| HeaderValue::from_bytes(port).ok());
    explicit.unwrap_or(HeaderValue::from_static(if scheme == "https" { "443" } else { "80" }))
}

fn is_valid_port(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_digit) && std::str::from_utf8(text).is_ok_and(|text| text.parse::<u16>().is_ok())
}

/// The parts of an address as a node identifier of Forwarded: IPv6 in quotes and brackets (RFC 7239 §6).
fn forwarded_node(address: &str) -> [&[u8]; 3] {
    let (open, close): (&[u8], &[u8]) = if address.contains(':') { (b"\"[", b"]\"") } else { (b"", b"") };
    [open, address.as_bytes(), close]
}

/// An address as text. `Display` costs a thousand instructions, which a client that opens a connection for each
/// request pays each time; concatenating four numbers costs a tenth of that.
fn format_address(address: IpAddr) -> Vec<u8> {
    let IpAddr::V4(address) = address else { return address.to_string().into_bytes() };
    let [first, rest @ ..] = address.octets();
    let mut text = Vec::with_capacity("255.255.255.255".len());
    text.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
    for octet in rest {
        text.push(b'.');
        text.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
    text
}

fn append(headers: &mut HeaderMap, name: HeaderName, text: Vec<u8>) {
    // An address is always a valid field value.
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.append(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HOST;

    fn client(address: &str, trusted: &[&str]) -> Client {
        let trusted = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Client::new(
            &Arc::new(ListenerInfo {
                id: 0,
                name: "l".into(),
                is_secure: false,
                trusted,
                forwarded: ForwardedField::XForwardedFor,
                hsts: None,
                https: None,
            }),
            Peer { address: address.parse().unwrap(), subject: None, tls_version: None },
        )
    }

    fn forwarding_headers(client: &Client, fields: &[(&'static str, &str)]) -> (ClientIdentity, HeaderMap) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        let identity = client.identify(&headers);
        let host = headers.get(HOST).cloned();
        super::super::headers::to_backend(&mut headers, host.as_ref(), client, identity, &RequestId::generated(1));
        (identity, headers)
    }

    #[test]
    fn a_parked_connection_forgets_what_its_next_request_computes_anew() {
        let client = client("127.0.0.1", &[]);
        let fields = [("host", "a.example:8080")];
        let (_, before) = forwarding_headers(&client, &fields);
        assert!(client.forwarding.last.borrow().is_some());
        client.park();
        assert!(client.forwarding.last.borrow().is_none());
        assert_eq!(forwarding_headers(&client, &fields).1, before);
    }

    #[test]
    fn cached_forwarding_values_do_not_retain_the_read_buffer() {
        let buffer = Bytes::from(b"a.example and eight kilobytes more".to_vec());
        let client = client("127.0.0.1", &[]);
        let host = HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap();
        let mut headers = HeaderMap::from_iter([(HOST, host)]);
        let host = headers.get(HOST).cloned();
        client.set_forwarding_headers(
            &mut headers,
            host.as_ref(),
            client.identify(&HeaderMap::new()),
            &RequestId::generated(1),
        );
        drop(host);
        drop(headers);
        assert!(buffer.is_unique());
    }

    #[test]
    fn addresses_are_formatted_as_by_the_standard_library() {
        for address in ["0.0.0.0", "10.1.200.255", "255.255.255.255", "::1", "2001:db8::7"] {
            assert_eq!(format_address(address.parse().unwrap()), address.as_bytes());
        }
    }

    #[test]
    fn forwarding_headers_follow_the_host_and_quote_ipv6_as_in_rfc_7239() {
        let mapped = client("::ffff:10.0.0.1", &[]);
        for host in ["a", "a", "b"] {
            let (_, headers) = forwarding_headers(&mapped, &[("host", host)]);
            assert_eq!(headers[FORWARDED], format!("for=10.0.0.1;host=\"{host}\";proto=http"));
        }
        let (_, headers) = forwarding_headers(&client("::1", &[]), &[("host", "a")]);
        assert_eq!(headers[FORWARDED], "for=\"[::1]\";host=\"a\";proto=http");
        assert_eq!(headers[X_FORWARDED_FOR], "::1");
    }

    #[test]
    fn a_trusted_proxy_may_send_the_scheme_without_a_client_address() {
        let proxy = client("10.0.0.1", &["10.0.0.0/8"]);
        let (identity, headers) = forwarding_headers(&proxy, &[("host", "a"), ("x-forwarded-proto", "https")]);
        assert_eq!((identity.client(), identity.is_secure), (Some([10, 0, 0, 1].into()), true));
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[FORWARDED], "for=10.0.0.1;host=\"a\";proto=https");
    }

    #[test]
    fn a_client_that_its_proxy_does_not_name_is_unknown_to_backends_too() {
        let proxy = client("10.0.0.1", &["10.0.0.0/8"]);
        let claims = [("host", "a"), ("x-forwarded-for", "6.6.6.6, unknown, 10.0.0.2"), ("forwarded", "for=6.6.6.6")];
        let (identity, headers) = forwarding_headers(&proxy, &claims);
        assert_eq!((identity.client(), identity.address), (None, [10, 0, 0, 2].into()));
        assert_eq!(proxy.address_text_of(identity), "unknown");
        assert_eq!(values(&headers, &X_FORWARDED_FOR), ["unknown", "10.0.0.1"]);
        assert_eq!(values(&headers, &FORWARDED), ["for=unknown;proto=http", "for=10.0.0.1;host=\"a\";proto=http"]);
    }

    #[test]
    fn only_the_last_of_several_schemes_and_hosts_is_forwarded() {
        let proxy = client("10.0.0.1", &["10.0.0.0/8"]);
        let fields = [
            ("host", "a"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "evil.example, shop.example"),
        ];
        let (identity, headers) = forwarding_headers(&proxy, &fields);
        assert!(!identity.is_secure);
        assert_eq!(values(&headers, &X_FORWARDED_PROTO), ["http"]);
        assert_eq!(values(&headers, &X_FORWARDED_HOST), ["shop.example"]);
    }

    #[test]
    fn the_forwarded_port_is_the_one_that_the_client_sent_its_request_to() {
        let proxy = client("10.0.0.1", &["10.0.0.0/8"]);
        let for_one = ("x-forwarded-for", "1.1.1.1");
        let https = ("x-forwarded-proto", "https");
        for (fields, port) in [
            (&[("host", "a")][..], "80"),
            (&[("host", "a:8443")], "8443"),
            (&[("host", "[::1]")], "80"),
            (&[("host", "[::1]:81")], "81"),
            (&[("host", "a:")], "80"),
            (&[("host", "a:99999")], "80"),
            (&[("host", "a"), https], "443"),
            (&[("host", "a"), ("x-forwarded-port", "6")], "80"),
            (&[("host", "a"), for_one, https], "443"),
            (&[("host", "a"), for_one, ("x-forwarded-host", "b:82")], "82"),
            (&[("host", "a"), for_one, ("x-forwarded-port", "1, 83")], "83"),
            (&[("host", "a"), for_one, ("x-forwarded-port", "evil")], "80"),
        ] {
            let (_, headers) = forwarding_headers(&proxy, fields);
            assert_eq!(values(&headers, &X_FORWARDED_PORT), [port], "{fields:?}");
        }
    }

    fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<&'h str> {
        headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn only_a_trusted_proxy_can_name_another_client() {
        let claims = [("host", "a"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")];
        let (identity, headers) = forwarding_headers(&client("9.9.9.9", &["10.0.0.0/8"]), &claims);
        assert_eq!((identity.address, identity.is_secure), ("9.9.9.9".parse().unwrap(), false));
        assert_eq!(headers[X_FORWARDED_FOR], "9.9.9.9");
        assert_eq!(headers[X_FORWARDED_PROTO], "http");

        let (identity, headers) = forwarding_headers(&client("10.0.0.1", &["10.0.0.0/8"]), &claims);
        assert_eq!((identity.address, identity.is_secure), ("6.6.6.6".parse().unwrap(), true));
        let chain: Vec<_> = headers.get_all(X_FORWARDED_FOR).iter().collect();
        assert_eq!(chain, ["6.6.6.6", "10.0.0.1"]);
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        let chain: Vec<_> = headers.get_all(FORWARDED).iter().collect();
        assert_eq!(chain, ["for=6.6.6.6;proto=https", "for=10.0.0.1;host=\"a\";proto=http"]);
    }
}
