//! Builders of proxies, backends and clients. No fixed ports, no bare sleeps.

pub mod acme;
pub mod application;
#[path = "../../src/tls/tests/authority.rs"]
pub mod authority;
pub mod backend;
pub mod browser;
pub mod chromium;
pub mod client;
pub mod collector;
pub mod dns;
pub mod documents;
pub mod events;
pub mod exchange;
pub mod frames;
pub mod gate;
pub mod keys;
pub mod kubernetes;
pub mod load;
pub mod node;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod redis_servers;
pub mod reloads;
pub mod repository;
pub mod session_app;
pub mod survival;
pub mod thread_faults;
pub mod tool;
pub mod upgrades;
pub mod yaml;

use std::future::Future;
use std::time::Duration;

pub use backend::{Backend, Reply};
pub use client::{Client, Response};
pub use keys::Keys;
pub use proxy::Proxy;

/// The limit of every wait: far longer than any takes, so that only an event that never happens fails a test.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for `future`, for at most [`PATIENCE`].
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Waits until `condition` holds, for at most [`PATIENCE`].
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    soon(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
