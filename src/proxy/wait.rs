//! Owns: holding a request back: until the server of its session can serve it, until others say where that is.
//! Invariant: bounded in time and number; released the moment the server is back, not at the next look.
//! Must not know: what becomes of a request that has waited in vain.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::exchange::Exchange;
use crate::affinity::policy::Wait;
use crate::affinity::{Cause, Found};
use crate::clock;
use crate::pool::Backend;

/// How long a server that has just failed is left alone before it is asked again. Nobody tells when
/// it is back: as far as its probes know it was never away.
const PAUSE: Duration = Duration::from_millis(100);

/// Waits until `backend` takes sessions that it holds, or `end`; says whether it does.
pub(super) async fn for_backend(
    exchange: &Exchange,
    backend: &Backend,
    cause: Option<Cause>,
    wait: Wait,
    end: Instant,
) -> bool {
    let limit = exchange.limit();
    let Some(mut waiting) = backend.live().wait(wait.most) else { return false };
    if cause == Some(Cause::Failed) {
        limit.set((clock::now() + PAUSE).min(end));
        poll_fn(|cx| limit.poll(cx)).await;
    }
    limit.set(end);
    while backend.live().accepts_existing().is_err() {
        tokio::select! {
            biased;
            () = poll_fn(|cx| limit.poll(cx)) => return false,
            () = waiting.changed() => {}
        }
    }
    clock::now() < end
}

/// The longest that other Linchpins are waited for. The store's keeper gives up sooner; this is for
/// when it can't.
const ANSWER: Duration = Duration::from_millis(500);

/// Waits for what others know of a session.
pub(super) async fn for_answer(exchange: &Exchange, answer: oneshot::Receiver<Option<Found>>) -> Option<Found> {
    let limit = exchange.limit();
    limit.set_after(ANSWER);
    let found = tokio::select! {
        answer = answer => answer.ok().flatten(),
        () = poll_fn(|cx| limit.poll(cx)) => None,
    };
    limit.clear();
    found
}
