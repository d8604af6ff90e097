//! Owns: the metrics of live sessions.
//! Invariant: they are the numbers of the status.
//! Must not know: how sessions are counted.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::pool_entry::PoolEntry;
use crate::clock;
use crate::pool::Backend;
use crate::pool::sessions::SessionCount;

/// Encodes the metrics of all backends.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
    let now = clock::unix_millis();
    let count =
        |entry: &PoolEntry, backend: &Backend| backend.live().sessions().count(now, entry.affinity.session_lifetime());
    let backends = entries.iter().flat_map(|entry| entry.pool.backends().iter().map(move |backend| (entry, backend)));
    let counts: Vec<_> = backends.map(|(entry, backend)| (entry, backend, count(entry, backend))).collect();
    let names = |entry: &'_ PoolEntry, backend: &'_ Backend| (entry.pool.name().clone(), backend.name().clone());

    let help = "Live sessions: exact up to 10000 per backend and thread, an estimate beyond";
    let mut family = encoder.encode_descriptor("linchpin_sessions", help, None, MetricType::Gauge)?;
    for (entry, backend, count) in &counts {
        let (pool, backend) = names(entry, backend);
        family.encode_family(&[("pool", &*pool), ("backend", &*backend)])?.encode_gauge(&count.sessions)?;
    }
    let help = "Live sessions by the time since their last request; the label is the longest such time";
    let mut family = encoder.encode_descriptor("linchpin_idle_sessions", help, None, MetricType::Gauge)?;
    for (entry, backend, count) in &counts {
        let (pool, backend) = names(entry, backend);
        for (idle, sessions) in SessionCount::IDLE_WORDS.into_iter().zip(count.idle) {
            let labels = [("pool", &*pool), ("backend", &*backend), ("idle", idle)];
            family.encode_family(&labels)?.encode_gauge(&sessions)?;
        }
    }
    Ok(())
}
