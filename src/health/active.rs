//! Owns: the probes: one loop for each backend, on the control thread.
//! Invariant: each probe has a timeout, reads a bounded response, and uses a connection of its own.
//! Must not know: requests of clients.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rand::RngExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::announce::{announce, announce_maintenance};
use super::{Probe, Settings};
use crate::net::{Address, descriptor_reserve};
use crate::pool::history::ProbeResult;
use crate::pool::observe::Observation;
use crate::pool::{AdminState, Health, Live, Pool};
use crate::reason::Reason;
use crate::upstream;
use crate::upstream::dial::{Dialled, Purpose, dial};

/// Probes of a pool that are under way at once: each has a descriptor. Of more backends the others wait their
/// turn, and a round takes longer than the interval where they can't all be asked in it. A bound for each pool,
/// since one full of dead servers, which take the whole timeout, is not to keep the others from being asked.
const AT_ONCE: usize = 512;

/// From one probe to the next of a backend whose probes fail, while requests wait for it.
const SOON: Duration = Duration::from_millis(250);

/// How often ended ejections are looked for.
const EJECTION_TICK: Duration = Duration::from_millis(100);

/// What it takes to probe the backends of a pool.
#[derive(Debug)]
pub struct Prober {
    pool: Arc<ArcSwap<Pool>>,
    settings: Settings,
    upstream: upstream::Access,
    places: Semaphore,
}

impl Prober {
    /// For the backends of `pool`, now and later.
    pub fn new(pool: Arc<ArcSwap<Pool>>, settings: Settings, upstream: upstream::Access) -> Prober {
        Prober { pool, settings, upstream, places: Semaphore::new(AT_ONCE) }
    }

    /// The pool as it is now, and where in it the backend of this name is.
    fn find(&self, name: &str) -> (Arc<Pool>, Option<usize>) {
        let pool = self.pool.load_full();
        let index = pool.position(name);
        (pool, index)
    }

    /// The pool as it is now.
    pub fn pool(&self) -> &Arc<ArcSwap<Pool>> {
        &self.pool
    }
}

/// Probes a backend of the pool for as long as it belongs to it. The first probe is sent at once.
pub async fn watch(prober: Arc<Prober>, name: Arc<str>, live: Arc<Live>) {
    let Prober { settings, upstream, places, .. } = &*prober;
    let mut was_out = live.state() == AdminState::Maintenance;
    if was_out && let (pool, Some(index)) = prober.find(&name) {
        announce_maintenance(&pool, index, true);
    }
    if settings.probe == Probe::None {
        return;
    }
    // The second one comes earlier by up to half of the interval: those of backends that were there from the
    // beginning would else come in a bunch for as long as the process lives.
    let mut due = Instant::now();
    let mut last = due;
    let mut next = settings.interval.mul_f64(0.5 + 0.5 * fraction(rand::rng().random()));
    loop {
        let begun = sleep(&live, due, last).await;
        if begun >= due {
            due += std::mem::replace(&mut next, jittered(settings.interval, rand::rng().random()));
        }
        last = begun;
        // A probe that took longer than the interval is followed by the next at once, not by all
        // that were missed.
        let Ok(_place) = places.acquire().await else { return };
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
        let result = Box::pin(timeout(settings.timeout, probe(backend.address(), &settings.probe, upstream))).await;
        let result = result.unwrap_or(Err(Refusal::Timeout));
        let now = Instant::now();
        due = due.max(now);
        if let Some(error) = result.as_ref().err().and_then(Refusal::shortage) {
            // Nothing was learned of the backend: neither a pass nor a failure.
            descriptor_reserve::report_shortage("cannot probe a backend", error);
            continue;
        }
        let result = result.map_err(|refusal| refusal.reason(settings.timeout));
        if let Err(reason) = &result {
            tracing::debug!(pool = &**pool.name(), backend = &**backend.name(), %reason, "probe failed");
        }
        let check = ProbeResult { result, took: now.saturating_duration_since(begun) };
        if let Some(news) = pool.observe(index, Observation::Probe(check), now.into_std()) {
            announce(&pool, index, news, "probes");
        }
    }
}

/// Sleeps until the next probe is due, or sooner if requests wait for a backend whose probes fail: nothing
/// else can tell that it is back. `last` is when the last probe began.
async fn sleep(live: &Live, due: Instant, last: Instant) -> Instant {
    loop {
        let is_wanted = live.health() == Health::Down && live.waiting() > 0;
        tokio::select! {
            () = sleep_until(if is_wanted { due.min(last + SOON) } else { due }) => return Instant::now(),
            () = live.probe_wanted(), if !is_wanted => {}
        }
    }
}

