//! Owns: the metrics that a scrape reads from the pools and certificates, besides the data path's counters.
//! Invariant: it counts nothing; every figure is its owner's, the same as in `/api/v1/status`.
//! Must not know: who scrapes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::pool_entry::PoolEntry;
use super::reload::ReloadFigures;
use super::sources::StatusSources;
use super::view::{Drift, effective_weight};
use super::{certificates_view, copies_view, drain_view, process_view, renewals_view, sessions_view};
use crate::discover::SourceStatus;
use crate::pool::capacity_queue::WaitFigures;
use crate::pool::{AdminState, Backend, Health};

/// Registers all metrics of the process.
pub(super) fn registry(facts: &StatusSources) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(&facts.metrics)));
    registry.register_collector(Box::new(Gauges(facts.clone())));
    registry
}

#[derive(Debug)]
struct Gauges(StatusSources);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let entries = self.0.pools.load();
        let mut gauge = |name: &str, help: &str, value: &dyn Fn(&PoolEntry, &Backend) -> u64| -> fmt::Result {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for entry in entries.iter() {
                for backend in entry.pool.backends() {
                    let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
                    family.encode_family(&labels)?.encode_gauge(&value(entry, backend))?;
                }
            }
            Ok(())
        };
        gauge("linchpin_active_requests", "Requests in flight", &|_, backend| u64::from(backend.live().active()))?;
        let help = "1 if the backend serves; 0 if it is down, ejected or in maintenance";
        gauge("linchpin_backend_up", help, &|_, backend| u64::from(backend.live().is_serving()))?;
        gauge("linchpin_backend_weight", "The backend's share of new sessions", &|_, backend| {
            u64::from(backend.live().weight())
        })?;

        self.effective_weights(&mut encoder, &entries)?;
        sessions_view::encode(&mut encoder, &entries)?;
        drain_view::encode(&mut encoder, &entries)?;
        self.states(&mut encoder, &entries)?;
        self.checks(&mut encoder, &entries)?;
        self.queues(&mut encoder, &entries)?;
        self.rebalances(&mut encoder, &entries)?;

        let tables = || entries.iter().filter_map(|entry| Some((entry, entry.affinity.table()?)));
        let help = "Learned sessions in the table";
        let mut family = encoder.encode_descriptor("linchpin_learned_sessions", help, None, MetricType::Gauge)?;
        for (entry, table) in tables() {
            family.encode_family(&[("pool", &**entry.pool.name())])?.encode_gauge(&(table.len() as u64))?;
        }
        let help = "Learned sessions that were evicted because the table was full";
        let mut family = encoder.encode_descriptor("linchpin_learned_evictions", help, None, MetricType::Counter)?;
        for (entry, table) in tables() {
            let labels = [("pool", &**entry.pool.name())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&table.evicted(), None)?;
        }

        self.sources(&mut encoder, &entries)?;
        copies_view::encode(&mut encoder, &entries)?;

        certificates_view::encode(&mut encoder, &self.0.certificates)?;
        renewals_view::encode(&mut encoder, &self.0.renewals)?;
        self.reloads(&mut encoder, &entries)?;

        let help = "1 if the process takes requests; 0 while it starts, stops, or has a thread that does not run";
        encoder
            .encode_descriptor("linchpin_ready", help, None, MetricType::Gauge)?
            .encode_gauge(&u64::from(self.0.is_ready()))?;
        encoder
            .encode_descriptor("linchpin_build", "The version of Linchpin", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        process_view::encode(&mut encoder, self.0.started)
    }
}

/// Returns a backend's state in one word. The operator's maintenance comes before its health, its health before a
/// drain.
fn state(backend: &Backend) -> &'static str {
    let live = backend.live();
    match (live.state(), live.health()) {
        (AdminState::Maintenance, _) => "maintenance",
        (_, Health::Down) => "down",
        (_, Health::Ejected) => "ejected",
        (AdminState::Drain, Health::Up) => "drain",
        (AdminState::Ready, Health::Up) => "ready",
    }
}

impl Gauges {
    fn reloads(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let reloads = &self.0.reloads;
        let help = "1 if the last reload was not refused";
        encoder
            .encode_descriptor("linchpin_config_last_reload_successful", help, None, MetricType::Gauge)?
            .encode_gauge(&u64::from(reloads.is_successful()))?;
        let help = "Time of the last reload that was not refused, or of the start, since the Unix epoch";
        encoder
            .encode_descriptor(
                "linchpin_config_last_reload_success_timestamp",
                help,
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&reloads.last_success())?;
        let help = "Reloads of the configuration, by result";
        let mut family = encoder.encode_descriptor("linchpin_config_reloads", help, None, MetricType::Counter)?;
        for result in ReloadFigures::RESULTS {
            let labels = [("result", result.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&reloads.total(result), None)?;
        }
        let backends = entries.iter().flat_map(|entry| entry.pool.backends());
        let drift = backends.map(|backend| Drift::of(backend).len()).sum::<usize>() as u64;
        let help = "Keys of backends whose value was set at runtime and differs from the file's";
        encoder.encode_descriptor("linchpin_config_drift", help, None, MetricType::Gauge)?.encode_gauge(&drift)
    }

    fn effective_weights(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let help = "The backend's share of new sessions now: less than its weight during a slow start";
        let name = "linchpin_backend_effective_weight";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for entry in entries {
            for backend in entry.pool.backends() {
                let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
                family.encode_family(&labels)?.encode_gauge(&effective_weight(backend.live()))?;
            }
        }
        Ok(())
    }

    fn rebalances(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let pools = || entries.iter().filter(|entry| entry.pool.rebalance_settings().is_some());
        let help = "Idle sessions that were moved to a backend with fewer sessions";
        let mut family = encoder.encode_descriptor("linchpin_rebalanced_sessions", help, None, MetricType::Counter)?;
        for entry in pools() {
            let labels = [("pool", &**entry.pool.name())];
            let moved = entry.pool.rebalancer().moved();
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&moved, None)?;
        }
        let help = "1 while a backend has more than its share, so that its idle sessions move";
        let mut family = encoder.encode_descriptor("linchpin_rebalance_active", help, None, MetricType::Gauge)?;
        for entry in pools() {
            let is_working = u64::from(entry.pool.rebalancer().is_working());
            family.encode_family(&[("pool", &**entry.pool.name())])?.encode_gauge(&is_working)?;
        }
        Ok(())
    }

