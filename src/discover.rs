//! Owns: backends that the configuration doesn't name but says where to find: behind a DNS name, or in a file.
//! Invariant: what was found last holds until something better is known; nothing that is found grows without bound.
//! Must not know: requests, probes, or how a pool's next members are published.

pub mod answer;
mod dns;
pub mod file;
pub mod members;
mod name;
pub mod seek;
pub mod standing;
mod targets;
pub mod trust;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use members::{Members, Now, Ours};
pub use standing::Standing;

use crate::net::Address;

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
    pub bounds: Bounds,
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
pub struct Bounds {
    /// The shortest time between two looks.
    pub min: Duration,
    /// The longest.
    pub max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { min: Duration::from_secs(1), max: Duration::from_secs(300) }
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
    pub fn bounds(&self) -> Bounds {
        match &self.source {
            Source::Dns(dns) => dns.bounds,
            Source::File(_) => Bounds::default(),
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

/// A backend as a source tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its identity: the same as long as it is the same server, as far as the source can tell.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its share of new sessions, if the source says so.
    pub weight: Option<u32>,
    /// Gets new sessions only when no backend that is no backup can take them.
    pub backup: bool,
}
