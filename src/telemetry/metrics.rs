//! Owns: the counters of the data path.
//! Invariant: each thread writes counters of its own; a scrape adds them up.
//! Must not know: what the labels mean; who scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::denials::DenialCounters;
use super::limits::LimitCounters;
use crate::per_thread::{Counter, PerThread};

/// The status codes that have a counter each; all others count as `other`.
const CODES: [u16; 64] = [
    101, 200, 201, 202, 203, 204, 205, 206, 207, 208, 226, 300, 301, 302, 303, 304, 305, 307, 308, 400, 401, 402, 403,
    404, 405, 406, 407, 408, 409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429,
    431, 451, 499, 500, 501, 502, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 529,
];
const SLOTS: usize = CODES.len() + 1;

/// The upper bounds of the duration buckets, in microseconds; one more bucket has no upper bound.
const BUCKETS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 60_000_000,
];

/// The label `backend` of what removed backends have counted. No backend can have this name.
const REMOVED: &str = "(gone)";

/// The values of labels. They are fixed when the process starts, and callers refer to them by position.
#[derive(Debug, Clone, Copy)]
pub struct Labels {
    /// The values of `verdict`.
    pub verdicts: &'static [&'static str],
    /// The values of `cause`.
    pub causes: &'static [&'static str],
    /// The values of `outcome`.
    pub outcomes: &'static [&'static str],
    /// The values of `reason` for requests that had no attempt on a backend.
    pub refusals: &'static [&'static str],
}

/// All counters of a process.
#[derive(Debug)]
pub struct Metrics {
    threads: usize,
    labels: Labels,
    /// By pool.
    series: Mutex<BTreeMap<Box<str>, ByBackend>>,
    listeners: Mutex<Vec<Arc<ListenerCounters>>>,
    limited: Arc<LimitCounters>,
    denied: Arc<DenialCounters>,
    dropped_lines: Arc<AtomicU64>,
}

type ByBackend = BTreeMap<Box<str>, Arc<Series>>;

/// The counters of one backend of a pool, or of the requests that no backend served.
#[derive(Debug)]
pub struct Series {
    pool: Box<str>,
    backend: Box<str>,
    labels: Labels,
    /// By thread. Allocated when the thread first counts something: of thousands of backends most threads use few.
    shards: Box<[OnceLock<Box<Shard>>]>,
}

/// The connections of one listener.
#[derive(Debug)]
pub struct ListenerCounters {
    name: Box<str>,
    connections: PerThread<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    open: AtomicI64,
    accepted: Counter,
}

#[derive(Debug)]
#[repr(align(128))]
struct Shard {
    /// By verdict, then by code.
    requests: Box<[[Counter; SLOTS]]>,
    attempts: Box<[Counter]>,
    moves: Box<[Counter]>,
    refusals: Box<[Counter]>,
    tunnels: Counter,
    tunnels_ended: Counter,
    durations: [Counter; BUCKETS.len() + 1],
    micros: Counter,
}

impl Metrics {
    /// Makes the counters of a process with `threads` data-path threads.
    pub fn new(threads: usize, labels: Labels, dropped_lines: Arc<AtomicU64>) -> Metrics {
        let (limited, denied) = (Arc::new(LimitCounters::new(threads)), Arc::new(DenialCounters::new(threads)));
        let (series, listeners) = (Mutex::default(), Mutex::default());
        Metrics { threads, labels, series, listeners, limited, denied, dropped_lines }
    }

