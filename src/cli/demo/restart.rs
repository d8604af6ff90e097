//! When a demo backend is started again: a machine that is told what happened and says what to do.
//! A backend that ran comes back after `RESTART_DELAY`, however often; one that never gets up is given up at last.
//! It must not know processes or clocks.

use std::time::Duration;

/// How long a dead backend stays dead: long enough to watch, short enough to wait for.
pub(super) const RESTART_DELAY: Duration = Duration::from_secs(10);

/// Starts in a row that may fail. Its port may be taken for a moment, but not for minutes.
const MAX_FAILED_STARTS: u32 = 5;

/// The history that matters.
#[derive(Debug, Default)]
pub(super) struct RestartPolicy {
    failed_starts: u32,
}

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEvent {
    /// It listens.
    Listening,
    /// It had listened, and ended.
    Exited,
    /// It was started and ended, or said nothing, before it listened.
    StartFailed,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartAction {
    /// Wait until it ends.
    WaitForExit,
    /// Wait, then start it.
    StartAfter(Duration),
    /// Leave it.
    GiveUp,
}

impl RestartPolicy {
    pub(super) fn after(&mut self, event: ProcessEvent) -> RestartAction {
        match event {
            ProcessEvent::Listening => {
                self.failed_starts = 0;
                RestartAction::WaitForExit
            }
            ProcessEvent::Exited => RestartAction::StartAfter(RESTART_DELAY),
            ProcessEvent::StartFailed => {
                self.failed_starts += 1;
                if self.failed_starts < MAX_FAILED_STARTS {
                    RestartAction::StartAfter(RESTART_DELAY)
                } else {
                    RestartAction::GiveUp
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_however_often_it_is_killed() {
        let mut restart = RestartPolicy::default();
        for _ in 0..100 {
            assert_eq!(restart.after(ProcessEvent::Listening), RestartAction::WaitForExit);
            assert_eq!(restart.after(ProcessEvent::Exited), RestartAction::StartAfter(RESTART_DELAY));
        }
    }

    #[test]
    fn is_given_up_when_it_never_gets_up() {
        let mut restart = RestartPolicy::default();
        for _ in 1..MAX_FAILED_STARTS {
            assert_eq!(restart.after(ProcessEvent::StartFailed), RestartAction::StartAfter(RESTART_DELAY));
        }
        assert_eq!(restart.after(ProcessEvent::StartFailed), RestartAction::GiveUp);
    }

    #[test]
    fn a_start_that_works_makes_up_for_those_that_failed() {
        let mut restart = RestartPolicy::default();
        for _ in 0..3 {
            for _ in 1..MAX_FAILED_STARTS {
                restart.after(ProcessEvent::StartFailed);
            }
            restart.after(ProcessEvent::Listening);
        }
        assert_eq!(restart.after(ProcessEvent::StartFailed), RestartAction::StartAfter(RESTART_DELAY));
    }
}
