//! Owns: how often each limit on clients was met.
//! Invariant: each thread counts for itself; a total adds all of them.
//! Must not know: how much is allowed.

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::per_thread::{Counter, PerThread};

/// A limit on what clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A connection had to wait: there are as many as there may be.
    Connections,
    /// A connection was closed at once: its client has as many as it may have.
    ConnectionsPerClient,
    /// A connection came to its end: it had as many requests as it may have.
    RequestsPerConnection,
    /// A request was refused: its client sends too many.
    RequestsPerClient,
    /// A head was too large, or had too many fields.
    Header,
    /// A head took too long.
    HeaderReadTimeout,
    /// A target was too long.
    TargetBytes,
    /// A body was too large.
    BodyBytes,
}

impl Limit {
    /// Their names in metrics, in the order of the variants.
    pub const NAMES: [&'static str; 8] = [
        "connections",
        "connections_per_client",
        "requests_per_connection",
        "requests_per_client",
        "header",
        "header_read_timeout",
        "target_bytes",
        "body_bytes",
    ];
}

/// The counts.
#[derive(Debug)]
pub struct LimitCounters {
    by_limit: PerThread<[Counter; Limit::NAMES.len()]>,
}

impl LimitCounters {
    /// No counts yet, for `threads` threads.
    pub fn new(threads: usize) -> LimitCounters {
        LimitCounters { by_limit: PerThread::new(threads) }
    }

    /// Counts one on `thread`.
    pub fn count(&self, thread: usize, limit: Limit) {
        if let Some(counters) = self.by_limit.get(thread) {
            counters[limit as usize].add(1);
        }
    }

    /// All of one limit.
    pub fn total(&self, limit: Limit) -> u64 {
        self.sum(limit as usize)
    }

    /// Tells them.
    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "How often a limit on what clients may take was met, by the limit's name";
        let mut family = encoder.encode_descriptor("linchpin_limited", help, None, MetricType::Counter)?;
        for (at, name) in Limit::NAMES.iter().enumerate() {
            family.encode_family(&[("limit", *name)])?.encode_counter::<NoLabelSet, _, u64>(&self.sum(at), None)?;
        }
        Ok(())
    }

    fn sum(&self, at: usize) -> u64 {
        self.by_limit.iter().map(|counters| counters[at].get()).sum()
    }
}
