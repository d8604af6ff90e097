//! Owns: the task that takes spans from their queue to a collector: batches, back-off, and what is lost.
//! Invariant: it holds one batch at a time; while a collector is away, the queue fills and drops. It ends soon after its
//! process or its queue.
//! Must not know: how a batch is encoded; what a response means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::connection::Connection;
use super::encode;
use super::fields::{self, fields};
use super::outcome::{Outcome, PROTOBUF, outcome};
use super::settings::Settings;
use crate::reason::Reason;
use crate::telemetry::{RequestSpans, SpanCounters, SpanReceiver};
use crate::{clock, files};

/// The most requests in a batch.
const BATCH: usize = 256;
/// How often the exporter looks for more requests before it sends a batch. It doesn't wait for the queue meanwhile, or
/// each request would wake this thread.
const LOOKS: u32 = 10;
/// The time between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long connecting and the response may take together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response, in bytes.
const MAX_RESPONSE: usize = 64 * 1024;
/// After so many batches without a loss, a loss is over. Else a collector that refuses each second batch would fill the log.
const QUIET_BATCHES: u32 = 10;
/// How often a batch is sent before it is dropped.
const ATTEMPTS: u32 = 5;
/// The wait after the first failure; each further one waits twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait that a collector can ask for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Exports spans until `ending`, or until nobody can queue any more; then sends what is queued, if the collector takes
/// it at once.
pub async fn export(settings: Settings, queue: SpanReceiver, counters: Arc<SpanCounters>, ending: watch::Receiver<()>) {
    let losses = Losses { counters, seen: 0, ongoing: None };
    Exporter { settings, queue, losses, ending, connection: None }.run().await;
}

struct Exporter {
    settings: Settings,
    queue: SpanReceiver,
    losses: Losses,
    ending: watch::Receiver<()>,
    /// The connection of the last batch.
    connection: Option<Connection>,
}

/// What is lost, and whether that is logged.
struct Losses {
    counters: Arc<SpanCounters>,
    /// The spans lost so far.
    seen: u64,
    /// While a loss goes on: the spans lost before it, and the batches since its last one.
    ongoing: Option<(u64, u32)>,
}

/// A batch, or a part of it, that the collector did not take.
struct Loss {
    /// The number of spans; more than the batch has, if all are lost.
    spans: u64,
    why: String,
    /// The collector was not there, or busy.
    is_away: bool,
}

impl Exporter {
    async fn run(mut self) {
        self.losses.seen = self.losses.counters.dropped.load(Ordering::Relaxed);
        let mut batch = Vec::with_capacity(BATCH);
        while self.fill(&mut batch).await {
            let spans = batch.iter().map(RequestSpans::count).sum();
            let encoded = encode::encode(&self.settings.service, &batch);
            batch.clear();
            let sent = self.send(encoded.into()).await;
            let is_over = self.is_over();
            self.losses.note(&self.settings, spans, &sent);
            if is_over && sent.is_err_and(|loss| loss.is_away) {
                return self.drop_rest();
            }
        }
    }

    /// Waits for spans, and for a batch of them. Returns false if there will be none.
    async fn fill(&mut self, batch: &mut Vec<RequestSpans>) -> bool {
        let received = tokio::select! {
            received = self.queue.recv_many(batch, BATCH) => received,
            _ = self.ending.changed() => {
                // All requests have ended.
                self.queue.close();
                self.queue.recv_many(batch, BATCH).await
            }
        };
        for _ in 0..LOOKS {
            if batch.len() == BATCH || self.is_over() {
                break;
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = self.ending.changed() => self.queue.close(),
            }
            while batch.len() < BATCH
                && let Ok(request) = self.queue.try_recv()
            {
                batch.push(request);
            }
        }
        received > 0
    }

    /// Sends a batch, several times if it must.
    async fn send(&mut self, batch: Bytes) -> Result<(), Loss> {
        let mut failures = 0;
        loop {
            let (why, after) = match self.post(batch.clone()).await {
                Outcome::Taken { rejected: 0, .. } => return Ok(()),
                Outcome::Taken { rejected, why } => {
                    return Err(Loss { spans: rejected, why: format!("it rejected some: {why}"), is_away: false });
                }
                Outcome::Refused(why) => return Err(Loss { spans: u64::MAX, why, is_away: false }),
                Outcome::Later { why, after } => (why, after),
            };
            self.losses.look(&self.settings, &why);
            failures += 1;
            if failures == ATTEMPTS || self.is_over() {
                return Err(Loss { spans: u64::MAX, why, is_away: true });
            }
            tokio::select! {
                () = back_off(&self.queue, wait(failures, after, rand::random())) => {}
                // Once more, and no longer.
                _ = self.ending.changed() => self.queue.close(),
            }
        }
    }

