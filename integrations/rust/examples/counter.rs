//! An application with a login, a cart and a counter in its session, for tests: `counter ADDRESS NAME`, with the secret
//! in `SESSION_SECRET`. Prints one line with its address once it listens.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use linchpin_tower_sessions::SessionCopies;
use tower_sessions::{Session, SessionManagerLayer, session::Error};

/// An error of the session store, as a response.
struct Failed(Error);

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> axum::response::Response {
        (http::StatusCode::INTERNAL_SERVER_ERROR, self.0.to_string()).into_response()
    }
}

async fn count(session: Session) -> Result<String, Failed> {
    let count = session.get::<u64>("count").await?.unwrap_or(0) + 1;
    session.insert("count", count).await?;
    Ok(count.to_string())
}

async fn slow(session: Session) -> Result<String, Failed> {
    session.load().await?;
    session.get::<u64>("count").await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    count(session).await
}

async fn read(session: Session) -> Result<String, Failed> {
    Ok(session.get::<u64>("count").await?.unwrap_or(0).to_string())
}

async fn log_in(session: Session, Path(user): Path<String>) -> Result<(), Failed> {
    session.cycle_id().await?;
    session.insert("user", user).await?;
    Ok(())
}

async fn whoami(session: Session, State(server): State<String>) -> Result<String, Failed> {
    let user = session.get::<String>("user").await?.unwrap_or_else(|| "nobody".to_owned());
    Ok(format!("{server} {user} {}", session.get::<Vec<String>>("cart").await?.unwrap_or_default().join(",")))
}

async fn put(session: Session, Path(item): Path<String>) -> Result<(), Failed> {
    let mut cart = session.get::<Vec<String>>("cart").await?.unwrap_or_default();
    cart.push(item);
    session.insert("cart", cart).await?;
    Ok(())
}

async fn renew(session: Session) -> Result<(), Failed> {
    Ok(session.cycle_id().await?)
}

async fn log_out(session: Session) -> Result<(), Failed> {
    Ok(session.flush().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let name = arguments.next().unwrap_or_else(|| "a".to_owned());
    let copies = SessionCopies::new(&[std::env::var("SESSION_SECRET")?])?;
    let app = Router::new()
        .route("/count", get(read).post(count))
        .route("/slow", post(slow))
        .route("/login/{user}", post(log_in))
        .route("/cart/{item}", post(put))
        .route("/whoami", get(whoami))
        .route("/renew", post(renew))
        .route("/logout", post(log_out))
        .layer(SessionManagerLayer::new(copies.store()).with_secure(false))
        .layer(copies.layer())
        .with_state(name);
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
