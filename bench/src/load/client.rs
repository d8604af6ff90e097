//! Owns: one client: its connection, its cookie, its request and the response that it waits for.
//! Invariant: it has at most one request in flight, and checks every response before it counts it.
//! Must not know: the other clients, or how long the run lasts.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Registry, Token};

use super::wire::{Tls, Wire};
use super::{response, websocket};

/// How clients behave and what they expect; the same for all of a run.
pub(super) struct Manner {
    pub(super) target: SocketAddr,
    pub(super) path: String,
    pub(super) body: usize,
    /// Send the cookie back. Without it, each request is a new client's.
    pub(super) returning: bool,
    /// A connection for each request.
    pub(super) connect: bool,
    /// The proxy promises that a client stays with its origin.
    pub(super) sticky: bool,
    /// Send messages of `body` bytes through a WebSocket, and wait for their echo.
    pub(super) websocket: bool,
    /// Speak TLS.
    pub(super) tls: Option<Secure>,
}

/// How clients speak TLS.
pub(super) struct Secure {
    /// The certificate to trust.
    pub(super) authority: PathBuf,
    /// Whether every connection of a client but its first resumes a session.
    pub(super) resumes: bool,
}

/// A client between and during its requests.
pub(super) struct Client {
    token: Token,
    stream: Option<Wire>,
    tls: Option<Tls>,
    /// The connection has become a WebSocket.
    is_open: bool,
    request: Vec<u8>,
    sent: usize,
    head: Vec<u8>,
    /// Bytes of the body still to come, once the head is there.
    remaining: Option<usize>,
    /// Start of the request in flight; `None` between requests.
    started: Option<Instant>,
    took: Duration,
    keep: Option<String>,
    origin: Option<String>,
}

impl Client {
    pub(super) fn new(token: Token, manner: &Manner) -> Result<Self, Box<dyn Error>> {
        let tls = |secure: &Secure| Tls::new(&secure.authority, b"http/1.1", secure.resumes);
        let mut client = Self {
            token,
            stream: None,
            tls: manner.tls.as_ref().map(tls).transpose()?,
            is_open: false,
            request: Vec::new(),
            sent: 0,
            head: Vec::with_capacity(1024),
            remaining: None,
            started: None,
            took: Duration::ZERO,
            keep: None,
            origin: None,
        };
        client.render(manner);
        Ok(client)
    }

    /// Starts a request, on a new connection if there is none.
    pub(super) fn begin(&mut self, manner: &Manner, registry: &Registry) -> Result<(), Box<dyn Error>> {
        self.started = Some(Instant::now());
        self.sent = 0;
        self.head.clear();
        self.remaining = None;
        if self.stream.is_some() {
            return self.send();
        }
        if manner.websocket {
            self.render(manner);
            self.sent = 0;
        }
        // Sent once the socket is connected.
        self.stream = Some(Wire::connect(manner.target, self.tls.as_ref(), registry, self.token)?);
        Ok(())
    }

