//! Owns: the connections to backends: it connects, keeps idle connections, and sends requests.
//! Invariant: a connection is reused only if its last request and response both ended cleanly.
//! Must not know: why the proxy chose this backend, or what happens after a failure.

mod backend_stream;
mod connect;
mod connection;
mod connection_pool;
pub mod dial;
mod failure;
mod framing;
pub mod http1;
mod http2;
mod outgoing;
mod settings;
mod single_flight;

pub use connection::{IncompleteBody, PooledConnection, ReceivedBody, UpstreamBody};
pub use connection_pool::{ConnectionPool, PoolKey};
pub use failure::{Blame, Fact, Failure};
pub use http1::Http1Connection;
pub use http2::LocalExecutor;
pub use outgoing::{OutgoingRequest, RequestHead, to_http2};
pub use settings::{Access, ProxyProtocol, Settings};
