//! Owns: addresses, listening sockets and connections, over TCP and Unix sockets.
//! Invariant: bytes pass unchanged and in order.
//! Must not know: what is sent on a connection, and by whom.

mod address;
mod batch;
pub mod bind;
pub mod body_pacing;
pub mod defer_accept;
pub mod descriptor_reserve;
pub mod interim;
pub mod local_addresses;
mod networks;
mod read_buffers;
mod send_buffer;
mod socket;
mod stream;
pub mod syn_filter;
mod tls_records;
pub mod unix;

pub use address::{Address, InvalidAddress, MAX_SOCKET_PATH, client_network};
pub use batch::run_batcher;
pub use networks::Networks;
pub use socket::{Socket, WriteProgress};
pub use stream::Stream;
pub use tls_records::RecordSocket;
