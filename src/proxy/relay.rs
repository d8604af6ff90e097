//! Owns: the body of a response on its way to the client.
//! Invariant: a body is read at the client's pace; one that broke off is never passed on as complete.
//! Must not know: routes, candidates, retries.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};

use super::attempt::UpstreamResponse;
use super::body::RequestBody;
use super::error::{ProxyError, Unserved};
use super::exchange::Exchange;
use super::pages::Template;
use super::response_end::ResponseEnd;
use super::tunnel::{BackendTunnel, TunnelTimeouts};
use super::{authorize, respond, trailers};
use crate::affinity::Cause;
use crate::clock;
use crate::handler::{Reply, ResponseContent};
use crate::http2::PacedBody;
use crate::upstream::{Blame, Fact, Failure, IncompleteBody, UpstreamBody};

/// The body of a response. It owns the exchange, which ends with it.
pub struct ResponseBody {
    content: Content,
    /// `None` once a tunnel has taken it over.
    exchange: Option<Box<Exchange>>,
}

enum Content {
    /// A page that Linchpin made, or nothing more.
    Page(Bytes),
    /// The body of a backend's response.
    Relayed {
        received: UpstreamBody<RequestBody>,
        /// Since when it waits for the side in `waits_for`.
        since: Instant,
        waits_for: Side,
        /// The client once took nothing for so long that the backend may have timed out.
        is_slow: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Backend,
    Client,
}

/// A client that takes nothing for longer than this may make its backend time out.
const SLOW: Duration = Duration::from_secs(1);

/// The backend ended the response early, or it paused for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenOff;

impl std::fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the backend broke the response off, or was silent for too long")
    }
}

impl std::error::Error for BrokenOff {}

/// Makes the reply of a backend's response.
pub(super) async fn relay(mut exchange: Box<Exchange>, response: UpstreamResponse) -> Reply<ResponseBody> {
    let (mut head, received) = response.into_parts();
    exchange.response_started(head.status);
    exchange.explain(&mut head.headers);
    let mut is_stream = false;
    let content = match received.is_end() {
        false => {
            is_stream = exchange.note_stream(&head.headers);
            Content::Relayed { received, since: clock::now(), waits_for: Side::Client, is_slow: false }
        }
        true => {
            // The connection can serve another request before this one's client has read the response.
            let mut received = Some(received);
            let connection =
                std::future::poll_fn(|cx| Poll::Ready(received.take().and_then(|received| received.into_reusable(cx))))
                    .await;
            exchange.completed(connection);
            Content::Page(Bytes::new())
        }
    };
    let response = Response::from_parts(head, ResponseBody { content, exchange: Some(exchange) });
    Reply { response, tunnel: None, is_stream }
}

/// Makes the reply of a backend's response that switches protocols, with the tunnel that follows.
pub(super) fn switch(mut exchange: Box<Exchange>, response: UpstreamResponse) -> Reply<ResponseBody> {
    let (mut head, received) = response.into_parts();
    let Some((backend, read)) = received.into_upgraded() else {
        return refuse(exchange, ProxyError::Backend(Failure::new(Fact::Closed, true)));
    };
    exchange.response_started(head.status);
    exchange.explain(&mut head.headers);
    exchange.completed(None);
    exchange.begin_tunnel();
    let limits = exchange.own_timeouts().map_or(TunnelTimeouts::default(), TunnelTimeouts::of);
    let tunnel = BackendTunnel::new(exchange, backend, read, limits);
    let nothing = ResponseBody { content: Content::Page(Bytes::new()), exchange: None };
    Reply { response: Response::from_parts(head, nothing), tunnel: Some(Box::new(tunnel)), is_stream: false }
}

/// Makes the reply of a redirect.
pub(super) fn redirect(mut exchange: Box<Exchange>, mut response: Response<()>) -> Reply<ResponseBody> {
    exchange.response_started(response.status());
    apply_to_local_reply(&exchange, response.headers_mut());
    exchange.explain(response.headers_mut());
    let response = response.map(|()| ResponseBody { content: Content::Page(Bytes::new()), exchange: Some(exchange) });
    Reply { response, tunnel: None, is_stream: false }
}

/// Makes the reply to an ACME server that validates a name (RFC 8555 §8.3).
pub(super) fn challenge(mut exchange: Box<Exchange>, response: Bytes) -> Reply<ResponseBody> {
    let mut response = Response::new(response);
    exchange.response_started(response.status());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let response = response.map(|page| ResponseBody { content: Content::Page(page), exchange: Some(exchange) });
    Reply { response, tunnel: None, is_stream: false }
}

/// Makes the reply of an error, with a page that explains it.
pub(super) fn refuse(mut exchange: Box<Exchange>, error: ProxyError) -> Reply<ResponseBody> {
    exchange.refused(error);
    let (id, accepts_json) = (exchange.id().as_str(), exchange.accepts_json());
    let mut response = respond::respond_with_page(error, id, accepts_json, own_page(&exchange, error));
    authorize::challenge(&exchange, error, response.headers_mut());
    apply_to_local_reply(&exchange, response.headers_mut());
    exchange.explain(response.headers_mut());
    let response = response.map(|page| ResponseBody { content: Content::Page(page), exchange: Some(exchange) });
    Reply { response, tunnel: None, is_stream: false }
}

