//! Owns: `GET /api/v1/events`: the events of the process as server-sent events.
//! Invariant: a stream ends when the rules of the listener change: another token may be required since.
//! Must not know: who publishes events; connections.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::{Stream, StreamExt, stream};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::guard::AccessRules;
use crate::events::{Delivery, Event, Events, PublishedEvent, Start, Subscription};

/// The time between two comments that keep the connection alive, also through other proxies.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How soon a client that lost its connection tries again.
const RETRY: Duration = Duration::from_secs(1);

/// The query of `GET /api/v1/events`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    /// Begin with the last so many events.
    #[serde(default)]
    last: usize,
}

/// The data of an event.
#[derive(Debug, Serialize)]
struct Data<'a> {
    /// When it was published, in seconds since the Unix epoch.
    time: f64,
    #[serde(flatten)]
    event: &'a Event,
}

/// The data of a `lost` event.
#[derive(Debug, Serialize)]
struct LostData {
    kind: &'static str,
    /// How many; `null` if they are those of a former process.
    events: Option<u64>,
}

/// Returns the stream for a request with this query and these headers.
pub(super) fn respond(
    events: &Events,
    rules: &AccessRules,
    query: &EventsQuery,
    headers: &HeaderMap,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>> + use<>> {
    let subscription = events.subscribe(&start(query, headers));
    let (events, rules) = (events.clone(), rules.clone());
    let begin = stream::iter([sse::Event::default().retry(RETRY)]);
    let next = stream::unfold(subscription, |mut subscription: Subscription| async move {
        let delivery = subscription.next().await;
        Some((delivery, subscription))
    });
    let all = begin.chain(next.map(move |delivery| match delivery {
        Delivery::Event(published) => event(&events.id(&published), &published),
        Delivery::Lost(count) => lost(count),
    }));
    let changed = async move { rules.changed().await };
    Sse::new(all.take_until(Box::pin(changed)).map(Ok)).keep_alive(KeepAlive::new().interval(HEARTBEAT))
}

/// Returns where to begin. A browser that reconnects sends Last-Event-ID to the same address as before.
fn start(query: &EventsQuery, headers: &HeaderMap) -> Start {
    match headers.get("last-event-id") {
        Some(id) => Start::After(String::from_utf8_lossy(id.as_bytes()).into_owned()),
        None => Start::Last(query.last),
    }
}

fn event(id: &str, published: &PublishedEvent) -> sse::Event {
    let time = published.time.as_millis() as f64 / 1000.0;
    let data = serde_json::to_string(&Data { time, event: &published.event }).unwrap_or_default();
    sse::Event::default().id(id).event(published.event.kind()).data(data)
}

fn lost(events: Option<u64>) -> sse::Event {
    let data = serde_json::to_string(&LostData { kind: "lost", events }).unwrap_or_default();
    sse::Event::default().event("lost").data(data)
}
