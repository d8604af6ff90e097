//! Owns: the admin listener's connections.
//! Invariant: every connection ends in bounded time, and there are never more than so many.
//! Must not know: what is answered.

use std::io;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::bind::{self, Bound};
use super::{Facts, Settings, api};

/// What a client may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections at a time; the next one waits in the listener's queue.
    connections: usize,
    /// From the end of one answer to the end of the next request's head.
    head: Duration,
    head_bytes: usize,
    /// How long a connection is kept. This is what ends one whose client doesn't read its answer.
    age: Duration,
    /// What a request in flight may still take once its connection is to end.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(10),
    // Cookies of every other service on localhost come along.
    head_bytes: 64 * 1024,
    age: Duration::from_mins(1),
    grace: Duration::from_millis(800),
};

/// Serves the admin API on `bound` until `shutdown`; ends within a second then.
///
/// # Errors
/// If the runtime can't take the listener over.
pub async fn run(
    bound: Bound,
    settings: Settings,
    facts: Facts,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = api::router(&settings, facts);
    match bound.0 {
        bind::Listener::Tcp(listener) => {
            serve(tokio::net::TcpListener::from_std(listener)?, router, LIMITS, shutdown).await;
        }
        bind::Listener::Unix(listener, _file) => {
            serve(tokio::net::UnixListener::from_std(listener)?, router, LIMITS, shutdown).await;
        }
    }
    Ok(())
}

async fn serve(mut listener: impl Listener, router: Router, limits: Limits, shutdown: impl Future<Output = ()>) {
    let service = TowerToHyperService::new(router);
    let (stop, stopping) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (io, _) = listener.accept(), if connections.len() < limits.connections => {
                let (service, stopping) = (service.clone(), stopping.clone());
                connections.spawn(connection(TokioIo::new(io), service, limits, stopping));
            }
        }
    }
    drop((listener, stop));
    while connections.join_next().await.is_some() {}
}

async fn connection(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    service: TowerToHyperService<Router>,
    limits: Limits,
    mut stopping: watch::Receiver<()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // How a connection fails is its client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.changed() => {}
        () = sleep(limits.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.grace, connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const SOON: Duration = Duration::from_millis(150);
    const NEVER: Duration = Duration::from_secs(60);
    const PATIENT: Limits = Limits { connections: 8, head: NEVER, head_bytes: 8192, age: NEVER, grace: SOON };

    /// More than socket buffers take.
    const HUGE: usize = 64 * 1024 * 1024;

    async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/huge", get(|| async { vec![b'x'; HUGE] }))
            .route("/slow", get(|| async { sleep(NEVER).await }));
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, router, limits, async {
            let _ = stopped.await;
        }));
        (address, stop, task)
    }

    async fn connect(address: SocketAddr, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    async fn is_answered(stream: &mut TcpStream) -> bool {
        let mut start = [0; 12];
        matches!(timeout(3 * SOON, stream.read_exact(&mut start)).await, Ok(Ok(_)) if &start == b"HTTP/1.1 200")
    }

    /// Reads on until the server closes; true if that was soon.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        timeout(20 * SOON, tokio::io::copy(stream, &mut tokio::io::sink())).await.is_ok()
    }

    #[tokio::test]
    async fn a_client_that_says_too_little_is_shown_out() {
        let (address, _stop, _task) = start(Limits { head: SOON, ..PATIENT }).await;
        for said in [&b""[..], b"GET / HTTP/1.1\r\nHo"] {
            assert!(is_closed(&mut connect(address, said).await).await, "{said:?}");
        }
        // So is one that was served and then says nothing more.
        let mut served = connect(address, REQUEST).await;
        assert!(is_answered(&mut served).await);
        assert!(is_closed(&mut served).await);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_shown_out() {
        let (address, _stop, _task) = start(Limits { age: SOON, ..PATIENT }).await;
        let mut stream = connect(address, b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        sleep(4 * SOON).await;
        let mut answer = Vec::new();
        let _ = timeout(20 * SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() < HUGE);
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_its_turn() {
        let (address, _stop, _task) = start(Limits { connections: 2, ..PATIENT }).await;
        let first = connect(address, b"").await;
        let _second = connect(address, b"").await;
        let mut third = connect(address, REQUEST).await;
        assert!(!is_answered(&mut third).await);
        drop(first);
        assert!(is_answered(&mut third).await);
    }

    #[tokio::test]
    async fn the_end_waits_for_nobody_longer_than_its_grace() {
        let (address, stop, task) = start(PATIENT).await;
        let mut idle = connect(address, REQUEST).await;
        assert!(is_answered(&mut idle).await);
        let _silent = connect(address, b"").await;
        let _slow = connect(address, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        sleep(SOON).await;
        let since = Instant::now();
        drop(stop);
        task.await.unwrap();
        assert!(since.elapsed() < 5 * SOON, "{:?}", since.elapsed());
        assert!(is_closed(&mut idle).await);
        assert!(TcpStream::connect(address).await.is_err());
    }
}
