//! Owns: the rules for believing the answers of a source, and for when to look at it again.
//! Invariant: decisions are pure; a source that fails, or is suddenly empty, removes no backend.
//! Must not know: DNS, files, or what becomes of the backends.

use std::time::{Duration, Instant};

use super::backend::DiscoveredBackend;
use super::settings::RefreshInterval;

/// An answer without backends is believed after this many in a row, and after [`EMPTY_TIME`].
const EMPTIES: u32 = 3;
/// How long a source must stay empty until it is believed; or three times the time to live of its last answer with
/// backends, if that is longer.
const EMPTY_TIME: Duration = Duration::from_secs(30);
/// The longest pause after failures, unless `min_interval` is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest time until a source is looked at again after an answer that is not believed.
const DOUBT_INTERVAL: Duration = Duration::from_secs(10);

/// The result of a look at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupResult {
    /// The backends, and their time to live. An empty list is an answer.
    Answer(Vec<DiscoveredBackend>, Duration),
    /// There was no answer, for this reason.
    Failed(String),
}

/// The consequence of a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The backends from now on; `None` keeps those of before.
    pub found: Option<Vec<DiscoveredBackend>>,
    /// The time until the next look.
    pub again: Duration,
    /// The change to log, if there is one.
    pub event: Option<SourceEvent>,
}

/// A change of the state of a source. Each change is logged once, and not after every look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// The source began to fail, for this reason.
    Fails(String),
    /// The source became empty, which is not believed yet.
    Doubtful,
    /// The source answers again.
    Answers,
    /// The source has been empty for so long that this is believed.
    Empty,
}

/// The state of a source between two looks.
#[derive(Debug, Default)]
pub struct Trust {
    /// The number of backends of the last believed answer; `None` before the first.
    known: Option<usize>,
    /// The time to live of that answer.
    ttl: Duration,
    failures: u32,
    empties: u32,
    empty_since: Option<Instant>,
}

impl Trust {
    /// Judges the result of a look at the time `now`.
    pub fn judge(&mut self, result: LookupResult, now: Instant, interval: RefreshInterval) -> Judgement {
        match result {
            LookupResult::Failed(why) => self.failed(why, interval),
            LookupResult::Answer(found, ttl) if found.is_empty() && self.known.is_some_and(|known| known > 0) => {
                self.emptied(ttl, now, interval)
            }
            LookupResult::Answer(found, ttl) => {
                let event = (self.failures > 0 || self.empties > 0).then_some(SourceEvent::Answers);
                let again = within(ttl, interval);
                *self = Trust { known: Some(found.len()), ttl: again, ..Trust::default() };
                Judgement { found: Some(found), again, event }
            }
        }
    }

    /// Whether the last answer was believed: another look is needed only if the source changes.
    pub fn is_settled(&self) -> bool {
        self.known.is_some() && self.failures == 0 && self.empties == 0
    }

    fn failed(&mut self, why: String, interval: RefreshInterval) -> Judgement {
        let event = (self.failures == 0).then_some(SourceEvent::Fails(why));
        let pause = interval.min.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        // A failure between two empty answers proves nothing: the time since the first empty one goes on.
        Judgement { found: None, again: pause.min(LONGEST_PAUSE.max(interval.min)).min(interval.max), event }
    }

    fn emptied(&mut self, ttl: Duration, now: Instant, interval: RefreshInterval) -> Judgement {
        let since = *self.empty_since.get_or_insert(now);
        self.empties = self.empties.saturating_add(1);
        let event = (self.empties == 1)
            .then_some(SourceEvent::Doubtful)
            .or((self.failures > 0).then_some(SourceEvent::Answers));
        self.failures = 0;
        let again = within(ttl, interval).min(DOUBT_INTERVAL.max(interval.min));
        let wait = EMPTY_TIME.max(self.ttl.saturating_mul(3));
        if self.empties < EMPTIES || now.saturating_duration_since(since) < wait {
            return Judgement { found: None, again, event };
        }
        *self = Trust { known: Some(0), ttl: again, ..Trust::default() };
        Judgement { found: Some(Vec::new()), again, event: Some(SourceEvent::Empty) }
    }
}

