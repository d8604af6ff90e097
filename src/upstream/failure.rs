//! Owns: how an attempt can fail, who is to blame, and whether the backend may have begun to process the request.
//! Invariant: `sent` is false only if no byte of the request was written; blame is set where the failure happens.
//! Must not know: status codes, retry rules.

use std::time::Duration;

use crate::reason::Reason;

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub fact: Fact,
    /// Whether a byte of the request was written. If so, the backend may have executed it.
    pub sent: bool,
    /// Which side the attempt was waiting for when it failed.
    pub blame: Blame,
    /// What the connection reported, if that says more than the fact.
    pub detail: Option<Reason>,
}

impl Failure {
    /// Returns a failure with the blame that follows from the fact alone.
    pub fn new(fact: Fact, sent: bool) -> Failure {
        let blame = match fact {
            Fact::Lost | Fact::Shortage | Fact::SessionMoved => Blame::Nobody,
            Fact::RequestBody => Blame::Client,
            Fact::Connect(_) | Fact::ConnectTimeout => Blame::Backend,
            // No request can have caused what happened before it was sent.
            Fact::Closed | Fact::Garbage if !sent => Blame::Backend,
            Fact::Closed | Fact::Garbage | Fact::HeadTooLarge | Fact::ResponseTimeout | Fact::Status(_) => {
                Blame::Response
            }
        };
        Failure { fact, sent, blame, detail: None }
    }

    /// Sets the blame, where the caller knows which side the attempt was waiting for.
    #[must_use]
    pub fn blamed_on(self, blame: Blame) -> Failure {
        Failure { blame, ..self }
    }

    /// Sets what the connection reported.
    #[must_use]
    pub(super) fn with_detail(self, detail: Option<Reason>) -> Failure {
        Failure { detail, ..self }
    }

    /// Returns the reason in words, for an attempt that took `took`.
    pub fn reason(self, took: Duration) -> Reason {
        self.detail.unwrap_or_else(|| self.fact.reason(took))
    }

    /// Whether the backend sent a response that cannot be forwarded. Such a page fails for every client that requests
    /// it: it says nothing about the backend's other pages, and another backend would send the same.
    pub fn is_unusable_response(&self) -> bool {
        self.sent && matches!(self.fact, Fact::Garbage | Fact::HeadTooLarge)
    }

    /// Whether no connection to the backend was usable.
    pub fn is_unreached(&self) -> bool {
        !self.sent && self.blame == Blame::Backend
    }
}

/// A request that got no response on its connection.
#[derive(Debug)]
pub struct SendError {
    /// Why it failed.
    pub failure: Failure,
    /// Whether a byte of a response arrived.
    pub has_received: bool,
}

/// What happened to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// Connecting failed for this reason: refused, unreachable, or the wrong certificate.
    Connect(Reason),
    /// Linchpin lacks a descriptor, a port or memory to connect. The backend was not contacted.
    Shortage,
    /// Connecting took too long.
    ConnectTimeout,
    /// The connection ended before a response began.
    Closed,
    /// The backend sent no valid HTTP response, or one that says ambiguously where it ends.
    Garbage,
    /// The header section of the response is too large.
    HeadTooLarge,
    /// The response took too long to begin.
    ResponseTimeout,
    /// The backend was declared down while the request waited on it.
    Lost,
    /// The request body ended with an error, which the client caused.
    RequestBody,
    /// The session was handed over to another backend while the request ran, so its response must not reach the client.
    SessionMoved,
    /// The backend responded with a status that `retry_on` lists.
    Status(u16),
}

/// Who is to blame for a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The backend, for something that no request can cause. It counts against the backend, whichever client sent the
    /// request.
    Backend,
    /// The backend's response to this request. One client, or one page, can cause such failures at will, so they count
    /// against the backend only if several clients meet them.
    Response,
    /// The client.
    Client,
    /// Nobody in particular, or it has counted against the backend already.
    Nobody,
}

impl Fact {
    /// The values of `outcome` in the metrics of attempts.
    pub const OUTCOMES: [&'static str; 12] = [
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
        "session_moved",
    ];

    /// Returns the index of this fact in [`Fact::OUTCOMES`], where 0 is success.
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
            Fact::SessionMoved => 11,
        }
    }

    fn reason(self, took: Duration) -> Reason {
        match self {
            Fact::Connect(reason) => reason,
            Fact::Shortage => Reason::SHORTAGE,
            Fact::ConnectTimeout => Reason::ConnectTimedOut(took),
            Fact::ResponseTimeout => Reason::ResponseTimedOut(took),
            Fact::Closed => Reason::CLOSED,
            Fact::Garbage => Reason::MALFORMED,
            Fact::HeadTooLarge => Reason::TOO_LARGE,
            Fact::Lost => Reason::BACKEND_DOWN,
            Fact::RequestBody => Reason::REQUEST_BODY,
            Fact::SessionMoved => Reason::SESSION_MOVED,
            Fact::Status(status) => Reason::Status(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_no_request_can_cause_blames_the_backend_and_a_failed_response_blames_the_response() {
        let refused = Fact::Connect(Reason::Io(std::io::ErrorKind::ConnectionRefused));
        for (fact, sent, blame) in [
            (refused, false, Blame::Backend),
            (Fact::ConnectTimeout, false, Blame::Backend),
            (Fact::Closed, false, Blame::Backend),
            (Fact::Closed, true, Blame::Response),
            (Fact::Garbage, true, Blame::Response),
            (Fact::HeadTooLarge, true, Blame::Response),
            (Fact::ResponseTimeout, true, Blame::Response),
            (Fact::Status(503), true, Blame::Response),
            (Fact::Shortage, false, Blame::Nobody),
            (Fact::Lost, true, Blame::Nobody),
            (Fact::SessionMoved, true, Blame::Nobody),
            (Fact::RequestBody, true, Blame::Client),
        ] {
            assert_eq!(Failure::new(fact, sent).blame, blame, "{fact:?} {sent}");
        }
    }
}
