//! Owns: one stream of a client's HTTP/2 connection, from its request to the end of its response.
//! Invariant: a stream whose client accepts nothing for too long is reset, which releases its backend.
//! Must not know: the connection; what the handler does with a request.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, Request, Response};

use super::activity::RequestGuard;
use super::backlog::StreamBacklog;
use super::delivery::{CountedChunk, TrackedBody};
use super::stream_tunnel::StreamTunnel;
use crate::clock::Deadline;
use crate::handler::{IncomingBody, Reply, ResponseContent};
use crate::http2::{BodySender, StreamBody};
use crate::net::interim::StreamInterim;

/// Fields that belong to a connection of HTTP/1.1 (RFC 9113 §8.2.2).
const CONNECTION_FIELDS: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
];

/// Separates a request from what it says about its response. A tunnel (RFC 8441) needs the client's side of the stream.
pub(super) fn split(request: Request<RecvStream>) -> (Request<IncomingBody>, ResponseRules) {
    let (head, stream) = request.into_parts();
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let body = StreamBody::new(stream, length);
    let is_to_head = head.method == Method::HEAD;
    let (body, tunnel) = match head.method {
        Method::CONNECT => (IncomingBody::Empty, Some(body)),
        _ => (IncomingBody::Http2(Box::new(body)), None),
    };
    (Request::from_parts(head, body), ResponseRules { tunnel, is_to_head })
}

/// How a stream of a client that accepts nothing ends.
pub(super) struct StallLimit {
    /// Records since when the client accepts nothing.
    pub(super) backlog: Rc<StreamBacklog>,
    pub(super) timer: Deadline,
    /// How long a client may accept nothing of a response.
    pub(super) timeout: Duration,
}

/// What the request says about its response.
pub(super) struct ResponseRules {
    /// The client's side of the stream, if the request asks for a tunnel.
    pub(super) tunnel: Option<StreamBody>,
    /// Whether the response has no body, since the request is HEAD (RFC 9110 §9.3.2).
    pub(super) is_to_head: bool,
}

/// Serves a stream until it ends. The responses in `interim` are sent before the one of `handling`.
pub(super) async fn serve<B>(
    handling: impl Future<Output = (Reply<B>, RequestGuard)>,
    mut respond: SendResponse<CountedChunk>,
    interim: Rc<StreamInterim>,
    rules: ResponseRules,
    limit: StallLimit,
) where
    B: ResponseContent<Error: Unpin> + Unpin,
{
    let mut handling = pin!(handling);
    let handled = poll_fn(|cx| {
        let polled = handling.as_mut().poll(cx);
        for response in interim.take() {
            if let Err(error) = respond.send_informational(response) {
                tracing::debug!(%error, "cannot send an interim response");
            }
        }
        match polled {
            Poll::Ready(handled) => Poll::Ready(Some(handled)),
            // The client may not wait for the response any more.
            Poll::Pending => respond.poll_reset(cx).map(|_| None),
        }
    });
    let Some((reply, mut guard)) = handled.await else { return };
    let Reply { mut response, tunnel: protocol, is_stream } = reply;
    guard.responded(is_stream);
    complete_fields(response.headers_mut());
    if let (Some(protocol), Some(client)) = (protocol, rules.tunnel) {
        response.headers_mut().remove(CONTENT_LENGTH);
        let Ok(stream) = respond.send_response(response.map(drop), false) else { return };
        protocol.run(Box::new(StreamTunnel::new(client, stream)), Bytes::new()).await;
        return;
    }
    let (mut head, body) = response.into_parts();
    let is_empty = body.is_end_stream();
    if let Some(length) = body.size_hint().exact().filter(|_| !is_empty) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    let is_end = is_empty || rules.is_to_head;
    let body = TrackedBody::new(body, Some(guard), Some(Rc::clone(&limit.backlog)));
    match respond.send_response(Response::from_parts(head, ()), is_end) {
        Ok(_) if is_end => {}
        Ok(stream) => send(BodySender::new(body, stream, Reason::INTERNAL_ERROR), limit).await,
        Err(error) => {
            tracing::debug!(%error, "cannot send a response");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Sends a body to its end, or until the client has accepted nothing of it for too long.
async fn send(sender: impl Future<Output = ()>, limit: StallLimit) {
    let StallLimit { backlog, timer, timeout } = limit;
    let mut sender = pin!(sender);
    poll_fn(|cx| {
        if sender.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match backlog.stalled_since().and_then(|since| since.checked_add(timeout)) {
            Some(due) => {
                timer.set(due);
                timer.poll(cx)
            }
            None => Poll::Pending,
        }
    })
    .await;
}

/// Adds the date, as hyper does over HTTP/1.1, and removes the fields that HTTP/2 forbids.
fn complete_fields(headers: &mut HeaderMap) {
    for name in &CONNECTION_FIELDS {
        headers.remove(name);
    }
    headers.entry(DATE).or_insert_with(super::date::field_value);
}
