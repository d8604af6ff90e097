//! Processes that take over from each other: their configuration, their admin listener, and clients that stay.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::exchange::exchange;
use super::process::Running;
use super::tool::Folder;
use super::{Backend, Client, soon};

/// Where a configuration and its sockets are.
pub struct Place {
    folder: Folder,
    file: String,
}

impl Place {
    pub fn new() -> Place {
        let folder = Folder::new();
        Place { file: folder.file("linchpin.toml"), folder }
    }

    /// The path of the configuration.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The path of a file with this name.
    pub fn path(&self, name: &str) -> String {
        self.folder.file(name)
    }

    /// A configuration with these lines of [server], listeners, and pools.
    pub fn text(&self, server: &str, rest: &str) -> String {
        let (handover, admin) = (self.folder.file("handover.sock"), self.folder.file("admin.sock"));
        format!(
            "[server]\nhandover = \"{handover}\"\n{server}\n[log]\naccess = \"off\"\n[admin]\n\
             address = \"unix:{admin}\"\n{rest}"
        )
    }

    pub async fn start(&self, text: &str) -> Running {
        Running::start_with(&self.file, text, Stdio::null()).await
    }

    /// Starts a process that takes over, and waits until it has.
    pub async fn upgrade(&self, text: &str) -> Running {
        let mut next = Running::upgrade(&self.file, text);
        next.line("taken over").await;
        let line = next.line("listening address=").await;
        next.address = line.rsplit('=').next().unwrap().to_owned();
        next
    }
}

/// Text of a listener and a pool `app` with these backends and lines.
pub fn pool(backends: &[&Backend], more: &str) -> String {
    let backend = |backend: &&Backend| {
        format!("[[pools.backends]]\nname = \"{}\"\naddress = \"{}\"\n", backend.name(), backend.address())
    };
    let backends: String = backends.iter().map(backend).collect();
    format!("[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n[[pools]]\nname = \"app\"\n{more}\n{backends}")
}

/// Sends requests on new and kept connections until `is_over`; counts the responses.
pub async fn keep_asking(
    address: SocketAddr,
    keeps: bool,
    is_over: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
) -> Result<(), String> {
    let connect = async || TcpStream::connect(address).await.map_err(|error| format!("connecting: {error}"));
    let mut stream = connect().await?;
    while !is_over.load(Ordering::Relaxed) {
        let close = if keeps { "" } else { "connection: close\r\n" };
        let request = format!("GET / HTTP/1.1\r\nhost: a\r\n{close}\r\n");
        let stays_open = exchange(&mut stream, request.as_bytes()).await?;
        served.fetch_add(1, Ordering::Relaxed);
        if !(keeps && stays_open) {
            stream = connect().await?;
        }
    }
    Ok(())
}

/// Sends a request to the admin listener.
pub async fn ask(place: &Place, method: &str, path: &str, body: &str) -> String {
    let mut stream = tokio::net::UnixStream::connect(place.path("admin.sock")).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response
}

/// A server that switches protocols and echoes.
pub async fn echo() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let switch = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
                let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                let is_upgrade = head.to_ascii_lowercase().windows(8).any(|word| word == b"upgrade:");
                if stream.write_all(if is_upgrade { switch } else { ok }).await.is_err() || !is_upgrade {
                    return;
                }
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// An end of a tunnel.
pub struct Tunnel(TcpStream);

impl Tunnel {
    pub async fn open(address: SocketAddr) -> Tunnel {
        let mut client = Client::connect(address).await;
        client.send(b"GET /socket HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        assert_eq!(soon("101", client.try_any_response("GET")).await.unwrap().status, 101);
        Tunnel(client.into_parts().0)
    }

    /// Waits until the proxy closes it.
    pub async fn ends(&mut self) {
        let _ = soon("the end of the tunnel", self.0.read_to_end(&mut Vec::new())).await;
    }

    pub async fn echoes(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        let mut echo = vec![0; text.len()];
        soon("the echo", self.0.read_exact(&mut echo)).await.unwrap();
        assert_eq!(echo, text.as_bytes());
    }
}

/// Whether the session of this cookie is known to be on the server that responds with `on`. Without a pin, each second
/// request goes to the other server.
pub async fn is_followed(address: SocketAddr, cookie: &str, on: &str) -> bool {
    for _ in 0..6 {
        let mut client = Client::connect(address).await;
        if client.request("GET", "/", &format!("cookie: {cookie}\r\n"), b"").await.text() != on {
            return false;
        }
    }
    true
}