    fn queues(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let queues = || entries.iter().filter(|entry| entry.pool.queue_settings().is_some());
        let help = "Requests that wait because all backends of the pool are full";
        let mut family = encoder.encode_descriptor("linchpin_queue_length", help, None, MetricType::Gauge)?;
        for entry in queues() {
            let labels = [("pool", &**entry.pool.name())];
            family.encode_family(&labels)?.encode_gauge(&u64::from(entry.pool.queue_length()))?;
        }
        let help = "How long requests waited because all backends of the pool were full, whatever came of it";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("linchpin_queue_wait", help, unit, MetricType::Histogram)?;
        for entry in queues() {
            let WaitFigures { buckets, seconds } = entry.pool.queue_waits();
            let count = buckets.iter().map(|(_, count)| count).sum();
            let labels = [("pool", &**entry.pool.name())];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)?;
        }
        Ok(())
    }

    fn states(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let help = "State of the backend: 1 for its state, 0 for all others";
        let mut family = encoder.encode_descriptor("linchpin_backend_state", help, None, MetricType::Gauge)?;
        for entry in entries {
            for backend in entry.pool.backends() {
                let now = state(backend);
                for state in ["ready", "drain", "maintenance", "down", "ejected"] {
                    let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name()), ("state", state)];
                    family.encode_family(&labels)?.encode_gauge(&u64::from(state == now))?;
                }
            }
        }
        let help = "Time of the last change of the backend's health, since the Unix epoch";
        let unit = Some(&Unit::Seconds);
        let name = "linchpin_backend_last_change_timestamp";
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for entry in entries {
            for backend in entry.pool.backends() {
                let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
                family.encode_family(&labels)?.encode_gauge(&backend.live().history().since.as_secs())?;
            }
        }
        let help = "Backends that serve; at 0, the pool refuses every request";
        let mut family = encoder.encode_descriptor("linchpin_available_backends", help, None, MetricType::Gauge)?;
        for entry in entries {
            family.encode_family(&[("pool", &**entry.pool.name())])?.encode_gauge(&(entry.pool.serving() as u64))?;
        }
        Ok(())
    }

    fn checks(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let help = "Probes of the backend that have ended, by result";
        let mut family = encoder.encode_descriptor("linchpin_backend_checks", help, None, MetricType::Counter)?;
        for entry in entries {
            for backend in entry.pool.backends() {
                let history = backend.live().history();
                for (result, count) in [("passed", history.passed_checks), ("failed", history.failed_checks)] {
                    let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name()), ("result", result)];
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
                }
            }
        }
        let help = "How often the backend was ejected because requests failed on it";
        let mut family = encoder.encode_descriptor("linchpin_ejections", help, None, MetricType::Counter)?;
        for entry in entries {
            for backend in entry.pool.backends() {
                let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
                let count = backend.live().history().ejections;
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn sources(&self, encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
        let all =
            || entries.iter().flat_map(|entry| entry.sources.iter().map(move |source| (entry.pool.name(), source)));
        let mut metric_of =
            |name: &str, help: &str, kind: MetricType, value: &dyn Fn(&SourceStatus) -> u64| -> fmt::Result {
                let mut family = encoder.encode_descriptor(name, help, None, kind)?;
                for (pool, source) in all() {
                    let labels = [("pool", &**pool), ("source", source.source())];
                    let mut metric = family.encode_family(&labels)?;
                    match kind {
                        MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&value(source), None)?,
                        _ => metric.encode_gauge(&value(source))?,
                    }
                }
                Ok(())
            };
        let (gauge, counter) = (MetricType::Gauge, MetricType::Counter);
        metric_of("linchpin_discovered_backends", "Backends that the source lists", gauge, &|source| source.found())?;
        let help = "1 if the last query of the source succeeded; 0 if the backends of an earlier query are kept";
        metric_of("linchpin_discovery_up", help, gauge, &|source| u64::from(source.is_good()))?;
        metric_of("linchpin_discovery_answers", "Queries of the source that succeeded", counter, &|source| {
            source.answers()
        })?;
        metric_of("linchpin_discovery_failures", "Queries of the source that failed", counter, &|source| {
            source.failures()
        })
    }
}
