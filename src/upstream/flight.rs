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

use super::connect::Fresh;
use super::failure::Failure;
use super::shared::Shared;
use super::wire::Wire;

/// What one of those who wait polls. It has made the connection, or failed, for all of them.
pub(super) type Flight<B> = future::Shared<Making<B>>;

type Making<B> = Pin<Box<dyn Future<Output = Result<Landed<B>, Failure>>>>;

/// The connection, for all who waited.
pub(super) enum Landed<B: Body + 'static> {
    /// It has places for many.
    Shared(Shared<B>),
    /// It is for one request at a time after all: the first of them takes it.
    Own(Rc<Cell<Option<Box<Wire<B>>>>>),
}

impl<B: Body + 'static> Clone for Landed<B> {
    fn clone(&self) -> Landed<B> {
        match self {
            Landed::Shared(connection) => Landed::Shared(connection.clone()),
            Landed::Own(wire) => Landed::Own(Rc::clone(wire)),
        }
    }
}

impl<B: Body + 'static> From<Fresh<B>> for Landed<B> {
    fn from(fresh: Fresh<B>) -> Landed<B> {
        match fresh {
            Fresh::Shared(connection) => Landed::Shared(connection),
            Fresh::Own(wire) => Landed::Own(Rc::new(Cell::new(Some(wire)))),
        }
    }
}

/// Begins one. It is worked on as long as somebody waits for it.
pub(super) fn begin<B: Body + 'static>(
    making: impl Future<Output = Result<Landed<B>, Failure>> + 'static,
) -> Flight<B> {
    (Box::pin(making) as Making<B>).shared()
}

/// One that others can join.
pub(super) struct Pending<B: Body + 'static> {
    flight: WeakShared<Making<B>>,
    incarnation: u64,
}

impl<B: Body + 'static> Pending<B> {
    /// The flight to this life of an address, as those see it who come later.
    pub(super) fn of(flight: &Flight<B>, incarnation: u64) -> Option<Pending<B>> {
        flight.downgrade().map(|flight| Pending { flight, incarnation })
    }

    /// Whether it leads to this life of the address.
    pub(super) fn is_of(&self, incarnation: u64) -> bool {
        self.incarnation == incarnation
    }

    /// The flight, if it leads to this life of the address and somebody still waits for it.
    pub(super) fn join(&self, incarnation: u64) -> Option<Flight<B>> {
        self.flight.upgrade().filter(|_| self.is_of(incarnation))
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
        let (land, landing) = oneshot::channel();
        let first: Flight<Body> = begin(async move { Err(landing.await.unwrap()) });
        let pending = Pending::of(&first, 7).unwrap();
        let mut others = [pending.join(7).unwrap(), pending.join(7).unwrap()];
        assert!(pending.join(8).is_none(), "another life of the address");
        assert!(first.now_or_never().is_none());
        let failure = Failure::new(Fact::Closed, false);
        land.send(failure).unwrap();
        for other in &mut others {
            assert_eq!(other.await.err(), Some(failure));
        }
    }

    #[test]
    fn the_last_to_leave_ends_it() {
        let (land, landing) = oneshot::channel::<Failure>();
        let flight: Flight<Body> = begin(async move { Err(landing.await.unwrap()) });
        let pending = Pending::of(&flight, 7).unwrap();
        drop(flight);
        assert!(land.is_closed() && pending.join(7).is_none());
    }
}
