//! Owns: what the configuration says about the connections of a pool, and the limit on a response's header section.
//! Invariant: nothing here changes while it is used: a new configuration brings new values.
//! Must not know: connections.

use std::sync::Arc;

use http::uri::Scheme;

use crate::tls::{self, Connector};

/// The largest header section of a response, in bytes. A larger one is a 502 for its request.
pub(super) const MAX_RESPONSE_HEAD: usize = 256 * 1024;

/// `[pools.upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Idle connections kept per backend and thread.
    pub max_idle_per_thread: usize,
    /// How long one is kept. Shorter than the backend's own keep-alive time, so that it is
    /// Linchpin that closes and no request meets a closing connection.
    pub idle_timeout: std::time::Duration,
    /// Fields of a response's head, 1 to 1000: a response with more is a 502.
    pub header_count: usize,
    /// Whether HTTP/2 is spoken, on connections that many requests share.
    pub http2: bool,
    /// The header that tells a backend of the client before all else, if any.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS, if backends are to be spoken to by it.
    pub tls: Option<Arc<tls::client::Settings>>,
}

/// How the backends of a pool are spoken to.
#[derive(Clone)]
pub struct Access {
    /// `[pools.upstream]`.
    pub settings: Settings,
    /// What shakes hands, where TLS is spoken.
    pub tls: Option<Arc<Connector>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

impl Access {
    /// What a backend hears of the scheme.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

/// A version of HAProxy's PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_idle_per_thread: 128,
            idle_timeout: std::time::Duration::from_secs(30),
            header_count: 100,
            http2: false,
            proxy_protocol: None,
            tls: None,
        }
    }
}
