//! Owns: when a certificate is obtained, renewed or asked about, and how long to wait after a failure.
//! Invariant: time and randomness are arguments; no answer of a server postpones a renewal past the certificate's end.
//! Must not know: files, connections.

use serde::{Deserialize, Serialize};

use super::settings::ChallengeKind;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The wait after the first failure, in seconds; it doubles with each further one.
const FIRST_WAIT: u64 = MINUTE;
/// The longest wait of our own: Let's Encrypt lets an account try a name five times in an hour.
const LONGEST_WAIT: u64 = 6 * HOUR;
/// The longest wait while there is no valid certificate, or soon will be none.
const LONGEST_URGENT_WAIT: u64 = HOUR;
/// The longest Retry-After that is heeded. Those of rate limits are at most a week.
pub(super) const LONGEST_RETRY_AFTER: u64 = 7 * DAY;
/// The time between a success and the next order for the name, at least: a window that stays in the past, or a clock
/// that is ahead, would let one order follow the other. A sixth of the lifetime if that is shorter.
const SHORTEST_RENEWAL: u64 = HOUR;
/// How far the start of a new certificate may be in the future: the authority's clock may be ahead.
const LATEST_START: u64 = DAY;
/// The bounds of the time between two questions for renewal information (RFC 9773 §4.3.2).
const ASK_AGAIN: std::ops::RangeInclusive<u64> = MINUTE..=DAY;
/// When to ask again after a question that got no answer.
const ASK_AFTER_FAILURE: u64 = HOUR;
/// Certificates with a shorter lifetime are renewed after half of it, others after two thirds.
const SHORT_LIFETIME: u64 = 10 * DAY;

/// A stored certificate that is for the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredCertificate {
    /// What names it in questions for renewal information (RFC 9773 §4.1); `None` if it names no issuer's key.
    pub(super) id: Option<String>,
    /// The start of its validity, in seconds since 1970.
    pub(super) not_before: u64,
    /// The end of its validity.
    pub(super) not_after: u64,
}

impl StoredCertificate {
    /// Returns why this new certificate may not take the place of the stored one at the time `now`, if it may not.
    pub(super) fn refusal(&self, now: u64, stored: Option<&StoredCertificate>) -> Option<&'static str> {
        if self.not_after <= now {
            return Some("it has expired already");
        }
        if self.not_before > now + LATEST_START {
            return Some("it is not valid yet");
        }
        // One with a shorter lifetime may end earlier and be new: of another profile, or instead of a revoked one.
        let is_old = |stored: &StoredCertificate| {
            stored.not_before <= now && self.not_after <= stored.not_after && self.usual_renewal() <= now
        };
        stored.is_some_and(is_old).then_some("it is due for renewal, and expires no later than the one in use")
    }

    fn lifetime(&self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// Whether there is none beside it for much longer: less than a tenth of its lifetime is left.
    fn ends_soon(&self, now: u64) -> bool {
        self.not_after.saturating_sub(now) < self.lifetime() / 10
    }

    /// When to renew it, unless the ACME server says something else.
    fn usual_renewal(&self) -> u64 {
        let lifetime = self.lifetime();
        self.not_before.saturating_add(if lifetime < SHORT_LIFETIME { lifetime / 2 } else { lifetime / 3 * 2 })
    }
}

/// What has become of the orders for one name. It is stored, so that neither a restart nor another Linchpin hurries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// The failures since the last success.
    pub(super) failures: u32,
    /// When to try again after them, in seconds since 1970.
    pub(super) retry_at: u64,
    /// Why the last attempt failed.
    pub(super) error: Option<String>,
    /// When the ACME server suggests to renew.
    pub(super) renewal: Option<Renewal>,
    /// When the last certificate was obtained, in seconds since 1970. Older versions do not write it.
    pub(super) obtained_at: Option<u64>,
}

/// What the ACME server says about the renewal of one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Renewal {
    /// The id of the certificate.
    certificate: String,
    /// The suggested window, and the time that was drawn within; `None` if the server gave none.
    window: Option<(Window, u64)>,
    /// When to ask again.
    ask_at: u64,
}

/// A window in which to renew, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// What to do for a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Order a certificate.
    Order,
    /// Ask when to renew the certificate.
    AskRenewal,
    /// Nothing before this time.
    Wait(u64),
}

/// Decides what to do for a name at the time `now`.
pub(super) fn next(now: u64, stored: Option<&StoredCertificate>, history: &History) -> Step {
    let order_at = order_at(now, stored, history);
    if order_at <= now {
        return Step::Order;
    }
    let asks = stored.and_then(|stored| stored.id.as_deref()).map(|id| match history.renewal_of(id) {
        // A time that no rule gives is from a clock that was wrong.
        Some(renewal) if renewal.ask_at <= now + ASK_AGAIN.end() => renewal.ask_at,
        _ => now,
    });
    match asks {
        Some(at) if at <= now => Step::AskRenewal,
        Some(at) => Step::Wait(order_at.min(at)),
        None => Step::Wait(order_at),
    }
}

