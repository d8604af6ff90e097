//! Owns: how an attempt can fail, whose fault it is, and whether the backend may have begun to work on it.
//! Invariant: `sent` is false only if not one byte of the request was written; blame is set where the failure happens.
//! Must not know: status codes, retry rules.

use std::time::Duration;

use http::Request;

use crate::reason::Reason;

/// A failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What happened.
    pub fact: Fact,
    /// Whether a byte of the request was written: if so, the backend may have executed it.
    pub sent: bool,
    /// Who was waited for when it happened.
    pub blame: Blame,
    /// What the connection said of it, where that is more than the fact.
    pub detail: Option<Reason>,
}

impl Failure {
    /// A failure with the blame that the fact has where nothing more is known of it.
    pub fn new(fact: Fact, sent: bool) -> Failure {
        let blame = match fact {
            Fact::Lost | Fact::Shortage => Blame::Nobody,
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

    /// The same, where it is known that it was `blame` who was waited for.
    #[must_use]
    pub fn blamed_on(self, blame: Blame) -> Failure {
        Failure { blame, ..self }
    }

    /// The same, of which the connection `said` this.
    #[must_use]
    pub(super) fn with_detail(self, detail: Option<Reason>) -> Failure {
        Failure { detail, ..self }
    }

    /// The same in words, of an attempt that has taken so long.
    pub fn reason(self, took: Duration) -> Reason {
        self.detail.unwrap_or_else(|| self.fact.reason(took))
    }

    /// Whether the backend answered, with something that cannot be passed on. Such a page fails for
    /// whoever asks for it: it says nothing of the backend's other pages, and another backend would
    /// answer the same.
    pub fn is_unusable_response(&self) -> bool {
        self.sent && matches!(self.fact, Fact::Garbage | Fact::HeadTooLarge)
    }

    /// Whether no connection to the backend could be used.
    pub fn is_unreached(&self) -> bool {
        !self.sent && self.blame == Blame::Backend
    }
}

/// A request that failed on a connection.
pub struct SendError<B> {
    /// Why.
    pub failure: Failure,
    /// Whether a byte of an answer came.
    pub has_received: bool,
    /// The request, if it was not taken from the connection's queue: it can be sent elsewhere as it is.
    pub request: Option<Request<B>>,
}

/// What happened to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fact {
    /// No connection, for this reason: refused, unreachable, not who it should be.
    Connect(Reason),
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
    /// The backend, for what no request can cause: it counts against it, whoever asked.
    Backend,
    /// The backend's answer to this request. One client, or one page, can cause such failures at will:
    /// they count against the backend only where several clients meet them.
    Response,
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
            Fact::Status(status) => Reason::Status(status),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_request_can_cause_is_the_backends_and_what_an_answer_fails_with_needs_more_than_one_to_say_so() {
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
            (Fact::RequestBody, true, Blame::Client),
        ] {
            assert_eq!(Failure::new(fact, sent).blame, blame, "{fact:?} {sent}");
        }
    }
}
