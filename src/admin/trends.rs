//! Owns: the last ten minutes of each pool and backend, sampled at a fixed interval, and the JSON of `GET /api/v1/trends`.
//! Invariant: the samples of all pools and backends were taken at the same times, and their memory is bounded.
//! Must not know: who samples, or how samples are drawn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::pool_entry::PoolEntry;
use crate::clock;
use crate::telemetry::metrics::{DurationCounts, Series};

/// The time from one sample to the next.
pub const TREND_INTERVAL: Duration = Duration::from_secs(5);

/// The samples that are kept: those of ten minutes.
const KEPT: usize = 120;

/// The backends that have samples of their own: at most 2.5 MB for all. Each further one counts only in its pool's.
const MAX_BACKENDS: usize = 1000;

/// The samples of the process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Trends(Arc<Mutex<Samples>>);

#[derive(Debug, Default)]
struct Samples {
    /// The number of the newest sample, from 1; 0 before the first.
    newest: u64,
    pools: BTreeMap<Box<str>, PoolTrend>,
}

#[derive(Debug, Default)]
struct PoolTrend {
    samples: VecDeque<Sample>,
    unserved: Counts,
    backends: BTreeMap<Box<str>, BackendTrend>,
}

#[derive(Debug, Default)]
struct BackendTrend {
    counts: Counts,
    samples: VecDeque<Sample>,
    /// The number of the sample in which it was last seen.
    seen: u64,
}

/// What has happened since the sample before.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    requests: u32,
    errors: u32,
    sessions: u32,
    /// In milliseconds; `None` if no request has ended.
    p50: Option<f32>,
    p99: Option<f32>,
}

/// Counts of a series, which only grow.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    durations: DurationCounts,
    errors: u64,
}

impl Counts {
    fn now(series: &Series) -> Counts {
        Counts { durations: series.duration_counts(), errors: series.server_errors() }
    }

    fn since(self, before: Counts) -> Counts {
        let durations = self.durations.since(&before.durations);
        Counts { durations, errors: self.errors.saturating_sub(before.errors) }
    }

    fn and(self, other: Counts) -> Counts {
        Counts { durations: self.durations.and(&other.durations), errors: self.errors + other.errors }
    }

    fn sample(self, sessions: u64) -> Sample {
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        // Hundredths of a millisecond: more digits would be invented.
        let quantile = |q| self.durations.quantile(q).map(|seconds| ((seconds * 1e5).round() / 100.0) as f32);
        Sample {
            requests: narrow(self.durations.total()),
            errors: narrow(self.errors),
            sessions: narrow(sessions),
            p50: quantile(0.5),
            p99: quantile(0.99),
        }
    }
}

/// Adds a sample, in the place of the oldest one if all places are taken.
fn push(samples: &mut VecDeque<Sample>, sample: Sample) {
    if samples.len() == KEPT {
        samples.pop_front();
    }
    samples.push_back(sample);
}

impl Trends {
    /// Takes a sample of these pools. Call it every [`TREND_INTERVAL`], off the data path.
    pub fn sample(&self, entries: &[PoolEntry]) {
        let now = clock::unix_millis();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.newest += 1;
        let Samples { newest, pools } = &mut *all;
        let mut places = MAX_BACKENDS;
        for entry in entries {
            let name = &**entry.pool.name();
            if !pools.contains_key(name) {
                pools.insert(name.into(), PoolTrend { unserved: Counts::now(&entry.unserved), ..PoolTrend::default() });
            }
            let Some(trend) = pools.get_mut(name) else { continue };
            let unserved = Counts::now(&entry.unserved);
            let mut sum = unserved.since(std::mem::replace(&mut trend.unserved, unserved));
            let mut sessions = 0;
            for (backend, series) in entry.pool.backends().iter().zip(&entry.series) {
                let counts = Counts::now(series);
                // What was counted before a backend has its first sample belongs to no interval.
                let new = || BackendTrend { counts, ..BackendTrend::default() };
                let of_backend = trend.backends.entry(backend.name().to_string().into()).or_insert_with(new);
                let since = counts.since(std::mem::replace(&mut of_backend.counts, counts));
                let count = backend.live().sessions().count(now, entry.affinity.session_lifetime()).sessions;
                of_backend.seen = *newest;
                (sum, sessions) = (sum.and(since), sessions + count);
                if let Some(left) = places.checked_sub(1) {
                    places = left;
                    push(&mut of_backend.samples, since.sample(count));
                }
            }
            trend.backends.retain(|_, backend| backend.seen == *newest);
            push(&mut trend.samples, sum.sample(sessions));
        }
        pools.retain(|name, _| entries.iter().any(|entry| **entry.pool.name() == **name));
    }

    /// Returns the samples after that number, of all pools.
    pub(super) fn view(&self, after: u64) -> TrendsView {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A number of a former process is larger than any here, and asks for all.
        let wanted = all.newest.checked_sub(after).map_or(KEPT, |new| usize::try_from(new).unwrap_or(KEPT));
        let pools = all.pools.iter().map(|(name, trend)| PoolView::of(name, trend, wanted)).collect();
        TrendsView { interval: TREND_INTERVAL.as_secs_f64(), kept: KEPT, newest: all.newest, pools }
    }
}

/// The query of `GET /api/v1/trends`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrendsQuery {
    /// The number of the newest sample that the client has.
    #[serde(default)]
    pub(super) after: u64,
}

/// `GET /api/v1/trends`.
#[derive(Debug, Serialize)]
pub(super) struct TrendsView {
    /// Seconds from one sample to the next.
    interval: f64,
    /// The number of samples that are kept.
    kept: usize,
    /// The number of the newest sample.
    newest: u64,
    pools: Vec<PoolView>,
}

#[derive(Debug, Serialize)]
struct PoolView {
    name: String,
    #[serde(flatten)]
    columns: Columns,
    backends: Vec<BackendView>,
}

#[derive(Debug, Serialize)]
struct BackendView {
    name: String,
    #[serde(flatten)]
    columns: Columns,
}

impl PoolView {
    fn of(name: &str, trend: &PoolTrend, wanted: usize) -> PoolView {
        let backend = |name: &str, samples| BackendView { name: name.into(), columns: Columns::of(samples, wanted) };
        PoolView {
            name: name.into(),
            columns: Columns::of(&trend.samples, wanted),
            backends: trend.backends.iter().map(|(name, trend)| backend(name, &trend.samples)).collect(),
        }
    }
}

/// Samples by column, the newest last.
#[derive(Debug, Serialize)]
struct Columns {
    /// Requests that ended since the sample before.
    requests: Vec<u32>,
    /// Those of them that ended with a 5xx status.
    errors: Vec<u32>,
    /// Live sessions.
    sessions: Vec<u32>,
    /// The quantiles of the duration of the requests; `null` if none ended.
    p50_ms: Vec<Option<f32>>,
    p99_ms: Vec<Option<f32>>,
}

impl Columns {
    fn of(samples: &VecDeque<Sample>, wanted: usize) -> Columns {
        let from = samples.len().saturating_sub(wanted);
        let new = || samples.range(from..);
        Columns {
            requests: new().map(|sample| sample.requests).collect(),
            errors: new().map(|sample| sample.errors).collect(),
            sessions: new().map(|sample| sample.sessions).collect(),
            p50_ms: new().map(|sample| sample.p50).collect(),
            p99_ms: new().map(|sample| sample.p99).collect(),
        }
    }
}