/// Returns when the next order is due, which may be in the past.
pub(super) fn order_at(now: u64, stored: Option<&StoredCertificate>, history: &History) -> u64 {
    let due = stored.map_or(now, |stored| {
        let suggested = stored.id.as_deref().and_then(|id| history.renewal_of(id)?.window);
        match suggested {
            // Whatever a server suggests, a sixth of the lifetime is left for what may fail.
            Some((_, drawn)) => drawn.min(stored.not_after.saturating_sub(stored.lifetime() / 6)),
            None => stored.usual_renewal(),
        }
    });
    let due = match (stored, history.obtained_at) {
        // A time in the future is from a clock that was wrong.
        (Some(stored), Some(at)) if at <= now => {
            due.max(at + SHORTEST_RENEWAL.min(stored.lifetime() / 6).max(FIRST_WAIT))
        }
        _ => due,
    };
    let is_waiting = history.failures > 0 && history.retry_at <= now + LONGEST_RETRY_AFTER;
    if is_waiting { due.max(history.retry_at) } else { due }
}

impl History {
    fn renewal_of(&self, certificate: &str) -> Option<&Renewal> {
        self.renewal.as_ref().filter(|renewal| renewal.certificate == certificate)
    }

    /// Makes the history of a name whose certificate was obtained now.
    pub(super) fn obtained(now: u64) -> History {
        History { obtained_at: Some(now), ..History::default() }
    }

    /// Records a failure. The ACME server may have said after how many seconds to try again; `random` is at least 0 and
    /// below 1.
    pub(super) fn failed(
        &mut self,
        now: u64,
        stored: Option<&StoredCertificate>,
        error: String,
        retry_after: Option<u64>,
        random: f64,
    ) {
        let is_urgent = stored.is_none_or(|stored| stored.ends_soon(now));
        let longest = if is_urgent { LONGEST_URGENT_WAIT } else { LONGEST_WAIT };
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(20)).min(longest);
        // A quarter more at most: Linchpins that lost the same server don't come back at once.
        let wait = doubled + scaled(doubled / 4, random);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + wait.max(retry_after.unwrap_or(0).min(LONGEST_RETRY_AFTER));
        self.error = Some(error);
    }

    /// Records what the ACME server suggests for a certificate, and after how many seconds to ask again.
    pub(super) fn suggested(&mut self, now: u64, certificate: &str, window: Window, again: u64, random: f64) {
        let known = self.renewal_of(certificate).and_then(|renewal| renewal.window);
        // Drawn once for each window: the earliest of several draws would be early.
        let drawn = match known {
            Some((same, drawn)) if same == window => drawn,
            _ => window.start + scaled(window.end.saturating_sub(window.start), random),
        };
        let ask_at = now + again.clamp(*ASK_AGAIN.start(), *ASK_AGAIN.end());
        self.renewal = Some(Renewal { certificate: certificate.into(), window: Some((window, drawn)), ask_at });
    }

    /// Records that the ACME server suggests nothing: it has no such service, or did not answer this time.
    pub(super) fn not_suggested(&mut self, now: u64, certificate: &str, has_service: bool) {
        let window = self.renewal_of(certificate).and_then(|renewal| renewal.window);
        let ask_at = now + if has_service { ASK_AFTER_FAILURE } else { *ASK_AGAIN.end() };
        self.renewal = Some(Renewal { certificate: certificate.into(), window, ask_at });
    }

    /// Whether the ACME server gives renewal information: it wants to know which certificate an order replaces.
    pub(super) fn has_suggestion(&self, certificate: &str) -> bool {
        self.renewal_of(certificate).is_some_and(|renewal| renewal.window.is_some())
    }
}

/// Chooses how to prove control of a name, of the ways that are configured and that the ACME server offers. After a
/// failure it is another way's turn: the first may not reach this server, such as TLS behind a CDN.
pub(super) fn challenge(
    configured: &[ChallengeKind],
    is_offered: impl Fn(ChallengeKind) -> bool,
    failures: u32,
) -> Option<ChallengeKind> {
    let offered: Vec<_> = configured.iter().copied().filter(|kind| is_offered(*kind)).collect();
    let at = (failures as usize).checked_rem(offered.len())?;
    offered.get(at).copied()
}

