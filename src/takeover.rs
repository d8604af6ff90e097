//! Owns: how a process hands its sockets and its state over to the next one: messages, their format, and their order.
//! Invariant: at any time one of the two accepts connections; what a later version adds, an earlier one skips.
//! Must not know: what the state means to the parts that own it, or how connections are accepted.

mod channel;
mod frame;
mod generations;
mod hex;
mod parts;
mod states;

pub use channel::{Channel, FrameReceiver, FrameSender, is_same_user};
pub use frame::{Frame, MAX_DESCRIPTORS};
pub use generations::{Generation, MAX_OLDER, millis, too_many};
pub use hex::{from_hex, hex};
pub use parts::{
    Accepting, AdminSocket, Commit, CopyPart, Hello, ListenerSockets, Message, Offer, Older, Part, Prepared, Refused,
    RuntimeState, SessionCounts, SessionPart, SessionsPart, SessionsRemoved, Settled, SnapshotEnd, StateEnd, Stop,
    Superseded, VERSION, WaitingSocket,
};
pub use states::{NewAction, NewEvent, NewState, OldAction, OldEvent, OldState};
