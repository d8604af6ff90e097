//! Owns: which answers of a source are believed, and when it is looked at again.
//! Invariant: pure: outcomes and times in; a source that fails, or has suddenly nothing, takes no backend away.
//! Must not know: DNS, files, or what becomes of the backends.

use std::time::{Duration, Instant};

use super::backend::DiscoveredBackend;
use super::settings::RefreshInterval;

/// An answer without any backend is believed when it came so often in a row,
const EMPTIES: u32 = 3;
/// and over so long a time, or three times as long as answers hold, if that is longer.
const EMPTY_TIME: Duration = Duration::from_secs(30);
/// The longest pause after failures, unless the interval ask for a longer one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How soon an answer that is not believed is looked at again, at the latest.
const DOUBT: Duration = Duration::from_secs(10);

/// What a look at a source came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupResult {
    /// These backends, for so long. None at all is an answer, too.
    Answer(Vec<DiscoveredBackend>, Duration),
    /// No answer, and why.
    Failed(String),
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The backends from now on, if they may be others than before.
    pub found: Option<Vec<DiscoveredBackend>>,
    /// When to look again.
    pub again: Duration,
    /// What the operator has to be told.
    pub event: Option<SourceEvent>,
}

/// A change in how a source is doing: each is told once, not with every look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceEvent {
    /// It fails from now on: what was found last is kept.
    Fails(String),
    /// It has no backend any more, which is not believed yet.
    Doubtful,
    /// It answers again.
    Answers,
    /// It has had no backend for so long that this is believed.
    Empty,
}

/// What is remembered of a source between two looks.
#[derive(Debug, Default)]
pub struct Trust {
    /// Backends of the last answer that was believed; `None` before the first.
    known: Option<usize>,
    /// How long that one held.
    ttl: Duration,
    failures: u32,
    empties: u32,
    empty_since: Option<Instant>,
}

impl Trust {
    /// Judges a look at `now`.
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

    /// Whether the last look was good and believed: there is nothing to look for before it is over.
    pub fn is_settled(&self) -> bool {
        self.known.is_some() && self.failures == 0 && self.empties == 0
    }

    fn failed(&mut self, why: String, interval: RefreshInterval) -> Judgement {
        let event = (self.failures == 0).then_some(SourceEvent::Fails(why));
        let pause = interval.min.saturating_mul(1 << self.failures.min(10));
        self.failures = self.failures.saturating_add(1);
        // Failures between two empty answers prove nothing, and the first one's time goes on.
        Judgement { found: None, again: pause.min(LONGEST_PAUSE.max(interval.min)).min(interval.max), event }
    }

    fn emptied(&mut self, ttl: Duration, now: Instant, interval: RefreshInterval) -> Judgement {
        let since = *self.empty_since.get_or_insert(now);
        self.empties = self.empties.saturating_add(1);
        let event = (self.empties == 1)
            .then_some(SourceEvent::Doubtful)
            .or((self.failures > 0).then_some(SourceEvent::Answers));
        self.failures = 0;
        let again = within(ttl, interval).min(DOUBT.max(interval.min));
        let patience = EMPTY_TIME.max(self.ttl.saturating_mul(3));
        if self.empties < EMPTIES || now.saturating_duration_since(since) < patience {
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
        let found = |index: usize| DiscoveredBackend {
            name: format!("b{index}"),
            address: ([10, 0, 0, 1], index as u16 + 1).into(),
            weight: None,
            backup: false,
        };
        (0..count).map(found).collect()
    }

    fn answer(count: usize, ttl: u64) -> LookupResult {
        LookupResult::Answer(some(count), Duration::from_secs(ttl))
    }

    fn failure() -> LookupResult {
        LookupResult::Failed("SERVFAIL".into())
    }

    #[test]
    fn an_answer_holds_as_long_as_it_says_within_bounds() {
        let (mut trust, now, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        for (ttl, again) in [(0, 1), (20, 20), (86_400, 300)] {
            let judgement = trust.judge(answer(2, ttl), now, interval);
            assert_eq!((judgement.found, judgement.again, judgement.event), (Some(some(2)), again * SECOND, None));
        }
    }

    #[test]
    fn a_source_that_fails_takes_nothing_away_is_told_of_once_and_left_alone_for_longer_and_longer() {
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

        // What holds for longer is doubted for longer.
        trust.judge(answer(2, 60), start, interval);
        for minute in 0..3 {
            assert_eq!(trust.judge(answer(0, 60), start + minute * 60 * SECOND, interval).found, None);
        }
        assert!(trust.judge(answer(0, 60), start + 180 * SECOND, interval).found.is_some());
    }

    #[test]
    fn a_backend_that_is_back_ends_the_doubt() {
        let (mut trust, start, interval) = (Trust::default(), Instant::now(), RefreshInterval::default());
        trust.judge(answer(2, 1), start, interval);
        trust.judge(answer(0, 1), start, interval);
        assert_eq!(trust.judge(answer(1, 1), start, interval).event, Some(SourceEvent::Answers));
        trust.judge(answer(0, 1), start + 40 * SECOND, interval);
        trust.judge(answer(0, 1), start + 41 * SECOND, interval);
        assert_eq!(trust.judge(answer(0, 1), start + 42 * SECOND, interval).found, None, "counted anew");
    }

    #[test]
    fn where_nothing_is_known_nothing_can_be_lost() {
        let (mut trust, now) = (Trust::default(), Instant::now());
        assert_eq!(trust.judge(answer(0, 5), now, RefreshInterval::default()).found, Some(Vec::new()));
    }
}
