//! Owns: one client connection, from its first byte to its end.
//! Invariant: every wait for a client has a limit, and a connection on which nothing has arrived holds no buffer.
//! Must not know: what the handler does with a request.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::conn_context::ConnContext;
use super::handshake::{self, AcceptedConnection};
use super::listener::ListenerTransport;
use super::per_client_limit::ClientPermit;
use super::{http1, http2};
use crate::handler::Handler;
use crate::net::{Socket, Stream};

/// Serves one connection until it ends, and drops what it `holds` then.
///
/// Idle connections keep this future in memory. So it is a block, which has its captures once (an async function has room for
/// its arguments twice), and boxes what takes long only at the beginning or the end.
#[expect(clippy::manual_async_fn, reason = "an async function would have room for its arguments twice")]
pub(super) fn serve<H: Handler>(
    socket: Socket,
    address: IpAddr,
    listener: Arc<ListenerTransport<H::Listener>>,
    context: Rc<ConnContext<H>>,
    holds: impl Sized + 'static,
) -> impl Future<Output = ()> + 'static {
    async move {
        // The connection begins parked: a client that connects and sends nothing costs no buffers, and a drain does not
        // wait for it.
        if !context.wait_readable(&socket).await {
            Box::pin(http1::close_idle(socket.into(), &context)).await;
        } else if let Some(connection) = Box::pin(begin(socket, address, listener, &context)).await {
            let BegunConnection { stream, client, is_http2, permit } = connection;
            match is_http2 {
                // Boxed: the future of an HTTP/1.1 connection would be as large otherwise.
                true => Box::pin(http2::serve(stream, client, context)).await,
                false => http1::serve(stream, client, context).await,
            }
            drop(permit);
        }
        drop(holds);
    }
}

/// A connection that is ready to read its first request.
struct BegunConnection<H: Handler> {
    stream: Stream,
    client: Rc<H::Client>,
    is_http2: bool,
    /// Of the client that a PROXY header names.
    permit: Option<ClientPermit>,
}

/// Performs the handshakes. Returns `None` if they fail, or if the client has too many connections.
async fn begin<H: Handler>(
    socket: Socket,
    address: IpAddr,
    listener: Arc<ListenerTransport<H::Listener>>,
    context: &ConnContext<H>,
) -> Option<BegunConnection<H>> {
    let accepted = handshake::handshake(socket, address, &listener, &context.limits).await?;
    let AcceptedConnection { stream, peer, is_http2 } = accepted;
    // A connection with a PROXY header counts as one of the client that the header names.
    let is_proxied = peer.address != address;
    let permit = if is_proxied { context.admit_client(peer.address).ok()? } else { None };
    let client = Rc::new(context.handler.begin_connection(&listener.info, peer));
    Some(BegunConnection { stream, client, is_http2, permit })
}
