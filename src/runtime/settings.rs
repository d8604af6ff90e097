//! Owns: `[server]`, `[server.limits]` and `[[listeners]]`.
//! Invariant: plain data, with the defaults that the documentation states.
//! Must not know: configuration files.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::net::Address;
use crate::tls;

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Threads of the data path; 0 for one per core.
    pub threads: usize,
    /// How long requests in flight may take to end once the process was told to stop.
    pub shutdown_grace: Duration,
    /// Client connections at once, over all threads and listeners; more wait in the kernel's queue. Fewer,
    /// where the limit of open descriptors allows no more ([`super::descriptors::budget`]).
    pub max_connections: usize,
    /// `[server.limits]`.
    pub limits: Limits,
}

impl Settings {
    /// The threads of the data path that there are with these settings, on this machine.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }
}

/// `[server.limits]`: what a client may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's head, 8 KiB to 1 MiB: beyond it 431.
    pub header_bytes: usize,
    /// Fields of a request's head, 1 to 100: beyond it 431.
    pub header_count: usize,
    /// Bytes of a request's target: beyond it 414.
    pub target_bytes: usize,
    /// From the first byte of a request's head to its last: beyond it 408.
    pub header_read_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// Bytes of a request's body: beyond it 413. `u64::MAX` for no limit.
    pub body_bytes: u64,
    /// Connections of one client address at once; beyond it they are closed. `None` for no limit.
    pub connections_per_client: Option<u32>,
    /// Requests of one connection, which is closed then. `None` for no limit.
    pub requests_per_connection: Option<u32>,
}

/// One `[[listeners]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// What logs and metrics call it; its address if not set.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Whether clients may speak HTTP/2 in clear text, by prior knowledge.
    pub http2: bool,
    /// Whether connections from `trusted_proxies` begin with a PROXY header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Who is believed when it says whom it speaks for.
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which it says that: X-Forwarded-For or Forwarded.
    pub forwarded: HeaderName,
    /// TLS, if clients are to speak it.
    pub tls: Option<Arc<tls::server::Settings>>,
    /// How long browsers are told to come by TLS only (`Strict-Transport-Security`), if they are.
    pub hsts: Option<Duration>,
    /// The port of the same host to which every request is sent away, to come back by TLS.
    pub redirect_https: Option<u16>,
}

impl ListenerSettings {
    /// A listener of which no more is said than its address.
    pub fn new(address: Address) -> ListenerSettings {
        ListenerSettings {
            name: address.to_string(),
            address,
            http2: false,
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            forwarded: HeaderName::from_static("x-forwarded-for"),
            tls: None,
            hsts: None,
            redirect_https: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            threads: 0,
            shutdown_grace: Duration::from_secs(30),
            max_connections: 100_000,
            limits: Limits::default(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 32 * 1024,
            header_count: 100,
            target_bytes: 8 * 1024,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_bytes: u64::MAX,
            connections_per_client: None,
            requests_per_connection: None,
        }
    }
}
