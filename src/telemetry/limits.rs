//! Owns: the counters of how often clients reached each limit.
//! Invariant: each thread writes its own counters; a total adds up those of all threads.
//! Must not know: the values of the limits.

use prometheus_client::encoding::DescriptorEncoder;

use super::event_counters::{EventCounters, Family};

/// A limit on what clients may use, as an event: a client has reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A connection had to wait because the process has `max_connections` of them.
    Connections,
    /// A connection was closed at once because its client has `connections_per_client` of them.
    ConnectionsPerClient,
    /// A connection was closed after `requests_per_connection` requests.
    RequestsPerConnection,
    /// A request was refused because its client exceeds `requests_per_client`.
    RequestsPerClient,
    /// A request's header section was too large, or had too many fields.
    Header,
    /// A request's header section took too long to arrive.
    HeaderReadTimeout,
    /// A request target was too long.
    TargetBytes,
    /// A request's body was too large.
    BodyBytes,
    /// A request was refused because its client has sent too many wrong passwords.
    LoginFailuresPerClient,
}

impl Limit {
    /// The names in metrics, in the order of the variants.
    pub const NAMES: [&'static str; 9] = [
        "connections",
        "connections_per_client",
        "requests_per_connection",
        "requests_per_client",
        "header",
        "header_read_timeout",
        "target_bytes",
        "body_bytes",
        "login_failures_per_client",
    ];
}

/// The counters of all limits.
#[derive(Debug)]
pub struct LimitCounters(EventCounters<{ Limit::NAMES.len() }>);

const FAMILY: Family<{ Limit::NAMES.len() }> = Family {
    name: "linchpin_limited",
    help: "How often clients reached a limit, by the limit's name",
    label: "limit",
    values: Limit::NAMES,
};

impl LimitCounters {
    /// Makes counters for `threads` threads.
    pub fn new(threads: usize) -> LimitCounters {
        LimitCounters(EventCounters::new(threads))
    }

    /// Counts one event on `thread`. Only that thread may call this.
    pub fn count(&self, thread: usize, limit: Limit) {
        self.0.count(thread, limit as usize);
    }

    /// Returns the count of one limit over all threads.
    pub fn total(&self, limit: Limit) -> u64 {
        self.0.total(limit as usize)
    }

    /// Writes the metric `linchpin_limited`.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.encode(&FAMILY, encoder)
    }
}
