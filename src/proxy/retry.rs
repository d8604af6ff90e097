//! Owns: the rule whether another attempt may follow a failed one.
//! Invariant: pure; it never allows what could execute an unsafe request twice.
//! Must not know: sockets, candidates, clocks.

use std::cell::Cell;

use http::header::{HeaderMap, HeaderName};
use http::{Method, request};

use crate::upstream::{Fact, Failure};

/// `[pools.retry]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Number of attempts that reach a backend, including the first, 1 to 16. An attempt that fails before a byte was
    /// sent does not count: another candidate may always follow it.
    pub attempts: u32,
    /// Number of attempts that reach no backend, 1 to 1000. It bounds the cost of a request when everything is down.
    pub connect_attempts: u32,
    /// The failures after which a request that was sent is repeated.
    pub retry_on: RetryOn,
    /// Bytes of a request's body that are kept to send it again. A request with a longer body can't be repeated once
    /// the limit is passed.
    pub replay_limit: usize,
    /// Retries per hundred requests of the pool, beyond a handful, 0 to 1000.
    pub budget: u32,
}

/// The words of `retry_on`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// `"reset"`: the connection broke after the request was sent, before a response began.
    pub reset: bool,
    /// `"timeout"`: no response arrived in time.
    pub timeout: bool,
    /// Statuses of responses that are discarded for another attempt, such as `"503"`.
    pub status: Vec<u16>,
    /// `"non_idempotent"`: the above also holds for POST and PATCH, which may then be executed twice: for applications
    /// that tolerate it.
    pub non_idempotent: bool,
    /// `"idempotency_key"`: the above also holds for a POST or PATCH with an `Idempotency-Key`: its application executes
    /// a request only once for each key.
    pub idempotency_key: bool,
}

impl RetryOn {
    /// Returns whether a request may be executed twice without harm: by its method, or since its client or the
    /// configuration says so.
    pub fn is_repeatable(&self, head: &request::Parts) -> bool {
        is_idempotent(&head.method)
            || self.non_idempotent
            || (self.idempotency_key && has_idempotency_key(&head.headers))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            attempts: 3,
            connect_attempts: 32,
            retry_on: RetryOn {
                reset: true,
                timeout: true,
                status: Vec::new(),
                non_idempotent: false,
                idempotency_key: false,
            },
            replay_limit: 64 * 1024,
            budget: 20,
        }
    }
}

/// What the rule needs to know about a request.
#[derive(Debug, Clone, Copy)]
pub struct RetryFacts {
    /// It may be executed twice (see [`RetryOn::is_repeatable`]).
    pub repeatable: bool,
    /// All of its body that has been read is kept.
    pub replayable: bool,
    /// Number of attempts of which a byte reached a backend.
    pub sent: u32,
    /// The time for all attempts is not over.
    pub in_time: bool,
    /// The failed backend is no longer up, or fails one request after the other. A retry then adds no load to a pool in
    /// trouble: the next backend does work that the dead one no longer does.
    pub backend_lost: bool,
}

/// The rule's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Try the next candidate.
    Yes,
    /// Try the next candidate if the budget can pay for it.
    IfBudget,
    /// End the request with this failure.
    No,
}

/// Decides whether the request may go to the next candidate.
pub fn may_retry(failure: Failure, facts: RetryFacts, settings: &Settings) -> RetryDecision {
    if !may_repeat(failure, facts, settings) {
        RetryDecision::No
    } else if !failure.sent {
        RetryDecision::Yes
    } else if facts.sent >= settings.attempts {
        RetryDecision::No
    } else if facts.backend_lost {
        RetryDecision::Yes
    } else {
        RetryDecision::IfBudget
    }
}