    /// Sends a batch once; again at once if it was sent on a connection that the collector had closed meanwhile.
    async fn post(&mut self, batch: Bytes) -> Outcome {
        let later = |why: String| Outcome::Later { why, after: None };
        let is_reused = self.connection.as_ref().is_some_and(Connection::is_open);
        let mut exchanged = timeout(TIMEOUT, self.exchange(batch.clone())).await;
        if is_reused && let Ok(Err(_)) = exchanged {
            exchanged = timeout(TIMEOUT, self.exchange(batch)).await;
        }
        match exchanged {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => later(why),
            Err(_) => later(format!("no response within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn exchange(&mut self, batch: Bytes) -> Result<Outcome, String> {
        let endpoint = &self.settings.endpoint;
        // Taken, so that only a connection whose response was read to its end is used again.
        let mut connection = match self.connection.take().filter(Connection::is_open) {
            Some(connection) => connection,
            None => Connection::open(&self.settings).await?,
        };
        let fields = self.fields().await?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&endpoint.path)
            .header(HOST, endpoint.authority())
            .header(CONTENT_TYPE, PROTOBUF)
            .header(USER_AGENT, concat!("linchpin/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(batch))
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(fields);
        let response = connection.send(request).await.map_err(|reason| reason.to_string())?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await;
        let body = body.map_err(|error| Reason::of(&*error).to_string())?.to_bytes();
        self.connection = Some(connection);
        Ok(outcome(head.status, &head.headers, &body, clock::unix()))
    }

    /// Reads the fields that the collector asks for: for each batch, so that a new key needs no reload.
    async fn fields(&self) -> Result<HeaderMap, String> {
        let Some(file) = self.settings.headers.clone() else { return Ok(HeaderMap::new()) };
        let reading = tokio::task::spawn_blocking(move || {
            let text = files::read_text(&file, fields::MAX_FIELDS).map_err(|error| error.to_string());
            text.and_then(|text| fields(&text).map_err(|line| format!("its line {line} is no field")))
                .map_err(|why| format!("cannot use `headers_file` {}: {why}", file.display()))
        });
        reading.await.unwrap_or_else(|_| Err("cannot read `headers_file`".into()))
    }

    /// Whether the process ends, or the configuration names another collector, and no request has this one.
    fn is_over(&self) -> bool {
        self.queue.is_closed()
    }

    /// Drops what is left, since the collector doesn't take it now.
    fn drop_rest(mut self) {
        while let Ok(request) = self.queue.try_recv() {
            self.losses.counters.dropped.fetch_add(request.count(), Ordering::Relaxed);
        }
    }
}

impl Losses {
    /// Counts what became of a batch.
    fn note(&mut self, settings: &Settings, spans: u64, sent: &Result<(), Loss>) {
        let (lost, why) = match sent {
            Ok(()) => (0, "more requests are traced than it takes"),
            Err(loss) => (loss.spans.min(spans), loss.why.as_str()),
        };
        self.counters.exported.fetch_add(spans - lost, Ordering::Relaxed);
        self.counters.dropped.fetch_add(lost, Ordering::Relaxed);
        if self.look(settings, why) {
            return;
        }
        if let Some((before, quiet)) = &mut self.ongoing {
            *quiet += 1;
            if *quiet == QUIET_BATCHES {
                let (collector, lost) = (&settings.endpoint, self.seen - *before);
                tracing::info!(%collector, lost, "the collector of traces takes all spans again");
                self.ongoing = None;
            }
        }
    }

    /// Looks whether more spans were lost, also those that found the queue full, and logs when that begins. Returns
    /// whether there are more.
    fn look(&mut self, settings: &Settings, why: &str) -> bool {
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        let before = std::mem::replace(&mut self.seen, dropped);
        if dropped <= before {
            return false;
        }
        if self.ongoing.is_none() {
            tracing::warn!(
                collector = %settings.endpoint,
                error = why,
                "the collector of traces does not take all spans, so some are lost \
                 (linchpin_trace_spans_dropped_total counts them); requests are served as before; check the \
                 collector, and `otlp` and `sample` in [tracing]"
            );
        }
        let lost_before = self.ongoing.map_or(before, |(lost_before, _)| lost_before);
        self.ongoing = Some((lost_before, 0));
        true
    }
}

/// Waits before a batch is sent again: not for long once nobody can queue any more.
async fn back_off(queue: &SpanReceiver, time: Duration) {
    let mut left = time;
    while !left.is_zero() && !queue.is_closed() {
        let part = left.min(LOOK * LOOKS);
        sleep(part).await;
        left = left.saturating_sub(part);
    }
}

/// Returns how long to wait after so many failures. `draw` spreads the exporters that lost the same collector.
fn wait(failures: u32, after: Option<Duration>, draw: u32) -> Duration {
    let doubled = FIRST_WAIT * 2_u32.saturating_pow(failures.saturating_sub(1).min(8));
    let share = f64::from(draw) / f64::from(u32::MAX);
    doubled.mul_f64(0.5 + share / 2.0).max(after.unwrap_or_default()).min(MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_within_limits_and_heed_the_collector() {
        let seconds = Duration::from_secs;
        assert_eq!(wait(1, None, u32::MAX), seconds(1));
        assert_eq!(wait(1, None, 0), seconds(1) / 2);
        assert_eq!(wait(4, None, u32::MAX), seconds(8));
        assert_eq!(wait(99, None, u32::MAX), seconds(256));
        assert_eq!(wait(1, Some(seconds(7)), 0), seconds(7));
        assert_eq!(wait(1, Some(seconds(7000)), 0), MAX_WAIT);
    }
}
