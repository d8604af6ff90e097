//! Owns: a connection that is being made for all requests that want one of the kind at the same time.
//! Invariant: one attempt at a time; whoever stops waiting takes it from nobody else, and the last one ends it.
//! Must not know: how a connection is made, or where it is kept.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{self, WeakShared};
use http_body::Body;

use super::connect::NewConnection;
use super::failure::Failure;
use super::http1::Http1Connection;
use super::http2::Http2Connection;

/// What one of those who wait polls. It has made the connection, or failed, for all of them.
pub(super) type SharedConnectFuture<B> = future::Shared<ConnectFuture<B>>;

type ConnectFuture<B> = Pin<Box<dyn Future<Output = Result<SharedConnect<B>, Failure>>>>;

/// The connection, for all who waited.
pub(super) enum SharedConnect<B: Body + 'static> {
    /// It has places for many.
    Http2(Http2Connection<B>),
    /// It is for one request at a time after all: the first of them takes it.
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

/// Begins one. It is worked on as long as somebody waits for it.
pub(super) fn start<B: Body + 'static>(
    connect: impl Future<Output = Result<SharedConnect<B>, Failure>> + 'static,
) -> SharedConnectFuture<B> {
    (Box::pin(connect) as ConnectFuture<B>).shared()
}

/// One that others can join.
pub(super) struct PendingConnect<B: Body + 'static> {
    future: WeakShared<ConnectFuture<B>>,
    incarnation: u64,
}

impl<B: Body + 'static> PendingConnect<B> {
    /// The attempt that leads to this life of an address, as those see it who come later.
    pub(super) fn of(future: &SharedConnectFuture<B>, incarnation: u64) -> Option<PendingConnect<B>> {
        future.downgrade().map(|future| PendingConnect { future, incarnation })
    }

    /// Whether it leads to this life of the address.
    pub(super) fn is_of(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation
    }

    /// The attempt, if it leads to this life of the address and somebody still waits for it.
    pub(super) fn join(&self, incarnation: u64) -> Option<SharedConnectFuture<B>> {
        self.future.upgrade().filter(|_| self.is_of(incarnation))
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
    async fn who_comes_first_may_leave_and_the_others_get_what_comes() {
        let (sender, receiver) = oneshot::channel();
        let first: SharedConnectFuture<Body> = start(async move { Err(receiver.await.unwrap()) });
        let pending = PendingConnect::of(&first, 7).unwrap();
        let mut others = [pending.join(7).unwrap(), pending.join(7).unwrap()];
        assert!(pending.join(8).is_none(), "another life of the address");
        assert!(first.now_or_never().is_none());
        let failure = Failure::new(Fact::Closed, false);
        sender.send(failure).unwrap();
        for other in &mut others {
            assert_eq!(other.await.err(), Some(failure));
        }
    }

    #[test]
    fn the_last_to_leave_ends_it() {
        let (sender, receiver) = oneshot::channel::<Failure>();
        let future: SharedConnectFuture<Body> = start(async move { Err(receiver.await.unwrap()) });
        let pending = PendingConnect::of(&future, 7).unwrap();
        drop(future);
        assert!(sender.is_closed() && pending.join(7).is_none());
    }
}