    /// Goes on as far as the socket allows; the time that the request took, once it is done.
    pub(super) fn on_event(
        &mut self,
        event: &Event,
        manner: &Manner,
        scratch: &mut [u8],
    ) -> Result<Option<Duration>, Box<dyn Error>> {
        let Some(started) = self.started else {
            if event.is_read_closed() {
                self.hang_up();
            }
            return Ok(None);
        };
        if event.is_writable() {
            self.send()?;
        }
        if !event.is_readable() || !self.receive(started, manner, scratch)? {
            return Ok(None);
        }
        self.started = None;
        Ok(Some(self.took))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Forgets the connection; the cookie stays, as it does in a browser.
    pub(super) fn hang_up(&mut self) {
        self.stream = None;
        self.started = None;
        self.is_open = false;
    }

    fn send(&mut self) -> Result<(), Box<dyn Error>> {
        let stream = self.stream.as_mut().ok_or("not connected")?;
        while self.sent < self.request.len() {
            match stream.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(stream.flush()?)
    }

    /// Reads what has come; whether the response is complete.
    fn receive(&mut self, started: Instant, manner: &Manner, scratch: &mut [u8]) -> Result<bool, Box<dyn Error>> {
        loop {
            let stream = self.stream.as_mut().ok_or("not connected")?;
            let asked = self.remaining.unwrap_or(usize::MAX).clamp(1, scratch.len());
            let result = match self.remaining {
                None | Some(0) => stream.read(&mut scratch[..asked]),
                // A body is counted, and thrown away in the kernel: the load must not cost more than the proxy.
                Some(_) => stream.skip(&mut scratch[..asked]),
            };
            let count = match result {
                Ok(0) => return self.on_end(manner),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let is_empty = stream.is_empty_after(count, asked);
            stream.check(self.tls.as_mut())?;
            self.take(&scratch[..count], manner)?;
            if self.remaining == Some(0) {
                self.took = started.elapsed();
                if !manner.connect {
                    return Ok(true);
                }
                // The end of the connection may be here already.
            } else if is_empty {
                return Ok(false);
            }
        }
    }

    /// The proxy closed: as agreed, or too early.
    fn on_end(&mut self, manner: &Manner) -> Result<bool, Box<dyn Error>> {
        if manner.connect && self.remaining == Some(0) {
            self.hang_up();
            return Ok(true);
        }
        Err("closed before the response was complete".into())
    }

    fn take(&mut self, received: &[u8], manner: &Manner) -> Result<(), Box<dyn Error>> {
        let body = match self.remaining {
            Some(_) => received.len(),
            None if self.is_open => {
                self.head.extend_from_slice(received);
                self.remaining = websocket::is_echo(&self.head, manner.body)?.then_some(0);
                return Ok(());
            }
            None => {
                self.head.extend_from_slice(received);
                let Some((head, length)) = response::parse(&self.head)? else {
                    return Ok(());
                };
                self.check(&head, manner)?;
                if manner.websocket {
                    return self.open(manner);
                }
                self.remaining = Some(head.body);
                self.head.len() - length
            }
        };
        let remaining = self.remaining.unwrap_or_default();
        self.remaining = Some(remaining.checked_sub(body).ok_or("a body too long")?);
        Ok(())
    }

    /// From now on, each request is a message.
    fn open(&mut self, manner: &Manner) -> Result<(), Box<dyn Error>> {
        self.is_open = true;
        self.head.clear();
        self.request = websocket::message(manner.body)?;
        self.sent = 0;
        self.send()
    }

    fn check(&mut self, head: &response::Head, manner: &Manner) -> Result<(), Box<dyn Error>> {
        let is_right = match manner.websocket {
            true => websocket::is_open(head.status, head.accept.as_deref()),
            false => head.status == 200 && head.body == manner.body,
        };
        if !is_right {
            return Err(format!("status {}, body of {} bytes", head.status, head.body).into());
        }
        let origin = head.origin.as_ref().ok_or("no origin named")?;
        if let Some(keep) = &head.keep
            && manner.returning
        {
            self.keep = Some(keep.clone());
            self.render(manner);
        }
        if !manner.sticky {
            return Ok(());
        }
        if !manner.returning {
            return match head.keep {
                Some(_) => Ok(()),
                None => Err("a new client got no cookie".into()),
            };
        }
        if self.keep.is_none() {
            return Err("a client got no cookie".into());
        }
        match &self.origin {
            None => self.origin = Some(origin.clone()),
            Some(own) if own != origin => {
                return Err(format!("a client of {own} got a response from {origin}").into());
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn render(&mut self, manner: &Manner) {
        let mut request =
            format!("GET {} HTTP/1.1\r\nHost: app.test\r\nUser-Agent: linchpin-bench\r\nAccept: */*\r\n", manner.path);
        if manner.connect {
            request.push_str("Connection: close\r\n");
        }
        if manner.websocket {
            request.push_str(&websocket::fields());
        }
        if let Some(keep) = &self.keep {
            request.push_str(keep);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        // Cookies come with a response, when the request before has been sent in full.
        self.request = request.into_bytes();
        self.sent = self.request.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manner(returning: bool) -> Manner {
        Manner {
            target: ([127, 0, 0, 1], 1).into(),
            path: "/66".into(),
            body: 66,
            returning,
            connect: false,
            sticky: true,
            websocket: false,
            tls: None,
        }
    }

    fn head(origin: &str, keep: Option<&str>) -> response::Head {
        response::Head { status: 200, origin: Some(origin.into()), keep: keep.map(Into::into), body: 66, accept: None }
    }

    #[test]
    fn a_returning_client_sends_its_cookie_and_notices_another_origin() {
        let manner = manner(true);
        let mut client = Client::new(Token(0), &manner).unwrap();
        assert!(client.check(&head("a", None), &manner).is_err());
        assert!(client.check(&head("a", Some("Cookie: SRV=a")), &manner).is_ok());
        assert!(client.request.ends_with(b"\r\nCookie: SRV=a\r\n\r\n"));
        assert!(client.check(&head("a", None), &manner).is_ok());
        assert!(client.check(&head("b", None), &manner).is_err());
    }

    #[test]
    fn a_new_client_is_given_a_cookie_and_never_sends_it() {
        let manner = manner(false);
        let mut client = Client::new(Token(0), &manner).unwrap();
        assert!(client.check(&head("a", Some("Cookie: SRV=a")), &manner).is_ok());
        assert!(client.check(&head("b", Some("Cookie: SRV=b")), &manner).is_ok());
        assert!(client.check(&head("b", None), &manner).is_err());
        assert!(!client.request.windows(6).any(|bytes| bytes == b"Cookie"));
    }

    #[test]
    fn another_length_is_an_error() {
        let manner = manner(false);
        let mut client = Client::new(Token(0), &manner).unwrap();
        let short = response::Head { body: 65, ..head("a", Some("Cookie: SRV=a")) };
        assert!(client.check(&short, &manner).is_err());
    }
}
