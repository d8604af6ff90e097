//! Owns: whether a backend wants to be drained, as its responses to probes say.
//! Invariant: pure; an answer that flaps changes nothing, and a server that never keeps connections says nothing by it.
//! Must not know: how a probe is sent; what follows.

use http::header::{CONNECTION, HeaderName};
use http::{Response, Version};

/// How many answers in a row must close their connection, and how many must ask for nothing until a drain ends.
const REQUIRED: u32 = 3;

/// What a response to a probe says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct HealthAnswer {
    /// It has `Linchpin-State: drain`.
    pub(super) says_drain: bool,
    /// It has `Connection: close`, or is an HTTP/1.0 response without `keep-alive`.
    pub(super) closes: bool,
}

impl HealthAnswer {
    /// Reads what a response says.
    pub(super) fn of<B>(response: &Response<B>) -> HealthAnswer {
        const STATE: HeaderName = HeaderName::from_static("linchpin-state");
        let has = |name: HeaderName, word: &str| {
            let fields = response.headers().get_all(name);
            let mut words = fields.iter().filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(','));
            words.any(|each| each.trim().eq_ignore_ascii_case(word))
        };
        let closes = match response.version() {
            Version::HTTP_10 => !has(CONNECTION, "keep-alive"),
            _ => has(CONNECTION, "close"),
        };
        HealthAnswer { says_drain: has(STATE, "drain"), closes }
    }
}

/// What the answers of a backend have said until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DrainRequest {
    is_wanted: bool,
    /// Answers in a row that closed their connection.
    closing: u32,
    /// Answers in a row that asked for nothing.
    quiet: u32,
    /// An answer has kept its connection: one that closes it is a sign only then.
    has_kept: bool,
}

impl DrainRequest {
    /// Goes on from what is in force.
    pub(super) fn new(is_wanted: bool) -> DrainRequest {
        DrainRequest { is_wanted, ..DrainRequest::default() }
    }

    /// Takes an answer in. Returns whether the backend wants to be drained, if that has changed.
    pub(super) fn answered(&mut self, answer: HealthAnswer) -> Option<bool> {
        self.closing = if answer.closes { self.closing.saturating_add(1) } else { 0 };
        self.has_kept |= !answer.closes;
        let asks = answer.says_drain || (self.has_kept && self.closing >= REQUIRED);
        let is_quiet = !(answer.says_drain || (answer.closes && self.has_kept));
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };
        let is_wanted = asks || (self.is_wanted && self.quiet < REQUIRED);
        (std::mem::replace(&mut self.is_wanted, is_wanted) != is_wanted).then_some(is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes answers in: `d` for one that says drain, `c` for one that closes, `.` for any other one. Returns `D` where
    /// the drain begins and `R` where it ends.
    fn after(answers: &str) -> String {
        let mut request = DrainRequest::default();
        let changes = answers.chars().map(|c| HealthAnswer { says_drain: c == 'd', closes: c == 'c' });
        changes
            .map(|answer| match request.answered(answer) {
                Some(true) => 'D',
                Some(false) => 'R',
                None => '.',
            })
            .collect()
    }

    #[test]
    fn an_answer_is_read_from_its_fields() {
        let answer = |version: Version, name: &str, value: &str| {
            let response = Response::builder().version(version).header(name, value).body(()).unwrap();
            let HealthAnswer { says_drain, closes } = HealthAnswer::of(&response);
            (says_drain, closes)
        };
        assert_eq!(answer(Version::HTTP_11, "linchpin-state", "Drain"), (true, false));
        assert_eq!(answer(Version::HTTP_11, "linchpin-state", "ready"), (false, false));
        assert_eq!(answer(Version::HTTP_11, "connection", "x, Close"), (false, true));
        assert_eq!(answer(Version::HTTP_10, "server", "x"), (false, true));
        assert_eq!(answer(Version::HTTP_10, "connection", "keep-alive"), (false, false));
        assert_eq!(answer(Version::HTTP_2, "server", "x"), (false, false));
    }

    #[test]
    fn one_answer_that_says_drain_suffices_and_three_others_end_it() {
        assert_eq!(after("..d...."), "..D..R.");
        assert_eq!(after("d.d..d...."), "D.......R.", "flapping");
    }

    #[test]
    fn three_answers_that_close_suffice_if_there_were_others() {
        assert_eq!(after(".cc.ccc..."), "......D..R");
        assert_eq!(after("cccccccc"), "........", "a server that never keeps a connection");
        assert_eq!(after("ccc.cccc...."), "......D...R.");
    }
}
