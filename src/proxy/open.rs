//! Owns: opening a connection to a backend for one request.
//! Invariant: it ends by its deadline; a shortage of descriptors is met once by closing idle connections.
//! Must not know: what is sent on the connection, which candidate is next.

use std::task::{Context, Poll};

use super::body::RequestBody;
use super::snapshot::Service;
use super::thread::ThreadState;
use crate::clock::Deadline;
use crate::pool::Backend;
use crate::upstream::{Fact, Failure, PoolKey, PooledConnection};

/// Connects to a backend before `deadline`, unless `is_lost` says meanwhile that the backend is not to be waited for.
pub(super) async fn open(
    thread: &ThreadState,
    service: &Service,
    backend: &Backend,
    key: PoolKey,
    deadline: &Deadline,
    is_lost: impl Fn() -> bool,
) -> Result<PooledConnection<RequestBody>, Failure> {
    let watch = |cx: &mut Context<'_>| {
        if is_lost() {
            return Poll::Ready(Fact::Lost);
        }
        deadline.poll(cx).map(|()| Fact::ConnectTimeout)
    };
    let mut may_close_idle = true;
    loop {
        match thread.connections.connect(backend, &service.upstream, key, &watch).await {
            // Only once: don't wait for descriptors that other requests free and take meanwhile.
            Err(failure) if failure.fact == Fact::Shortage && may_close_idle && thread.connections.close_idle() => {
                may_close_idle = false;
            }
            opened => return opened,
        }
    }
}