    /// Returns the counters of a backend. The same names get the same counters, so a reload keeps them. An empty name
    /// means none.
    pub fn series(&self, pool: &str, backend: &str) -> Arc<Series> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(pool).and_then(|of_pool| of_pool.get(backend)) {
            return Arc::clone(known);
        }
        let series = Arc::new(Series::new(pool, backend, self.labels, self.threads));
        all.entry(pool.into()).or_default().insert(backend.into(), Arc::clone(&series));
        series
    }

    /// Returns the counters of a listener.
    pub fn listener(&self, name: &str) -> Arc<ListenerCounters> {
        let mut all = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|listener| *listener.name == *name) {
            return Arc::clone(known);
        }
        let listener = Arc::new(ListenerCounters { name: name.into(), connections: PerThread::new(self.threads) });
        all.push(Arc::clone(&listener));
        listener
    }

    /// Returns the counters of the limits on clients.
    pub fn limited(&self) -> &Arc<LimitCounters> {
        &self.limited
    }

    /// Returns the counters of requests that access rules refused.
    pub fn denied(&self) -> &Arc<DenialCounters> {
        &self.denied
    }

    /// Merges the counts of removed backends into one series per pool: with backends that are added and removed all
    /// day, the number of series would otherwise grow without bound. Call it regularly.
    pub fn merge_removed(&self) {
        // As below, the list has the only reference: the listener is closed, and so are its connections.
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| Arc::strong_count(listener) > 1);
        drop(listeners);
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        // The map has the only reference, so no thread counts in it. Another reference is only made under this lock.
        let is_removed = |series: &Arc<Series>| Arc::strong_count(series) == 1 && *series.backend != *REMOVED;
        for (pool, of_pool) in all.iter_mut() {
            let removed: Vec<_> = of_pool.extract_if(.., |_, series| is_removed(series)).collect();
            if removed.is_empty() {
                continue;
            }
            let new = || Arc::new(Series::new(pool, REMOVED, self.labels, self.threads));
            let sum = of_pool.entry(REMOVED.into()).or_insert_with(new);
            for (_, series) in removed {
                for (thread, shard) in series.shards.iter().enumerate() {
                    if let (Some(shard), Some(sum)) = (shard.get(), sum.shard(thread)) {
                        sum.add(shard);
                    }
                }
            }
        }
    }

    /// Returns how many sessions were moved, by pool and cause.
    pub fn moves(&self) -> Vec<(String, &'static str, u64)> {
        let all = self.all();
        let causes = || self.labels.causes.iter().enumerate();
        let pools = by_pool(&all).filter(|(pool, _)| !pool.is_empty());
        let of_pool = |(pool, series): (&str, &[Arc<Series>])| {
            let count = |(at, cause): (usize, &&'static str)| {
                let moves = series.iter().map(|series| series.sum(|shard| shard.moves.get(at))).sum();
                (pool.to_owned(), *cause, moves)
            };
            causes().map(count).collect::<Vec<_>>()
        };
        pools.flat_map(of_pool).collect()
    }

    fn all(&self) -> Vec<Arc<Series>> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flat_map(BTreeMap::values).map(Arc::clone).collect()
    }
}

impl Series {
    fn new(pool: &str, backend: &str, labels: Labels, threads: usize) -> Series {
        let shards = (0..threads).map(|_| OnceLock::new()).collect();
        Series { pool: pool.into(), backend: backend.into(), labels, shards }
    }

    /// Returns the shard of a thread.
    fn shard(&self, thread: usize) -> Option<&Shard> {
        self.shards.get(thread).map(|shard| &**shard.get_or_init(|| Box::new(Shard::new(&self.labels))))
    }

