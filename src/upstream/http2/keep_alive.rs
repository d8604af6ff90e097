//! Owns: finding out whether a silent backend is still there.
//! Invariant: a backend that owes a response is pinged after each silent interval, and given up after another one.
//! Must not know: streams, requests.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};
use tokio::time::Sleep;

use crate::clock;

/// How long a backend that owes responses may be silent until it is sent a PING, and how long it may take to acknowledge it.
const INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take until new requests use another connection.
const DOUBT: Duration = Duration::from_secs(1);

/// The least time between two PINGs to a backend that sends nothing else. The servers of gRPC end a connection on which
/// those come more often, with all of its streams.
const LONG_INTERVAL: Duration = Duration::from_secs(5 * 60 + 10);

/// The PINGs of a connection (RFC 9113 §6.7).
pub(super) struct KeepAlive {
    pings: Option<PingPong>,
    /// When the last PING was sent, and until when it may be acknowledged, if it is not yet.
    pinged: Option<Instant>,
    due: Option<Instant>,
    last_heard: Rc<Cell<Instant>>,
    /// Whether a PING was not acknowledged for a while.
    is_doubtful: Rc<Cell<bool>>,
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(super) fn new(
        pings: Option<PingPong>,
        last_heard: Rc<Cell<Instant>>,
        is_doubtful: Rc<Cell<bool>>,
    ) -> KeepAlive {
        let timer = Box::pin(tokio::time::sleep(INTERVAL));
        KeepAlive { pings, pinged: None, due: None, last_heard, is_doubtful, timer }
    }

    /// Is ready once the backend has not acknowledged a PING in time. It `owes` a response or not.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>, owes: bool) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        loop {
            if self.due.is_some() && pings.poll_pong(cx).is_ready() {
                self.due = None;
                self.is_doubtful.set(false);
                self.timer.as_mut().reset((clock::now() + INTERVAL).into());
            }
            ready!(self.timer.as_mut().poll(cx));
            let now = clock::now();
            let next = match self.due {
                Some(due) if due <= now => return Poll::Ready(()),
                Some(due) => {
                    self.is_doubtful.set(true);
                    due
                }
                None => {
                    let next = next_ping(self.last_heard.get(), self.pinged);
                    let is_pinged = next <= now && owes && pings.send_ping(Ping::opaque()).is_ok();
                    if is_pinged {
                        (self.pinged, self.due) = (Some(now), Some(now + INTERVAL));
                    }
                    match next <= now {
                        true if is_pinged => now + DOUBT,
                        true => now + INTERVAL,
                        false => next.min(now + INTERVAL),
                    }
                }
            };
            self.timer.as_mut().reset(next.into());
        }
    }
}

/// Returns when a backend that was last heard, and last sent a PING, at these times is to be sent the next one.
fn next_ping(heard: Instant, pinged: Option<Instant>) -> Instant {
    match pinged {
        Some(pinged) if pinged >= heard => pinged + LONG_INTERVAL,
        _ => heard + INTERVAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::time::timeout;

    /// Returns when a backend is doubted and given up that acknowledges PINGs or not, if it is within a minute.
    async fn lost_after(acknowledges: bool, owes: bool) -> (Option<u64>, Option<u64>) {
        let (near, far) = tokio::io::duplex(4096);
        let server = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            // Polling it answers PINGs.
            match acknowledges {
                true => drop(connection.accept().await),
                false => std::future::pending().await,
            }
        };
        let doubted = Cell::new(None);
        let client = async {
            let (_sender, mut connection) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
            let begun = clock::now();
            let is_doubtful = Rc::new(Cell::new(false));
            let (heard, doubt) = (Rc::new(Cell::new(begun)), Rc::clone(&is_doubtful));
            let mut keep_alive = KeepAlive::new(connection.ping_pong(), heard, doubt);
            let lost = std::future::poll_fn(|cx| {
                let _ = Pin::new(&mut connection).poll(cx);
                let lost = keep_alive.poll_lost(cx, owes);
                // As a task that is woken by what it has sent.
                let _ = Pin::new(&mut connection).poll(cx);
                if is_doubtful.get() && doubted.get().is_none() {
                    doubted.set(Some((clock::now() - begun).as_secs()));
                }
                lost
            });
            timeout(Duration::from_secs(60), lost).await.ok().map(|()| (clock::now() - begun).as_secs())
        };
        let lost = tokio::select! {
            lost = client => lost,
            () = server => None,
        };
        (doubted.get(), lost)
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_given_up_only_if_it_owes_a_response_and_acknowledges_no_ping() {
        assert_eq!(lost_after(false, true).await, (Some(11), Some(20)));
        assert_eq!(lost_after(true, true).await, (None, None));
        assert_eq!(lost_after(false, false).await, (None, None));
    }

    #[test]
    fn a_silent_backend_is_pinged_no_more_often_than_servers_of_grpc_allow() {
        let begun = Instant::now();
        let first = next_ping(begun, None);
        assert_eq!(first, begun + INTERVAL);
        assert!(next_ping(begun, Some(first)) > first + Duration::from_secs(300));
        let heard = first + Duration::from_secs(1);
        assert_eq!(next_ping(heard, Some(first)), heard + INTERVAL, "such servers count from what they sent last");
    }
}
