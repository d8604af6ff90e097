//! Owns: the counters of the data path.
//! Invariant: each thread writes counters of its own; a scrape adds them up.
//! Must not know: what the labels mean; who scrapes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::denials::DenialCounters;
pub use super::durations::DurationCounts;
use super::limits::LimitCounters;
pub use super::series::{EndedRequest, Labels, Series};
use super::span_queue::SpanCounters;
use crate::per_thread::{Counter, PerThread};

/// The label `backend` of what removed backends have counted. No backend can have this name.
const REMOVED: &str = "(gone)";

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
    spans: Arc<SpanCounters>,
}

type ByBackend = BTreeMap<Box<str>, Arc<Series>>;

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

impl Metrics {
    /// Makes the counters of a process with `threads` data-path threads.
    pub fn new(threads: usize, labels: Labels, dropped_lines: Arc<AtomicU64>) -> Metrics {
        let (limited, denied) = (Arc::new(LimitCounters::new(threads)), Arc::new(DenialCounters::new(threads)));
        let (series, listeners) = (Mutex::default(), Mutex::default());
        Metrics { threads, labels, series, listeners, limited, denied, dropped_lines, spans: Arc::default() }
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

    /// Returns the counters of spans.
    pub fn spans(&self) -> &Arc<SpanCounters> {
        &self.spans
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
                sum.add(&series);
            }
        }
    }

    /// Returns how many sessions were moved, by pool and cause.
    pub fn moves(&self) -> Vec<(String, &'static str, u64)> {
        let all = self.all();
        let pools = by_pool(&all).filter(|(pool, _)| !pool.is_empty());
        let of_pool = |(pool, series): (&str, &[Arc<Series>])| {
            let mut sums: Vec<_> = self.labels.causes.iter().map(|cause| (pool.to_owned(), *cause, 0)).collect();
            for one in series {
                sums.iter_mut().zip(one.moves()).for_each(|((_, _, sum), (_, moves))| *sum += moves);
            }
            sums
        };
        pools.flat_map(of_pool).collect()
    }

    fn all(&self) -> Vec<Arc<Series>> {
        let all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.values().flat_map(BTreeMap::values).map(Arc::clone).collect()
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

impl Metrics {
    /// Encodes what backends took and passed on.
    fn of_backends(&self, encoder: &mut DescriptorEncoder<'_>, all: &[Arc<Series>]) -> Result<(), std::fmt::Error> {
        let backends = || all.iter().filter(|series| !series.backend.is_empty());
        let unit = Some(&Unit::Seconds);
        let mut histogram = |name: &str, help: &str, counts: &dyn Fn(&Series) -> DurationCounts| {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Histogram)?;
            for series in backends() {
                let counts = counts(series);
                if counts.total() > 0 {
                    let (labels, buckets) =
                        ([("pool", &*series.pool), ("backend", &*series.backend)], counts.buckets());
                    let mut metric = family.encode_family(&labels)?;
                    metric.encode_histogram::<NoLabelSet>(counts.seconds(), counts.total(), &buckets, None)?;
                }
            }
            Ok(())
        };
        let help = "Time to open a connection to the backend, with TLS";
        histogram("linchpin_backend_connect", help, &Series::connect_counts)?;
        let help = "Time from a connection for the request to the head of the backend's response";
        histogram("linchpin_backend_first_byte", help, &Series::first_byte_counts)?;
        let help = "Bytes of bodies and tunnels: in from clients, out to clients";
        let mut family =
            encoder.encode_descriptor("linchpin_backend", help, Some(&Unit::Bytes), MetricType::Counter)?;
        for series in backends() {
            let (bytes_in, bytes_out) = series.bytes();
            for (direction, bytes) in [("in", bytes_in), ("out", bytes_out)] {
                let labels = [("pool", &*series.pool), ("backend", &*series.backend), ("direction", direction)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&bytes, None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.all();
        let (counter, gauge, histogram) = (MetricType::Counter, MetricType::Gauge, MetricType::Histogram);

        let help = "Requests that have ended, by pool, backend, verdict and status code";
        let mut family = encoder.encode_descriptor("linchpin_requests", help, None, counter)?;
        for series in &all {
            for (verdict, code, count) in series.requests_by_verdict_and_code() {
                let code = code.map_or("other".into(), |code| code.to_string());
                let labels =
                    [("pool", &*series.pool), ("backend", &*series.backend), ("verdict", verdict), ("code", &code)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }

        let help = "Time from the head of a request to the last byte of its response";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("linchpin_request_duration", help, unit, histogram)?;
        for (pool, of_pool) in by_pool(&all) {
            let durations = of_pool
                .iter()
                .map(|series| series.duration_counts())
                .fold(DurationCounts::default(), |sum, one| sum.and(&one));
            let (buckets, count) = (durations.buckets(), durations.total());
            let labels = [("pool", pool)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(durations.seconds(), count, &buckets, None)?;
        }

        self.of_backends(&mut encoder, &all)?;

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

        let help = "Pins that were not accepted, so that the client got a new session, by cause";
        let mut family = encoder.encode_descriptor("linchpin_pins_rejected", help, None, counter)?;
        for series in all.iter().filter(|series| series.backend.is_empty() && !series.pool.is_empty()) {
            for (name, count) in series.rejected_pins() {
                let labels = [("pool", &*series.pool), ("cause", name)];
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

        for (name, help, value) in [
            ("linchpin_trace_spans_exported", "Spans that the collector of traces took", &self.spans.exported),
            (
                "linchpin_trace_spans_dropped",
                "Spans that were lost since the collector of traces was away, too slow, or refused them",
                &self.spans.dropped,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value.load(Ordering::Relaxed), None)?;
        }

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
    use std::time::Duration;

    fn ended(verdict: usize, status: u16, took: Duration) -> EndedRequest {
        EndedRequest { verdict, status, took, first_byte: Some(took), bytes_in: 1, bytes_out: 20 }
    }

    #[test]
    fn counts_of_all_threads_are_exposed_under_the_documented_names() {
        let labels = Labels {
            verdicts: &["new", "hit"],
            causes: &["down"],
            outcomes: &["ok", "closed"],
            refusals: &["all_down"],
            rejected_pins: &["unreadable"],
        };
        let metrics = Arc::new(Metrics::new(2, labels, Arc::default()));
        let series = metrics.series("app", "a");
        series.request(0, &ended(1, 200, Duration::from_micros(700)));
        series.request(1, &ended(1, 200, Duration::from_secs(100)));
        series.request(1, &ended(0, 299, Duration::ZERO));
        series.connected(0, Duration::from_millis(3));
        metrics.series("app", "").pin_rejected(0, 0);
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
            r#"linchpin_backend_bytes_total{pool="app",backend="a",direction="in"} 3"#,
            r#"linchpin_backend_bytes_total{pool="app",backend="a",direction="out"} 60"#,
            r#"linchpin_backend_connect_seconds_count{pool="app",backend="a"} 1"#,
            r#"linchpin_backend_first_byte_seconds_count{pool="app",backend="a"} 3"#,
            r#"linchpin_pins_rejected_total{pool="app",cause="unreadable"} 1"#,
            r#"linchpin_connections{listener="main"} 1"#,
            r#"linchpin_limited_total{limit="body_bytes"} 1"#,
            r#"linchpin_limited_total{limit="connections"} 0"#,
            "linchpin_access_log_dropped_total 0",
            "linchpin_trace_spans_exported_total 0",
            "linchpin_trace_spans_dropped_total 0",
            "linchpin_panics_total 0",
        ] {
            assert!(text.lines().any(|each| each == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_counts_of_removed_backends_are_kept_in_one_series() {
        let labels =
            Labels { verdicts: &["new"], causes: &["down"], outcomes: &["ok"], refusals: &[], rejected_pins: &[] };
        let metrics = Metrics::new(1, labels, Arc::default());
        let stays = metrics.series("app", "a");
        for name in ["b", "c"] {
            metrics.series("app", name).request(0, &ended(0, 200, Duration::from_micros(3)));
        }
        metrics.merge_removed();
        metrics.series("app", "d").attempt(0, 0);
        metrics.merge_removed();
        metrics.merge_removed();
        let all = metrics.all();
        let counts: Vec<_> =
            all.iter().map(|series| (&*series.backend, series.requests(), series.attempts(0))).collect();
        assert_eq!(counts, [("(gone)", 2, 1), ("a", 0, 0)]);
        assert_eq!(all[0].duration_counts().total(), 2);
        drop(stays);
    }

    #[test]
    fn ten_thousand_backends_that_come_and_go_leave_few_series() {
        let labels =
            Labels { verdicts: &["new"], causes: &["down"], outcomes: &["ok"], refusals: &[], rejected_pins: &[] };
        let metrics = Arc::new(Metrics::new(1, labels, Arc::default()));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Arc::clone(&metrics)));
        for name in 0..10_000 {
            metrics.series("app", &format!("pod-{name}")).request(0, &ended(0, 200, Duration::from_millis(1)));
            if name % 100 == 0 {
                metrics.merge_removed();
            }
        }
        metrics.merge_removed();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let of_removed = r#"linchpin_requests_total{pool="app",backend="(gone)",verdict="new",code="200"} 10000"#;
        assert!(text.lines().any(|line| line == of_removed), "{text}");
        assert!(text.lines().count() < 200, "{text}");
    }
}
