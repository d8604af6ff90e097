//! Owns: the admin listener's connections.
//! Invariant: every connection ends in bounded time, there are never more than so many, and none keeps a prober from its answer.
//! Must not know: what is answered.

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

use super::bind::{self, Bound};
use super::{Facts, Settings, api};

/// What is asked by those who decide whether this process lives and gets clients: answered from memory, and
/// without a place among requests.
const PROBES: [&str; 2] = ["/livez", "/readyz"];

/// What a client may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections without a request at a time; for one more, that which was quiet for longest is closed.
    quiet: usize,
    /// Requests at a time, but for probers'; one more is a 503.
    requests: usize,
    /// From the end of one answer to the end of the next request's head.
    head: Duration,
    head_bytes: usize,
    /// From the end of a request's head to its answer: for the client to send its body, since what there is to tell
    /// is at hand.
    answer: Duration,
    /// How long a connection is kept. This is what ends one whose client doesn't read its answer.
    age: Duration,
    /// What a request in flight may still take once its connection is to end.
    grace: Duration,
}

const LIMITS: Limits = Limits {
    quiet: 64,
    requests: 32,
    head: Duration::from_secs(10),
    // Cookies of every other service on localhost come along.
    head_bytes: 64 * 1024,
    answer: Duration::from_secs(5),
    age: Duration::from_mins(1),
    grace: Duration::from_millis(800),
};

/// Serves the admin API on `bound`, with `most` connections at once at the most. Nobody can connect after `closing`,
/// and another process can have the address; whoever is connected is answered until `shutdown`. Ends within
/// a second then.
///
/// # Errors
/// If the runtime can't take the listener over.
pub async fn run(
    bound: Bound,
    settings: Settings,
    facts: Facts,
    most: usize,
    closing: impl Future<Output = ()> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = api::router(&settings, facts);
    let requests = (most / 3).clamp(1, LIMITS.requests);
    let limits = Limits { requests, quiet: most.saturating_sub(requests).clamp(1, LIMITS.quiet), ..LIMITS };
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

async fn serve(
    mut listener: impl Listener,
    router: Router,
    limits: Limits,
    closing: impl Future<Output = ()>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(());
    let shutdown = shutdown.shared();
    let (closing, over) = (pin!(closing), shutdown.clone());
    let mut closing = select(closing, over).map(drop);
    let house =
        House { router: TowerToHyperService::new(router), limits, requests: Semaphore::new(limits.requests).into() };
    let mut seats = Seats::default();
    loop {
        tokio::select! {
            () = &mut closing => break,
            () = seats.one_ends() => {}
            (io, _) = listener.accept() => {
                seats.make_room(limits.quiet + limits.requests);
                let state = seats.state();
                let connection = connection(TokioIo::new(io), house.clone(), Arc::clone(&state), stopping.clone());
                seats.take(connection, state);
            }
        }
    }
    drop(listener);
    let ends = async {
        loop {
            seats.one_ends().await;
        }
    };
    tokio::select! {
        () = shutdown => {}
        () = ends => {}
    }
    drop(stop);
    while seats.tasks.join_next().await.is_some() {}
}

/// The connections that there are.
#[derive(Default)]
struct Seats {
    tasks: JoinSet<()>,
    taken: Vec<(AbortHandle, Arc<State>)>,
    clock: Arc<AtomicU64>,
}

/// What a connection is at.
struct State {
    is_busy: AtomicBool,
    /// When it began, or its last request ended: by the count of such moments.
    quiet_since: AtomicU64,
    clock: Arc<AtomicU64>,
}

impl State {
    fn rests(&self) {
        self.quiet_since.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        self.is_busy.store(false, Ordering::Relaxed);
    }
}

impl Seats {
    fn state(&self) -> Arc<State> {
        let clock = Arc::clone(&self.clock);
        let state = State { is_busy: AtomicBool::new(true), quiet_since: AtomicU64::new(0), clock };
        state.rests();
        state.into()
    }

    fn take(&mut self, connection: impl Future<Output = ()> + Send + 'static, state: Arc<State>) {
        self.taken.push((self.tasks.spawn(connection), state));
    }

    /// Ends the connection that was quiet for longest, if there are `most`.
    fn make_room(&mut self, most: usize) {
        if self.taken.len() < most {
            return;
        }
        let order = |state: &State| (state.is_busy.load(Ordering::Relaxed), state.quiet_since.load(Ordering::Relaxed));
        let longest = self.taken.iter().enumerate().min_by_key(|(_, (_, state))| order(state)).map(|(at, _)| at);
        if let Some(at) = longest {
            self.taken.swap_remove(at).0.abort();
        }
    }

    /// Waits for the end of a connection, for ever if there is none.
    async fn one_ends(&mut self) {
        match self.tasks.join_next().await {
            Some(_) => self.taken.retain(|(task, _)| !task.is_finished()),
            None => std::future::pending().await,
        }
    }
}

/// What connections have in common.
#[derive(Clone)]
struct House {
    router: TowerToHyperService<Router>,
    limits: Limits,
    requests: Arc<Semaphore>,
}

async fn connection(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin,
    house: House,
    state: Arc<State>,
    mut stopping: watch::Receiver<()>,
) {
    let limits = house.limits;
    let service = service_fn(move |request| answer(house.clone(), Arc::clone(&state), request));
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

/// Answers a request, if there is a place for it.
async fn answer(
    house: House,
    state: Arc<State>,
    request: Request<Incoming>,
) -> Result<Response<Held>, std::convert::Infallible> {
    state.is_busy.store(true, Ordering::Relaxed);
    let busy = Busy(state);
    let is_probe = PROBES.contains(&request.uri().path());
    let place = if is_probe { None } else { Arc::clone(&house.requests).try_acquire_owned().ok() };
    let answer = async {
        if place.is_none() && !is_probe {
            let why = "Too many requests at once; come again in a moment.\n";
            return last((StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], why).into_response());
        }
        match timeout(house.limits.answer, house.router.call(request)).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => last((StatusCode::REQUEST_TIMEOUT, "The request did not come in time.\n").into_response()),
        }
    };
    let response = answer.await;
    Ok(response.map(|body| Held { body, _busy: busy, _place: place }))
}

