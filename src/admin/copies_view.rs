//! Owns: what the admin API and the metrics show of session copies.
//! Invariant: it counts nothing, and shows no byte of a copy.
//! Must not know: how copies are stored or given.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::Serialize;

use super::explain_report::{CopyReport, CopyState};
use super::pool_entry::PoolEntry;
use crate::affinity::explain::Explanation;
use crate::copies::{CopyEvent, Holder, PoolCopies, SessionRef};

/// The session copies of a pool, in `GET /api/v1/status`.
#[derive(Debug, Serialize)]
pub(super) struct Copies {
    /// Where the copies are: `balancer`, `secondary`, `all`.
    hold: &'static str,
    /// Sessions with a copy in this process.
    sessions: u64,
    /// The memory that they use, and may use.
    bytes: u64,
    memory: u64,
    saves: u64,
    drops: u64,
    gives: u64,
    wants: u64,
    /// Copies that were dropped because the memory was full.
    evicted: u64,
    /// What was not stored or given, by reason.
    refused: BTreeMap<&'static str, u64>,
}

impl Copies {
    pub(super) fn now(copies: &PoolCopies) -> Copies {
        let (store, counters) = (copies.store(), copies.counters());
        Copies {
            hold: copies.settings().hold.as_str(),
            sessions: store.copies() as u64,
            bytes: store.bytes() as u64,
            memory: copies.settings().memory as u64,
            saves: counters.events(CopyEvent::Save),
            drops: counters.events(CopyEvent::Drop),
            gives: counters.events(CopyEvent::Give),
            wants: counters.events(CopyEvent::Want),
            evicted: store.evicted(),
            refused: counters.refusals().filter(|(_, count)| *count > 0).collect(),
        }
    }
}

/// Returns what the process knows of the copy of the session that was explained. `entry` is the session's pool.
pub(super) fn copy_report(explanation: &Explanation, entry: &PoolEntry) -> Option<CopyReport> {
    let copies = entry.copies.as_deref()?;
    let session = match explanation.session_key {
        Some(key) => SessionRef::from_words(key.words()),
        None => SessionRef::new(entry.pool.name(), &explanation.session.to_be_bytes()),
    };
    let known = copies.store().peek(session)?;
    let (view, replicas) = (known.view(), known.replicas());
    let name = |holder: &Holder| {
        let backend = entry.pool.backends().iter().find(|backend| backend.live().id() == holder.backend)?;
        Some(backend.name().to_string())
    };
    Some(CopyReport {
        state: match (view.dropped, view.is_held, replicas.is_empty()) {
            (true, ..) => CopyState::Dropped,
            (false, true, _) => CopyState::Held,
            (false, false, false) => CopyState::Placed,
            (false, false, true) => CopyState::Lost,
        },
        term: view.term,
        seq: view.version.seq,
        bytes: view.bytes as u64,
        saved: view.is_held.then_some(view.saved_at),
        holder: view.holder.as_ref().and_then(name),
        replicas: replicas.iter().filter_map(name).collect(),
    })
}

/// Writes the metrics of all pools that keep copies.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
    let pools: Vec<(&str, &Arc<PoolCopies>)> =
        entries.iter().filter_map(|entry| Some((&**entry.pool.name(), entry.copies.as_ref()?))).collect();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&PoolCopies) -> u64| -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (pool, copies) in &pools {
            family.encode_family(&[("pool", *pool)])?.encode_gauge(&value(copies))?;
        }
        Ok(())
    };
    let help = "Sessions of which this process has a copy";
    gauge("linchpin_copies_sessions", help, &|copies| copies.store().copies() as u64)?;
    let help = "Memory that session copies use, in bytes";
    gauge("linchpin_copies_bytes", help, &|copies| copies.store().bytes() as u64)?;
    let help = "Memory that session copies may use, in bytes";
    gauge("linchpin_copies_memory_bytes", help, &|copies| copies.settings().memory as u64)?;

    let mut counter = |name: &str, help: &str, value: &dyn Fn(&PoolCopies) -> u64| -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (pool, copies) in &pools {
            let labels = [("pool", *pool)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value(copies), None)?;
        }
        Ok(())
    };
    for (name, help, event) in [
        ("linchpin_copies_saves", "Copies that were stored", CopyEvent::Save),
        ("linchpin_copies_drops", "Sessions that ended (Linchpin-Session-Drop)", CopyEvent::Drop),
        ("linchpin_copies_gives", "Copies that a backend has taken", CopyEvent::Give),
        ("linchpin_copies_wants", "Requests whose backend lacked the session's state", CopyEvent::Want),
    ] {
        counter(name, help, &|copies| copies.counters().events(event))?;
    }
    let help = "Copies that were dropped because the memory was full";
    counter("linchpin_copies_evictions", help, &|copies| copies.store().evicted())?;

    let help = "Copies that were not stored or not given, by reason";
    let mut family = encoder.encode_descriptor("linchpin_copies_refused", help, None, MetricType::Counter)?;
    for (pool, copies) in &pools {
        for (reason, count) in copies.counters().refusals() {
            let labels = [("pool", *pool), ("reason", reason)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
    }

    let help = "Time that sessions took to move to another backend, with their copy";
    let (name, unit) = ("linchpin_copies_handover", Some(&Unit::Seconds));
    let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
    for (pool, copies) in &pools {
        let (buckets, sum) = copies.counters().hand_over_times();
        let count = buckets.iter().map(|(_, count)| count).sum();
        family.encode_family(&[("pool", *pool)])?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
    }
    Ok(())
}
