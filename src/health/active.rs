//! Owns: the probes: one loop for each backend, on the control thread.
//! Invariant: each probe has a timeout, reads a bounded response, and uses a connection of its own.
//! Must not know: requests of clients.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::announce::{announce, announce_drain_request, announce_maintenance};
use super::drain_request::{DrainRequest, HealthAnswer};
use super::{Probe, Settings};
use crate::net::{Address, descriptor_reserve};
use crate::pool::history::ProbeResult;
use crate::pool::observe::Observation;
use crate::pool::{AdminState, Health, Live, Pool};
use crate::reason::Reason;
use crate::upstream;
use crate::upstream::dial::{Dialled, Purpose, dial};

/// The most probes of a pool that are under way at once: each needs a descriptor. The probes of further backends wait,
/// and a round takes longer than the interval if not all fit into it. Each pool has this limit of its own: a pool full
/// of dead servers, whose probes take the whole timeout, must not delay the probes of the other pools.
const MAX_CONCURRENT: usize = 512;

/// The time from one probe to the next of a backend whose probes fail, while requests wait for it.
const WANTED_INTERVAL: Duration = Duration::from_millis(250);

/// The time between two checks of what changes by time alone.
const TICK: Duration = Duration::from_millis(100);

/// Probes the backends of one pool.
#[derive(Debug)]
pub struct Prober {
    pool: Arc<ArcSwap<Pool>>,
    settings: Settings,
    upstream: upstream::Access,
    permits: Semaphore,
}

impl Prober {
    /// Makes a prober for the backends of `pool`, also for those that it gets later.
    pub fn new(pool: Arc<ArcSwap<Pool>>, settings: Settings, upstream: upstream::Access) -> Prober {
        Prober { pool, settings, upstream, permits: Semaphore::new(MAX_CONCURRENT) }
    }

    /// Returns the current pool, and the position in it of the backend with this name.
    fn find(&self, name: &str) -> (Arc<Pool>, Option<usize>) {
        let pool = self.pool.load_full();
        let index = pool.position(name);
        (pool, index)
    }

    /// Returns the pool, which is replaced when its backends change.
    pub fn pool(&self) -> &Arc<ArcSwap<Pool>> {
        &self.pool
    }
}

/// Probes a backend for as long as it belongs to the pool. The first probe is sent at once.
pub async fn watch(prober: Arc<Prober>, name: Arc<str>, live: Arc<Live>) {
    let Prober { settings, upstream, permits, .. } = &*prober;
    let mut was_out = live.state() == AdminState::Maintenance;
    let mut request = DrainRequest::new(live.asks_for_drain());
    if was_out && let (pool, Some(index)) = prober.find(&name) {
        announce_maintenance(&pool, index, true);
    }
    if settings.probe == Probe::None {
        return;
    }
    // The second probe is sent earlier by up to half of the interval: else the probes of all backends that the process
    // started with would be sent in a burst for as long as it runs.
    let mut due = Instant::now();
    let mut last = due;
    let mut next = settings.interval.mul_f64(0.5 + 0.5 * fraction(rand::rng().random()));
    loop {
        let begun = sleep(&live, due, last).await;
        if begun >= due {
            due += std::mem::replace(&mut next, jittered(settings.interval, rand::rng().random()));
        }
        last = begun;
        // After a probe that took longer than the interval the next one starts at once; the missed ones are skipped.
        let Ok(_permit) = permits.acquire().await else { return };
        let (pool, Some(index)) = prober.find(&name) else { return };
        let backend = pool.backend(index);
        if !Arc::ptr_eq(backend.live(), &live) {
            return;
        }
        let is_out = backend.live().state() == AdminState::Maintenance;
        if std::mem::replace(&mut was_out, is_out) != is_out {
            announce_maintenance(&pool, index, is_out);
        }
        if is_out {
            continue;
        }
        let mut answer = None;
        let address = settings.port.map_or_else(|| backend.address().clone(), |port| backend.address().with_port(port));
        let probe = probe(&address, &settings.probe, upstream, &mut answer);
        let result = Box::pin(timeout(settings.timeout, probe)).await;
        let result = result.unwrap_or(Err(Refusal::Timeout));
        let now = Instant::now();
        due = due.max(now);
        if let Some(error) = result.as_ref().err().and_then(Refusal::shortage) {
            // The probe never reached the backend: it counts as neither passed nor failed.
            descriptor_reserve::report_shortage("cannot probe a backend", error);
            continue;
        }
        let result = result.map_err(|refusal| refusal.reason(settings.timeout));
        if let Err(reason) = &result {
            tracing::debug!(pool = &**pool.name(), backend = &**backend.name(), %reason, "probe failed");
        }
        if let Some(asks) = answer.and_then(|answer| request.answered(answer)) {
            live.set_asks_for_drain(asks);
            announce_drain_request(&pool, index, asks);
        }
        let check = ProbeResult { result, took: now.saturating_duration_since(begun) };
        if let Some(change) = pool.observe(index, Observation::Probe(check), now.into_std()) {
            announce(&pool, index, change, "probes");
        }
    }
}

/// Sleeps until the next probe is due, or for less time if requests wait for a backend whose probes fail: only a probe
/// can show that it is available again. `last` is when the last probe began.
async fn sleep(live: &Live, due: Instant, last: Instant) -> Instant {
    loop {
        let is_wanted = live.health() == Health::Down && live.waiting() > 0;
        tokio::select! {
            () = sleep_until(if is_wanted { due.min(last + WANTED_INTERVAL) } else { due }) => return Instant::now(),
            () = live.probe_wanted(), if !is_wanted => {}
        }
    }
}

