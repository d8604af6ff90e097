//! Owns: one client connection of HTTP/1: hyper serves it while it has requests; it is parked while it has none.
//! Invariant: a parked connection holds no buffer, and every wait for a client has a limit.
//! Must not know: what the handler does with a request.

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
use super::service::{Requests, service};
use crate::clock;
use crate::handler::{Handler, HeadFault, Tunnel};
use crate::net::Stream;

/// Why hyper no longer serves the connection.
enum Outcome {
    /// No request is in flight. Bytes of the next head may have arrived.
    Idle(Stream, Bytes),
    /// A tunnel takes over the connection, whose next bytes these are.
    Tunnel(Stream, Bytes, Box<dyn Tunnel>),
    /// The connection is closed.
    Closed,
}

/// Serves one connection until it ends. Idle connections keep this future in memory: what happens once is boxed.
pub(super) fn serve<H: Handler>(
    mut stream: Stream,
    client: Rc<H::Client>,
    context: Rc<ConnContext<H>>,
) -> impl Future<Output = ()> + 'static {
    let (requests, mut prefix) = (Rc::default(), Bytes::new());
    stream.socket().use_small_reads();
    async move {
        let tunnel = loop {
            let since = match prefix.is_empty() {
                false => Some(clock::now()),
                true => match context.wait_for_head(&stream).await {
                    HeadWait::Received(since) => since,
                    HeadWait::TimedOut => return Box::pin(reject_late_head(stream, &client, &context)).await,
                    HeadWait::Idle => return Box::pin(close_idle(stream, &context)).await,
                },
            };
            // Boxed: the memory is freed when the connection is parked.
            match Box::pin(serve_requests(stream, prefix, since, &client, &context, &requests)).await {
                Outcome::Closed => return,
                Outcome::Idle(idle, rest) => {
                    context.handler.park_connection(&client);
                    (stream, prefix) = (idle, rest);
                }
                Outcome::Tunnel(stream, rest, tunnel) => break tunnel.run(Box::new(stream), rest),
            }
            if prefix.is_empty() && !context.wait_readable(stream.socket()).await {
                return Box::pin(close_idle(stream, &context)).await;
            }
        };
        drop((client, context));
        tunnel.await;
    }
}

/// Lets hyper serve the connection until it has been idle for a while. Its next head began at `head_since`.
async fn serve_requests<H: Handler>(
    stream: Stream,
    prefix: Bytes,
    head_since: Option<Instant>,
    client: &Rc<H::Client>,
    context: &Rc<ConnContext<H>>,
    requests: &Rc<Cell<u32>>,
) -> Outcome {
    let activity = Activity::http1(requests, head_since);
    let service = service(Requests::new(context, Rc::clone(client), Rc::clone(&activity)));
    let mut connection =
        context.http1.serve_connection(Io::new(stream, prefix, &activity).without_fragments(), service);
    let timer = context.clock.deadline();
    timer.set_after(conn_timeouts::PARK_AFTER);
    // While the process drains, hyper's own graceful shutdown is not used. It would close after a response without
    // `Connection: close`, when the client may have sent its next request.
    let mut is_grace_over_seen = false;
    let next = poll_fn(|cx| {
        // After the grace period, a response in progress is cut off. A request without one gets a response now
        // (`ensure_response`), after which hyper closes.
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
    // The future above has returned its borrow of the connection.
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
            // Linger after a body's error, too: the client must be able to read what was sent of the response.
            let is_cut = error.is_some_and(|error| error.is_user());
            if is_rejected || is_cut || activity.has_unread_input() {
                linger(&mut into_stream(connection.into_parts()).0, is_cut).await;
            }
        }
    }
    Outcome::Closed
}

/// Sends a response to a request whose head was not complete in time, and closes the connection.
async fn reject_late_head<H: Handler>(mut stream: Stream, client: &Rc<H::Client>, context: &Rc<ConnContext<H>>) {
    stream.write_best_effort(&context.handler.reject_head(client, HeadFault::HeadTimeout));
    linger(&mut stream, false).await;
}

/// Returns the stream, and the bytes that were read from it and not used.
fn into_stream<S>(parts: http1::Parts<Io, S>) -> (Stream, Bytes) {
    let (stream, unread) = parts.io.into_parts();
    (stream, concatenate(parts.read_buf, unread))
}

/// Concatenates two buffers. An empty one is dropped, since it can keep 8 KiB allocated.
fn concatenate(first: Bytes, second: Bytes) -> Bytes {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Bytes::new(),
        (true, false) => second,
        (false, true) => first,
        (false, false) => [first, second].concat().into(),
    }
}

/// Reports an error of hyper to the handler if the client's bytes caused it. Returns whether they did.
fn report_parse_error<H: Handler>(error: &hyper::Error, context: &ConnContext<H>, client: &Rc<H::Client>) -> bool {
    if error.is_parse() {
        let fault = if error.is_parse_too_large() { HeadFault::TooLarge } else { HeadFault::Malformed };
        context.handler.reject_head(client, fault);
    }
    error.is_parse()
}

/// How long a client may be silent after the server has closed its side of the connection. Many clients, browsers above
/// all, read the response only when they have sent all of their request.
const LINGER: Duration = Duration::from_secs(2);

/// How long a client may go on sending after that.
const LINGER_SENDING: Duration = Duration::from_secs(10);

/// The most bytes that are read and discarded after that.
const LINGER_BYTES: usize = 64 * 1024 * 1024;

/// How long a client without a request may be silent when the process stops: a round trip.
const LINGER_IDLE: Duration = Duration::from_millis(500);

/// Closes an idle connection, after its idle timeout or because the process stops. In the latter case a request may be
/// in transit: its client must see the connection closed, not reset.
pub(super) async fn close_idle<H>(mut stream: Stream, context: &ConnContext<H>) {
    if context.shutdown.is_announced() {
        close_lingering(&mut stream, LINGER_IDLE, false).await;
    }
}

/// Closes a connection on which the client may still be sending. If `is_cut`, the response is incomplete, and the close
/// must show that.
async fn linger(stream: &mut Stream, is_cut: bool) {
    close_lingering(stream, LINGER, is_cut).await;
}

/// Closes the server's side, and reads until the client closes its own or is silent for `silence`. If both were closed
/// at once, the kernel would reset the connection when the client sends more, and the client could lose the response
/// before it was read.
async fn close_lingering(stream: &mut Stream, silence: Duration, is_cut: bool) {
    let drain = async {
        let closed = if is_cut { stream.shutdown_without_close_notify().await } else { stream.shutdown().await };
        if closed.is_err() {
            return;
        }
        let mut remaining = LINGER_BYTES;
        // The buffer exists only during a poll, since all idle connections close at the same time.
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
    fn a_parked_connection_keeps_the_bytes_that_were_read_and_no_empty_buffer() {
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
