//! Owns: one connection from the proxy: it reads a request and writes the response, until the proxy closes.
//! Invariant: only copies of sessions are requests with a body, and neither requests nor messages are pipelined.
//! Must not know: its listener or the other connections.

use std::io::{self, ErrorKind, Read, Write};
use std::rc::Rc;

use mio::event::Event;
use mio::net::TcpStream;

use super::{Request, Responses, websocket};

const REQUEST_LIMIT: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// What becomes of a connection after an event.
pub(super) enum Next {
    KeepOpen,
    Close,
}

/// A connection and how far its current exchange has come.
pub(super) struct Connection {
    stream: TcpStream,
    responses: Rc<Responses>,
    received: [u8; REQUEST_LIMIT],
    filled: usize,
    writing: Option<Writing>,
    /// It has become a WebSocket.
    is_websocket: bool,
}

struct Writing {
    bytes: Rc<[u8]>,
    written: usize,
    /// The proxy asked to close the connection after this response.
    last: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, responses: Rc<Responses>) -> Self {
        Self { stream, responses, received: [0; REQUEST_LIMIT], filled: 0, writing: None, is_websocket: false }
    }

    /// Reads and writes as far as the socket allows.
    pub(super) fn on_event(&mut self, event: &Event) -> io::Result<Next> {
        if self.writing.is_none() && event.is_readable() {
            match self.stream.read(&mut self.received[self.filled..]) {
                Ok(0) => return Ok(Next::Close),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.is_websocket {
                self.echo()?;
            } else {
                self.writing = parse(&self.received[..self.filled], &self.responses)?;
                if let Some(writing) = &self.writing {
                    self.filled = 0;
                    self.is_websocket = Rc::ptr_eq(&writing.bytes, &self.responses.upgraded);
                }
            }
        }
        let next = self.write()?;
        // No second read is needed to find the socket empty: a short read shows it (epoll(7)). Only the event shows an
        // end that arrived with it.
        if self.writing.is_none() && event.is_read_closed() {
            return Ok(Next::Close);
        }
        Ok(next)
    }

    fn echo(&mut self) -> io::Result<()> {
        if let Some((taken, echo)) = websocket::echo(&mut self.received[..self.filled])? {
            self.writing = Some(Writing { bytes: self.received[echo].into(), written: 0, last: false });
            self.received.copy_within(taken..self.filled, 0);
            self.filled -= taken;
        }
        Ok(())
    }

    fn write(&mut self) -> io::Result<Next> {
        while let Some(writing) = &mut self.writing {
            match self.stream.write(&writing.bytes[writing.written..]) {
                Ok(count) => writing.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            if writing.written == writing.bytes.len() {
                if writing.last {
                    return Ok(Next::Close);
                }
                self.writing = None;
            }
        }
        Ok(Next::KeepOpen)
    }
}

/// Returns the response to a request, once it is complete.
fn parse(received: &[u8], responses: &Responses) -> io::Result<Option<Writing>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let status = parsed.parse(received).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let httparse::Status::Complete(head) = status else { return incomplete(received) };
    let mut request = Request {
        method: parsed.method.unwrap_or_default(),
        path: parsed.path.unwrap_or_default(),
        ..Request::default()
    };
    let (mut is_last, mut is_upgrade, mut has_key, mut length) = (false, false, false, 0);
    for header in &*parsed.headers {
        let value = || str::from_utf8(header.value).unwrap_or_default();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("cookie") {
            request.has_cookie = true;
        } else if is("linchpin-session") {
            request.session = Some(value());
        } else if is("content-length") {
            length = value().parse().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        } else if is("connection") {
            is_last = value().eq_ignore_ascii_case("close");
        } else if is("upgrade") {
            is_upgrade = value().eq_ignore_ascii_case("websocket");
        } else if is("sec-websocket-key") {
            has_key = header.value == websocket::KEY.as_bytes();
        }
    }
    if is_upgrade && has_key {
        return Ok(Some(Writing { bytes: Rc::clone(&responses.upgraded), written: 0, last: false }));
    }
    let Some(body) = received[head..].get(..length) else { return incomplete(received) };
    request.body = body;
    Ok(Some(Writing { bytes: responses.to(&request), written: 0, last: is_last }))
}

fn incomplete(received: &[u8]) -> io::Result<Option<Writing>> {
    match received.len() {
        0..REQUEST_LIMIT => Ok(None),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "request too long")),
    }
}
