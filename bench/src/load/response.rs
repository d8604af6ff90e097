//! Owns: the reading of one response: the head, then a body of exactly the announced length.
//! Invariant: a response is complete or an error; nothing is read beyond it, since nothing is pipelined.
//! Must not know: sockets, or what the response is checked against.

use std::error::Error;

const MAX_HEADERS: usize = 64;

/// The parts of a response's head that a client checks.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// The origin that sent the response.
    pub(super) origin: Option<String>,
    /// The field to send back from now on: a cookie that was set, or a pin in a field.
    pub(super) keep: Option<String>,
    pub(super) body: usize,
    /// What an opened WebSocket is recognised by.
    pub(super) accept: Option<String>,
}

/// Parses a head; with it comes its length. `None`: not complete yet.
pub(super) fn parse(received: &[u8]) -> Result<Option<(Head, usize)>, Box<dyn Error>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = response.parse(received)? else {
        return Ok(None);
    };
    let mut head = Head { status: response.code.unwrap_or_default(), ..Head::default() };
    let mut body = None;
    for header in &*response.headers {
        let value = || str::from_utf8(header.value);
        if header.name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case("linchpin-")) {
            return Err(format!("the field {} is for the proxy alone", header.name).into());
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            body = Some(value()?.parse()?);
        } else if header.name.eq_ignore_ascii_case("x-origin") {
            head.origin = Some(value()?.to_owned());
        } else if header.name.eq_ignore_ascii_case("set-cookie") {
            let pair = value()?.split(';').next().unwrap_or_default();
            head.keep = Some(format!("Cookie: {}", pair.trim()));
        } else if header.name.eq_ignore_ascii_case("x-pin") {
            head.keep = Some(format!("X-Pin: {}", value()?));
        } else if header.name.eq_ignore_ascii_case("sec-websocket-accept") {
            head.accept = Some(value()?.to_owned());
        }
    }
    // The origins always send one, so a proxy that drops it has re-framed the message.
    head.body = match head.status {
        101 => 0,
        _ => body.ok_or("a response without Content-Length")?,
    };
    Ok(Some((head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_origin_cookie_and_length() {
        let bytes = b"HTTP/1.1 200 OK\r\nX-Origin: a\r\nset-cookie: SRV=a; Path=/\r\nContent-Length: 2\r\n\r\nok";
        let expected =
            Head { status: 200, origin: Some("a".into()), keep: Some("Cookie: SRV=a".into()), body: 2, accept: None };
        let length = bytes.len() - 2;
        assert_eq!(parse(bytes).unwrap(), Some((expected, length)));
    }

    #[test]
    fn half_a_head_is_not_complete() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
    }

    #[test]
    fn a_field_between_origin_and_proxy_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nLinchpin-Session-Save: ::\r\nContent-Length: 0\r\n\r\n").is_err());
    }

    #[test]
    fn another_framing_is_an_error() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }
}
