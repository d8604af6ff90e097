//! Owns: worker threads, listeners, client connections, and how all of them end.
//! Invariant: a connection stays on one thread, and each of its waits has a limit.
//! Must not know: what the handler does with a request.

mod activity;
mod backlog;
mod bind_listener;
pub mod commands;
mod conn;
mod conn_context;
mod conn_timeouts;
mod connection_limit;
mod date;
mod delivery;
pub mod descriptors;
mod ensure_response;
mod first_bytes;
mod handshake;
mod http1;
mod http2;
mod http2_stream;
pub mod inherited;
mod io;
mod listen;
pub mod listener;
pub mod listeners;
mod per_client_limit;
mod polling;
mod proxy_protocol;
mod request_line;
mod service;
pub mod settings;
mod shutdown;
pub mod signal;
mod socket_files;
mod stream_tunnel;
mod thread_listeners;
pub mod workers;

pub use bind_listener::BindError;
pub use listener::ListenerTransport;
pub use listeners::Listeners;
pub use settings::{Limits, ListenerSettings, Settings};
pub use socket_files::ListenerId;
pub use workers::{StopHandle, Workers};
