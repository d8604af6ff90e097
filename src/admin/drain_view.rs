//! Owns: the JSON shapes of drains, what a drain request can say, and the metrics of drains.
//! Invariant: only these types are serialized, and a published name never changes.
//! Must not know: how a drain is carried out.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::{Deserialize, Serialize};

use super::change::Refusal;
use super::pool_entry::PoolEntry;
use crate::clock;
use crate::pool::drain::{Drain, DrainEnd, DrainOrder, Remaining};
use crate::pool::sessions::SessionCount;
use crate::pool::{AdminState, Backend};

/// The longest deadline.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// The body of `POST …/drain`, and a part of that of `POST …/state`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainBody {
    /// How long the drain may take: `10m`.
    #[serde(default)]
    pub(super) deadline: Option<String>,
    /// The state afterwards: `maintenance`, `ready`, or `nothing` for `drain`.
    #[serde(default)]
    pub(super) then: Option<String>,
    /// Sessions without a request for this long leave first: `30s`.
    #[serde(default)]
    pub(super) idle: Option<String>,
}

impl DrainBody {
    /// Returns whether it says anything.
    pub(super) fn is_empty(&self) -> bool {
        self.deadline.is_none() && self.then.is_none() && self.idle.is_none()
    }

    /// Reads what it says.
    ///
    /// # Errors
    /// A duration or word can't be used.
    pub(super) fn order(&self) -> Result<DrainOrder, Refusal> {
        let then = match self.then.as_deref() {
            None | Some("nothing") => None,
            Some("maintenance") => Some(AdminState::Maintenance),
            Some("ready") => Some(AdminState::Ready),
            Some(word) => {
                let why = format!("`then` must be \"maintenance\", \"ready\" or \"nothing\", not {word:?}.");
                return Err(Refusal::Invalid(why));
            }
        };
        let idle = self.idle.as_deref().map(|idle| millis("idle", idle)).transpose()?;
        let deadline = self.deadline.as_deref().map(|deadline| millis("deadline", deadline)).transpose()?;
        Ok(DrainOrder { deadline, idle: idle.unwrap_or(DrainOrder::IDLE), then })
    }
}

fn millis(key: &str, text: &str) -> Result<u64, Refusal> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| *duration <= LONGEST);
    let invalid =
        || Refusal::Invalid(format!("`{key}` must be a duration up to a year, such as 10m or 30s, not {text:?}."));
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).ok_or_else(invalid)
}

/// A drain, in the status and as the answer of `…/drain`. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize)]
pub(super) struct DrainView {
    /// `draining`, `drained`, `deadline` (it came with sessions or requests left) or `cancelled`.
    phase: &'static str,
    begun: f64,
    deadline: Option<f64>,
    /// The state afterwards: `maintenance`, `ready`, or `nothing`.
    then: &'static str,
    /// Seconds after which a session counts as idle, and leaves first.
    idle: f64,
    /// The sessions when it began.
    sessions_before: u64,
    /// The sessions that are left; if it has ended, those that were left then.
    sessions: u64,
    /// The sessions that are left now, by their idle time.
    idle_sessions: BTreeMap<&'static str, u64>,
    active_requests: u32,
    tunnels: u32,
    /// When it ends, as fast as until now, but at the deadline at the latest; `null` if nothing tells.
    estimated_end: Option<f64>,
    /// When it ended; `null` while it runs.
    ended: Option<f64>,
}

impl DrainView {
    /// Returns the last drain of the backend at a position of the pool, if there was one.
    pub(super) fn now(entry: &PoolEntry, index: usize) -> Option<DrainView> {
        let live = entry.pool.backend(index).live();
        let drain = live.draining().current()?;
        let now = clock::unix_millis();
        let count = live.sessions().count(now, entry.affinity.session_lifetime());
        let left = Remaining { sessions: count.sessions, requests: live.active() };
        let ended = drain.end.map(|(_, at, _)| at);
        Some(DrainView {
            phase: drain.end.map_or("draining", |(end, ..)| end.as_str()),
            begun: seconds(drain.begun),
            deadline: drain.deadline().map(seconds),
            then: drain.order.then.map_or("nothing", AdminState::as_str),
            idle: drain.order.idle as f64 / 1000.0,
            sessions_before: drain.sessions,
            sessions: match drain.end {
                Some((DrainEnd::Drained | DrainEnd::Deadline, _, sessions)) => sessions,
                _ => count.sessions,
            },
            idle_sessions: SessionCount::IDLE_WORDS.into_iter().zip(count.idle).collect(),
            active_requests: left.requests,
            tunnels: live.tunnels(),
            estimated_end: if drain.is_running() { drain.estimated_end(left, now).map(seconds) } else { None },
            ended: ended.map(seconds),
        })
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Encodes the metrics of the running drains.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, entries: &[PoolEntry]) -> fmt::Result {
    let now = clock::unix_millis();
    let running = |backend: &Backend| backend.live().draining().current().filter(Drain::is_running);
    let all = entries.iter().flat_map(|entry| entry.pool.backends().iter().map(move |backend| (entry, backend)));
    let drains: Vec<_> = all.filter_map(|(entry, backend)| Some((entry, backend, running(backend)?))).collect();
    let help = "Live sessions of a backend that drains";
    let name = "linchpin_drain_sessions_remaining";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (entry, backend, _) in &drains {
        let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
        let count = backend.live().sessions().count(now, entry.affinity.session_lifetime());
        family.encode_family(&labels)?.encode_gauge(&count.sessions)?;
    }
    let help = "When the drain of a backend ends at the latest, since the Unix epoch";
    let name = "linchpin_drain_deadline_timestamp";
    let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for (entry, backend, drain) in &drains {
        if let Some(deadline) = drain.deadline() {
            let labels = [("pool", &**entry.pool.name()), ("backend", &**backend.name())];
            family.encode_family(&labels)?.encode_gauge(&seconds(deadline))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_a_drain_says_how_long_and_what_then_or_nothing_at_all() {
        let order = |text: &str| serde_json::from_str::<DrainBody>(text).unwrap().order();
        let whole = DrainOrder { deadline: Some(600_000), idle: 1_500, then: Some(AdminState::Maintenance) };
        assert_eq!(order(r#"{"deadline":"10m","then":"maintenance","idle":"1500ms"}"#), Ok(whole));
        let least = DrainOrder { deadline: None, idle: 30_000, then: None };
        assert_eq!((order("{}"), order(r#"{"then":"nothing"}"#)), (Ok(least), Ok(least)));
        for bad in [r#"{"deadline":"soon"}"#, r#"{"deadline":"9y"}"#, r#"{"then":"drain"}"#, r#"{"idle":"30"}"#] {
            assert!(order(bad).is_err(), "{bad}");
        }
    }
}