/// Returns a part of `seconds`. The cast can't exceed it: `random` is below 1.
fn scaled(seconds: u64, random: f64) -> u64 {
    (seconds as f64 * random.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn stored(begun: u64, lifetime: u64) -> StoredCertificate {
        StoredCertificate { id: Some("id".into()), not_before: NOW - begun, not_after: NOW - begun + lifetime }
    }

    fn without_service(history: &mut History) {
        history.not_suggested(NOW, "id", false);
    }

    #[test]
    fn without_a_certificate_one_is_ordered_at_once_and_after_a_failure_only_in_time() {
        let mut history = History::default();
        assert_eq!(next(NOW, None, &history), Step::Order);
        let mut waits = Vec::new();
        for _ in 0..9 {
            history.failed(NOW, None, "down".into(), None, 0.0);
            waits.push((history.retry_at - NOW) / MINUTE);
            assert_eq!(next(NOW, None, &history), Step::Wait(history.retry_at));
            assert_eq!(next(history.retry_at, None, &history), Step::Order);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_valid_certificate_is_renewed_after_two_thirds_and_a_short_one_after_half_of_its_lifetime() {
        for (lifetime, renewed) in [(90 * DAY, 60 * DAY), (6 * DAY, 3 * DAY), (10 * 365 * DAY, 10 * 365 * DAY / 3 * 2)]
        {
            let mut history = History::default();
            without_service(&mut history);
            let certificate = stored(0, lifetime);
            assert_eq!(order_at(NOW, Some(&certificate), &history), NOW + renewed);
            assert_eq!(next(NOW + renewed, Some(&certificate), &history), Step::Order);
        }
    }

    #[test]
    fn the_suggested_window_counts_and_is_requested_again() {
        let certificate = stored(0, 90 * DAY);
        let mut history = History::default();
        assert_eq!(next(NOW, Some(&certificate), &history), Step::AskRenewal);
        let window = Window { start: NOW + 10 * DAY, end: NOW + 20 * DAY };
        history.suggested(NOW, "id", window, 6 * HOUR, 0.5);
        assert_eq!(order_at(NOW, Some(&certificate), &history), NOW + 15 * DAY);
        assert_eq!(next(NOW, Some(&certificate), &history), Step::Wait(NOW + 6 * HOUR));
        assert_eq!(next(NOW + 6 * HOUR, Some(&certificate), &history), Step::AskRenewal);
        // The same window keeps its time; a revocation moves it into the past.
        history.suggested(NOW + 6 * HOUR, "id", window, 0, 0.0);
        assert_eq!(order_at(NOW, Some(&certificate), &history), NOW + 15 * DAY);
        let past = Window { start: NOW - 2 * DAY, end: NOW - DAY };
        history.suggested(NOW + 6 * HOUR, "id", past, 0, 0.9);
        assert_eq!(next(NOW + 6 * HOUR, Some(&certificate), &history), Step::Order);
        // Another certificate is another question.
        let other = StoredCertificate { id: Some("other".into()), ..certificate };
        assert_eq!(next(NOW, Some(&other), &history), Step::AskRenewal);
    }

    #[test]
    fn a_question_without_an_answer_changes_no_time_of_renewal() {
        let certificate = stored(0, 90 * DAY);
        let mut history = History::default();
        history.suggested(NOW, "id", Window { start: NOW + DAY, end: NOW + DAY }, HOUR, 0.0);
        history.not_suggested(NOW + HOUR, "id", true);
        assert_eq!(order_at(NOW, Some(&certificate), &history), NOW + DAY);
        assert_eq!(next(NOW + HOUR, Some(&certificate), &history), Step::Wait(NOW + HOUR + ASK_AFTER_FAILURE));
    }

    #[test]
    fn retry_after_is_heeded_up_to_a_week_and_a_wrong_clock_never_stops_renewal() {
        let mut history = History::default();
        history.failed(NOW, None, "rate limited".into(), Some(2 * DAY), 0.5);
        assert_eq!(history.retry_at, NOW + 2 * DAY);
        history.failed(NOW, None, "rate limited".into(), Some(u64::MAX), 0.5);
        assert_eq!(history.retry_at, NOW + 7 * DAY);
        assert_eq!(next(NOW - 365 * DAY, None, &history), Step::Order);
    }

    #[test]
    fn challenges_take_turns_after_failures_among_those_that_are_offered() {
        use ChallengeKind::{Http01, TlsAlpn01};
        let both = [TlsAlpn01, Http01];
        let chosen = |failures| challenge(&both, |_| true, failures);
        assert_eq!([0, 1, 2].map(chosen), [Some(TlsAlpn01), Some(Http01), Some(TlsAlpn01)]);
        assert_eq!(challenge(&both, |kind| kind == Http01, 7), Some(Http01));
        assert_eq!(challenge(&both, |_| false, 0), None);
    }

    #[test]
    fn a_history_of_an_older_version_is_read() {
        let history: History =
            serde_json::from_str(r#"{"failures":2,"retry_at":7,"error":"x","renewal":null}"#).unwrap();
        assert_eq!((history.failures, history.obtained_at), (2, None));
    }

    #[test]
    fn a_window_that_stays_in_the_past_is_obeyed_once_an_hour_and_a_clock_that_was_ahead_postpones_nothing() {
        let certificate = stored(0, 90 * DAY);
        let mut history = History::obtained(NOW);
        history.suggested(NOW, "id", Window { start: 1, end: 2 }, 0, 0.5);
        assert_eq!(order_at(NOW, Some(&certificate), &history), NOW + HOUR);
        assert_eq!(next(NOW + HOUR, Some(&certificate), &history), Step::Order);
        assert_eq!(order_at(NOW - 1, Some(&certificate), &history), 1);
        // One that somebody has removed is needed now.
        assert_eq!(next(NOW, None, &history), Step::Order);
    }

    #[test]
    fn a_new_certificate_must_be_valid_and_no_worse_than_the_stored_one() {
        let good = stored(60 * DAY, 90 * DAY);
        let refused = |new: StoredCertificate, old: Option<&StoredCertificate>| new.refusal(NOW, old);
        for old in [None, Some(&good)] {
            assert_eq!(refused(stored(91 * DAY, 90 * DAY), old), Some("it has expired already"));
            assert_eq!(refused(stored(90 * DAY, 90 * DAY), old), Some("it has expired already"));
            let early = StoredCertificate { not_before: NOW + 2 * DAY, not_after: NOW + 90 * DAY, id: None };
            assert_eq!(refused(early, old), Some("it is not valid yet"));
            assert_eq!(refused(stored(0, 90 * DAY), old), None);
            // Of a profile with short lifetimes.
            assert_eq!(refused(stored(0, 6 * DAY), old), None);
        }
        let same = good.clone();
        assert!(refused(same.clone(), Some(&good)).unwrap().contains("no later"));
        assert_eq!(refused(same, None), None);
        assert_eq!(refused(stored(80 * DAY, 90 * DAY), Some(&stored(91 * DAY, 90 * DAY))), None);
    }

    proptest! {
        #[test]
        fn whatever_is_suggested_and_issued_orders_that_succeed_are_an_hour_apart(
            lifetime in 6 * HOUR..400 * DAY,
            begun in 0_u64..400 * DAY,
            start in 0_u64..4_000_000_000,
            length in 0_u64..4_000_000_000,
            wrong in -(400 * DAY as i64)..400 * DAY as i64,
            random in 0.0_f64..1.0,
        ) {
            // A certificate that is as old as it wants to be, and a clock that is as wrong.
            let (certificate, now) = (stored(begun, lifetime), NOW.checked_add_signed(wrong).unwrap());
            let mut history = History::obtained(now);
            for at in [now, now + MINUTE, now + HOUR - 1] {
                history.suggested(at, "id", Window { start, end: start + length }, 0, random);
                prop_assert!(order_at(at, Some(&certificate), &history) >= now + HOUR);
                prop_assert!(next(at, Some(&certificate), &history) != Step::Order);
            }
            // It is no reason to let one expire.
            let due = order_at(now, Some(&certificate), &history);
            prop_assert!(due <= certificate.not_after.max(now + HOUR), "{due}");
        }

        #[test]
        fn whatever_fails_and_is_suggested_an_order_comes_before_the_end_and_never_more_often_than_allowed(
            lifetime in 2 * HOUR..400 * DAY,
            begun in 0_u64..400 * DAY,
            start in 0_u64..4_000_000_000,
            length in 0_u64..4_000_000_000,
            again: u64,
            failures in 0_u32..40,
            retry_after in proptest::option::of(any::<u64>()),
            random in 0.0_f64..1.0,
        ) {
            let certificate = stored(begun, lifetime);
            let mut history = History::default();
            history.suggested(NOW, "id", Window { start, end: start + length }, again, random);
            let due = order_at(NOW, Some(&certificate), &history);
            prop_assert!(due <= certificate.not_after, "{due}");
            for _ in 0..failures {
                history.failed(NOW, Some(&certificate), String::new(), retry_after, random);
            }
            if failures > 0 {
                prop_assert!(history.retry_at >= NOW + FIRST_WAIT);
                prop_assert!(history.retry_at <= NOW + LONGEST_RETRY_AFTER);
                prop_assert!(retry_after.is_some() || history.retry_at <= NOW + LONGEST_WAIT * 5 / 4);
            }
            // Something is due within a day at most, and what is due never is in the past.
            match next(NOW, Some(&certificate), &history) {
                Step::Wait(at) => prop_assert!(at > NOW && at <= NOW + DAY),
                Step::Order => prop_assert!(order_at(NOW, Some(&certificate), &history) <= NOW),
                Step::AskRenewal => prop_assert!(false, "it was asked just now"),
            }
        }
    }
}
