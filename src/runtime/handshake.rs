//! Owns: what precedes the first request of a connection: the PROXY header, the TLS handshake, the version of HTTP.
//! Invariant: only trusted peers may name another client, and all of it together has the time limit of one head.
//! Must not know: requests.

use std::io;
use std::net::IpAddr;

use super::first_bytes::{self, gather};
use super::listener::ListenerTransport;
use super::proxy_protocol;
use super::settings::Limits;
use crate::handler::Peer;
use crate::net::{RecordSocket, Socket, Stream};

/// A connection that is ready to read its first request.
pub(super) struct AcceptedConnection {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) is_http2: bool,
}

/// Performs the handshakes of a connection from `address`. Returns `None` if they fail: the client was too slow,
/// left, or sent something else.
pub(super) async fn handshake<L>(
    socket: Socket,
    address: IpAddr,
    listener: &ListenerTransport<L>,
    limits: &Limits,
) -> Option<AcceptedConnection> {
    let peer = Peer { address, subject: None, tls_version: None };
    if !listener.has_preamble() {
        return Some(AcceptedConnection { stream: socket.into(), peer, is_http2: false });
    }
    // Boxed: most of this memory is freed once the connection is ready.
    match tokio::time::timeout(limits.header_read_timeout, Box::pin(run(socket, peer, listener))).await {
        Ok(Ok(accepted)) => Some(accepted),
        Ok(Err(error)) => {
            tracing::debug!(listener = &*listener.name, peer = %address, %error, "a connection failed before its first request");
            None
        }
        Err(_) => {
            tracing::debug!(listener = &*listener.name, peer = %address, "a handshake took too long");
            None
        }
    }
}

async fn run<L>(mut socket: Socket, mut peer: Peer, listener: &ListenerTransport<L>) -> io::Result<AcceptedConnection> {
    if listener.expects_proxy_header(peer.address)
        && let Some(address) = proxy_protocol::read(&mut socket).await?
    {
        peer.address = address;
    }
    if let Some(tls) = &listener.tls {
        gather(&socket, first_bytes::is_record_complete).await;
        let (stream, session) = tls.accept(RecordSocket::from(socket)).await?;
        (peer.subject, peer.tls_version) = (session.subject, session.version);
        let stream = Stream::Tls(Box::new(stream.into()));
        return Ok(AcceptedConnection { stream, peer, is_http2: session.is_http2 });
    }
    let is_http2 = listener.allows_http2 && {
        gather(&socket, first_bytes::is_preface_decided).await;
        socket.peek_prefetched(first_bytes::is_preface)
    };
    Ok(AcceptedConnection { stream: Stream::Plain(socket), peer, is_http2 })
}
