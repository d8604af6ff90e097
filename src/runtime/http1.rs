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
use super::conn_timeouts::{self, Next};
use super::io::Io;
use super::service::service;
use crate::clock;
use crate::handler::{Handler, HeadFault, Tunnel};
use crate::net::Stream;

/// How a spell in hyper ended.
enum Outcome {
    /// Nothing is under way; bytes of a next head may have come.
    Idle(Stream, Bytes),
    /// Another protocol goes on here.
    Tunnel(Stream, Bytes, Box<dyn Tunnel>),
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
                HeadWait::TimedOut => return reject_late_head(stream, &client, &context).await,
                HeadWait::Idle => return close_idle(stream, &context).await,
            },
        };
        // In a box of its own, which goes when the connection is parked again.
        match Box::pin(serve_requests(stream, prefix, since, &client, &context, &requests)).await {
            Outcome::Closed => return,
            Outcome::Idle(quiet, rest) => (stream, prefix) = (quiet, rest),
            Outcome::Tunnel(stream, rest, tunnel) => {
                drop((client, context));
                return tunnel.run(Box::new(stream), rest).await;
            }
        }
        if prefix.is_empty() && !context.wait_readable(stream.socket()).await {
            return close_idle(stream, &context).await;
        }
    }
}

/// Lets hyper serve the connection, on which a head has begun `since` then, until it has been quiet for a while.
async fn serve_requests<H: Handler>(
    stream: Stream,
    prefix: Bytes,
    head_since: Option<Instant>,
    client: &Rc<H::Client>,
    context: &Rc<ConnContext<H>>,
    requests: &Rc<Cell<u32>>,
) -> Outcome {
    let activity = Activity::http1(requests, head_since);
    let service = service(context, Rc::clone(client), Rc::clone(&activity));
    let mut connection =
        context.http1.serve_connection(Io::new(stream, prefix, &activity).without_fragments(), service);
    let timer = context.clock.deadline();
    timer.set_after(conn_timeouts::PARK_AFTER);
    // At the end of the process hyper is told nothing: it would close as soon as a response has gone out that does
    // not say so, when the client may have sent its next request.
    let mut is_grace_over_seen = false;
    let next = poll_fn(|cx| {
        // What has begun to be answered is cut off; what has not is answered now, and then hyper is done.
        if context.shutdown.is_grace_over()
            && !std::mem::replace(&mut is_grace_over_seen, true)
            && (activity.is_idle() || activity.has_response())
        {
            return Poll::Ready(Ok(Next::Abort));
        }
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Err(result));
        }
        let mut is_due = activity.is_first_done();
        while std::mem::take(&mut is_due) || timer.poll(cx).is_ready() {
            let state = activity.http1_state();
            match conn_timeouts::next_http1(state, clock::now(), &context.limits) {
                Next::Wait(at) => {
                    timer.set(at);
                    if state.is_busy {
                        activity.schedule_probe();
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
            let (stream, rest) = into_stream(connection.into_parts());
            return Outcome::Idle(stream, rest);
        }
        Ok(Next::HeadTimeout) => {
            reject_late_head(into_stream(connection.into_parts()).0, client, context).await;
        }
        Ok(Next::Abort | Next::Wait(_)) => {}
        Err(Ok(())) if activity.has_tunnel() => {
            let (stream, rest) = into_stream(connection.into_parts());
            if let Some(tunnel) = activity.take_tunnel() {
                return Outcome::Tunnel(stream, rest, tunnel);
            }
        }
        Err(_) if activity.has_fragment() => {
            let (mut stream, _) = into_stream(connection.into_parts());
            stream.write_best_effort(&context.handler.reject_head(client, HeadFault::Fragment));
            linger(&mut stream, false).await;
        }
        Err(result) => {
            let error = result.err();
            let is_rejected = error.as_ref().is_some_and(|error| report_parse_error(error, context, client));
            // What came of an answer that broke off is to be read, too.
            let is_cut = error.is_some_and(|error| error.is_user());
            if is_rejected || is_cut || activity.has_unread_input() {
                linger(&mut into_stream(connection.into_parts()).0, is_cut).await;
            }
        }
    }
    Outcome::Closed
}

/// Ends a connection on which a head did not come in time.
async fn reject_late_head<H: Handler>(mut stream: Stream, client: &Rc<H::Client>, context: &Rc<ConnContext<H>>) {
    stream.write_best_effort(&context.handler.reject_head(client, HeadFault::HeadTimeout));
    linger(&mut stream, false).await;
}

/// The stream, and what was read of it and not used.
fn into_stream<S>(parts: http1::Parts<Io, S>) -> (Stream, Bytes) {
    let (stream, unread) = parts.io.into_parts();
    (stream, concatenate(parts.read_buf, unread))
}

/// One behind the other. Of nothing, nothing is kept: behind it there can be a buffer of 8 KiB.
fn concatenate(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Bytes::new(),
        (true, false) => second,
        (false, true) => first,
        (false, false) => [first, second].concat().into(),
    }
}

/// Whether hyper ended the connection because of what came on it.
fn report_parse_error<H: Handler>(error: &hyper::Error, context: &ConnContext<H>, client: &Rc<H::Client>) -> bool {
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
pub(super) async fn close_idle<H>(mut stream: Stream, context: &ConnContext<H>) {
    if context.shutdown.is_draining() {
        close_lingering(&mut stream, LINGER_IDLE, false).await;
    }
}

/// Ends a connection on which the client may still be sending. One that `is_cut` off does not end as one that is
/// whole.
async fn linger(stream: &mut Stream, is_cut: bool) {
    close_lingering(stream, LINGER, is_cut).await;
}

/// Closes our side, and reads on until the client closes its own or is silent for `silence`. Closing both at once
/// would make the kernel answer what the client still sends with a reset, which can destroy the response before
/// it was read.
async fn close_lingering(stream: &mut Stream, silence: Duration, is_cut: bool) {
    let drain = async {
        let closed = if is_cut { stream.shutdown_without_close_notify().await } else { stream.shutdown().await };
        if closed.is_err() {
            return;
        }
        let mut remaining = LINGER_BYTES;
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
            remaining = remaining.saturating_sub(read);
            if remaining == 0 {
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
        let rest = concatenate(nothing.clone(), nothing);
        assert!(rest.is_empty() && buffer.is_unique());
        let (a, b, none) = (Bytes::from_static(b"GET "), Bytes::from_static(b"/"), Bytes::new());
        assert_eq!(concatenate(a.clone(), b.clone()), "GET /");
        assert_eq!((concatenate(a.clone(), none.clone()), concatenate(none, b.clone())), (a, b));
    }
}
