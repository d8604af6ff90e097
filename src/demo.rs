//! Owns: the demo backend, a small shop that keeps logins and carts in its own memory.
//! Invariant: every table and every input is bounded, and every response names its server (`x-served-by`).
//! Must not know: the proxy; it imports nothing of Linchpin and works without one.

mod cart;
mod cookies;
mod copies;
mod counter;
mod kill;
mod last_visit;
mod login;
mod negotiate;
mod notice;
mod page;
mod server;
mod session;
mod session_state;
mod shop;
mod test_endpoints;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http::header::{CACHE_CONTROL, HeaderName, HeaderValue};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use self::copies::seal::{CopySettings, MIN_SECRET_BYTES};
pub use self::login::PASSWORD;
use self::server::Server;
pub use self::server::{DEFAULT_SESSION_TIMEOUT, Settings};

const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");

/// Longest request body of a form: a login or a cart item is a few words.
const MAX_FORM_BYTES: usize = 8 * 1024;

/// How long requests in flight may take after the server has been asked to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Builds the application as a router with its own memory.
pub fn router(settings: Settings) -> Router {
    let server = Arc::new(Server::new(settings));
    Router::new()
        .route("/", get(shop::index))
        .route("/whoami", get(shop::whoami))
        .route("/login", post(shop::login))
        .route("/logout", post(shop::logout))
        .route("/cart", post(shop::cart))
        .route("/count", get(counter::read).post(counter::add))
        .route("/slow", get(test_endpoints::slow))
        .route("/bytes", get(test_endpoints::bytes))
        .route("/echo", post(test_endpoints::echo))
        .route("/kill", post(kill::kill))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), copies::run))
        // Outside the layer that loads sessions: these belong to no client and are not counted.
        .route("/healthz", get(test_endpoints::healthz))
        .route(copies::PATH, copies::endpoint().layer(DefaultBodyLimit::max(copies::MAX_COPY_BYTES)))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), add_server_fields))
        .with_state(server)
}

/// Serves the application on `listener` until `shutdown` resolves, then gives requests in flight two seconds to end.
///
/// # Errors
///
/// If the listener fails.
pub async fn run(
    listener: TcpListener,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stopping, stopped) = oneshot::channel::<()>();
    let listener = listener.tap_io(|connection| {
        // Without it responses may arrive late, but they arrive.
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

/// Adds the server's name to every response, errors included, and forbids caches to store it: each response is for one
/// client at one moment.
async fn add_server_fields(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(SERVED_BY, server.served_by.clone());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
