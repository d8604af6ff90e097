//! Owns: what the configuration says about the connections of a pool, and the limit on a response's header section.
//! Invariant: these values never change; a new configuration brings new ones.
//! Must not know: connections, requests.

use std::sync::Arc;

use http::header::HeaderName;
use http::uri::Scheme;

use crate::tls::{self, Connector};

/// The largest header section of a response, in bytes. A larger one is a 502 for its request.
pub(super) const MAX_RESPONSE_HEAD: usize = 256 * 1024;

/// `[pools.upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The most idle connections that each thread keeps per backend.
    pub max_idle_per_thread: usize,
    /// How long an idle connection is kept. It must be shorter than the backend's own keep-alive time: then Linchpin
    /// closes first, and no request is sent on a connection that the backend is closing.
    pub idle_timeout: std::time::Duration,
    /// The most fields in a response's header section, 1 to 1000. A response with more is a 502.
    pub header_count: usize,
    /// Whether to use HTTP/2, where requests share connections.
    pub http2: bool,
    /// The version of the PROXY header that begins each connection and names the client, if any.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// TLS towards the backends, if any.
    pub tls: Option<Arc<tls::client::Settings>>,
}

/// How to connect to the backends of a pool.
#[derive(Clone)]
pub struct Access {
    /// `[pools.upstream]`.
    pub settings: Settings,
    /// The TLS connector, if the pool uses TLS.
    pub tls: Option<Arc<Connector>>,
    /// A field of responses that only Linchpin reads, and that may be long. HTTP/1.1 connections keep it apart from the
    /// others.
    pub kept_apart: Option<&'static HeaderName>,
    /// How health checks connect, if not as requests do.
    pub probes: Option<Arc<Access>>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.fmt(f)
    }
}

impl Access {
    /// Returns how health checks connect.
    pub fn for_probes(&self) -> &Access {
        self.probes.as_deref().unwrap_or(self)
    }

    /// Returns the scheme of requests to these backends.
    pub fn scheme(&self) -> Scheme {
        if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

/// A version of HAProxy's PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Version 1: one line of text.
    V1,
    /// Version 2: binary.
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
