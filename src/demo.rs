//! The demo backend: a small shop that keeps logins and carts in its own memory, the kind of server Linchpin is for.
//! Every table and every input is bounded, and every answer names the server that gave it (`x-served-by`).
//! It must not know Linchpin: it imports nothing of the proxy, and works as well without one.

mod cart;
mod kill;
mod last_visit;
mod negotiate;
mod notice;
mod page;
mod session;
mod session_state;
mod shop;
mod test_endpoints;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use self::last_visit::Incarnation;
use self::session::{SessionLimits, SessionStore};

/// The password of every user.
pub const PASSWORD: &str = "linchpin";

/// The cookie in which the demo backend's own session id travels. Linchpin leaves it alone.
pub const SESSION_COOKIE: &str = "DEMOSESSION";

/// How long a session lives without a request, unless told otherwise.
pub const DEFAULT_SESSION_TIMEOUT: Duration = Duration::from_mins(20);

const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// A login or a cart item is a few words; whatever is longer isn't one.
const MAX_FORM_BYTES: usize = 8 * 1024;

/// So is a user name.
const MAX_USER_CHARS: usize = 64;

/// How long requests in flight may take once the server has been asked to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// What a demo backend needs to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name by which every answer says who gave it.
    pub name: String,
    /// How long a session lives without a request.
    pub session_timeout: Duration,
    /// How many sessions are kept; one more, and the one that was idle longest goes.
    pub max_sessions: usize,
    /// Whether `POST /kill` really kills this process. Off where the router runs inside another program.
    pub allow_kill: bool,
}

impl Settings {
    /// The defaults for a server of that name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), session_timeout: DEFAULT_SESSION_TIMEOUT, max_sessions: 10_000, allow_kill: false }
    }
}

/// The whole application as a router, with a memory of its own.
pub fn router(settings: Settings) -> Router {
    let server = Arc::new(Server::new(settings));
    Router::new()
        .route("/", get(shop::index))
        .route("/whoami", get(shop::whoami))
        .route("/login", post(shop::login))
        .route("/logout", post(shop::logout))
        .route("/cart", post(shop::cart))
        .route("/slow", get(test_endpoints::slow))
        .route("/bytes", get(test_endpoints::bytes))
        .route("/echo", post(test_endpoints::echo))
        .route("/kill", post(kill::kill))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), session_state::load))
        // Below the layer that recognises visitors: a probe is nobody's visit and counts for nothing.
        .route("/healthz", get(test_endpoints::healthz))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), add_server_fields))
        .with_state(server)
}

/// Serves the application on `listener` until `shutdown`, then lets requests in flight end for a moment.
///
/// # Errors
///
/// When the listener can no longer be served.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let listener = listener.tap_io(|connection| {
        // Without it answers may arrive late, but they arrive.
        let _ = connection.set_nodelay(true);
    });
    let serve = axum::serve(listener, router(settings)).with_graceful_shutdown(async move {
        shutdown.await;
        drop(stopping);
    });
    let grace_period = async {
        let _ = stopped.await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        ended = serve.into_future() => ended,
        () = grace_period => Ok(()),
    }
}

/// One server's identity and memory: what dies with it.
struct Server {
    settings: Settings,
    /// The name as a header value, made once.
    served_by: HeaderValue,
    incarnation: Incarnation,
    started: Instant,
    served: AtomicU64,
    sessions: Mutex<SessionStore>,
}

impl Server {
    fn new(settings: Settings) -> Self {
        let limits = SessionLimits { idle: settings.session_timeout, capacity: settings.max_sessions };
        // A clock that stands before 1970 gives all lives one beginning: a page then tells less.
        let started_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started_ms = u64::try_from(started_ms.as_millis()).unwrap_or(u64::MAX);
        Self {
            incarnation: Incarnation { name: settings.name.clone(), started_ms },
            served_by: HeaderValue::from_str(&settings.name).unwrap_or(HeaderValue::from_static("unnamed")),
            started: Instant::now(),
            served: AtomicU64::new(0),
            sessions: Mutex::new(SessionStore::new(limits)),
            settings,
        }
    }

    /// The session table. A panic elsewhere leaves it usable: no change to it is ever half done.
    fn sessions(&self) -> MutexGuard<'_, SessionStore> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

/// Signs every answer, errors too, and keeps it out of caches: what it says is true for one client and one moment.
async fn add_server_fields(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(SERVED_BY, server.served_by.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
