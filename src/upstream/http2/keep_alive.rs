//! Owns: finding out whether a silent backend is still there.
//! Invariant: a backend that owes a response is asked after each silent interval, and given up after another one.
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

/// The PINGs of a connection (RFC 9113 §6.7).
pub(super) struct KeepAlive {
    pings: Option<PingPong>,
    is_waiting: bool,
    last_heard: Rc<Cell<Instant>>,
    timer: Pin<Box<Sleep>>,
}

impl KeepAlive {
    pub(super) fn new(pings: Option<PingPong>, last_heard: Rc<Cell<Instant>>) -> KeepAlive {
        KeepAlive { pings, is_waiting: false, last_heard, timer: Box::pin(tokio::time::sleep(INTERVAL)) }
    }

    /// Is ready once the backend has not acknowledged a PING in time. It `owes` a response or not.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>, owes: bool) -> Poll<()> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        if self.is_waiting && pings.poll_pong(cx).is_ready() {
            self.is_waiting = false;
            self.timer.as_mut().reset(due(INTERVAL));
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.is_waiting {
                return Poll::Ready(());
            }
            let silence = clock::now().saturating_duration_since(self.last_heard.get());
            let mut wait = INTERVAL.saturating_sub(silence);
            if wait.is_zero() {
                wait = INTERVAL;
                self.is_waiting = owes && pings.send_ping(Ping::opaque()).is_ok();
                if self.is_waiting && pings.poll_pong(cx).is_ready() {
                    self.is_waiting = false;
                }
            }
            self.timer.as_mut().reset(due(wait));
        }
    }
}

fn due(wait: Duration) -> tokio::time::Instant {
    (clock::now() + wait).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::time::timeout;

    /// Returns after how long a backend is given up that acknowledges PINGs or not, if it is within a minute.
    async fn lost_after(acknowledges: bool, owes: bool) -> Option<Duration> {
        let (near, far) = tokio::io::duplex(4096);
        let server = async {
            let mut connection = h2::server::handshake(far).await.unwrap();
            // Polling it answers PINGs.
            match acknowledges {
                true => drop(connection.accept().await),
                false => std::future::pending().await,
            }
        };
        let client = async {
            let (_sender, mut connection) = h2::client::Builder::new().handshake::<_, Bytes>(near).await.unwrap();
            let begun = clock::now();
            let mut keep_alive = KeepAlive::new(connection.ping_pong(), Rc::new(Cell::new(begun)));
            let lost = std::future::poll_fn(|cx| {
                let _ = Pin::new(&mut connection).poll(cx);
                let lost = keep_alive.poll_lost(cx, owes);
                // As a task that is woken by what it has sent.
                let _ = Pin::new(&mut connection).poll(cx);
                lost
            });
            timeout(Duration::from_secs(60), lost).await.ok().map(|()| clock::now() - begun)
        };
        tokio::select! {
            lost = client => lost,
            () = server => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_backend_is_given_up_only_if_it_owes_a_response_and_acknowledges_no_ping() {
        assert_eq!(lost_after(false, true).await.map(|after| after.as_secs()), Some(20));
        assert_eq!(lost_after(true, true).await, None);
        assert_eq!(lost_after(false, false).await, None);
    }
}
