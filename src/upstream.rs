//! Owns: connections to backends: making them, keeping idle ones, sending a request on one.
//! Invariant: a connection is used again only if request and response both ended cleanly.
//! Must not know: why this backend was chosen, or what happens when it fails.

pub mod connect;
pub mod failure;
pub mod idle;
mod quiet;
pub mod wire;

pub use connect::connect;
pub use failure::{Fact, Failure};
pub use idle::Idle;
pub use wire::{Received, Wire};

/// `[pools.upstream]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Idle connections kept per backend and thread.
    pub max_idle_per_thread: usize,
    /// How long one is kept. Shorter than the backend's own keep-alive time, so that it is
    /// Linchpin that closes and no request meets a closing connection.
    pub idle_timeout: std::time::Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { max_idle_per_thread: 128, idle_timeout: std::time::Duration::from_secs(30) }
    }
}