fn within(time: Duration, interval: RefreshInterval) -> Duration {
    time.max(interval.min).min(interval.max.max(interval.min))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn some(count: usize) -> Vec<DiscoveredBackend> {
        let found =
            |index: usize| DiscoveredBackend::new(format!("b{index}"), ([10, 0, 0, 1], index as u16 + 1).into());
        (0..count).map(found).collect()
    }

    fn answer(count: usize, ttl: u64) -> LookupResult {
        LookupResult::Answer(some(count), Duration::from_secs(ttl))
    }

    fn failure() -> LookupResult {
        LookupResult::Failed("SERVFAIL".into())
    }

    #[test]
    fn an_answer_holds_for_its_time_to_live_within_bounds() {
        let (mut trust, now, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        for (ttl, again) in [(0, 1), (20, 20), (86_400, 300)] {
            let judgement = trust.judge(answer(2, ttl), now, interval);
            assert_eq!((judgement.found, judgement.again, judgement.event), (Some(some(2)), again * SECOND, None));
        }
    }

    #[test]
    fn a_source_that_fails_removes_nothing_is_logged_once_and_is_retried_with_growing_pauses() {
        let (mut trust, now, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        trust.judge(answer(2, 60), now, interval);
        for (index, pause) in [1, 2, 4, 8, 16, 30, 30].into_iter().enumerate() {
            let judgement = trust.judge(failure(), now, interval);
            assert_eq!(
                (judgement.found, judgement.again, judgement.event.is_some()),
                (None, pause * SECOND, index == 0)
            );
        }
        assert!(!trust.is_settled());
        let judgement = trust.judge(answer(2, 60), now, interval);
        assert_eq!((judgement.found, judgement.event), (Some(some(2)), Some(SourceEvent::Answers)));
        assert!(trust.is_settled());
    }

    #[test]
    fn an_empty_answer_is_believed_only_when_it_stays_empty() {
        let (mut trust, start, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        trust.judge(answer(2, 5), start, interval);
        let first = trust.judge(answer(0, 5), start, interval);
        assert_eq!((first.found, first.again, first.event), (None, 5 * SECOND, Some(SourceEvent::Doubtful)));
        assert_eq!(trust.judge(answer(0, 5), start + 29 * SECOND, interval).found, None, "twice is not thrice");
        assert_eq!(trust.judge(answer(0, 5), start + 29 * SECOND, interval).found, None, "not for long enough");
        trust.judge(failure(), start + 30 * SECOND, interval);
        let last = trust.judge(answer(0, 5), start + 31 * SECOND, interval);
        assert_eq!((last.found, last.event), (Some(Vec::new()), Some(SourceEvent::Empty)));

        // A longer time to live makes the doubt last longer.
        trust.judge(answer(2, 60), start, interval);
        for minute in 0..3 {
            assert_eq!(trust.judge(answer(0, 60), start + minute * 60 * SECOND, interval).found, None);
        }
        assert!(trust.judge(answer(0, 60), start + 180 * SECOND, interval).found.is_some());
    }

    #[test]
    fn an_answer_with_backends_ends_the_doubt() {
        let (mut trust, start, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        trust.judge(answer(2, 1), start, interval);
        trust.judge(answer(0, 1), start, interval);
        assert_eq!(trust.judge(answer(1, 1), start, interval).event, Some(SourceEvent::Answers));
        trust.judge(answer(0, 1), start + 40 * SECOND, interval);
        trust.judge(answer(0, 1), start + 41 * SECOND, interval);
        assert_eq!(trust.judge(answer(0, 1), start + 42 * SECOND, interval).found, None, "counted anew");
    }

    #[test]
    fn an_empty_first_answer_is_believed_at_once() {
        let (mut trust, now) = (Trust::default(), Instant::now());
        assert_eq!(trust.judge(answer(0, 5), now, RefreshInterval::default()).found, Some(Vec::new()));
    }
}