/// Ends ejections of `pool` when their time is over, for ever.
pub async fn end_ejections(pool: Arc<ArcSwap<Pool>>) {
    let mut interval = tokio::time::interval(EJECTION_TICK);
    loop {
        let now = interval.tick().await.into_std();
        let pool = pool.load_full();
        for (index, backend) in pool.backends().iter().enumerate() {
            if backend.live().health() == Health::Ejected
                && let Some(news) = pool.observe(index, Observation::Time, now)
            {
                announce(&pool, index, news, "time");
            }
        }
    }
}

/// `interval`, up to a tenth more or less.
fn jittered(interval: Duration, random: u64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fraction(random))
}

/// From 0 to 1.
fn fraction(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

/// Why a probe failed.
#[derive(Debug)]
enum Refusal {
    Connect(std::io::Error),
    Timeout,
    Http(hyper::Error),
    Status(StatusCode),
}

impl Refusal {
    /// The shortage of our own that kept the backend from being asked, if it was one.
    fn shortage(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let error: &(dyn std::error::Error + 'static) = match self {
            Refusal::Connect(error) => error,
            Refusal::Http(error) => error,
            Refusal::Timeout | Refusal::Status(_) => return None,
        };
        descriptor_reserve::is_local_shortage(error).then_some(error)
    }

    /// Returns the reason that log and API show; `timeout` is what the probe had.
    fn reason(&self, timeout: Duration) -> Reason {
        match self {
            Refusal::Connect(error) => Reason::of(error),
            Refusal::Timeout => Reason::TimedOut(timeout),
            Refusal::Http(error) => Reason::of(error),
            Refusal::Status(status) => Reason::Status(status.as_u16()),
        }
    }
}

/// The status that it passes with, if it has one.
async fn probe(address: &Address, probe: &Probe, upstream: &upstream::Access) -> Result<Option<u16>, Refusal> {
    let dialled = dial(address, upstream, Purpose::Probe, false).await.map_err(Refusal::Connect)?;
    match probe {
        Probe::None | Probe::Tcp => Ok(None),
        Probe::Http { path, host, expect } => {
            let host = host.clone().or(address.tcp().map(|address| address.to_string()));
            let host = host.unwrap_or_else(|| "localhost".into());
            let status = get(dialled, path, &host, upstream.scheme()).await.map_err(Refusal::Http)?;
            if is_expected(status, expect) { Ok(Some(status.as_u16())) } else { Err(Refusal::Status(status)) }
        }
    }
}

fn is_expected(status: StatusCode, expect: &[RangeInclusive<u16>]) -> bool {
    expect.iter().any(|range| range.contains(&status.as_u16()))
}

/// The status of a GET. The body is not read: the connection ends with the probe.
async fn get(dialled: Dialled, path: &str, host: &str, scheme: Scheme) -> Result<StatusCode, hyper::Error> {
    let mut request = Request::new(Empty::<Bytes>::new());
    // Path and host were checked with the configuration; what would not do goes out as a default.
    *request.uri_mut() = path.parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(host).unwrap_or(HeaderValue::from_static("localhost")));
    headers.insert(USER_AGENT, HeaderValue::from_static("linchpin-health"));
    let io = TokioIo::new(dialled.stream);
    if dialled.is_http2 {
        upstream::to_http2(&mut request, scheme);
        let (mut sender, connection) = http2::handshake(upstream::LocalExecutor, io).await?;
        return first(sender.send_request(request), connection).await;
    }
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::handshake(io).await?;
    first(sender.send_request(request), connection).await
}

/// The status of a response whose connection is driven meanwhile.
async fn first<B>(
    response: impl Future<Output = Result<Response<B>, hyper::Error>>,
    connection: impl Future<Output = Result<(), hyper::Error>>,
) -> Result<StatusCode, hyper::Error> {
    tokio::select! {
        response = response => response.map(|response| response.status()),
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
    fn a_probe_that_had_no_descriptor_tells_nothing_of_its_backend() {
        let refused = |errno: rustix::io::Errno| Refusal::Connect(std::io::Error::from(errno));
        assert!(refused(rustix::io::Errno::MFILE).shortage().is_some());
        assert!(refused(rustix::io::Errno::CONNREFUSED).shortage().is_none());
        assert!(Refusal::Timeout.shortage().is_none());
    }

    #[test]
    fn any_of_the_expected_ranges_passes() {
        let expect = [200..=299, 401..=401];
        for (status, passes) in [(200, true), (299, true), (300, false), (401, true), (500, false)] {
            assert_eq!(is_expected(StatusCode::from_u16(status).unwrap(), &expect), passes);
        }
    }
}