    /// Returns the shards that have counted something.
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter().filter_map(|shard| shard.get().map(|shard| &**shard))
    }

    /// Counts a request that has ended. `verdict` is a position in [`Labels::verdicts`].
    pub fn request(&self, thread: usize, verdict: usize, status: u16, took: Duration) {
        let Some(shard) = self.shard(thread) else { return };
        if let Some(codes) = shard.requests.get(verdict) {
            codes[slot(status)].add(1);
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|upper| micros <= *upper).unwrap_or(BUCKETS.len());
        shard.durations[bucket].add(1);
        shard.micros.add(micros);
    }

    /// Counts an attempt on the backend. `outcome` is a position in [`Labels::outcomes`].
    pub fn attempt(&self, thread: usize, outcome: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.attempts.get(outcome)) {
            counter.add(1);
        }
    }

    /// Counts a session that was moved away. `cause` is a position in [`Labels::causes`].
    pub fn moved(&self, thread: usize, cause: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.moves.get(cause)) {
            counter.add(1);
        }
    }

    /// Counts a request that had no attempt on a backend. `reason` is a position in [`Labels::refusals`].
    pub fn refused(&self, thread: usize, reason: usize) {
        if let Some(counter) = self.shard(thread).and_then(|shard| shard.refusals.get(reason)) {
            counter.add(1);
        }
    }

    /// Returns the number of requests without an attempt on a backend, by the name of the reason.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.labels.refusals.iter().enumerate().map(|(at, name)| (*name, self.sum(|shard| shard.refusals.get(at))))
    }

    /// Counts a request that has become a tunnel.
    pub fn tunnel_began(&self, thread: usize) {
        if let Some(shard) = self.shard(thread) {
            shard.tunnels.add(1);
        }
    }

    /// Counts a tunnel that has ended.
    pub fn tunnel_ended(&self, thread: usize) {
        if let Some(shard) = self.shard(thread) {
            shard.tunnels_ended.add(1);
        }
    }

    /// Returns how many tunnels have begun, and how many of them are open.
    fn tunnels(&self) -> (u64, u64) {
        // In this order: a tunnel that ends between the two sums is still counted as begun, never the other way round.
        let ended = self.sum(|shard| Some(&shard.tunnels_ended));
        let begun = self.sum(|shard| Some(&shard.tunnels));
        (begun, begun.saturating_sub(ended))
    }

    /// Returns the number of requests that have ended.
    pub fn requests(&self) -> u64 {
        self.shards().flat_map(|shard| shard.requests.iter().flatten()).map(Counter::get).sum()
    }

    /// Returns the number of attempts with an outcome, a position in [`Labels::outcomes`].
    pub fn attempts(&self, outcome: usize) -> u64 {
        self.sum(|shard| shard.attempts.get(outcome))
    }

    /// Returns the number of failed attempts: those with any outcome but the first.
    pub fn failures(&self) -> u64 {
        self.shards().flat_map(|shard| shard.attempts.iter().skip(1)).map(Counter::get).sum()
    }

    fn sum<'a>(&'a self, counter: impl Fn(&'a Shard) -> Option<&'a Counter>) -> u64 {
        self.shards().filter_map(counter).map(Counter::get).sum()
    }
}

impl Shard {
    fn new(labels: &Labels) -> Shard {
        let counters = |n: usize| (0..n).map(|_| Counter::default()).collect();
        Shard {
            requests: labels.verdicts.iter().map(|_| std::array::from_fn(|_| Counter::default())).collect(),
            attempts: counters(labels.outcomes.len()),
            moves: counters(labels.causes.len()),
            refusals: counters(labels.refusals.len()),
            tunnels: Counter::default(),
            tunnels_ended: Counter::default(),
            durations: std::array::from_fn(|_| Counter::default()),
            micros: Counter::default(),
        }
    }

    fn counters(&self) -> impl Iterator<Item = &Counter> {
        let some = self.requests.iter().flatten().chain(&self.attempts).chain(&self.moves).chain(&self.refusals);
        some.chain(&self.durations).chain([&self.micros])
    }

    fn add(&self, other: &Shard) {
        for (sum, counter) in self.counters().zip(other.counters()) {
            sum.add(counter.get());
        }
    }
}

