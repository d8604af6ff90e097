//! Owns: the admin listener's connections.
//! Invariant: connections are bounded in number and in time, and none delays the response to a health check.
//! Must not know: what a response says.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::select;
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::actor::AdminPeer;
use super::api;
use super::bind::{self, Bound};
use super::guard::AccessRules;
use super::sessions_api;
use super::sources::StatusSources;

/// How long a reload may take: other reloads may come first, and each thread installs it.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(40);

/// The paths that orchestrators and load balancers poll. Their responses come from memory, and need no permit.
const HEALTH_PATHS: [&str; 2] = ["/livez", "/readyz"];

/// The limits of the admin listener.
#[derive(Debug, Clone, Copy)]
struct ServerLimits {
    /// Idle connections at a time; one more closes the one that was idle for longest.
    idle: usize,
    /// Requests at a time, without health checks and event streams; one more gets a 503.
    requests: usize,
    /// Event streams, and requests that may wait, at a time; one more gets a 503.
    streams: usize,
    /// From the end of a response to the end of the next request's head.
    head: Duration,
    head_bytes: usize,
    /// From the end of a request's head to its response: the time for the client to send its body, since the response
    /// itself takes none, but that of a reload.
    response: Duration,
    /// How long a connection lives. This ends one whose client doesn't read its response. An event stream lives for as
    /// long as its client reads something in this time.
    age: Duration,
    /// How long a request in flight may take once its connection has to end.
    grace: Duration,
}

const LIMITS: ServerLimits = ServerLimits {
    idle: 48,
    requests: 32,
    streams: 16,
    head: Duration::from_secs(10),
    // Browsers send the cookies of every other service on localhost, too.
    head_bytes: 64 * 1024,
    response: Duration::from_secs(5),
    age: Duration::from_mins(1),
    grace: Duration::from_millis(800),
};

/// Serves the admin API on `bound`, with at most `most` connections at a time. After `closing` it accepts no
/// connection, and another process can bind the address. It serves open connections until `shutdown`, and then ends
/// within a second.
///
/// # Errors
/// The runtime can't register the listener.
pub async fn run(
    bound: Bound,
    rules: &AccessRules,
    facts: StatusSources,
    most: usize,
    closing: impl Future<Output = ()> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = api::router(rules, facts);
    let requests = (most / 3).clamp(1, LIMITS.requests);
    let streams = (most / 6).clamp(1, LIMITS.streams);
    let idle = most.saturating_sub(requests + streams).clamp(1, LIMITS.idle);
    let limits = ServerLimits { requests, streams, idle, ..LIMITS };
    match bound.0 {
        bind::Listener::Tcp(listener) => {
            serve(tokio::net::TcpListener::from_std(listener)?, router, limits, closing, shutdown).await;
        }
        bind::Listener::Unix(listener, file) => {
            let closing = async move {
                closing.await;
                drop(file);
            };
            serve(tokio::net::UnixListener::from_std(listener)?, router, limits, closing, shutdown).await;
        }
    }
    Ok(())
}

