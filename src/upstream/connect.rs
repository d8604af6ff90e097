//! Owns: making a new connection to a backend, up to the HTTP handshake.
//! Invariant: if it fails, no byte of a request was sent.
//! Must not know: requests.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body;

use super::backend_stream::BackendStream;
use super::dial::{Dialled, Purpose, dial};
use super::failure::{Fact, Failure};
use super::http1::Http1Connection;
use super::http1::connection::FieldRules;
use super::http2::Http2Connection;
use super::settings::Access;
use crate::clock;
use crate::net::{Address, descriptor_reserve};
use crate::reason::Reason;

/// Connects to the backend at `address` for a request of `client`, over HTTP/1.1 alone if `http1` is set. It polls
/// `watch` meanwhile, which can end the attempt with a fact.
///
/// # Errors
/// Why there is no connection. Nothing was sent.
pub async fn connect<B>(
    address: &Address,
    access: &Access,
    client: Option<IpAddr>,
    http1: bool,
    mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
) -> Result<NewConnection<B>, Failure>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let unsent = |fact| Failure::new(fact, false);
    let start = clock::now();
    // Boxed: this future takes kilobytes. Inline, every request's future would reserve them, and few requests connect.
    let mut connecting = Box::pin(async {
        let failed = |error: io::Error| {
            tracing::debug!(%address, %error, "cannot connect to a backend");
            if descriptor_reserve::is_local_shortage(&error) {
                descriptor_reserve::report_shortage("cannot connect to a backend", &error);
                return unsent(Fact::Shortage);
            }
            unsent(Fact::Connect(Reason::of(&error)))
        };
        let Dialled { stream, is_http2 } =
            dial(address, access, Purpose::Request(client), http1).await.map_err(failed)?;
        let sent = stream.socket().write_progress();
        let stream = BackendStream::new(stream);
        if is_http2 {
            let failed = |error: h2::Error| unsent(Fact::Closed).with_detail(Some(Reason::of(&error)));
            return Ok(NewConnection::Http2(Http2Connection::handshake(stream).await.map_err(failed)?));
        }
        let connect_time = clock::now().saturating_duration_since(start);
        let alpn_fell_back_to_h1 = access.settings.http2 && !http1;
        let rules = FieldRules { max: access.settings.header_count, kept_apart: access.kept_apart };
        let connection = Http1Connection::new(stream, sent, rules, connect_time, alpn_fell_back_to_h1);
        Ok(NewConnection::Http1(Box::new(connection)))
    });
    std::future::poll_fn(|cx| match connecting.as_mut().poll(cx) {
        Poll::Ready(new) => Poll::Ready(new),
        Poll::Pending => watch(cx).map(|fact| Err(unsent(fact))),
    })
    .await
}

/// A new connection.
pub enum NewConnection<B: Body + 'static> {
    /// An HTTP/1.1 connection, for one request at a time.
    Http1(Box<Http1Connection<B>>),
    /// An HTTP/2 connection, for many requests at once.
    Http2(Http2Connection),
}
