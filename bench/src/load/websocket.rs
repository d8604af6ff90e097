//! Owns: the parts of WebSockets that the load needs: the opening request, one message, and its echo.
//! Invariant: a message is one short frame (RFC 6455 §5.2), and an echo must match to the last byte.
//! Must not know: sockets.

use std::error::Error;

use crate::origin::websocket::{ACCEPT, KEY};

/// What asks for a WebSocket, besides the first line and the usual fields.
pub(super) fn fields() -> String {
    format!("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n")
}

const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// A frame's length fits into its second byte.
const SHORT: usize = 125;
const MASK: [u8; 4] = *b"mask";

/// A message of `length` bytes, as a client sends it.
pub(super) fn message(length: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut frame = vec![BINARY, MASKED | short(length)?];
    frame.extend_from_slice(&MASK);
    frame.extend((0..length).zip(MASK.into_iter().cycle()).map(|(at, mask)| payload(at) ^ mask));
    Ok(frame)
}

/// Whether the echo of a message of `length` bytes has come.
pub(super) fn is_echo(received: &[u8], length: usize) -> Result<bool, Box<dyn Error>> {
    let head = [BINARY, short(length)?];
    let expected = head.into_iter().chain((0..length).map(payload));
    if received.len() > length + head.len() || received.iter().zip(expected).any(|(is, should)| *is != should) {
        return Err("a message came back changed".into());
    }
    Ok(received.len() == length + head.len())
}

/// Whether a response's head opens the WebSocket.
pub(super) fn is_open(status: u16, accept: Option<&str>) -> bool {
    status == 101 && accept == Some(ACCEPT)
}

fn short(length: usize) -> Result<u8, Box<dyn Error>> {
    let fits = u8::try_from(length).ok().filter(|_| length <= SHORT);
    fits.ok_or_else(|| "a message is 125 bytes at most".into())
}

/// The byte at a place of every message.
fn payload(at: usize) -> u8 {
    at as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::websocket::echo;

    #[test]
    fn what_an_origin_echoes_is_the_echo_and_nothing_else() {
        let mut frame = message(64).unwrap();
        let taken = echo(&mut frame).unwrap();
        assert_eq!(taken, Some((70, 4..70)));
        let echoed = &frame[4..70];
        assert!(is_echo(echoed, 64).unwrap());
        assert!(!is_echo(&echoed[..30], 64).unwrap(), "half of it is no error");
        let mut changed = echoed.to_vec();
        changed[9] ^= 1;
        assert!(is_echo(&changed, 64).is_err());
        assert!(is_echo(&[echoed, b"x"].concat(), 64).is_err());
    }

    #[test]
    fn a_message_is_short() {
        assert!(message(125).is_ok());
        assert!(message(126).is_err());
    }
}
