//! Owns: the log lines about lost records of the access log: one when a loss begins, one when it is over.
//! Invariant: it reads a counter, and so reports a writer that is stuck and could not report itself.
//! Must not know: why records are lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Looks without a further loss after which a ongoing is over.
const QUIET: u32 = 10;

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossEvent {
    /// Records are lost.
    Begins,
    /// No more are, and so many were.
    Over(u64),
}

#[derive(Debug, Default)]
struct LossState {
    seen: u64,
    /// What had been lost before the ongoing that lasts, and the looks since its last loss.
    ongoing: Option<(u64, u32)>,
}

impl LossState {
    /// So many were lost until now.
    fn check(&mut self, lost: u64) -> Option<LossEvent> {
        let is_more = lost > self.seen;
        let before = std::mem::replace(&mut self.seen, lost);
        match (&mut self.ongoing, is_more) {
            (None, false) => None,
            (None, true) => {
                self.ongoing = Some((before, 0));
                Some(LossEvent::Begins)
            }
            (Some((_, quiet)), true) => {
                *quiet = 0;
                None
            }
            (Some((before, quiet)), false) => {
                *quiet += 1;
                let over = LossEvent::Over(lost - *before);
                (*quiet >= QUIET).then(|| {
                    self.ongoing = None;
                    over
                })
            }
        }
    }
}

/// Says when records of an access log are lost.
pub struct LossReporter {
    dropped: Arc<AtomicU64>,
    reason: Arc<Mutex<Option<String>>>,
    state: LossState,
}

impl LossReporter {
    pub(super) fn new(dropped: Arc<AtomicU64>, reason: Arc<Mutex<Option<String>>>) -> LossReporter {
        LossReporter { dropped, reason, state: LossState::default() }
    }

    /// Looks, and says what there is to say. Call it every second.
    pub fn check(&mut self) {
        match self.state.check(self.dropped.load(Ordering::Relaxed)) {
            Some(LossEvent::Begins) => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = reason.unwrap_or_else(|| "it is not taken as fast as it comes".into());
                tracing::error!(
                    reason,
                    "records of the access log are lost; linchpin_access_log_dropped_total counts them, look at its disk or reader"
                );
            }
            Some(LossEvent::Over(lost)) => tracing::warn!(lost, "the access log is written again"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_logged_once_as_it_begins_and_once_when_it_has_been_over_for_a_while() {
        let mut losses = LossState::default();
        assert_eq!(losses.check(0), None);
        assert_eq!(losses.check(5), Some(LossEvent::Begins));
        assert_eq!(losses.check(9), None);
        for _ in 1..QUIET {
            assert_eq!(losses.check(9), None);
        }
        assert_eq!(losses.check(10), None, "it goes on");
        for _ in 1..QUIET {
            assert_eq!(losses.check(10), None);
        }
        assert_eq!(losses.check(10), Some(LossEvent::Over(10)));
        assert_eq!(losses.check(10), None);
        assert_eq!(losses.check(11), Some(LossEvent::Begins));
    }
}
