//! A client that sends raw bytes and keeps its routing cookie.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// A response as a client sees it.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Status line and fields as received.
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// All values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// `name=value` of the routing cookie that it sets, if it sets one.
    pub fn pin(&self) -> Option<String> {
        let pins = self.fields("set-cookie").into_iter().filter(|cookie| cookie.starts_with("linchpin-app="));
        let mut pins = pins.map(|cookie| cookie.split(';').next().unwrap_or_default().to_owned());
        let pin = pins.next();
        assert_eq!(pins.next(), None, "two routing cookies in one response");
        pin
    }
}

/// A connection to a proxy.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The routing cookie received last.
    pub pin: Option<String>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = soon("a connection", TcpStream::connect(address)).await.unwrap();
        Client { stream, buffer: Vec::new(), pin: None }
    }

    /// Sends a GET on a new connection. Returns `None` if nobody listens, or the connection ends before the response does.
    pub async fn try_get(address: SocketAddr, pin: Option<&str>) -> Option<Response> {
        let stream = soon("a connection or its refusal", TcpStream::connect(address)).await.ok()?;
        let mut client = Client { stream, buffer: Vec::new(), pin: None };
        let cookie = pin.map_or(String::new(), |pin| format!("cookie: {pin}\r\n"));
        let head = format!("GET / HTTP/1.1\r\nhost: test\r\n{cookie}connection: close\r\n\r\n");
        client.stream.write_all(head.as_bytes()).await.ok()?;
        soon("a response or the end", client.try_response("GET")).await
    }

    /// Returns the address of its own end.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    /// Sends a GET with the routing cookie, if there is one, and keeps a new one.
    pub async fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, "", b"").await
    }

    /// Sends a request with the routing cookie and further fields (`name: value\r\n`).
    pub async fn request(&mut self, method: &str, path: &str, fields: &str, body: &[u8]) -> Response {
        let cookie = self.pin.as_ref().map_or(String::new(), |pin| format!("cookie: {pin}\r\n"));
        let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\n{cookie}{length}{fields}\r\n");
        self.send(&[head.as_bytes(), body].concat()).await;
        let response = self.response_to(method).await;
        self.pin = response.pin().or(self.pin.take());
        response
    }

    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon("to be read", self.stream.write_all(bytes)).await.unwrap();
    }

    /// Reads the next final response to a request other than HEAD.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// Reads the next final response.
    pub async fn response_to(&mut self, method: &str) -> Response {
        match soon("a response", self.try_response(method)).await {
            Some(response) => response,
            None => panic!("the connection ended before the response did: {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// Reads the next final response, or returns `None` if the connection ends before it is complete.
    pub async fn try_response(&mut self, method: &str) -> Option<Response> {
        loop {
            let response = self.try_any_response(method).await?;
            if response.status >= 200 {
                return Some(response);
            }
        }
    }

    /// Reads the next response, final or interim.
    pub async fn try_any_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 4);
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let mut response = Response { status, head, body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(response);
        }
        if response.field("transfer-encoding").is_some() {
            response.body = self.chunks(&mut response.head).await?;
        } else if let Some(length) = response.field("content-length") {
            let length = length.parse().ok()?;
            while self.buffer.len() < length {
                self.more().await?;
            }
            response.body = self.buffer.drain(..length).collect();
        } else {
            while self.more().await.is_some() {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    /// Reads a chunked body, and appends its trailers to the head.
    async fn chunks(&mut self, head: &mut String) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.line().await?;
            let size = usize::from_str_radix(&size, 16).ok()?;
            if size == 0 {
                loop {
                    let trailer = self.line().await?;
                    if trailer.is_empty() {
                        return Some(body);
                    }
                    *head += &format!("\r\n{trailer}");
                }
            }
            while self.buffer.len() < size + 2 {
                self.more().await?;
            }
            body.extend(self.buffer.drain(..size));
            self.buffer.drain(..2);
        }
    }

    async fn line(&mut self) -> Option<String> {
        let at = loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                break at;
            }
            self.more().await?;
        };
        let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
        self.buffer.drain(..at + 2);
        Some(line)
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.buffer).await.ok()?;
        (read > 0).then_some(())
    }

    /// Closes the sending side only.
    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Resets the connection, as a process does that is killed with unread bytes: only a reset shows that the client
    /// no longer waits.
    pub fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }

    /// Returns the connection, and received bytes that belong to no response.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Waits for the next event; returns whether the proxy closed the connection without sending anything more.
    pub async fn is_closed(&mut self) -> bool {
        soon("the end of the connection", self.more()).await.is_none() && self.buffer.is_empty()
    }

    /// Reads more bytes; `None` at the end of the connection.
    pub async fn read_more(&mut self) -> Option<()> {
        self.more().await
    }

    /// Returns received bytes that belong to no response.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }
}
