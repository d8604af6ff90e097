//! Owns: what the connections of a listener need to know about it.
//! Invariant: a value never changes; a reload replaces it for the connections that begin afterwards.
//! Must not know: sockets.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::settings::ListenerSettings;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::ListenerCounters;
use crate::tls::Acceptor;

/// What all connections of one listener share. `L` is what the handler has to know of it.
pub struct ListenerTransport<L> {
    pub(super) info: Arc<L>,
    pub(super) metrics: Arc<ListenerCounters>,
    pub(super) name: Arc<str>,
    /// Whether clients may speak HTTP/2 in clear text, by prior knowledge (RFC 9113 §3.3).
    pub(super) allows_http2: bool,
    /// The TLS acceptor, if clients speak TLS.
    pub(super) tls: Option<Arc<Acceptor>>,
    /// Whether the connections of trusted peers begin with a PROXY header.
    has_proxy_protocol: bool,
    trusted: Vec<IpNet>,
}

impl<L> ListenerTransport<L> {
    /// Makes the value of a listener with these settings, and with this TLS acceptor if its clients speak TLS.
    pub fn new(
        settings: &ListenerSettings,
        tls: Option<Arc<Acceptor>>,
        info: L,
        metrics: &Metrics,
    ) -> ListenerTransport<L> {
        ListenerTransport {
            info: Arc::new(info),
            metrics: metrics.listener(&settings.name),
            name: settings.name.as_str().into(),
            allows_http2: settings.http2 && tls.is_none(),
            tls,
            has_proxy_protocol: settings.proxy_protocol,
            trusted: settings.trusted_proxies.clone(),
        }
    }

    /// Returns whether the server reads something before the first request: a PROXY header, TLS, or HTTP/2's preface.
    pub(super) fn has_preamble(&self) -> bool {
        self.allows_http2 || self.has_proxy_protocol || self.tls.is_some()
    }

    /// Returns whether a connection from `address` begins with a PROXY header. This is never guessed from the
    /// bytes that arrive (proxy-protocol.txt): otherwise any client could claim to be any other.
    pub(super) fn expects_proxy_header(&self, address: IpAddr) -> bool {
        self.has_proxy_protocol && self.trusts(address)
    }

    /// Returns whether a proxy at `address` is trusted.
    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|net| net.contains(&address))
    }
}