/// Makes the changes that come by time alone: ends the ejections of `pool` when their time is over, and raises the
/// effective weights of backends in slow start. Never returns.
pub async fn follow_time(pool: Arc<ArcSwap<Pool>>) {
    let mut interval = tokio::time::interval(TICK);
    loop {
        let now = interval.tick().await.into_std();
        let pool = pool.load_full();
        pool.refresh_effective_weights(now);
        for (index, backend) in pool.backends().iter().enumerate() {
            if backend.live().health() == Health::Ejected
                && let Some(change) = pool.observe(index, Observation::Time, now)
            {
                announce(&pool, index, change, "time");
            }
        }
    }
}

/// Returns `interval`, changed at random by up to a tenth.
fn jittered(interval: Duration, random: u64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fraction(random))
}

/// Converts a random number to a fraction from 0 to 1.
fn fraction(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

/// The cause of a failed probe.
#[derive(Debug)]
enum Refusal {
    Connect(std::io::Error),
    Timeout,
    Http(hyper::Error),
    Status(StatusCode),
}

impl Refusal {
    /// Returns the error if a shortage of this machine caused it: then the probe says nothing about the backend.
    fn shortage(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let error: &(dyn std::error::Error + 'static) = match self {
            Refusal::Connect(error) => error,
            Refusal::Http(error) => error,
            Refusal::Timeout | Refusal::Status(_) => return None,
        };
        descriptor_reserve::is_local_shortage(error).then_some(error)
    }

    /// Returns the reason that log and API show; `timeout` is the probe's.
    fn reason(&self, timeout: Duration) -> Reason {
        match self {
            Refusal::Connect(error) => Reason::of(error),
            Refusal::Timeout => Reason::TimedOut(timeout),
            Refusal::Http(error) => Reason::of(error),
            Refusal::Status(status) => Reason::Status(status.as_u16()),
        }
    }
}

/// Sends a probe. Returns the status code of an HTTP probe that passed, or `None` for a TCP probe. Sets `answer` to what
/// an HTTP response says, whether the probe passes or not.
async fn probe(
    address: &Address,
    probe: &Probe,
    upstream: &upstream::Access,
    answer: &mut Option<HealthAnswer>,
) -> Result<Option<u16>, Refusal> {
    let dialled = dial(address, upstream, Purpose::Probe, false).await.map_err(Refusal::Connect)?;
    match probe {
        Probe::None | Probe::Tcp => Ok(None),
        Probe::Http { path, host, expect } => {
            let host = host.clone().or(address.tcp().map(|address| address.to_string()));
            let host = host.unwrap_or_else(|| "localhost".into());
            let response = get(dialled, path, &host, upstream.scheme()).await.map_err(Refusal::Http)?;
            let status = response.status();
            *answer = Some(HealthAnswer::of(&response));
            if is_expected(status, expect) { Ok(Some(status.as_u16())) } else { Err(Refusal::Status(status)) }
        }
    }
}

fn is_expected(status: StatusCode, expect: &[RangeInclusive<u16>]) -> bool {
    expect.iter().any(|range| range.contains(&status.as_u16()))
}

/// Sends a GET and returns the head of the response. Doesn't read the body, and closes the connection. The request doesn't
/// ask for that: a server that closes it says so of itself, since it wants to end.
async fn get(dialled: Dialled, path: &str, host: &str, scheme: Scheme) -> Result<Response<()>, hyper::Error> {
    let mut request = Request::new(Empty::<Bytes>::new());
    // The configuration's check has parsed path and host; the defaults only stand in for a panic.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost")));
    headers.insert(USER_AGENT, HeaderValue::from_static("linchpin-health"));
    let io = TokioIo::new(dialled.stream);
    if dialled.is_http2 {
        upstream::to_http2(&mut request, scheme);
        let (mut sender, connection) = http2::handshake(upstream::LocalExecutor, io).await?;
        return head_of(sender.send_request(request), connection).await;
    }
    let (mut sender, connection) = http1::handshake(io).await?;
    head_of(sender.send_request(request), connection).await
}

/// Returns the head of a response, and drives its connection until then.
async fn head_of<B>(
    response: impl Future<Output = Result<Response<B>, hyper::Error>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<Response<()>, hyper::Error> {
    tokio::select! {
        response = response => response.map(|response| response.map(drop)),
        Err(error) = connection => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth() {
        let interval = Duration::from_secs(10);
        assert_eq!(jittered(interval, 0), Duration::from_secs(9));
        assert_eq!(jittered(interval, u64::MAX), Duration::from_secs(11));
    }

    #[test]
    fn a_probe_without_a_descriptor_does_not_count_against_its_backend() {
        let refused = |errno: rustix::io::Errno| Refusal::Connect(std::io::Error::from(errno));
        assert!(refused(rustix::io::Errno::MFILE).shortage().is_some());
        assert!(refused(rustix::io::Errno::CONNREFUSED).shortage().is_none());
        assert!(Refusal::Timeout.shortage().is_none());
    }

    #[test]
    fn a_status_in_any_expected_range_passes() {
        let expect = [200..=299, 401..=401];
        for (status, passes) in [(200, true), (299, true), (300, false), (401, true), (500, false)] {
            assert_eq!(is_expected(StatusCode::from_u16(status).unwrap(), &expect), passes);
        }
    }
}
