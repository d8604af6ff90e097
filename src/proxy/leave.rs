//! Owns: ending a session at the server that it has left, in the background.
//! Invariant: bounded in time, and in number for each thread; the session knows of it until it has ended.
//! Must not know: why the session has left, what its requests do meanwhile.

use std::rc::Rc;

use http::header::HeaderValue;

use super::copy_request::{CopyRequest, Role};
use super::exchange::Exchange;
use super::give::{self, GiveRules};
use super::snapshot::Service;
use crate::clock;
use crate::copies::{Holder, Leaving, PoolCopies, SessionRef, Version, fields};

/// How many ends a thread has under way. Above that, a request waits for its own.
const MAX_AT_ONCE: usize = 256;

/// The end of a session at a server that it has left.
pub(super) struct Departure {
    pub(super) session: SessionRef,
    pub(super) version: Version,
    pub(super) left: Holder,
    /// Has the session's end wait until this one is done: before that, an old cookie of the application could still
    /// find the session there.
    pub(super) leaving: Leaving,
}

/// Ends a session at the server that it has left, if that was not lost since. The session's request does not wait for it.
pub(super) async fn end_at(
    exchange: &Exchange,
    service: &Service,
    copies: &PoolCopies,
    host: Option<&HeaderValue>,
    departure: Departure,
) {
    let Departure { session, version, left, leaving } = departure;
    // One that was lost since is another one.
    let mut backends = service.pool.backends().iter();
    let Some(index) = backends.position(|backend| Holder::of(backend) == left) else { return };
    let limit = copies.settings().handover;
    let rules = GiveRules::of(exchange, service, limit, clock::now() + limit);
    let (thread, view, pool) = (exchange.thread(), exchange.view(), exchange.pool());
    // Not a part of the buffer that the request was read into.
    let host = host.and_then(|host| HeaderValue::from_bytes(host.as_bytes()).ok());
    let in_background = Rc::strong_count(thread.departures()) <= MAX_AT_ONCE;
    let counted = Rc::clone(thread.departures());
    let end = async move {
        let (_leaving, _counted) = (leaving, counted);
        let Some(service) = view.service(pool) else { return };
        let field = fields::session_of_copy(session, version);
        let end = CopyRequest { field: field.as_ref(), role: Role::Primary, bytes: None, host: host.as_ref() };
        let deadline = thread.deadlines.deadline();
        // Whether it succeeds changes nothing for the session's requests.
        give::give(&thread, service, index, &end, rules, &deadline).await;
    };
    if in_background {
        drop(tokio::task::spawn_local(end));
    } else {
        end.await;
    }
}