async fn serve<L: PeerListener>(
    mut listener: L,
    router: Router,
    limits: ServerLimits,
    closing: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(());
    let shutdown = shutdown.shared();
    let (closing, over) = (pin!(closing), shutdown.clone());
    let mut closing = select(closing, over).map(drop);
    let context = ServerContext {
        router: TowerToHyperService::new(router),
        limits,
        requests: Semaphore::new(limits.requests).into(),
        streams: Semaphore::new(limits.streams).into(),
    };
    let mut slots = ConnectionSlots::default();
    loop {
        tokio::select! {
            () = &mut closing => break,
            () = slots.connection_ended() => {}
            (io, address) = listener.accept() => {
                let peer = L::peer(&io, &address);
                slots.close_longest_idle(limits.idle + limits.requests + limits.streams);
                let state = slots.state();
                let connection = connection(TokioIo::new(io), peer, context.clone(), Arc::clone(&state), stopping.clone());
                slots.add(connection, state);
            }
        }
    }
    drop(listener);
    let ends = async {
        loop {
            slots.connection_ended().await;
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = ends => {}
    }
    drop(stop);
    while slots.tasks.join_next().await.is_some() {}
}

/// The open connections.
#[derive(Default)]
struct ConnectionSlots {
    tasks: JoinSet<()>,
    connections: Vec<(AbortHandle, Arc<ConnActivity>)>,
    clock: Arc<AtomicU64>,
}

/// Whether a connection is idle, and since when.
struct ConnActivity {
    is_busy: AtomicBool,
    /// When it was accepted or its last request ended, counted in such events.
    idle_since: AtomicU64,
    clock: Arc<AtomicU64>,
    /// Pieces of event streams that its client had room for.
    streamed: AtomicU64,
    /// It has a request that may take longer than a connection lives otherwise.
    waits: AtomicBool,
}

impl ConnActivity {
    fn becomes_idle(&self) {
        self.idle_since.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.is_busy.store(false, Ordering::Relaxed);
    }
}

impl ConnectionSlots {
    fn state(&self) -> Arc<ConnActivity> {
        let clock = Arc::clone(&self.clock);
        let state = ConnActivity {
            is_busy: AtomicBool::new(true),
            idle_since: AtomicU64::new(0),
            clock,
            streamed: AtomicU64::new(0),
            waits: AtomicBool::new(false),
        };
        state.becomes_idle();
        state.into()
    }

    fn add(&mut self, connection: impl Future<Output = ()> + Send + 'static, state: Arc<ConnActivity>) {
        self.connections.push((self.tasks.spawn(connection), state));
    }

    /// Closes the connection that was idle for longest, if there are `most`.
    fn close_longest_idle(&mut self, most: usize) {
        if self.connections.len() < most {
            return;
        }
        let order =
            |state: &ConnActivity| (state.is_busy.load(Ordering::Relaxed), state.idle_since.load(Ordering::Relaxed));
        let longest = self.connections.iter().enumerate().min_by_key(|(_, (_, state))| order(state)).map(|(at, _)| at);
        if let Some(at) = longest {
            self.connections.swap_remove(at).0.abort();
        }
    }

    /// Waits until a connection ends; forever if there is none.
    async fn connection_ended(&mut self) {
        match self.tasks.join_next().await {
            Some(_) => self.connections.retain(|(task, _)| !task.is_finished()),
            None => std::future::pending().await,
        }
    }
}

/// A listener that knows the peers of its connections.
trait PeerListener: Listener {
    fn peer(io: &Self::Io, address: &Self::Addr) -> AdminPeer;
}

impl PeerListener for tokio::net::TcpListener {
    fn peer(_: &Self::Io, address: &Self::Addr) -> AdminPeer {
        AdminPeer::Tcp(*address)
    }
}

impl PeerListener for tokio::net::UnixListener {
    fn peer(io: &Self::Io, _: &Self::Addr) -> AdminPeer {
        AdminPeer::Unix(io.peer_cred().ok().map(|user| (user.uid(), user.pid())))
    }
}

/// What all connections of the listener share.
#[derive(Clone)]
struct ServerContext {
    router: TowerToHyperService<Router>,
    limits: ServerLimits,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

async fn connection(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    peer: AdminPeer,
    context: ServerContext,
    state: Arc<ConnActivity>,
    mut stopping: watch::Receiver<()>,
) {
    let limits = context.limits;
    let activity = Arc::clone(&state);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        respond(context.clone(), Arc::clone(&state), request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.head_bytes)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    // An error of a connection concerns its client alone.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.changed() => {}
        () = too_old(&activity, limits.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.grace, connection).await;
}

/// Waits until a connection has to end: after `age`, but not while its request may wait for longer, and if its client
/// reads an event stream, when it stops reading.
async fn too_old(activity: &ConnActivity, age: Duration) {
    loop {
        let before = activity.streamed.load(Ordering::Relaxed);
        sleep(age).await;
        let waits = activity.waits.load(Ordering::Relaxed) && activity.is_busy.load(Ordering::Relaxed);
        if activity.streamed.load(Ordering::Relaxed) == before && !waits {
            return;
        }
    }
}

/// Responds to a request, if there is a permit for it.
async fn respond(
    context: ServerContext,
    state: Arc<ConnActivity>,
    request: Request<Incoming>,
) -> Result<Response<GuardedBody>, std::convert::Infallible> {
    state.is_busy.store(true, Ordering::Relaxed);
    let is_probe = HEALTH_PATHS.contains(&request.uri().path());
    let is_stream = request.uri().path() == api::EVENTS_PATH;
    let waits = sessions_api::may_wait(request.uri());
    state.waits.store(waits, Ordering::Relaxed);
    let activity = is_stream.then(|| Arc::clone(&state));
    let busy = RequestGuard(state);
    let permits = if is_stream || waits { &context.streams } else { &context.requests };
    let permit = if is_probe { None } else { Arc::clone(permits).try_acquire_owned().ok() };
    let response = async {
        if permit.is_none() && !is_probe {
            let why = "Too many requests at once. Try again in a second.\n";
            return closing((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response());
        }
        let is_reload = request.uri().path() == api::RELOAD_PATH;
        let own = match (is_reload, waits) {
            (true, _) => RELOAD_TIMEOUT,
            (_, true) => sessions_api::MAX_WAIT + context.limits.response,
            _ => Duration::ZERO,
        };
        let limit = context.limits.response.max(own);
        match timeout(limit, context.router.call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => closing((StatusCode::REQUEST_TIMEOUT, "The request did not arrive in time.\n").into_response()),
        }
    };
    let response = response.await;
    Ok(response.map(|body| GuardedBody { body, activity, _busy: busy, _permit: permit }))
}

/// Makes `response` the last one on its connection.
fn closing(mut response: Response) -> Response {
    response.headers_mut().extend(api::SECURITY_HEADERS);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Marks a connection as idle again when its request ends.
struct RequestGuard(Arc<ConnActivity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.becomes_idle();
    }
}

/// The body of a response. It keeps the request's permit until it has been sent.
struct GuardedBody {
    body: Body,
    /// What to count the pieces in, of an event stream.
    activity: Option<Arc<ConnActivity>>,
    _busy: RequestGuard,
    _permit: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for GuardedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(_))), Some(activity)) = (&frame, &self.activity) {
            activity.streamed.fetch_add(1, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
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
    const PATIENT: ServerLimits = ServerLimits {
        idle: 5,
        requests: 2,
        streams: 1,
        head: NEVER,
        head_bytes: 8192,
        response: NEVER,
        age: NEVER,
        grace: SOON,
    };

    /// More than socket buffers take.
    const HUGE: usize = 64 * 1024 * 1024;

    async fn start(limits: ServerLimits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/huge", get(|| async { vec![b'x'; HUGE] }))
            .route("/livez", get(|| async { "ok" }))
            .route("/slow", get(|| async { sleep(NEVER).await }))
            .route(api::EVENTS_PATH, get(|| async { Body::from_stream(pieces()) }));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, router, limits, std::future::pending(), shutdown));
        (address, stop, task)
    }

    /// The size of a piece of an event stream: a few fill all socket buffers.
    const PIECE: usize = 1024 * 1024;

    fn pieces() -> impl futures_util::Stream<Item = Result<Bytes, std::convert::Infallible>> {
        futures_util::stream::unfold((), |()| async {
            sleep(SOON / 30).await;
            Some((Ok(Bytes::from_static(&[b'x'; PIECE])), ()))
        })
    }

    async fn connect(address: SocketAddr, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    async fn is_served(stream: &mut TcpStream) -> bool {
        let mut start = [0; 12];
        matches!(timeout(3 * SOON, stream.read_exact(&mut start)).await, Ok(Ok(_)) if &start == b"HTTP/1.1 200")
    }

    /// Reads on until the server closes; true if that was soon.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        timeout(20 * SOON, tokio::io::copy(stream, &mut tokio::io::sink())).await.is_ok()
    }

    #[tokio::test]
    async fn a_client_that_sends_no_whole_request_is_disconnected() {
        let (address, _stop, _task) = start(ServerLimits { head: SOON, ..PATIENT }).await;
        for sent in [&b""[..], b"GET / HTTP/1.1\r\nHo"] {
            assert!(is_closed(&mut connect(address, sent).await).await, "{sent:?}");
        }
        // So is one that was served and then sends nothing more.
        let mut served = connect(address, REQUEST).await;
        assert!(is_served(&mut served).await);
        assert!(is_closed(&mut served).await);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_disconnected() {
        let (address, _stop, _task) = start(ServerLimits { age: SOON, ..PATIENT }).await;
        let mut stream = connect(address, b"GET /huge HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        sleep(4 * SOON).await;
        let mut answer = Vec::new();
        let _ = timeout(20 * SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() < HUGE);
    }

    #[tokio::test]
    async fn a_client_that_reads_events_stays_and_one_that_does_not_is_disconnected() {
        let (address, _stop, _task) = start(ServerLimits { age: 2 * SOON, streams: 2, ..PATIENT }).await;
        let request = format!("GET {} HTTP/1.0\r\n\r\n", api::EVENTS_PATH);
        let (mut reads, mut stalls) =
            (connect(address, request.as_bytes()).await, connect(address, request.as_bytes()).await);
        let (mut piece, since) = (vec![0; PIECE], Instant::now());
        while since.elapsed() < 8 * SOON {
            timeout(20 * SOON, reads.read_exact(&mut piece)).await.unwrap().unwrap();
        }
        assert!(is_closed(&mut stalls).await);
        timeout(20 * SOON, reads.read_exact(&mut piece)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn one_idle_connection_too_many_closes_the_one_that_was_idle_for_longest() {
        let (address, _stop, _task) = start(PATIENT).await;
        let mut kept = connect(address, b"").await;
        let mut idle = Vec::new();
        for _ in 0..7 {
            idle.push(connect(address, b"").await);
        }
        // Its last request counts, not when it connected.
        kept.write_all(REQUEST).await.unwrap();
        assert!(is_served(&mut kept).await);
        let mut late = connect(address, REQUEST).await;
        assert!(is_served(&mut late).await);
        assert!(is_closed(&mut idle[0]).await);
        kept.write_all(REQUEST).await.unwrap();
        let mut rest = vec![0; 2048];
        assert!(timeout(20 * SOON, kept.read(&mut rest)).await.unwrap().unwrap() > 0);
    }

    #[tokio::test]
    async fn slow_requests_delay_no_health_check() {
        let (address, _stop, _task) = start(PATIENT).await;
        let slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _slow = [connect(address, slow).await, connect(address, slow).await];
        sleep(SOON).await;
        let mut refused = connect(address, REQUEST).await;
        let mut answer = String::new();
        refused.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        let mut probe = connect(address, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(is_served(&mut probe).await);
    }

    #[tokio::test]
    async fn a_request_without_a_response_in_time_ends_and_returns_its_permit() {
        let (address, _stop, _task) = start(ServerLimits { response: SOON, requests: 1, ..PATIENT }).await;
        let mut slow = connect(address, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = String::new();
        timeout(20 * SOON, slow.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(is_served(&mut connect(address, REQUEST).await).await);
    }

    #[tokio::test]
    async fn the_shutdown_waits_no_longer_than_its_grace() {
        let (address, stop, task) = start(PATIENT).await;
        let mut idle = connect(address, REQUEST).await;
        assert!(is_served(&mut idle).await);
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
