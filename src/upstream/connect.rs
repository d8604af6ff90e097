//! Owns: a new connection to a backend.
//! Invariant: a failure here means that nothing was sent.
//! Must not know: requests.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body::Body;
use hyper::client::conn::http1;

use super::Access;
use super::backend_stream::{BackendIo, BackendStream};
use super::connection_pool::PoolKey;
use super::dial::{Dialled, Purpose, dial};
use super::failure::{Fact, Failure};
use super::http1::{Http1Connection, Transport};
use super::http2::Http2Connection;
use super::wake_filter::WakeFilter;
use crate::clock;
use crate::net::{Address, descriptor_reserve};
use crate::reason::Reason;

/// The largest head of a response, in bytes; what does not fit is a 502 for its request.
pub(super) const MAX_RESPONSE_HEAD: usize = 256 * 1024;

/// Connects to the backend at `address` for a request. `watch` is polled all the while and can end
/// the attempt with a fact.
///
/// # Errors
/// No connection; nothing was sent.
pub async fn connect<B>(
    address: &Address,
    access: &Access,
    key: PoolKey,
    mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
) -> Result<NewConnection<B>, Failure>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unsent = |fact| Failure::new(fact, false);
    let start = clock::now();
    // In a box: it takes kilobytes, for which every request would have room, and few connect.
    let mut connecting = Box::pin(async {
        let failed = |error: io::Error| {
            tracing::debug!(%address, %error, "no connection to a backend");
            if descriptor_reserve::is_local_shortage(&error) {
                descriptor_reserve::report_shortage("cannot connect to a backend", &error);
                return unsent(Fact::Shortage);
            }
            unsent(Fact::Connect(Reason::of(&error)))
        };
        let Dialled { stream, is_http2 } =
            dial(address, access, Purpose::Request(key.client), key.http1).await.map_err(failed)?;
        let (sent, pacing, received) = (stream.socket().write_progress(), Rc::default(), Rc::default());
        let io = BackendIo::new(BackendStream::new(stream, &pacing, &received));
        let failed = |error: hyper::Error| unsent(Fact::of(&error)).with_detail(Some(Reason::of(&error)));
        if is_http2 {
            return Ok(NewConnection::Http2(Http2Connection::handshake(io).await.map_err(failed)?));
        }
        let wake_filter = WakeFilter::new();
        let http = http1_builder(access.settings.header_count);
        let (sender, connection) = http.handshake(wake_filter.wrap(io)).await.map_err(failed)?;
        let alpn_fell_back_to_h1 = access.settings.http2 && !key.http1;
        let transport =
            Transport { sent, pacing, received, connect_time: clock::now().saturating_duration_since(start) };
        Ok(NewConnection::Http1(Box::new(Http1Connection::new(
            sender,
            connection,
            wake_filter,
            transport,
            alpn_fell_back_to_h1,
        ))))
    });
    std::future::poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(new) => Poll::Ready(new),
        Poll::Pending => watch(cx).map(|fact| Err(unsent(fact))),
    })
    .await
}

/// How hyper is to read responses of at most `header_count` fields.
fn http1_builder(header_count: usize) -> http1::Builder {
    let mut http = http1::Builder::new();
    // RFC 9112 §5.1 has a proxy remove the blank between a field's name and the colon from a response. A
    // line that goes on in the next one stays malformed, as §5.2 allows.
    http.max_header_size(MAX_RESPONSE_HEAD).allow_spaces_after_header_name_in_responses(true);
    // For its default hyper has room on the stack, for any number that it is told it allocates.
    if header_count != 100 {
        http.max_headers(header_count);
    }
    http
}

/// A connection that was just made.
pub enum NewConnection<B: Body + 'static> {
    /// For one request at a time.
    Http1(Box<Http1Connection<B>>),
    /// For many.
    Http2(Http2Connection<B>),
}
