//! Owns: how an attempt can fail, whose fault it is, and whether the backend may have begun to work on it.
//! Invariant: `sent` is false only if not one byte of the request was written.
//! Must not know: status codes, retry rules.

use std::io;

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub fact: Fact,
    /// Whether a byte of the request was written: if so, the backend may have executed it.
    pub sent: bool,
}

/// What happened to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// No connection: refused or unreachable.
    Connect(io::ErrorKind),
    /// No connection, for want of a descriptor, a port or memory here: the backend was not asked.
    Shortage,
    /// No connection in time.
    ConnectTimeout,
    /// The connection ended before a response began.
    Closed,
    /// What came is no HTTP response, or one that does not say in one way where it ends.
    Garbage,
    /// The head of the response is larger than what is read.
    HeadTooLarge,
    /// No response in time.
    ResponseTimeout,
    /// The backend was declared down while the request waited on it.
    Lost,
    /// The body that was to be sent ended with an error: the client's doing.
    RequestBody,
    /// It answered with a status that is configured to be tried again.
    Status(u16),
}

/// Who is to blame for a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The backend; it counts against it.
    Backend,
    /// The client.
    Client,
    /// Nobody in particular, or it has been held against the backend already.
    Nobody,
}

impl Fact {
    /// The `outcome` of the attempt in metrics.
    pub const OUTCOMES: [&'static str; 11] = [
        "ok",
        "connect",
        "connect_timeout",
        "closed",
        "garbage",
        "head_too_large",
        "response_timeout",
        "lost",
        "request_body",
        "status",
        "shortage",
    ];

    /// The place of this fact in [`Fact::OUTCOMES`]. 0 is success.
    pub fn outcome(self) -> usize {
        match self {
            Fact::Connect(_) => 1,
            Fact::ConnectTimeout => 2,
            Fact::Closed => 3,
            Fact::Garbage => 4,
            Fact::HeadTooLarge => 5,
            Fact::ResponseTimeout => 6,
            Fact::Lost => 7,
            Fact::RequestBody => 8,
            Fact::Status(_) => 9,
            Fact::Shortage => 10,
        }
    }

    /// Who is to blame.
    pub fn blame(self) -> Blame {
        match self {
            // An oversize head is one answer of one application path; a client that can provoke
            // it could otherwise take the whole pool out, one backend after the other.
            Fact::HeadTooLarge | Fact::Lost => Blame::Nobody,
            Fact::RequestBody => Blame::Client,
            Fact::Shortage => Blame::Nobody,
            Fact::Connect(_)
            | Fact::ConnectTimeout
            | Fact::Closed
            | Fact::Garbage
            | Fact::ResponseTimeout
            | Fact::Status(_) => Blame::Backend,
        }
    }

    pub(super) fn of(error: &hyper::Error) -> Fact {
        if error.is_parse_too_large() {
            Fact::HeadTooLarge
        } else if error.is_parse() {
            Fact::Garbage
        } else if error.is_user() {
            Fact::RequestBody
        } else {
            Fact::Closed
        }
    }
}
