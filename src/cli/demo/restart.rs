//! Owns: when a demo backend is restarted: a state machine from events to actions.
//! Invariant: a backend that exits is restarted, but not after `MAX_FAILED_STARTS` failed starts in a row.
//! Must not know: processes or clocks.

use std::time::Duration;

/// The time between an exit and the restart: long enough to watch, short enough to wait for.
pub(super) const RESTART_DELAY: Duration = Duration::from_secs(10);

/// Failed starts in a row after which a backend stays down. Its port may be taken for a moment, but not for minutes.
const MAX_FAILED_STARTS: u32 = 5;

/// Counts the failed starts in a row.
#[derive(Debug, Default)]
pub(super) struct RestartPolicy {
    failed_starts: u32,
}

/// What happened to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessEvent {
    /// It listens.
    Listening,
    /// It exited after it had listened.
    Exited,
    /// It exited, or its time ran out, before it listened.
    StartFailed,
}

/// What the supervisor does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartAction {
    /// Wait until it exits.
    WaitForExit,
    /// Wait, then start it.
    StartAfter(Duration),
    /// Leave it down.
    GiveUp,
}

impl RestartPolicy {
    /// Returns the action that follows an event.
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
    fn a_backend_is_restarted_however_often_it_is_killed() {
        let mut restart = RestartPolicy::default();
        for _ in 0..100 {
            assert_eq!(restart.after(ProcessEvent::Listening), RestartAction::WaitForExit);
            assert_eq!(restart.after(ProcessEvent::Exited), RestartAction::StartAfter(RESTART_DELAY));
        }
    }

    #[test]
    fn a_backend_that_never_listens_stays_down() {
        let mut restart = RestartPolicy::default();
        for _ in 1..MAX_FAILED_STARTS {
            assert_eq!(restart.after(ProcessEvent::StartFailed), RestartAction::StartAfter(RESTART_DELAY));
        }
        assert_eq!(restart.after(ProcessEvent::StartFailed), RestartAction::GiveUp);
    }

    #[test]
    fn a_start_that_works_resets_the_count_of_failures() {
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
