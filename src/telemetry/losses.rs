//! Owns: when lost records of the access log are spoken of: once as it begins, and once when it is over.
//! Invariant: pure but for its lines; looks at a counter, and so sees what a writer that is stuck could not tell.
//! Must not know: why records are lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Looks without a further loss after which a trouble is over.
const QUIET: u32 = 10;

/// What there is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// Records are lost.
    Begins,
    /// No more are, and so many were.
    Over(u64),
}

#[derive(Debug, Default)]
struct Losses {
    seen: u64,
    /// What had been lost before the trouble that lasts, and the looks since its last loss.
    trouble: Option<(u64, u32)>,
}

impl Losses {
    /// So many were lost until now.
    fn look(&mut self, lost: u64) -> Option<News> {
        let is_more = lost > self.seen;
        let before = std::mem::replace(&mut self.seen, lost);
        match (&mut self.trouble, is_more) {
            (None, false) => None,
            (None, true) => {
                self.trouble = Some((before, 0));
                Some(News::Begins)
            }
            (Some((_, quiet)), true) => {
                *quiet = 0;
                None
            }
            (Some((before, quiet)), false) => {
                *quiet += 1;
                let over = News::Over(lost - *before);
                (*quiet >= QUIET).then(|| {
                    self.trouble = None;
                    over
                })
            }
        }
    }
}

/// Says when records of an access log are lost.
pub struct Watch {
    dropped: Arc<AtomicU64>,
    reason: Arc<Mutex<Option<String>>>,
    losses: Losses,
}

impl Watch {
    pub(super) fn new(dropped: Arc<AtomicU64>, reason: Arc<Mutex<Option<String>>>) -> Watch {
        Watch { dropped, reason, losses: Losses::default() }
    }

    /// Looks, and says what there is to say. Call it every second.
    pub fn look(&mut self) {
        match self.losses.look(self.dropped.load(Ordering::Relaxed)) {
            Some(News::Begins) => {
                let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
                let reason = reason.unwrap_or_else(|| "it is not taken as fast as it comes".into());
                tracing::error!(
                    reason,
                    "records of the access log are lost; linchpin_access_log_dropped_total counts them, look at its disk or reader"
                );
            }
            Some(News::Over(lost)) => tracing::warn!(lost, "the access log is written again"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_as_it_begins_and_once_when_it_has_been_over_for_a_while() {
        let mut losses = Losses::default();
        assert_eq!(losses.look(0), None);
        assert_eq!(losses.look(5), Some(News::Begins));
        assert_eq!(losses.look(9), None);
        for _ in 1..QUIET {
            assert_eq!(losses.look(9), None);
        }
        assert_eq!(losses.look(10), None, "it goes on");
        for _ in 1..QUIET {
            assert_eq!(losses.look(10), None);
        }
        assert_eq!(losses.look(10), Some(News::Over(10)));
        assert_eq!(losses.look(10), None);
        assert_eq!(losses.look(11), Some(News::Begins));
    }
}
