//! A subscriber of the admin API's events.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// One event as a subscriber gets it.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

/// A stream of events.
pub struct EventStream {
    stream: TcpStream,
    text: String,
    /// Status line and fields.
    pub head: String,
}

impl EventStream {
    /// Subscribes, with this query (`?last=1`) and these fields (`name: value\r\n`).
    pub async fn open(admin: SocketAddr, query: &str, fields: &str) -> EventStream {
        let mut stream = soon("a connection", TcpStream::connect(admin)).await.unwrap();
        // In HTTP/1.0, the body is not chunked.
        let request = format!("GET /api/v1/events{query} HTTP/1.0\r\nhost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut events = EventStream { stream, text: String::new(), head: String::new() };
        events.head = soon("the head", events.block("\r\n\r\n")).await.expect("a response");
        events
    }

    /// Waits for the next event; `None` if the stream ends before it.
    pub async fn try_next(&mut self) -> Option<Event> {
        loop {
            let block = soon("an event", self.block("\n\n")).await?;
            let value = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            // Others are comments and times to retry.
            if let (Some(name), Some(data)) = (value("event: "), value("data: ")) {
                return Some(Event { id: value("id: "), name, data: serde_json::from_str(&data).unwrap() });
            }
        }
    }

    /// Waits for the next event of this kind.
    pub async fn next(&mut self, kind: &str) -> Event {
        // Comments arrive all the time: the limit is that of all of it.
        soon(&format!("an event {kind}"), async {
            loop {
                let event = self.try_next().await;
                let event = event.unwrap_or_else(|| panic!("the stream ended before an event {kind}"));
                if event.name == kind {
                    return event;
                }
            }
        })
        .await
    }

    async fn block(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once(end) {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let mut bytes = [0; 4096];
            let read = self.stream.read(&mut bytes).await.unwrap_or_default();
            if read == 0 {
                return None;
            }
            self.text += std::str::from_utf8(&bytes[..read]).unwrap();
        }
    }
}
