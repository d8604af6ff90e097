//! Owns: the counters of events of a few kinds, and their metric.
//! Invariant: each thread writes its own counters; a total adds up those of all threads.
//! Must not know: what the events are.

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::per_thread::{Counter, PerThread};

/// The counters of `N` kinds of events.
#[derive(Debug)]
pub(super) struct EventCounters<const N: usize>
where
    [Counter; N]: Default,
{
    by_kind: PerThread<[Counter; N]>,
}

/// The names of a metric's family.
pub(super) struct Family<const N: usize> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) label: &'static str,
    /// The values of the label, by kind.
    pub(super) values: [&'static str; N],
}

impl<const N: usize> EventCounters<N>
where
    [Counter; N]: Default,
{
    /// Makes counters for `threads` threads.
    pub(super) fn new(threads: usize) -> Self {
        EventCounters { by_kind: PerThread::new(threads) }
    }

    /// Counts one event on `thread`. Only that thread may call this.
    pub(super) fn count(&self, thread: usize, kind: usize) {
        if let Some(counter) = self.by_kind.get(thread).and_then(|counters| counters.get(kind)) {
            counter.add(1);
        }
    }

    /// Returns the count of one kind over all threads.
    pub(super) fn total(&self, kind: usize) -> u64 {
        self.by_kind.iter().filter_map(|counters| counters.get(kind)).map(Counter::get).sum()
    }

    /// Writes the metric.
    pub(super) fn encode(
        &self,
        family: &Family<N>,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let mut encoder = encoder.encode_descriptor(family.name, family.help, None, MetricType::Counter)?;
        for (kind, value) in family.values.iter().enumerate() {
            encoder
                .encode_family(&[(family.label, *value)])?
                .encode_counter::<NoLabelSet, _, u64>(&self.total(kind), None)?;
        }
        Ok(())
    }
}
