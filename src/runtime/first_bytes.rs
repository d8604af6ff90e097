//! Owns: how much of a client's first words is waited for before what reads them gets its buffers.
//! Invariant: until then a connection holds the bytes that came, and no more; they are read again from the first one.
//! Must not know: what the bytes say beyond where they end.

use std::future::poll_fn;

use memchr::memmem;

use crate::net::Socket;

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits until `is_enough` has come, or as much as is gathered at all, or the end.
pub(super) async fn gather(socket: &Socket, is_enough: fn(&[u8]) -> bool) {
    poll_fn(|cx| socket.poll_gather(cx, is_enough)).await;
}

/// A whole head of HTTP/1.1, or one that can't be one any more.
pub(super) fn is_head_complete(bytes: &[u8]) -> bool {
    // RFC 9112 §2.2: empty lines before it are passed over, and a line may end with LF alone.
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    let Some(head) = bytes.get(begin..).filter(|head| !head.is_empty()) else { return false };
    // The first takes in CRLF CRLF, which is what nearly all heads end with.
    memmem::find(head, b"\n\r\n").is_some() || memmem::find(head, b"\n\n").is_some() || head.iter().any(is_not_in_head)
}

/// A byte that no head has (RFC 9110 §5.5, RFC 9112 §3). hyper refuses what has one: whoever speaks TLS to a listener
/// without it, above all, is to hear so at once.
fn is_not_in_head(byte: &u8) -> bool {
    byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n')
}

/// The preface of HTTP/2, or what can't be its beginning. No request of HTTP/1.1 is one for longer than
/// "PRI * HTTP/2.0".
pub(super) fn is_preface_decided(bytes: &[u8]) -> bool {
    is_preface(bytes) || !PREFACE.starts_with(bytes)
}

/// The preface of HTTP/2 (RFC 9113 §3.3: prior knowledge).
pub(super) fn is_preface(bytes: &[u8]) -> bool {
    bytes.starts_with(PREFACE)
}

/// The first record of a TLS handshake (RFC 8446 §5.1), with which all of what a client says first mostly comes; or
/// what is none.
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

    /// Where `bytes` are enough first, if they are.
    fn decided_after(is_enough: fn(&[u8]) -> bool, bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len()).find(|end| is_enough(&bytes[..*end]))
    }

    #[test]
    fn first_words_are_enough_when_they_are_whole() {
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET"), Some(27));
        assert_eq!(decided_after(is_head_complete, b"\r\n\r\nGET / HTTP/1.0\n\n"), Some(20));
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\r\nhost: a\r\n"), None);
        assert_eq!(decided_after(is_head_complete, b"GET / HTTP/1.1\nhost: a\n\r\n"), Some(25));
        assert_eq!(decided_after(is_head_complete, &[22, 3, 1, 2, 0, 1]), Some(1), "the beginning of TLS");
        assert_eq!(decided_after(is_head_complete, b"GET /\0"), Some(6));
        assert_eq!(decided_after(is_head_complete, "GET /\u{e4}".as_bytes()), None, "hyper says what it takes");
        assert_eq!(decided_after(is_preface_decided, PREFACE), Some(PREFACE.len()));
        assert_eq!(decided_after(is_preface_decided, b"PRI * HTTP/2.0\r\n\r\nGET"), Some(19), "it is none");
        assert_eq!(decided_after(is_preface_decided, b"POST / HTTP/1.1\r\n\r\n"), Some(2));
        assert_eq!(decided_after(is_record_complete, &[22, 3, 1, 0, 2, 1, 1, 1]), Some(7));
        assert_eq!(decided_after(is_record_complete, b"GET / HTTP/1.1"), Some(1));
    }
}
