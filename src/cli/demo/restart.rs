//! When a demo backend is started again: a machine that is told what happened and says what to do.
//! A backend that ran comes back after `PAUSE`, however often; one that never gets up is given up at last.
//! It must not know processes or clocks.

use std::time::Duration;

/// How long a dead backend stays dead: long enough to watch, short enough to wait for.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Starts in a row that may fail. Its port may be taken for a moment, but not for minutes.
const MAX_FAILED_STARTS: u32 = 5;

/// The history that matters.
#[derive(Debug, Default)]
pub(super) struct Restart {
    failed_starts: u32,
}

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It listens.
    Up,
    /// It had listened, and ended.
    Died,
    /// It was started and ended, or said nothing, before it listened.
    NoStart,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Wait until it ends.
    Watch,
    /// Wait, then start it.
    StartAfter(Duration),
    /// Leave it.
    GiveUp,
}

impl Restart {
    pub(super) fn after(&mut self, event: Event) -> Step {
        match event {
            Event::Up => {
                self.failed_starts = 0;
                Step::Watch
            }
            Event::Died => Step::StartAfter(PAUSE),
            Event::NoStart => {
                self.failed_starts += 1;
                if self.failed_starts < MAX_FAILED_STARTS { Step::StartAfter(PAUSE) } else { Step::GiveUp }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_however_often_it_is_killed() {
        let mut restart = Restart::default();
        for _ in 0..100 {
            assert_eq!(restart.after(Event::Up), Step::Watch);
            assert_eq!(restart.after(Event::Died), Step::StartAfter(PAUSE));
        }
    }

    #[test]
    fn is_given_up_when_it_never_gets_up() {
        let mut restart = Restart::default();
        for _ in 1..MAX_FAILED_STARTS {
            assert_eq!(restart.after(Event::NoStart), Step::StartAfter(PAUSE));
        }
        assert_eq!(restart.after(Event::NoStart), Step::GiveUp);
    }

    #[test]
    fn a_start_that_works_makes_up_for_those_that_failed() {
        let mut restart = Restart::default();
        for _ in 0..3 {
            for _ in 1..MAX_FAILED_STARTS {
                restart.after(Event::NoStart);
            }
            restart.after(Event::Up);
        }
        assert_eq!(restart.after(Event::NoStart), Step::StartAfter(PAUSE));
    }
}
