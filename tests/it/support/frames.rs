//! HTTP/2 frames, for sequences that no library sends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::soon;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// The client's or the backend's side of an HTTP/2 connection.
pub struct Frames {
    stream: TcpStream,
}

impl Frames {
    pub async fn connect(address: SocketAddr) -> Frames {
        Frames::begin(TcpStream::connect(address).await.unwrap()).await
    }

    /// Begins a client's connection on a stream.
    pub async fn begin(mut stream: TcpStream) -> Frames {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut frames = Frames { stream };
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    pub async fn accept(listener: &TcpListener) -> Frames {
        Frames::accept_with(listener, b"").await
    }

    /// Accepts a connection with these settings.
    pub async fn accept_with(listener: &TcpListener, settings: &[u8]) -> Frames {
        let mut frames = Frames::accept_silently(listener).await;
        frames.send(SETTINGS, 0, 0, settings).await;
        frames
    }

    /// Accepts a connection, and leaves it to the test to send SETTINGS.
    pub async fn accept_silently(listener: &TcpListener) -> Frames {
        let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
        stream.read_exact(&mut [0; 24]).await.unwrap();
        Frames { stream }
    }

    /// Sends data in frames of `size` bytes, all at once.
    pub async fn data_in_frames_of(&mut self, size: usize, stream: u32, data: &[u8]) {
        let length = u32::try_from(size).unwrap().to_be_bytes();
        let head = [&length[1..], &[DATA, 0], &stream.to_be_bytes()].concat();
        let frames: Vec<_> = data.chunks_exact(size).flat_map(|piece| [&head, piece].concat()).collect();
        self.stream.write_all(&frames).await.unwrap();
    }

    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
    }

    pub async fn fields(&mut self, flags: u8, stream: u32, fields: &[(&str, &str)]) {
        let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        let block: Vec<u8> =
            fields.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat()).collect();
        self.send(HEADERS, END_HEADERS | flags, stream, &block).await;
    }

    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Reads up to a frame of one of these kinds.
    pub async fn await_kind(&mut self, kinds: &[u8]) -> (u8, u32, Vec<u8>) {
        let frame = soon("a frame", async {
            loop {
                match self.next().await {
                    Some(frame) if kinds.contains(&frame.0) => return frame,
                    Some(_) => {}
                    None => return (GOAWAY, 0, Vec::new()),
                }
            }
        });
        frame.await
    }
}
