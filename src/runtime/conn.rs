//! Owns: one client connection, from its first byte to its end.
//! Invariant: every wait for a client has a limit, and a connection on which nothing has arrived holds no buffer.
//! Must not know: what the handler does with a request.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::conn_context::ConnContext;
use super::handshake::{self, AcceptedConnection};
use super::listener::ListenerTransport;
use super::{http1, http2};
use crate::handler::Handler;
use crate::net::Socket;

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(
    socket: Socket,
    address: IpAddr,
    listener: Arc<ListenerTransport<H::Listener>>,
    context: Rc<ConnContext<H>>,
) {
    // The connection begins parked: a client that connects and sends nothing costs no buffers, and a drain does not
    // wait for it.
    if !context.wait_readable(&socket).await {
        return http1::close_idle(socket.into(), &context).await;
    }
    let Some(accepted) = handshake::handshake(socket, address, &listener, &context.limits).await else { return };
    let AcceptedConnection { stream, peer, is_http2 } = accepted;
    // A connection with a PROXY header counts as one of the client that the header names.
    let is_proxied = peer.address != address;
    let Ok(_permit) = (if is_proxied { context.admit_client(peer.address) } else { Ok(None) }) else { return };
    let client = Rc::new(context.handler.begin_connection(&listener.info, peer));
    drop(listener);
    match is_http2 {
        // Boxed: the future of an HTTP/1.1 connection would be as large otherwise.
        true => Box::pin(http2::serve(stream, client, context)).await,
        false => http1::serve(stream, client, context).await,
    }
}
