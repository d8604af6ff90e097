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
    /// How long a backend drains that is no longer found, or in Kubernetes one that terminates. `None` for the default of
    /// the source: [`Settings::DRAIN`], and in Kubernetes for as long as it serves.
    pub drain: Option<Duration>,
}

/// Where to find backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The records of a DNS name.
    Dns(Dns),
    /// A file with one backend a line.
    File(PathBuf),
    /// The pods of a Service.
    Kubernetes(Kubernetes),
}

/// The keys that belong to `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The namespace of the Service.
    pub namespace: String,
    /// The name of the Service.
    pub service: String,
    /// The port of the pods.
    pub port: PodPort,
    /// Where the API server is; as the environment of a pod says if not set.
    pub api_server: Option<ApiServer>,
    /// The file of the bearer token; that of the pod's service account if not set.
    pub token_file: Option<PathBuf>,
    /// The file of the authorities that issue the API server's certificate; that of the service account if not set.
    pub authorities: Option<PathBuf>,
}

/// The key `port` with `kubernetes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodPort {
    /// The only port of the Service.
    Only,
    /// The port of the Service that has this name.
    Named(String),
    /// This port of each pod, whatever the Service says.
    Number(u16),
}

/// Where the API server of a cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiServer {
    /// Its host name or IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
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
    /// How long a backend drains that is no longer found, by default.
    pub const DRAIN: Duration = Duration::from_secs(300);

    /// Makes the default settings of a source.
    pub fn new(source: Source) -> Settings {
        Settings {
            source,
            weight: 1,
            max_requests: None,
            max_sessions: None,
            group: None,
            max_backends: 1000,
            drain: None,
        }
    }

    /// Returns the bounds of the time between two looks.
    pub fn refresh_interval(&self) -> RefreshInterval {
        match &self.source {
            Source::Dns(dns) => dns.refresh_interval,
            Source::File(_) | Source::Kubernetes(_) => RefreshInterval::default(),
        }
    }

    /// Returns how long a backend drains that is no longer found. A pod that is no longer found has ended.
    pub(super) fn drain_of_missing(&self) -> Duration {
        match self.source {
            Source::Dns(_) | Source::File(_) => self.drain.unwrap_or(Settings::DRAIN),
            Source::Kubernetes(_) => Duration::ZERO,
        }
    }
}

/// Writes the name that the log, metrics and the status API use.
impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Dns(dns) => f.write_str(&dns.name),
            Source::File(path) => path.display().fmt(f),
            Source::Kubernetes(Kubernetes { namespace, service, .. }) => write!(f, "{namespace}/{service}"),
        }
    }
}
