//! Final responses that a backend sends before it has read the whole request, and without reading the rest of it: they
//! reach the client.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::support::raw::raw;
use super::support::{Proxy, soon};

const HTTP2: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true";

const SIZE: usize = 3_000_000;

const RESPONSES: [&str; 3] = [
    "HTTP/1.1 413 X\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig",
    "HTTP/1.1 302 X\r\nlocation: /login\r\ncontent-length: 3\r\n\r\nbig",
    "HTTP/1.1 401 X\r\ntransfer-encoding: chunked\r\n\r\n3\r\nbig\r\n0\r\n\r\n",
];

/// How a backend ends the connection after its response.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Disconnect {
    /// Closes the connection with unread bytes, as a process does that exits: its kernel resets the connection.
    Close,
    /// Shuts its sending side down, and then closes the connection.
    Finish,
    /// Resets the connection.
    Reset,
}

/// Starts a backend that responds as soon as it has read the first kilobyte of a request, and ends the connection.
async fn early_backend(response: &'static str, disconnect: Disconnect) -> SocketAddr {
    raw(move |mut stream| async move {
        let mut read = 0;
        while read < 1024 {
            match stream.read(&mut [0; 1024]).await {
                Ok(bytes @ 1..) => read += bytes,
                _ => return,
            }
        }
        let _ = stream.write_all(response.as_bytes()).await;
        match disconnect {
            Disconnect::Close => {}
            Disconnect::Finish => stream.shutdown().await.unwrap_or_default(),
            Disconnect::Reset => socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        }
    })
    .await
}

/// Uploads over HTTP/1.1 to the end or until a write fails, and reads only then. Returns what was received.
async fn over_http1(proxy: &Proxy, chunked: bool) -> String {
    let mut stream = TcpStream::connect(proxy.listener(0)).await.unwrap();
    let length = if chunked { "transfer-encoding: chunked".into() } else { format!("content-length: {SIZE}") };
    stream.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{length}\r\n\r\n").as_bytes()).await.unwrap();
    let piece = "x".repeat(10_000);
    let piece = if chunked { format!("{:x}\r\n{piece}\r\n", piece.len()) } else { piece };
    soon("to be read", async {
        for _ in 0..SIZE / 10_000 {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut received = Vec::new();
    let _ = soon("the response", async {
        while !received.windows(3).any(|window| window == b"big") && stream.read_buf(&mut received).await? > 0 {}
        std::io::Result::Ok(())
    })
    .await;
    String::from_utf8(received).unwrap()
}

/// Uploads over HTTP/2 for as long as the client may send. Returns the status and the body of the response.
async fn over_http2(proxy: &Proxy) -> (u16, Bytes) {
    let stream = TcpStream::connect(proxy.listener(1)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://a/").header("content-length", SIZE).body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    tokio::spawn(async move {
        for _ in 0..SIZE / 10_000 {
            body.reserve_capacity(10_000);
            while body.capacity() < 10_000 {
                match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            if body.send_data(Bytes::from(vec![b'x'; 10_000]), false).is_err() {
                return;
            }
        }
    });
    let response = soon("a head", response).await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut received = Vec::new();
    while let Some(data) = soon("more", body.data()).await {
        received.extend_from_slice(&data.unwrap());
    }
    (status, received.into())
}

#[tokio::test]
async fn an_early_response_reaches_the_client_although_the_backend_has_disconnected() {
    for disconnect in [Disconnect::Close, Disconnect::Finish, Disconnect::Reset] {
        for response in RESPONSES {
            let listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
            let address = early_backend(response, disconnect).await;
            let builder = Proxy::builder().top(&format!("{listener}{HTTP2}")).backend_at("a", address, "");
            let proxy = builder.table("ejection", "consecutive_failures = 1").start();
            let status: u16 = response[9..12].parse().unwrap();
            for chunked in [false, true].repeat(8) {
                let received = over_http1(&proxy, chunked).await;
                assert!(
                    received.starts_with(&response[..12]),
                    "{disconnect:?} {response:?} chunked: {chunked}: {received:?}"
                );
                assert!(received.contains("big"), "{disconnect:?} {response:?} chunked: {chunked}: {received:?}");
            }
            for _ in 0..8 {
                assert_eq!(
                    over_http2(&proxy).await,
                    (status, Bytes::from_static(b"big")),
                    "{disconnect:?} {response:?}"
                );
            }
            assert!(!proxy.live("a").awaits_success(), "an early response is no failure");
        }
    }
}
