//! Owns: what comes before the first request of a connection: the PROXY header, TLS, and which HTTP is spoken.
//! Invariant: only trusted peers speak for others; all of it together has the time of a request's head.
//! Must not know: requests.

use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use http::HeaderValue;
use tokio::io::AsyncReadExt;

use super::listen::Door;
use super::{Limits, proxied};
use crate::net::{Socket, Stream};

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    /// Bytes of HTTP that were read already.
    pub(super) prefix: Bytes,
    pub(super) peer: Peer,
    pub(super) is_http2: bool,
}

/// Gets a connection from `address` ready. `None` if it was not worth it: the client was too slow,
/// went, or said something else.
pub(super) async fn greet(socket: Socket, address: IpAddr, door: &Door, limits: &Limits) -> Option<Arrival> {
    let peer = Peer { address, subject: None };
    if !door.greets() {
        return Some(Arrival { stream: socket.into(), prefix: Bytes::new(), peer, is_http2: false });
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
        let (stream, session) = tls.accept(socket).await?;
        peer.subject = session.subject;
        let stream = Stream::Tls(Box::new(stream.into()));
        return Ok(Arrival { stream, prefix: Bytes::new(), peer, is_http2: session.is_http2 });
    }
    let mut stream = Stream::Plain(socket);
    let (prefix, is_http2) = match door.http2 {
        true => sniff(&mut stream).await?,
        false => (Bytes::new(), false),
    };
    Ok(Arrival { stream, prefix, peer, is_http2 })
}

/// Reads until it is plain which HTTP is spoken (RFC 9113 §3.3, prior knowledge). No request of
/// HTTP/1.1 is a beginning of the preface for longer than "PRI * HTTP/2.0".
async fn sniff(stream: &mut Stream) -> io::Result<(Bytes, bool)> {
    let mut read = Vec::with_capacity(PREFACE.len());
    loop {
        let mut piece = [0; PREFACE.len()];
        let room = PREFACE.len() - read.len();
        let length = stream.read(&mut piece[..room]).await?;
        read.extend_from_slice(&piece[..length]);
        if length == 0 || !PREFACE.starts_with(&read) {
            return Ok((read.into(), false));
        }
        if read.len() == PREFACE.len() {
            return Ok((read.into(), true));
        }
    }
}
