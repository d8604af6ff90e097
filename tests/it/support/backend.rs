//! A scripted backend: a real socket, and a closure that returns the reply to each request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::until;

/// A request as it reached a backend.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Request line and fields as received, without the empty line.
    pub head: String,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
}

impl Seen {
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn path(&self) -> &str {
        self.line().split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(each, _)| each.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields(name).first().copied()
    }
}

/// What a backend does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Sends these bytes, and keeps the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes, then closes the connection.
    Last(Vec<u8>),
    /// Closes the connection without a byte.
    Close,
    /// Neither reads nor sends anything more.
    Hang,
    /// Sends these bytes once the value is true, and keeps the connection.
    Held(tokio::sync::watch::Receiver<bool>, Vec<u8>),
}

impl Reply {
    /// A response with a status and a body, and fields of the form `name: value\r\n`.
    pub fn new(status: u16, fields: &str, body: &str) -> Reply {
        let length = body.len();
        Reply::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{fields}\r\n{body}").into())
    }

    /// 200 with a body.
    pub fn ok(body: &str) -> Reply {
        Reply::new(200, "", body)
    }
}

/// A backend on a free port. Ends, with its connections, when dropped or killed.
pub struct Backend {
    name: String,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    alive: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts a backend whose responses carry its name as body.
    pub async fn named(name: &str) -> Backend {
        let body = name.to_owned();
        Backend::start(name, move |_| Reply::ok(&body)).await
    }

    /// Starts the backends `a`, `b` and `c`, whose responses carry their names.
    pub async fn three() -> [Backend; 3] {
        [Backend::named("a").await, Backend::named("b").await, Backend::named("c").await]
    }

    /// Starts a backend on a free port; `program` returns its replies.
    pub async fn start(name: &str, program: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Backend {
        Backend::start_at(name, "127.0.0.1:0".parse().unwrap(), program).await
    }

    /// Starts a backend at an address that another one may have used before.
    pub async fn start_at(
        name: &str,
        address: SocketAddr,
        program: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    ) -> Backend {
        // A connection of another test may have got the port of a backend that was killed.
        let mut listener = None;
        until("the backend's address", async || {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            listener = socket.bind(address).and_then(|()| socket.listen(1024)).ok();
            listener.is_some()
        })
        .await;
        let listener = listener.unwrap();
        let (alive, seen) = (CancellationToken::new(), Arc::default());
        let (connections, open) = (Arc::default(), Arc::default());
        let address = listener.local_addr().unwrap();
        let mut backend = Backend { name: name.into(), address, seen, connections, open, alive, task: None };
        backend.task = Some(tokio::spawn(backend.accept(listener, Arc::new(program))));
        backend
    }

    fn accept(
        &self,
        listener: TcpListener,
        program: Arc<dyn Fn(&Seen) -> Reply + Send + Sync>,
    ) -> impl Future<Output = ()> + use<> {
        let (alive, seen) = (self.alive.clone(), Arc::clone(&self.seen));
        let (connections, open) = (Arc::clone(&self.connections), Arc::clone(&self.open));
        async move {
            while let Some(Ok((stream, _))) = alive.run_until_cancelled(listener.accept()).await {
                let (program, seen, alive) = (Arc::clone(&program), Arc::clone(&seen), alive.clone());
                connections.fetch_add(1, Ordering::SeqCst);
                open.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    alive.run_until_cancelled(serve(stream, &*program, &seen)).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns all requests received so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Counts the connections accepted so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Counts the connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Waits until it has received that many requests.
    pub async fn has(&self, requests: usize) {
        let what = format!("{requests} requests on {}", self.name);
        until(&what, async || self.count() >= requests).await;
    }

    /// Ends the backend and its connections, as a kill would. When this returns, its port refuses connections, and its connections have ended.
    pub async fn kill(mut self) -> SocketAddr {
        self.alive.cancel();
        if let Some(task) = self.task.take() {
            task.await.unwrap();
        }
        // A request that follows must not find a connection that is about to end.
        while self.open() > 0 {
            tokio::task::yield_now().await;
        }
        self.address
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

async fn serve(mut stream: TcpStream, program: &(dyn Fn(&Seen) -> Reply + Send + Sync), seen: &Mutex<Vec<Seen>>) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        seen.lock().unwrap().push(request.clone());
        let (bytes, keep_alive) = match program(&request) {
            Reply::Bytes(bytes) => (bytes, true),
            Reply::Last(bytes) => (bytes, false),
            Reply::Close => (Vec::new(), false),
            Reply::Hang => std::future::pending().await,
            Reply::Held(mut released, bytes) => {
                // An error means that nobody can release it any more.
                let _ = released.wait_for(|released| *released).await;
                (bytes, true)
            }
        };
        if stream.write_all(&bytes).await.is_err() || !keep_alive {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Seen> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut seen = Seen { head, body: Vec::new() };
    if seen.field("transfer-encoding").is_some() {
        loop {
            let line = loop {
                if let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") {
                    break at;
                }
                more(stream, buffer).await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..line]).ok()?, 16).ok()?;
            buffer.drain(..line + 2);
            while buffer.len() < size + 2 {
                more(stream, buffer).await?;
            }
            if size == 0 {
                // Trailers, if any, are fields like the others.
                while !buffer.starts_with(b"\r\n") {
                    let Some(at) = buffer.windows(2).position(|window| window == b"\r\n") else {
                        more(stream, buffer).await?;
                        continue;
                    };
                    seen.head += &format!("\r\n{}", String::from_utf8_lossy(&buffer[..at]));
                    buffer.drain(..at + 2);
                    while buffer.len() < 2 {
                        more(stream, buffer).await?;
                    }
                }
                buffer.drain(..2);
                return Some(seen);
            }
            seen.body.extend(buffer.drain(..size));
            buffer.drain(..2);
        }
    }
    let length = seen.field("content-length").map_or(0, |length| length.parse().unwrap());
    while buffer.len() < length {
        more(stream, buffer).await?;
    }
    seen.body = buffer.drain(..length).collect();
    Some(seen)
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let read = stream.read_buf(buffer).await.ok()?;
    (read > 0).then_some(())
}
