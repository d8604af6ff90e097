//! Owns: opening a stream to a backend on which HTTP can begin: socket, PROXY header, TLS.
//! Invariant: nothing written here is part of a request, so a failure means that no request was begun.
//! Must not know: requests; the time limit, which is the caller's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use proxy_header::{ProxiedAddress, ProxyHeader};
use tokio::io::AsyncWriteExt;

use super::settings::{Access, ProxyProtocol};
use crate::net::{Address, RecordSocket, Socket, Stream};

/// The length of the longest PROXY header, in bytes: version 1 with two IPv6 addresses.
const LONGEST: usize = 107;

/// A stream to a backend, ready for HTTP.
pub struct Dialled {
    /// The stream.
    pub stream: Stream,
    /// Whether to speak HTTP/2 on it instead of HTTP/1.1.
    pub is_http2: bool,
}

/// What a stream will be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Requests of this client, if it is known.
    Request(Option<IpAddr>),
    /// A health check. Some descriptors are reserved for these, which no request can take.
    Probe,
}

impl Purpose {
    fn client(self) -> Option<IpAddr> {
        match self {
            Purpose::Request(client) => client,
            Purpose::Probe => None,
        }
    }
}

/// Connects to the backend at `address`. If `http1` is set, it does not offer HTTP/2.
///
/// # Errors
/// The system's error, or the failure of the TLS handshake.
pub async fn dial(address: &Address, access: &Access, purpose: Purpose, http1: bool) -> io::Result<Dialled> {
    let mut socket = Socket::connect(address, purpose != Purpose::Probe).await?;
    if let Some(version) = access.settings.proxy_protocol {
        socket.write_all(&header(version, purpose.client(), address)?).await?;
    }
    let http2 = access.settings.http2 && !http1;
    let Some(tls) = &access.tls else { return Ok(Dialled { stream: socket.into(), is_http2: http2 }) };
    let name = tls.name_of(&address.ip().map_or_else(|| "localhost".into(), |ip| ip.to_string()))?;
    let (stream, is_http2) = tls.connect(name, RecordSocket::from(socket), http2).await?;
    Ok(Dialled { stream: Stream::Tls(Box::new(stream.into())), is_http2 })
}

/// Builds the PROXY header of a connection for `client`. The source port is 0: one connection to the backend may carry
/// requests of several client connections. The destination is the backend's own address: a listener on all addresses
/// does not know which one the client connected to.
fn header(version: ProxyProtocol, client: Option<IpAddr>, backend: &Address) -> io::Result<Vec<u8>> {
    let destination = backend.tcp().unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let header = client.map_or_else(ProxyHeader::with_local, |client| {
        // The protocol requires both addresses to be of one family.
        let destination = match (client, destination.ip()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => destination,
            (IpAddr::V6(_), IpAddr::V4(ip)) => SocketAddr::new(ip.to_ipv6_mapped().into(), destination.port()),
            (IpAddr::V4(_), IpAddr::V6(_)) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), destination.port()),
        };
        ProxyHeader::with_address(ProxiedAddress::stream(SocketAddr::new(client, 0), destination))
    });
    let mut bytes = Vec::with_capacity(LONGEST);
    let encoded = match version {
        ProxyProtocol::V1 => header.encode_v1(&mut bytes),
        ProxyProtocol::V2 => header.encode_v2(&mut bytes),
    };
    encoded.map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: ProxyProtocol, client: Option<&str>, backend: &str) -> Vec<u8> {
        header(version, client.map(|client| client.parse().unwrap()), &backend.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_header_names_the_client_in_one_family_with_the_backend() {
        let v1 = |client, backend| String::from_utf8(of(ProxyProtocol::V1, client, backend)).unwrap();
        assert_eq!(v1(Some("10.0.0.1"), "127.0.0.1:80"), "PROXY TCP4 10.0.0.1 127.0.0.1 0 80\r\n");
        assert_eq!(v1(Some("2001:db8::1"), "127.0.0.1:80"), "PROXY TCP6 2001:db8::1 ::ffff:127.0.0.1 0 80\r\n");
        assert_eq!(v1(Some("10.0.0.1"), "[::1]:80"), "PROXY TCP4 10.0.0.1 0.0.0.0 0 80\r\n");
        assert_eq!(v1(Some("10.0.0.1"), "unix:/run/app.sock"), "PROXY TCP4 10.0.0.1 0.0.0.0 0 0\r\n");
        assert_eq!(v1(None, "127.0.0.1:80"), "PROXY UNKNOWN\r\n");
        let v2 = of(ProxyProtocol::V2, Some("10.0.0.1"), "127.0.0.1:80");
        assert_eq!(v2, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x7f\x00\x00\x01\x00\x00\x00\x50");
    }
}