/// Returns whether it is safe to send the request again, and configured for such a failure.
pub fn may_repeat(failure: Failure, facts: RetryFacts, settings: &Settings) -> bool {
    // A shortage of descriptors or memory affects every backend: another attempt would at best move the session to a
    // backend with an idle connection.
    if !facts.replayable || !facts.in_time || matches!(failure.fact, Fact::RequestBody | Fact::Shortage) {
        return false;
    }
    let on = &settings.retry_on;
    let is_wanted = match failure.fact {
        Fact::Closed => on.reset,
        Fact::ResponseTimeout => on.timeout,
        Fact::Status(status) => on.status.contains(&status),
        Fact::Lost | Fact::SessionMoved | Fact::Connect(_) | Fact::ConnectTimeout => true,
        // Another backend would respond the same.
        Fact::Garbage | Fact::HeadTooLarge | Fact::RequestBody | Fact::Shortage => false,
    };
    !failure.sent || (facts.repeatable && is_wanted)
}

/// Returns whether a method is idempotent (RFC 9110 §9.2.2). An unknown one is not: nobody knows what it does.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Returns whether a request has exactly one key that is not empty. Of several, nobody knows which one the application
/// takes. The key is a string in quotes (RFC 9651 §3.3.3), but many clients leave the quotes out.
fn has_idempotency_key(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => !matches!(value.as_bytes().trim_ascii(), b"" | b"\"\""),
        _ => false,
    }
}

/// A pool's retry budget on one thread, after Finagle's: each request pays in a part of a retry, and each retry takes
/// one out. So retries add at most this part to the load of a dying pool.
#[derive(Debug)]
pub struct RetryBudget {
    hundredths: Cell<u32>,
    percent: u32,
}

impl RetryBudget {
    /// What is there at the start, and is never exceeded unless the share allows it: enough for a
    /// quiet pool's bad moment.
    const RESERVE: u32 = 10 * 100;
    const MOST: u32 = 100 * 100;

    /// A budget of `percent` retries per hundred requests.
    pub fn new(percent: u32) -> RetryBudget {
        RetryBudget { hundredths: Cell::new(Self::RESERVE), percent }
    }

    /// A request came.
    pub fn deposit(&self) {
        self.hundredths.set((self.hundredths.get() + self.percent).min(Self::MOST));
    }

