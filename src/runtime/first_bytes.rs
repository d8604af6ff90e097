//! Owns: how many of a client's first bytes must arrive before hyper or TLS gets buffers to read them.
//! Invariant: until then a connection holds only the bytes that arrived, and the reader gets them from the first one.
//! Must not know: what the bytes mean, beyond where a head, preface or record ends.

use std::future::poll_fn;

use memchr::memmem;

use crate::net::Socket;

/// The client's connection preface of HTTP/2 (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits until `is_enough` accepts the bytes that arrived, the socket buffers no more, or the connection ends.
pub(super) async fn gather(socket: &Socket, is_enough: fn(&[u8]) -> bool) {
    poll_fn(|cx| socket.poll_prefetch(cx, is_enough)).await;
}

/// Returns whether `bytes` have a complete head of HTTP/1.1, or can't become one.
pub(super) fn is_head_complete(bytes: &[u8]) -> bool {
    // RFC 9112 §2.2: a server ignores empty lines before the head, and a line may end with LF alone.
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let Some(head) = bytes.get(begin..).filter(|head| !head.is_empty()) else { return false };
    // Nearly all clients wait for the response to a head that they have sent in one piece.
    if head.ends_with(b"\r\n\r\n") {
        return true;
    }
    // The first search also finds CRLF CRLF.
    memmem::find(head, b"\n\r\n").is_some() || memmem::find(head, b"\n\n").is_some() || head.iter().any(is_not_in_head)
}

/// Returns whether no head may have this byte (RFC 9110 §5.5, RFC 9112 §3). hyper rejects a head that has one. Above
/// all, a client that speaks TLS to a listener without TLS gets that response at once.
fn is_not_in_head(byte: &u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n')
}

/// Returns whether `bytes` are the preface of HTTP/2, or can't become it. A request of HTTP/1.1 differs from the
/// preface after "PRI * HTTP/2.0" at the latest.
pub(super) fn is_preface_decided(bytes: &[u8]) -> bool {
    is_preface(bytes) || !PREFACE.starts_with(bytes)
}

/// Returns whether `bytes` begin with the preface of HTTP/2 (RFC 9113 §3.3: prior knowledge).
pub(super) fn is_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// Returns whether `bytes` have the first record of a TLS handshake (RFC 8446 §5.1), or can't become one. Nearly all
/// clients send their whole ClientHello in it.
pub(super) fn is_record_complete(bytes: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    match bytes {
        [HANDSHAKE, _, _, high, low, record @ ..] => record.len() >= usize::from(u16::from_be_bytes([*high, *low])),
        [HANDSHAKE, ..] | [] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the least number of `bytes` that are enough, if they are.
    fn decided_after(is_enough: fn(&[u8]) -> bool, bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len()).find(|end| is_enough(&bytes[..*end]))
    }

    #[test]
    fn a_head_a_preface_and_a_record_are_enough_when_they_are_complete_or_impossible() {
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET"), Some(27));
        assert_eq!(decided_after(is_head_complete, b"\r\n\r\nGET / HTTP/1.0\n\n"), Some(20));
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\r\nhost: a\r\n"), None);
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\nhost: a\n\r\n"), Some(25));
        assert_eq!(decided_after(is_head_complete, &[22, 3, 1, 2, 0, 1]), Some(1), "the beginning of TLS");
        assert_eq!(decided_after(is_head_complete, b"GET /\0"), Some(6));
        assert_eq!(decided_after(is_head_complete, "GET /\u{e4}".as_bytes()), None, "hyper decides on such bytes");
        assert_eq!(decided_after(is_preface_decided, PREFACE), Some(PREFACE.len()));
        assert_eq!(decided_after(is_preface_decided, b"PRI * HTTP/2.0\r\n\r\nGET"), Some(19), "it is no preface");
        assert_eq!(decided_after(is_preface_decided, b"POST / HTTP/1.1\r\n\r\n"), Some(2));
        assert_eq!(decided_after(is_record_complete, &[22, 3, 1, 0, 2, 1, 1, 1]), Some(7));
        assert_eq!(decided_after(is_record_complete, b"GET / HTTP/1.1"), Some(1));
    }
}
