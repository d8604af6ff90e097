//! Owns: the settings of a source of backends.
//! Invariant: the defaults are the ones that the configuration's comments name.
//! Must not know: how a source is read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One `[[pools.discover]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where to find backends.
    pub source: Source,
    /// Their share of new sessions, where the source gives none.
    pub weight: u32,
    /// The requests in flight on one backend at which it is full; `None` for no limit.
    pub max_requests: Option<u32>,
    /// The sessions on one backend at which it gets no new one; `None` for no limit.
    pub max_sessions: Option<u32>,
    /// The group of its backends.
    pub group: Option<String>,
    /// The number of backends to accept at most.
    pub max_backends: usize,
    /// How long a backend that is no longer found drains.
    pub drain: Duration,
}

/// Where to find backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The records of a DNS name.
    Dns(Dns),
    /// A file with one backend a line.
    File(PathBuf),
}

/// The keys that belong to `dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The name to query.
    pub name: String,
    /// The type of records.
    pub records: Records,
    /// The port of the backends, unless the records have one.
    pub port: u16,
    /// The prefix of the backends' names, if one is set.
    pub prefix: Option<String>,
    /// The DNS servers to query; the system's servers if there are none.
    pub resolvers: Vec<SocketAddr>,
    /// The bounds of the time to live of an answer.
    pub refresh_interval: RefreshInterval,
}

/// The key `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// A: IPv4 addresses.
    A,
    /// AAAA: IPv6 addresses.
    Aaaa,
    /// A and AAAA: addresses of both kinds.
    Both,
    /// SRV: host, port, priority and weight (RFC 2782).
    Srv,
}

/// The bounds of the time between two looks at a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshInterval {
    /// The shortest time.
    pub min: Duration,
    /// The longest time.
    pub max: Duration,
}

impl Default for RefreshInterval {
    fn default() -> Self {
        RefreshInterval { min: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

impl Settings {
    /// Makes the default settings of a source.
    pub fn new(source: Source) -> Settings {
        Settings {
            source,
            weight: 1,
            max_requests: None,
            max_sessions: None,
            group: None,
            max_backends: 1000,
            drain: Duration::from_secs(300),
        }
    }

    /// Returns the bounds of the time between two looks.
    pub fn refresh_interval(&self) -> RefreshInterval {
        match &self.source {
            Source::Dns(dns) => dns.refresh_interval,
            Source::File(_) => RefreshInterval::default(),
        }
    }
}

/// Writes the name that the log, metrics and the status API use.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Dns(dns) => f.write_str(&dns.name),
            Source::File(path) => path.display().fmt(f),
        }
    }
}