/// Returns the pool's own page for an error, if it has one.
fn own_page(exchange: &Exchange, error: ProxyError) -> Option<&Template> {
    let pages = &exchange.service()?.pages;
    let is_maintenance = match error {
        ProxyError::NoBackend(unserved) => unserved == Unserved::Maintenance,
        ProxyError::PinLost(_) => exchange.record.cause == Some(Cause::Maintenance),
        _ => false,
    };
    pages.maintenance.as_deref().filter(|_| is_maintenance).or(pages.error.as_deref())
}

/// Applies the route's changes to a page or a redirect, which keeps the fields that it sets itself.
fn apply_to_local_reply(exchange: &Exchange, headers: &mut HeaderMap) {
    if let Some(edits) = exchange.edits() {
        edits.response.apply_to_local_reply(headers);
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let ResponseBody { content, exchange: Some(exchange) } = &mut *self else {
            return Poll::Ready(self.rest().map(|page| Ok(Frame::data(page))));
        };
        let (received, since, waits_for, is_slow) = match content {
            Content::Page(page) => {
                let page = std::mem::take(page);
                exchange.body_sent(page.len());
                return Poll::Ready((!page.is_empty()).then(|| Ok(Frame::data(page))));
            }
            Content::Relayed { received, since, waits_for, is_slow } => (received, since, waits_for, is_slow),
        };
        if exchange.ends_stream() {
            let is_complete = exchange.drained();
            self.content = Content::Page(Bytes::new());
            return Poll::Ready((!is_complete).then_some(Err(BrokenOff)));
        }
        if *waits_for == Side::Client {
            *is_slow |= clock::now().saturating_duration_since(*since) >= SLOW;
        }
        let frame = match received.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if std::mem::replace(waits_for, Side::Backend) == Side::Client {
                    *since = clock::now();
                    exchange.set_quiet_deadline(*since);
                }
                while exchange.wait_deadline().poll(cx).is_ready() {
                    if exchange.quiet_until(*since).is_some_and(|due| due <= clock::now()) {
                        exchange.broke_off(ResponseEnd::Quiet);
                        return Poll::Ready(Some(Err(BrokenOff)));
                    }
                    exchange.set_quiet_deadline(*since);
                }
                return Poll::Pending;
            }
        };
        (*since, *waits_for) = (clock::now(), Side::Client);
        match frame {
            Some(Ok(mut frame)) => {
                let is_last = frame.is_trailers();
                if let Some(trailers) = frame.trailers_mut() {
                    trailers::sanitize(trailers, exchange.edits().map(|edits| &edits.response));
                    if trailers.is_empty() {
                        self.end(cx);
                        return Poll::Ready(None);
                    }
                }
                exchange.body_sent(frame.data_ref().map_or(0, Bytes::len));
                // hyper does not poll again after trailers.
                if is_last || received.is_end() {
                    self.end(cx);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(IncompleteBody { blame })) => {
                exchange.broke_off(match blame {
                    Blame::Nobody => ResponseEnd::Connection,
                    _ if *is_slow => ResponseEnd::KeptWaiting,
                    _ => ResponseEnd::Backend,
                });
                Poll::Ready(Some(Err(BrokenOff)))
            }
            None => {
                self.end(cx);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(page) => page.is_empty(),
            Content::Relayed { received, .. } => received.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(page) => SizeHint::with_exact(page.len() as u64),
            Content::Relayed { received, .. } => received.size_hint(),
        }
    }
}

impl ResponseBody {
    /// Makes a page without an exchange, and so without a record.
    pub(super) fn page(page: Bytes) -> ResponseBody {
        ResponseBody { content: Content::Page(page), exchange: None }
    }

    /// Returns the rest of a page.
    fn rest(&mut self) -> Option<Bytes> {
        match &mut self.content {
            Content::Page(page) => Some(std::mem::take(page)).filter(|page| !page.is_empty()),
            Content::Relayed { .. } => None,
        }
    }

    /// Ends a body that was read to its end: the connection can serve another request.
    fn end(&mut self, cx: &mut Context<'_>) {
        if let Content::Relayed { received, .. } = std::mem::replace(&mut self.content, Content::Page(Bytes::new())) {
            let connection = received.into_reusable(cx);
            if let Some(exchange) = &mut self.exchange {
                exchange.completed(connection);
            }
        }
    }
}

impl PacedBody for ResponseBody {
    fn hold(&mut self, cx: &mut Context<'_>) {
        if let Content::Relayed { received, .. } = &mut self.content {
            received.hold(cx);
        }
    }
}

impl ResponseContent for ResponseBody {
    fn abort(&mut self, bytes: u64) {
        if let Some(exchange) = &mut self.exchange {
            exchange.never_sent(bytes);
        }
    }

    fn is_windowed(&self) -> bool {
        matches!(&self.content, Content::Relayed { received, .. } if received.is_windowed())
    }

    fn has_read_request(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.has_read_request())
    }
}
