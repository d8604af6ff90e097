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
use super::dial::{Dialled, Purpose, dial};
use super::failure::{Fact, Failure};
use super::idle::Wanted;
use super::io::{Backend, Io};
use super::quiet::Quiet;
use super::shared::Shared;
use super::wire::{Below, Wire};
use crate::clock;
use crate::net::{Address, shortage};
use crate::reason::Reason;

/// The largest head of a response, in bytes; what does not fit is a 502 for its request.
pub(super) const MAX_HEAD: usize = 256 * 1024;

/// Connects to the backend at `address` for a request. `watch` is polled all the while and can end
/// the attempt with a fact.
///
/// # Errors
/// No connection; nothing was sent.
pub async fn connect<B>(
    address: &Address,
    access: &Access,
    wanted: Wanted,
    mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
) -> Result<Fresh<B>, Failure>
where
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unsent = |fact| Failure::new(fact, false);
    let begun = clock::now();
    // In a box: it takes kilobytes, for which every request would have room, and few connect.
    let mut connecting = Box::pin(async {
        let failed = |error: io::Error| {
            tracing::debug!(%address, %error, "no connection to a backend");
            if shortage::is_ours(&error) {
                shortage::report("cannot connect to a backend", &error);
                return unsent(Fact::Shortage);
            }
            unsent(Fact::Connect(Reason::of(&error)))
        };
        let Dialled { stream, is_http2 } =
            dial(address, access, Purpose::Request(wanted.client), wanted.http1).await.map_err(failed)?;
        let (sent, pace, heard) = (stream.socket().sent(), Rc::default(), Rc::default());
        let io = Io::new(Backend::new(stream, &pace, &heard));
        let failed = |error: hyper::Error| unsent(Fact::of(&error)).said(Some(Reason::of(&error)));
        if is_http2 {
            return Ok(Fresh::Shared(Shared::begin(io).await.map_err(failed)?));
        }
        let quiet = Quiet::new();
        let http = http1_builder(access.settings.header_count);
        let (sender, connection) = http.handshake(quiet.socket(io)).await.map_err(failed)?;
        let is_all_there_is = access.settings.http2 && !wanted.http1;
        let below = Below { sent, pace, heard, connect_time: clock::now().saturating_duration_since(begun) };
        Ok(Fresh::Own(Box::new(Wire::new(sender, connection, quiet, below, is_all_there_is))))
    });
    std::future::poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(fresh) => Poll::Ready(fresh),
        Poll::Pending => watch(cx).map(|fact| Err(unsent(fact))),
    })
    .await
}

/// How hyper is to read responses of at most `header_count` fields.
fn http1_builder(header_count: usize) -> http1::Builder {
    let mut http = http1::Builder::new();
    // RFC 9112 §5.1 has a proxy remove the blank between a field's name and the colon from a response. A
    // line that goes on in the next one stays malformed, as §5.2 allows.
    http.max_header_size(MAX_HEAD).allow_spaces_after_header_name_in_responses(true);
    // For its default hyper has room on the stack, for any number that it is told it allocates.
    if header_count != 100 {
        http.max_headers(header_count);
    }
    http
}

/// A connection that was just made.
pub enum Fresh<B: Body + 'static> {
    /// For one request at a time.
    Own(Box<Wire<B>>),
    /// For many.
    Shared(Shared<B>),
}
