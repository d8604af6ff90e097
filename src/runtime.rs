//! Owns: worker threads, listeners, client connections, and how all of them end.
//! Invariant: a connection stays on one thread, and each of its waits has a limit.
//! Must not know: what the handler does with a request.

mod activity;
mod backlog;
mod conn;
mod conn_context;
mod conn_timeouts;
mod connection_limit;
mod delivery;
pub mod descriptors;
mod ensure_response;
mod first_bytes;
mod handshake;
mod http1;
mod http2;
mod io;
pub mod listen;
mod listener;
mod per_client_limit;
mod proxy_protocol;
mod request_line;
mod service;
pub mod settings;
mod shutdown;
pub mod signal;
pub mod workers;

pub use listen::Listeners;
pub use settings::{Limits, ListenerSettings, Settings};
pub use workers::Workers;
