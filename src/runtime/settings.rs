//! Owns: the settings of `[server]`, `[server.limits]` and `[[listeners]]`.
//! Invariant: settings are plain data, with the defaults that the documentation states.
//! Must not know: configuration files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::net::Address;
use crate::tls;

/// `[server]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Worker threads; 0 for one per core.
    pub threads: usize,
    /// How long connections are still accepted after the process received the signal to stop, while `/readyz` says so.
    pub shutdown_delay: Duration,
    /// How long requests in flight may take to end after that.
    pub shutdown_grace: Duration,
    /// The Unix socket at which this process waits for its successor; `None` for no takeover.
    pub handover: Option<PathBuf>,
    /// The most client connections at once, over all threads and listeners; more wait in the kernel's queue. The limit
    /// of open descriptors may allow fewer ([`super::descriptors::budget`]).
    pub max_connections: usize,
    /// `[server.limits]`.
    pub limits: Limits,
}

impl Settings {
    /// Returns the number of worker threads on this machine.
    pub fn threads(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            threads => threads,
        }
    }
}

/// `[server.limits]`: what a client may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a request's head, 8 KiB to 1 MiB; a larger one gets 431.
    pub header_bytes: usize,
    /// The most fields of a request's head, 1 to 100; more get 431.
    pub header_count: usize,
    /// The most bytes of a request target; a longer one gets 414.
    pub target_bytes: usize,
    /// The most time from the first byte of a request's head to its last; a slower one gets 408.
    pub header_read_timeout: Duration,
    /// The most time between two requests of a connection.
    pub idle_timeout: Duration,
    /// The most bytes of a request's body; a larger one gets 413. `u64::MAX` for no limit.
    pub body_bytes: u64,
    /// The most connections of one client address at once; more are closed. `None` for no limit.
    pub connections_per_client: Option<u32>,
    /// The most requests of one connection, which is then closed. `None` for no limit.
    pub requests_per_connection: Option<u32>,
}

/// One `[[listeners]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The listener's name in logs and metrics; its address by default.
    pub name: String,
    /// The address to listen on.
    pub address: Address,
    /// Whether clients may speak HTTP/2 in clear text, by prior knowledge.
    pub http2: bool,
    /// Whether connections from `trusted_proxies` begin with a PROXY header, version 1 or 2.
    pub proxy_protocol: bool,
    /// The networks of proxies that may name the client they forward for.
    pub trusted_proxies: Vec<IpNet>,
    /// The field in which they name it: X-Forwarded-For or Forwarded.
    pub forwarded: HeaderName,
    /// The settings of TLS, if clients speak TLS here.
    pub tls: Option<Arc<tls::server::Settings>>,
    /// How long browsers shall use TLS only (`Strict-Transport-Security`); `None` sends no such field.
    pub hsts: Option<Duration>,
    /// The port of the same host to which every request is redirected, with `https`.
    pub redirect_https: Option<u16>,
}

impl ListenerSettings {
    /// Returns the settings of a listener at `address`, with defaults for all others.
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
            shutdown_delay: Duration::ZERO,
            // Kubernetes kills a process 30 s after the signal.
            shutdown_grace: Duration::from_secs(25),
            handover: None,
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
