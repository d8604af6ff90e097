//! Owns: one attempt to connect for all requests that need an HTTP/2 connection at the same time.
//! Invariant: a request that stops waiting does not end the attempt for the others, and the last one to stop ends it.
//! Must not know: how a connection is made, or where it is kept.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{self, WeakShared};
use http_body::Body;

use super::connect::NewConnection;
use super::failure::Failure;
use super::http1::Http1Connection;
use super::http2::Http2Connection;

/// The attempt that each waiting request polls. Its result is the same for all of them.
pub(super) type SharedConnectFuture<B> = future::Shared<ConnectFuture<B>>;

type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SharedConnect<B>, Failure>>>>;

/// The new connection, for all waiting requests.
pub(super) enum SharedConnect<B: Body + 'static> {
    /// They share it.
    Http2(Http2Connection),
    /// The backend chose HTTP/1.1: the first request takes it.
    Http1(Rc<Cell<Option<Box<Http1Connection<B>>>>>),
}

impl<B: Body + 'static> Clone for SharedConnect<B> {
    fn clone(&self) -> SharedConnect<B> {
        match self {
            SharedConnect::Http2(connection) => SharedConnect::Http2(connection.clone()),
            SharedConnect::Http1(connection) => SharedConnect::Http1(Rc::clone(connection)),
        }
    }
}

impl<B: Body + 'static> From<NewConnection<B>> for SharedConnect<B> {
    fn from(connection: NewConnection<B>) -> SharedConnect<B> {
        match connection {
            NewConnection::Http2(connection) => SharedConnect::Http2(connection),
            NewConnection::Http1(connection) => SharedConnect::Http1(Rc::new(Cell::new(Some(connection)))),
        }
    }
}

/// Starts an attempt. It runs while at least one request polls it.
pub(super) fn start<B: Body + 'static>(
    connect: impl Future<Output = Result<SharedConnect<B>, Failure>> + 'static,
) -> SharedConnectFuture<B> {
    (Box::pin(connect) as ConnectFuture<B>).shared()
}

/// How long after its start requests still join an attempt. One that takes longer may hang while others would succeed: on
/// one of the backend's processes, or in a lost packet. So that cannot hold up later requests, and a slow backend gets one
/// attempt a second.
const JOINABLE: Duration = Duration::from_secs(1);

/// An attempt that other requests can join.
pub(super) struct PendingConnect<B: Body + 'static> {
    future: WeakShared<ConnectFuture<B>>,
    incarnation: u64,
    since: Instant,
}

impl<B: Body + 'static> PendingConnect<B> {
    /// Refers to the attempt for this incarnation, which began at `since`, without keeping it alive.
    pub(super) fn of(future: &SharedConnectFuture<B>, incarnation: u64, since: Instant) -> Option<PendingConnect<B>> {
        future.downgrade().map(|future| PendingConnect { future, incarnation, since })
    }

    /// Whether it is the attempt for this incarnation that began at `since`.
    pub(super) fn is(&self, incarnation: u64, since: Instant) -> bool {
        (self.incarnation, self.since) == (incarnation, since)
    }

    /// Joins the attempt, if it is for this incarnation, a request still waits for it, and it is young at `now`.
    pub(super) fn join(&self, incarnation: u64, now: Instant) -> Option<SharedConnectFuture<B>> {
        let is_young = now.saturating_duration_since(self.since) < JOINABLE;
        self.future.upgrade().filter(|_| self.incarnation == incarnation && is_young)
    }
}

#[cfg(test)]
mod tests {
    use super::super::failure::Fact;
    use super::*;
    use bytes::Bytes;
    use http_body_util::Empty;
    use tokio::sync::oneshot;

    type Body = Empty<Bytes>;

    #[tokio::test]
    async fn the_first_request_may_stop_waiting_and_the_others_get_the_result() {
        let (sender, receiver) = oneshot::channel();
        let first: SharedConnectFuture<Body> = start(async move { Err(receiver.await.unwrap()) });
        let begun = Instant::now();
        let pending = PendingConnect::of(&first, 7, begun).unwrap();
        let mut others = [pending.join(7, begun).unwrap(), pending.join(7, begun + JOINABLE / 2).unwrap()];
        assert!(pending.join(8, begun).is_none(), "another incarnation");
        assert!(pending.join(7, begun + JOINABLE).is_none(), "it may hang");
        assert!(first.now_or_never().is_none());
        let failure = Failure::new(Fact::Closed, false);
        sender.send(failure).unwrap();
        for other in &mut others {
            assert_eq!(other.await.err(), Some(failure));
        }
    }

    #[test]
    fn the_attempt_ends_when_the_last_request_stops_waiting() {
        let (sender, receiver) = oneshot::channel::<Failure>();
        let future: SharedConnectFuture<Body> = start(async move { Err(receiver.await.unwrap()) });
        let begun = Instant::now();
        let pending = PendingConnect::of(&future, 7, begun).unwrap();
        drop(future);
        assert!(sender.is_closed() && pending.join(7, begun).is_none());
    }
}
