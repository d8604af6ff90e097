//! Owns: the settings of a source of backends.
//! Invariant: the defaults are the ones that the configuration's comments name.
//! Must not know: how a source is read.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One `[[pools.discover]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where backends are found.
    pub source: Source,
    /// Their share of new sessions, where the source says nothing of it.
    pub weight: u32,
    /// Requests in flight on one of them, beyond which it is full; `None` for no limit.
    pub max_requests: Option<u32>,
    /// Sessions beyond which one of them gets no new one; `None` for no limit.
    pub max_sessions: Option<u32>,
    /// How many are taken at most.
    pub max_backends: usize,
    /// How long one that is gone keeps the sessions it has.
    pub drain: Duration,
}

/// Where backends are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Behind a name.
    Dns(Dns),
    /// In a file, one a line.
    File(PathBuf),
}

/// The keys that belong to `dns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// The name that is asked for.
    pub name: String,
    /// The kind of records.
    pub records: Records,
    /// The port of the backends, where the records have none.
    pub port: u16,
    /// What the names of backends begin with, if they do.
    pub prefix: Option<String>,
    /// Who is asked; whom the system asks, if nobody is named.
    pub resolvers: Vec<SocketAddr>,
    /// Bounds of the time for which an answer holds.
    pub refresh_interval: RefreshInterval,
}

/// The key `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Addresses of both kinds.
    Both,
    /// Services: host, port, priority and weight (RFC 2782).
    Srv,
}

/// How often a source is looked at, at most and at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefreshInterval {
    /// The shortest time between two looks.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for RefreshInterval {
    fn default() -> Self {
        RefreshInterval { min: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

impl Settings {
    /// What holds for a source of which no more is said.
    pub fn new(source: Source) -> Settings {
        Settings {
            source,
            weight: 1,
            max_requests: None,
            max_sessions: None,
            max_backends: 1000,
            drain: Duration::from_secs(300),
        }
    }

    /// The bounds of looking.
    pub fn refresh_interval(&self) -> RefreshInterval {
        match &self.source {
            Source::Dns(dns) => dns.refresh_interval,
            Source::File(_) => RefreshInterval::default(),
        }
    }
}

/// What log, metrics and status call it.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Dns(dns) => f.write_str(&dns.name),
            Source::File(path) => path.display().fmt(f),
        }
    }
}
