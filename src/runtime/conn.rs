//! Owns: one client connection, from its first byte to its end.
//! Invariant: every wait for a client has a limit; a connection that says nothing holds no buffer.
//! Must not know: what is served.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::conn_context::ConnContext;
use super::handshake::{self, AcceptedConnection};
use super::listener::ListenerInfo;
use super::{http1, http2};
use crate::handler::Handler;
use crate::net::Socket;

/// Serves one connection until it ends.
pub(super) async fn serve<H: Handler>(
    socket: Socket,
    address: IpAddr,
    listener: Arc<ListenerInfo>,
    context: Rc<ConnContext<H>>,
) {
    // Begins parked: a client that connects and says nothing costs no buffers either, and is not waited
    // for at the end.
    if !context.wait_readable(&socket).await {
        return http1::leave(socket.into(), &context).await;
    }
    let Some(accepted) = handshake::handshake(socket, address, &listener, &context.limits).await else { return };
    let AcceptedConnection { stream, peer, is_http2 } = accepted;
    // A proxy's connection is one of the client's that it speaks for.
    let is_proxied = peer.address != address;
    let Ok(_permit) = (if is_proxied { context.admit_client(peer.address) } else { Ok(None) }) else { return };
    let client = Rc::new(context.handler.begin_connection(listener.index, peer));
    drop(listener);
    match is_http2 {
        // In a box, or the connections of HTTP/1.1 would be as large.
        true => Box::pin(http2::serve(stream, client, context)).await,
        false => http1::serve(stream, client, context).await,
    }
}
