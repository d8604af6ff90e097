//! Owns: the bodies on streams of HTTP/2, for connections with clients and with backends.
//! Invariant: a body moves at the pace of its slower side, and holds no more than its stream's window meanwhile.
//! Must not know: connections, which side is which.

mod receive;
mod send;

pub use receive::StreamBody;
pub use send::{BodySender, PacedBody, Piece};