impl ListenerCounters {
    /// Counts a connection that was accepted on `thread`.
    pub fn opened(&self, thread: usize) {
        if let Some(connections) = self.connections.get(thread) {
            connections.accepted.add(1);
            connections.open.store(connections.open.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Counts a connection of `thread` that has ended.
    pub fn closed(&self, thread: usize) {
        if let Some(connections) = self.connections.get(thread) {
            connections.open.store(connections.open.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        }
    }

    /// Returns the number of open connections, over all threads.
    pub fn open(&self) -> i64 {
        self.connections.iter().map(|connections| connections.open.load(Ordering::Relaxed)).sum()
    }
}

fn slot(status: u16) -> usize {
    CODES.binary_search(&status).map_or(0, |at| at + 1)
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.all();
        let (counter, gauge, histogram) = (MetricType::Counter, MetricType::Gauge, MetricType::Histogram);

        let help = "Requests that have ended, by pool, backend, verdict and status code";
        let mut family = encoder.encode_descriptor("linchpin_requests", help, None, counter)?;
        for series in &all {
            for (verdict, name) in self.labels.verdicts.iter().enumerate() {
                for slot in 0..SLOTS {
                    let count = series.sum(|shard| shard.requests.get(verdict).map(|codes| &codes[slot]));
                    if count > 0 {
                        let code = slot.checked_sub(1).map_or("other".into(), |at| CODES[at].to_string());
                        let labels = [
                            ("pool", &*series.pool),
                            ("backend", &*series.backend),
                            ("verdict", name),
                            ("code", &code),
                        ];
                        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                    }
                }
            }
        }

        let help = "Time from the head of a request to the last byte of its response";
        let unit = Some(&prometheus_client::registry::Unit::Seconds);
        let mut family = encoder.encode_descriptor("linchpin_request_duration", help, unit, histogram)?;
        for (pool, of_pool) in by_pool(&all) {
            let sum = |counter: &dyn Fn(&Shard) -> u64| -> u64 {
                of_pool.iter().flat_map(|series| series.shards()).map(counter).sum()
            };
            let uppers = BUCKETS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<_> =
                uppers.enumerate().map(|(at, upper)| (upper, sum(&|shard| shard.durations[at].get()))).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let seconds = sum(&|shard| shard.micros.get()) as f64 / 1e6;
            family.encode_family(&[("pool", pool)])?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }

        let help = "Attempts on a backend, by outcome";
        let mut family = encoder.encode_descriptor("linchpin_attempts", help, None, counter)?;
        for series in all.iter().filter(|series| !series.backend.is_empty()) {
            for (outcome, name) in self.labels.outcomes.iter().enumerate() {
                let labels = [("pool", &*series.pool), ("backend", &*series.backend), ("outcome", name)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&series.attempts(outcome), None)?;
            }
        }

        let help = "Sessions that were moved to another backend, by cause";
        let mut family = encoder.encode_descriptor("linchpin_moves", help, None, counter)?;
        for (pool, cause, count) in self.moves() {
            let labels = [("pool", pool.as_str()), ("cause", cause)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }

        let help = "Requests that were refused without an attempt on a backend, by reason";
        let mut family = encoder.encode_descriptor("linchpin_refused", help, None, counter)?;
        for series in all.iter().filter(|series| series.backend.is_empty() && !series.pool.is_empty()) {
            for (name, count) in series.refusals() {
                let labels = [("pool", &*series.pool), ("reason", name)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }

        let help = "WebSockets and other tunnels that are open";
        let mut family = encoder.encode_descriptor("linchpin_tunnels", help, None, gauge)?;
        for series in all.iter().filter(|series| series.tunnels().0 > 0) {
            let labels = [("pool", &*series.pool), ("backend", &*series.backend)];
            family.encode_family(&labels)?.encode_gauge(&i64::try_from(series.tunnels().1).unwrap_or(i64::MAX))?;
        }
        let help = "Requests that became a WebSocket or another tunnel";
        let mut family = encoder.encode_descriptor("linchpin_tunnels_begun", help, None, counter)?;
        for series in all.iter().filter(|series| series.tunnels().0 > 0) {
            let labels = [("pool", &*series.pool), ("backend", &*series.backend)];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&series.tunnels().0, None)?;
        }

        let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let help = "Client connections that are open";
        let mut family = encoder.encode_descriptor("linchpin_connections", help, None, gauge)?;
        for listener in &listeners {
            family.encode_family(&[("listener", &*listener.name)])?.encode_gauge(&listener.open())?;
        }
        let help = "Client connections that were accepted";
        let mut family = encoder.encode_descriptor("linchpin_connections_accepted", help, None, counter)?;
        for listener in &listeners {
            let accepted: u64 = listener.connections.iter().map(|connections| connections.accepted.get()).sum();
            family
                .encode_family(&[("listener", &*listener.name)])?
                .encode_counter::<NoLabelSet, _, u64>(&accepted, None)?;
        }

        self.limited.encode(&mut encoder)?;
        self.denied.encode(&mut encoder)?;

        let help = "Lines of the access log that were lost because its disk or reader failed or was too slow";
        encoder
            .encode_descriptor("linchpin_access_log_dropped", help, None, counter)?
            .encode_counter::<NoLabelSet, _, u64>(&self.dropped_lines.load(Ordering::Relaxed), None)?;

        let help = "Panics of this process, each of which ended one request or task; please report them";
        encoder
            .encode_descriptor("linchpin_panics", help, None, counter)?
            .encode_counter::<NoLabelSet, _, u64>(&super::panics::count(), None)
    }
}

/// Groups the series by pool; those of one pool are adjacent.
fn by_pool(all: &[Arc<Series>]) -> impl Iterator<Item = (&str, &[Arc<Series>])> {
    let pools = all.chunk_by(|one, other| one.pool == other.pool);
    pools.filter_map(|of_pool| Some((&*of_pool.first()?.pool, of_pool)))
}

#[cfg(test)]
mod tests {
    use super::super::Limit;
    use super::*;
    use prometheus_client::registry::Registry;

    #[test]
    fn counts_of_all_threads_are_exposed_under_the_documented_names() {
        let labels = Labels {
            verdicts: &["new", "hit"],
            causes: &["down"],
            outcomes: &["ok", "closed"],
            refusals: &["all_down"],
        };
        let metrics = Arc::new(Metrics::new(2, labels, Arc::default()));
        let series = metrics.series("app", "a");
        series.request(0, 1, 200, Duration::from_micros(700));
        series.request(1, 1, 200, Duration::from_secs(100));
        series.request(1, 0, 299, Duration::ZERO);
        metrics.series("app", "a").attempt(1, 1);
        series.moved(0, 0);
        metrics.listener("main").opened(1);
        metrics.limited().count(1, Limit::BodyBytes);
        assert_eq!((series.requests(), series.failures()), (3, 1));

        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"linchpin_requests_total{pool="app",backend="a",verdict="hit",code="200"} 2"#,
            r#"linchpin_requests_total{pool="app",backend="a",verdict="new",code="other"} 1"#,
            r#"linchpin_request_duration_seconds_bucket{le="0.0005",pool="app"} 1"#,
            r#"linchpin_request_duration_seconds_bucket{le="0.001",pool="app"} 2"#,
            r#"linchpin_request_duration_seconds_bucket{le="+Inf",pool="app"} 3"#,
            r#"linchpin_request_duration_seconds_count{pool="app"} 3"#,
            r#"linchpin_attempts_total{pool="app",backend="a",outcome="closed"} 1"#,
            r#"linchpin_moves_total{pool="app",cause="down"} 1"#,
            r#"linchpin_connections{listener="main"} 1"#,
            r#"linchpin_limited_total{limit="body_bytes"} 1"#,
            r#"linchpin_limited_total{limit="connections"} 0"#,
            "linchpin_access_log_dropped_total 0",
            "linchpin_panics_total 0",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_counts_of_removed_backends_are_kept_in_one_series() {
        let labels = Labels { verdicts: &["new"], causes: &["down"], outcomes: &["ok"], refusals: &[] };
        let metrics = Metrics::new(1, labels, Arc::default());
        let stays = metrics.series("app", "a");
        for name in ["b", "c"] {
            metrics.series("app", name).request(0, 0, 200, Duration::from_micros(3));
        }
        metrics.merge_removed();
        metrics.series("app", "d").attempt(0, 0);
        metrics.merge_removed();
        metrics.merge_removed();
        let all = metrics.all();
        let counts: Vec<_> =
            all.iter().map(|series| (&*series.backend, series.requests(), series.attempts(0))).collect();
        assert_eq!(counts, [("(gone)", 2, 1), ("a", 0, 0)]);
        assert_eq!(all[0].sum(|shard| Some(&shard.micros)), 6);
        drop(stays);
    }

    #[test]
    fn a_series_has_memory_only_for_the_threads_that_count_in_it() {
        let labels = Labels { verdicts: &["new"], causes: &["down"], outcomes: &["ok"], refusals: &[] };
        let metrics = Metrics::new(8, labels, Arc::default());
        let series = metrics.series("app", "a");
        assert_eq!((series.requests(), series.failures(), series.shards().count()), (0, 0, 0));
        series.request(5, 0, 200, Duration::ZERO);
        series.attempt(5, 0);
        assert_eq!((series.requests(), series.shards().count()), (1, 1));
    }

    #[test]
    fn codes_are_sorted_for_the_search() {
        assert!(CODES.is_sorted());
        assert_eq!((slot(101), slot(529), slot(0), slot(599)), (1, SLOTS - 1, 0, 0));
    }
}
