//! Owns: one client connection of HTTP/1.1: served by hyper while it says something, parked while it doesn't.
//! Invariant: an idle connection holds no buffer; every wait for a client has a limit.
//! Must not know: what is served.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::server::conn::http1;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

use super::activity::Activity;
use super::conn_context::{ConnContext, HeadWait};
use super::conn_timeouts::{self, ConnState, Next};
use super::io::Io;
use super::service::service;
use crate::clock;
use crate::handler::{Handler, HeadFault, Tunnel};
use crate::net::Stream;

/// How a spell in hyper ended.
enum Ended {
    /// Nothing is under way; bytes of a next head may have come.
    Quiet(Stream, Bytes),
    /// Another protocol goes on here.
    Over(Stream, Bytes, Box<dyn Tunnel>),
    /// For good.
    Closed,
}

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(mut stream: Stream, client: Rc<H::Client>, context: Rc<ConnContext<H>>) {
    let (requests, mut prefix) = (Rc::default(), Bytes::new());
    stream.socket().use_small_reads();
    loop {
        let since = match prefix.is_empty() {
            false => Some(clock::now()),
            true => match context.wait_for_head(&stream).await {
                HeadWait::Received(since) => since,
                HeadWait::TimedOut => return too_late(stream, &client, &context).await,
                HeadWait::Idle => return leave(stream, &context).await,
            },
        };
        // In a box of its own, which goes when the connection is parked again.
        match Box::pin(active(stream, prefix, since, &client, &context, &requests)).await {
            Ended::Closed => return,
            Ended::Quiet(quiet, rest) => (stream, prefix) = (quiet, rest),
            Ended::Over(stream, rest, tunnel) => {
                drop((client, context));
                return tunnel.run(Box::new(stream), rest).await;
            }
        }
        if prefix.is_empty() && !context.wait_readable(stream.socket()).await {
            return leave(stream, &context).await;
        }
    }
}

/// Lets hyper serve the connection, on which a head has begun `since` then, until it has been quiet for a while.
async fn active<H: Handler>(
    stream: Stream,
    prefix: Bytes,
    since: Option<Instant>,
    client: &Rc<H::Client>,
    context: &Rc<ConnContext<H>>,
    requests: &Rc<Cell<u32>>,
) -> Ended {
    let activity = Activity::new(requests);
    activity.head_since.set(since);
    let service = service(context, Rc::clone(client), Rc::clone(&activity));
    let mut connection =
        context.http1.serve_connection(Io::new(stream, prefix, &activity).without_fragments(), service);
    let limit = context.clock.deadline();
    limit.set_after(conn_timeouts::QUIET);
    // At the end of the process hyper is told nothing: it would close as soon as a response has gone out that does
    // not say so, when the client may have sent its next request.
    let mut is_told = false;
    let next = poll_fn(|cx| {
        // What has begun to be answered is cut off; what has not is answered now, and then hyper is done.
        if context.is_grace_over()
            && !std::mem::replace(&mut is_told, true)
            && (activity.busy.get() == 0 || activity.is_answered.get())
        {
            return Poll::Ready(Ok(Next::Abort));
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(result));
        }
        let mut look = activity.is_first_over();
        while std::mem::take(&mut look) || limit.poll(cx).is_ready() {
            let state = ConnState {
                busy: activity.busy.get() > 0,
                first: activity.is_first_over(),
                quiet_since: activity.quiet_since.get(),
                head_since: activity.head_since.get(),
                blocked_since: activity.blocked_since.get(),
            };
            match conn_timeouts::next(state, clock::now(), &context.limits) {
                Next::Wait(at) => {
                    limit.set(at);
                    if state.busy {
                        activity.probe.set(true);
                        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
                            return Poll::Ready(Err(result));
                        }
                    }
                }
                next => return Poll::Ready(Ok(next)),
            }
        }
        Poll::Pending
    })
    .await;
    // The borrow of the connection has ended with the future above.
    match next {
        Ok(Next::Park) => {
            let (stream, rest) = apart(connection.into_parts());
            return Ended::Quiet(stream, rest);
        }
        Ok(Next::HeadTimeout) => {
            too_late(apart(connection.into_parts()).0, client, context).await;
        }
        Ok(Next::Abort | Next::Wait(_)) => {}
        Err(Ok(())) if activity.has_tunnel() => {
            let (stream, rest) = apart(connection.into_parts());
            if let Some(tunnel) = activity.take_tunnel() {
                return Ended::Over(stream, rest, tunnel);
            }
        }
        Err(_) if activity.has_fragment.get() => {
            let (mut stream, _) = apart(connection.into_parts());
            stream.write_best_effort(&context.handler.reject_head(client, HeadFault::Fragment));
            linger(&mut stream, false).await;
        }
        Err(result) => {
            let error = result.err();
            let is_refused = error.as_ref().is_some_and(|error| refused(error, context, client));
            // What came of an answer that broke off is to be read, too.
            let is_cut = error.is_some_and(|error| error.is_user());
            if is_refused || is_cut || activity.lingers.get() {
                linger(&mut apart(connection.into_parts()).0, is_cut).await;
            }
        }
    }
    Ended::Closed
}

