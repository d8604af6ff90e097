//! Owns: what comes before the first request of a connection: the PROXY header, TLS, and which HTTP is spoken.
//! Invariant: only trusted peers speak for others; all of it together has the time of a request's head.
//! Must not know: requests.

use std::io;
use std::net::IpAddr;

use http::HeaderValue;

use super::gather::{self, gather};
use super::listen::Door;
use super::{Limits, proxied};
use crate::net::{Socket, Stream};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its address, or that of the client that it speaks for.
    pub address: IpAddr,
    /// The holder of the certificate that it has shown in TLS, if it had to.
    pub subject: Option<HeaderValue>,
}

/// A connection that is ready for its first request.
pub(super) struct Arrival {
    pub(super) stream: Stream,
    pub(super) peer: Peer,
    pub(super) is_http2: bool,
}

/// Gets a connection from `address` ready. `None` if it was not worth it: the client was too slow,
/// went, or said something else.
pub(super) async fn greet(socket: Socket, address: IpAddr, door: &Door, limits: &Limits) -> Option<Arrival> {
    let peer = Peer { address, subject: None };
    if !door.greets() {
        return Some(Arrival { stream: socket.into(), peer, is_http2: false });
    }
    // In a box: most of what it takes is gone once the connection is ready.
    match tokio::time::timeout(limits.header_read_timeout, Box::pin(greeted(socket, peer, door))).await {
        Ok(Ok(arrival)) => Some(arrival),
        Ok(Err(error)) => {
            tracing::debug!(listener = &*door.name, peer = %address, %error, "a connection came to no request");
            None
        }
        Err(_) => {
            tracing::debug!(listener = &*door.name, peer = %address, "a connection took too long to begin");
            None
        }
    }
}

async fn greeted(mut socket: Socket, mut peer: Peer, door: &Door) -> io::Result<Arrival> {
    if door.takes_header_from(peer.address)
        && let Some(address) = proxied::read(&mut socket).await?
    {
        peer.address = address;
    }
    if let Some(tls) = &door.tls {
        gather(&socket, gather::is_record).await;
        let (stream, session) = tls.accept(socket).await?;
        peer.subject = session.subject;
        let stream = Stream::Tls(Box::new(stream.into()));
        return Ok(Arrival { stream, peer, is_http2: session.is_http2 });
    }
    let is_http2 = door.http2 && {
        gather(&socket, gather::is_preface_or_none).await;
        socket.gathered(gather::is_preface)
    };
    Ok(Arrival { stream: Stream::Plain(socket), peer, is_http2 })
}
