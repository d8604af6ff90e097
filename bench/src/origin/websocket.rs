//! Owns: an origin's side of WebSockets: one key with its accept value, and the echo of one message.
//! Invariant: a message is echoed in place: unmasked, behind a new frame header.
//! Must not know: sockets.

use std::io::{self, ErrorKind};
use std::ops::Range;

/// The example of RFC 6455 §1.3: to compute what is the same every time would need a hash for nothing.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const HEAD: usize = 2;
const MASK: usize = 4;

/// Replaces the first message in `received` by its echo. Returns the message's length and the echo's range, or `None` if
/// the message is incomplete.
pub(crate) fn echo(received: &mut [u8]) -> io::Result<Option<(usize, Range<usize>)>> {
    let &[kind, length, ..] = &*received else { return Ok(None) };
    let length = usize::from(length ^ 0x80);
    if length > 125 {
        return Err(io::Error::new(ErrorKind::InvalidData, "a message without a mask, or too long"));
    }
    let end = HEAD + MASK + length;
    let Some(frame) = received.get_mut(..end) else { return Ok(None) };
    let (head, payload) = frame.split_at_mut(HEAD + MASK);
    payload.iter_mut().zip(head[HEAD..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    head[MASK..].copy_from_slice(&[kind, length as u8]);
    Ok(Some((end, MASK..end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_message_is_waited_for() {
        let mut frame = *b"\x82\x82mask\x0cb";
        assert_eq!(echo(&mut frame[..1]).unwrap(), None);
        assert_eq!(echo(&mut frame[..7]).unwrap(), None);
        assert_eq!(echo(&mut frame).unwrap(), Some((8, 4..8)));
        assert_eq!(&frame[4..], b"\x82\x02a\x03");
    }

    #[test]
    fn a_message_without_a_mask_is_an_error() {
        assert!(echo(&mut b"\x82\x02ab".to_vec()).is_err());
    }
}