/// Ends a connection on which a head did not come in time.
async fn too_late<H: Handler>(mut stream: Stream, client: &Rc<H::Client>, context: &Rc<ConnContext<H>>) {
    stream.write_best_effort(&context.handler.reject_head(client, HeadFault::HeadTimeout));
    linger(&mut stream, false).await;
}

/// The stream, and what was read of it and not used.
fn apart<S>(parts: http1::Parts<Io, S>) -> (Stream, Bytes) {
    let (stream, unread) = parts.io.into_parts();
    (stream, joined(parts.read_buf, unread))
}

/// One behind the other. Of nothing, nothing is kept: behind it there can be a buffer of 8 KiB.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Bytes::new(),
        (true, false) => second,
        (false, true) => first,
        (false, false) => [first, second].concat().into(),
    }
}

/// Whether hyper ended the connection because of what came on it.
fn refused<H: Handler>(error: &hyper::Error, context: &ConnContext<H>, client: &Rc<H::Client>) -> bool {
    if error.is_parse() {
        let fault = if error.is_parse_too_large() { HeadFault::TooLarge } else { HeadFault::Malformed };
        context.handler.reject_head(client, fault);
    }
    error.is_parse()
}

/// How long a client may be silent, and how long it may go on sending, after its connection was ended: many, browsers
/// above all, look for an answer only when they have sent all of their request.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_SENDING: Duration = Duration::from_secs(10);

/// Bytes that are read of it meanwhile, at the most.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// The same for one that was without a request when the process came to its end: a round trip.
const LINGER_IDLE: Duration = Duration::from_millis(500);

/// Ends a connection on which there is no request, because of its idle time or the end of the process. In the
/// latter case a request may be on its way: its client is to find the connection closed, and not reset.
pub(super) async fn leave<H>(mut stream: Stream, context: &ConnContext<H>) {
    if context.is_draining() {
        end(&mut stream, LINGER_IDLE, false).await;
    }
}

/// Ends a connection on which the client may still be sending. One that `is_cut` off does not end as one that is
/// whole.
async fn linger(stream: &mut Stream, is_cut: bool) {
    end(stream, LINGER, is_cut).await;
}

/// Closes our side, and reads on until the client closes its own or is silent for `silence`. Closing both at once
/// would make the kernel answer what the client still sends with a reset, which can destroy the response before
/// it was read.
async fn end(stream: &mut Stream, silence: Duration, is_cut: bool) {
    let drain = async {
        let said = if is_cut { stream.shutdown_without_close_notify().await } else { stream.shutdown().await };
        if said.is_err() {
            return;
        }
        let mut left = LINGER_BYTES;
        // The buffer lives for a poll: all idle connections end at the same time.
        let mut next = async || {
            let read = poll_fn(|cx| {
                let mut buffer = [0; 4096];
                let mut buffer = ReadBuf::new(&mut buffer);
                Pin::new(&mut *stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
            });
            tokio::time::timeout(silence, read).await
        };
        while let Ok(Ok(read @ 1..)) = next().await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_SENDING, Box::pin(drain)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;

    #[test]
    fn a_connection_that_is_parked_keeps_what_was_read_and_no_buffer_without() {
        let buffer = Bytes::from(vec![0; 8192]);
        let mut nothing = buffer.clone();
        nothing.advance(8192);
        let rest = joined(nothing.clone(), nothing);
        assert!(rest.is_empty() && buffer.is_unique());
        let (a, b, none) = (Bytes::from_static(b"GET "), Bytes::from_static(b"/"), Bytes::new());
        assert_eq!(joined(a.clone(), b.clone()), "GET /");
        assert_eq!((joined(a.clone(), none.clone()), joined(none, b.clone())), (a, b));
    }
}
