//! Owns: reading the PROXY protocol's header, versions 1 and 2 (HAProxy's proxy-protocol.txt), at a connection's start.
//! Invariant: no byte after the header is read, and a header has at most [`LONGEST`] bytes.
//! Must not know: who may send one.

use std::io;
use std::net::IpAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the shortest header: `PROXY UNKNOWN` and CRLF. The shortest of version 2 has one byte more.
const SHORTEST: usize = 15;

/// Bytes of the longest header of version 1, with CRLF.
const LONGEST_LINE: usize = 107;

/// Bytes of the longest header of version 2 that is accepted; its extensions are skipped. The specification requires
/// 536 bytes; certificates in extensions need some kilobytes.
const LONGEST: usize = 4096;

/// Reads the header and returns the address of the client that it names. Returns `None` if it names no client: the
/// sender's own health check, or a client that is not on an IP network.
///
/// # Errors
/// `InvalidData` if the bytes are no such header; else the error of the read.
pub(super) async fn read<R: AsyncRead + Unpin>(stream: &mut R) -> io::Result<Option<IpAddr>> {
    let mut header = vec![0; SHORTEST];
    stream.read_exact(&mut header).await?;
    if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\n") {
            if header.len() == LONGEST_LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
            header.push(stream.read_u8().await?);
        }
    } else {
        // Bytes 14 and 15: the length of the rest.
        let low = stream.read_u8().await?;
        header.push(low);
        let more = usize::from(u16::from_be_bytes([header[SHORTEST - 1], low]));
        let begun = header.len();
        if begun + more > LONGEST || !header.starts_with(b"\r\n\r\n\0\r\nQUIT\n") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        header.resize(begun + more, 0);
        stream.read_exact(&mut header[begun..]).await?;
    }
    match ProxyHeader::parse(&header, ParseConfig::default()) {
        Ok((parsed, length)) if length == header.len() => {
            Ok(parsed.proxied_address().map(|address| address.source.ip().to_canonical()))
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn of(mut bytes: &[u8]) -> (io::Result<Option<IpAddr>>, usize) {
        let all = bytes.len();
        let address = read(&mut bytes).await;
        (address, all - bytes.len())
    }

    #[tokio::test]
    async fn headers_of_both_versions_are_read_without_a_byte_after_them() {
        let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x7f\x00\x00\x01\x12\x34\x00\x50";
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
        for (header, expected) in [
            (&b"PROXY TCP4 10.0.0.1 127.0.0.1 4660 80\r\n"[..], Some("10.0.0.1")),
            (b"PROXY TCP6 2001:db8::1 ::1 4660 80\r\n", Some("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", None),
            (v2, Some("10.0.0.1")),
            (local, None),
        ] {
            let with_more = [header, b"GET / HTTP/1.1\r\n"].concat();
            let (address, read) = of(&with_more).await;
            assert_eq!(address.unwrap(), expected.map(|text| text.parse().unwrap()), "{header:?}");
            assert_eq!(read, header.len(), "{header:?}");
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_header_are_rejected() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let huge = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff";
        for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PROXY TCP4 x y 1 2\r\n", &long, huge, b"PROXY"] {
            assert!(of(bytes).await.0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, version: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let start: &[u8] = if version { b"PROXY " } else { b"\r\n\r\n\0\r\nQUIT\n" };
            let _ = runtime.block_on(of(&[start, &bytes].concat()));
        }
    }
}