/// An answer behind which nothing follows on its connection.
fn last(mut response: Response) -> Response {
    response.headers_mut().extend(api::MANNERS);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A request under way.
struct Busy(Arc<State>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rests();
    }
}

/// The body of an answer, which holds its request's place until it has been taken.
struct Held {
    body: Body,
    _busy: Busy,
    _place: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    const PATIENT: Limits =
        Limits { quiet: 6, requests: 2, head: NEVER, head_bytes: 8192, answer: NEVER, age: NEVER, grace: SOON };

    /// More than socket buffers take.
    const HUGE: usize = 64 * 1024 * 1024;

    async fn start(limits: Limits) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/huge", get(|| async { vec![b'x'; HUGE] }))
            .route("/livez", get(|| async { "ok" }))
            .route("/slow", get(|| async { sleep(NEVER).await }));
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, router, limits, std::future::pending(), shutdown));
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
    async fn one_quiet_connection_too_many_costs_the_one_that_was_quiet_for_longest() {
        let (address, _stop, _task) = start(PATIENT).await;
        let mut kept = connect(address, b"").await;
        let mut quiet = Vec::new();
        for _ in 0..7 {
            quiet.push(connect(address, b"").await);
        }
        // What it said counts, not when it came.
        kept.write_all(REQUEST).await.unwrap();
        assert!(is_answered(&mut kept).await);
        let mut late = connect(address, REQUEST).await;
        assert!(is_answered(&mut late).await);
        assert!(is_closed(&mut quiet[0]).await);
        kept.write_all(REQUEST).await.unwrap();
        let mut rest = vec![0; 2048];
        assert!(timeout(20 * SOON, kept.read(&mut rest)).await.unwrap().unwrap() > 0);
    }

    #[tokio::test]
    async fn requests_that_take_long_keep_no_prober_from_its_answer() {
        let (address, _stop, _task) = start(PATIENT).await;
        let slow = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let _slow = [connect(address, slow).await, connect(address, slow).await];
        sleep(SOON).await;
        let mut refused = connect(address, REQUEST).await;
        let mut answer = String::new();
        refused.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        let mut probe = connect(address, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(is_answered(&mut probe).await);
    }

    #[tokio::test]
    async fn a_request_that_is_not_answered_in_time_ends_and_gives_its_place_back() {
        let (address, _stop, _task) = start(Limits { answer: SOON, requests: 1, ..PATIENT }).await;
        let mut slow = connect(address, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let mut answer = String::new();
        timeout(20 * SOON, slow.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(is_answered(&mut connect(address, REQUEST).await).await);
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