    /// Takes a retry out, if there is one.
    pub fn withdraw(&self) -> bool {
        let left = self.hundredths.get().checked_sub(100);
        self.hundredths.set(left.unwrap_or(self.hundredths.get()));
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Reason;
    use proptest::prelude::*;
    use std::io::ErrorKind;

    const SAFE: RetryFacts =
        RetryFacts { repeatable: true, replayable: true, sent: 1, in_time: true, backend_lost: false };

    fn failure(fact: Fact, sent: bool) -> Failure {
        Failure::new(fact, sent)
    }

    #[test]
    fn what_was_not_sent_goes_on_whatever_the_method() {
        let facts = RetryFacts { repeatable: false, sent: 99, ..SAFE };
        let unsent = failure(Fact::Connect(Reason::Io(ErrorKind::ConnectionRefused)), false);
        assert_eq!(may_retry(unsent, facts, &Settings::default()), RetryDecision::Yes);
    }

    #[test]
    fn a_shortage_here_sends_nobody_elsewhere() {
        assert_eq!(may_retry(failure(Fact::Shortage, false), SAFE, &Settings::default()), RetryDecision::No);
    }

    #[test]
    fn what_was_sent_goes_on_only_if_idempotent_wanted_and_within_the_attempts() {
        let settings = Settings::default();
        let reset = failure(Fact::Closed, true);
        assert_eq!(may_retry(reset, SAFE, &settings), RetryDecision::IfBudget);
        assert_eq!(may_retry(reset, RetryFacts { backend_lost: true, ..SAFE }, &settings), RetryDecision::Yes);
        assert_eq!(may_retry(reset, RetryFacts { sent: 3, ..SAFE }, &settings), RetryDecision::No);
        assert_eq!(may_retry(reset, RetryFacts { repeatable: false, ..SAFE }, &settings), RetryDecision::No);
        assert_eq!(may_retry(failure(Fact::Status(503), true), SAFE, &settings), RetryDecision::No);
        assert_eq!(may_retry(failure(Fact::HeadTooLarge, true), SAFE, &settings), RetryDecision::No);
        let retry_on = RetryOn { status: vec![503], timeout: false, ..settings.retry_on };
        let settings = Settings { retry_on, ..Settings::default() };
        assert_eq!(may_retry(failure(Fact::Status(503), true), SAFE, &settings), RetryDecision::IfBudget);
        assert_eq!(may_retry(failure(Fact::ResponseTimeout, true), SAFE, &settings), RetryDecision::No);
    }

    #[test]
    fn a_request_is_repeatable_by_its_method_its_key_or_the_configuration() {
        let none: &[&str] = &[];
        for (method, keys, by_key, by_any) in [
            ("GET", none, true, true),
            ("PUT", none, true, true),
            ("POST", none, false, true),
            ("POST", &["\"8e03978e\""], true, true),
            ("PATCH", &["8e03978e"], true, true),
            ("POST", &[""], false, true),
            ("POST", &["\"\""], false, true),
            ("POST", &["a", "a"], false, true),
        ] {
            let mut request = http::Request::builder().method(method);
            for key in keys {
                request = request.header("idempotency-key", *key);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            let with = |idempotency_key, non_idempotent| {
                let on = RetryOn { idempotency_key, non_idempotent, ..Settings::default().retry_on };
                on.is_repeatable(&head)
            };
            assert_eq!(with(false, false), is_idempotent(&head.method), "{method} {keys:?}");
            assert_eq!((with(true, false), with(false, true)), (by_key, by_any), "{method} {keys:?}");
        }
    }

    #[test]
    fn the_budget_is_a_reserve_and_then_a_share() {
        let budget = RetryBudget::new(20);
        assert_eq!((0..50).filter(|_| budget.withdraw()).count(), 10);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!((0..50).filter(|_| budget.withdraw()).count(), 20);
        (0..100_000).for_each(|_| budget.deposit());
        assert_eq!((0..1000).filter(|_| budget.withdraw()).count(), 100);
    }

    fn facts() -> impl Strategy<Value = RetryFacts> {
        (any::<bool>(), any::<bool>(), 0u32..5, any::<bool>(), any::<bool>()).prop_map(
            |(repeatable, replayable, sent, in_time, backend_lost)| RetryFacts {
                repeatable,
                replayable,
                sent,
                in_time,
                backend_lost,
            },
        )
    }

    fn fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            Just(Fact::Connect(Reason::Io(ErrorKind::ConnectionRefused))),
            Just(Fact::ConnectTimeout),
            Just(Fact::Shortage),
            Just(Fact::Closed),
            Just(Fact::Garbage),
            Just(Fact::HeadTooLarge),
            Just(Fact::ResponseTimeout),
            Just(Fact::Lost),
            Just(Fact::RequestBody),
            Just(Fact::SessionMoved),
            (500u16..505).prop_map(Fact::Status),
        ]
    }

    proptest! {
        #[test]
        fn a_sent_request_that_is_not_repeatable_is_never_repeated(fact in fact(), facts in facts()) {
            let facts = RetryFacts { repeatable: false, ..facts };
            prop_assert_eq!(may_retry(failure(fact, true), facts, &Settings::default()), RetryDecision::No);
        }

        #[test]
        fn nothing_is_repeated_that_is_not_kept_or_out_of_time(fact in fact(), sent: bool, facts in facts()) {
            let settings = Settings::default();
            if !facts.replayable || !facts.in_time {
                prop_assert_eq!(may_retry(failure(fact, sent), facts, &settings), RetryDecision::No);
            }
        }

        #[test]
        fn every_budget_bounds_the_retries(percent in 0u32..200, requests in 0u32..2000) {
            let budget = RetryBudget::new(percent);
            let mut retries = 0;
            for _ in 0..requests {
                budget.deposit();
                while budget.withdraw() { retries += 1; }
            }
            prop_assert!(retries <= 10 + requests * percent / 100);
        }
    }
}
