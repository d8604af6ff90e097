//! Owns: the pauses between attempts to connect to a store, and which of its failures is worth a log line.
//! Invariant: pauses grow up to a limit; an outage is logged once, however many attempts it takes.
//! Must not know: what kind of store it is, or what is logged.

use std::time::Duration;

/// The first pause between two attempts to connect.
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: each one is twice as long as the one before.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The state of a store's outages.
#[derive(Debug)]
pub(super) struct Outage {
    pause: Duration,
    has_logged: bool,
}

impl Default for Outage {
    fn default() -> Outage {
        Outage { pause: MIN_PAUSE, has_logged: false }
    }
}

impl Outage {
    /// Notes that a connection has ended after `lasted`. A store that accepts connections but refuses commands is as
    /// good as down: after a short connection the pause keeps growing, and the loss is not logged again.
    pub(super) fn connection_ended(&mut self, lasted: Duration) {
        if lasted >= MAX_PAUSE {
            *self = Outage::default();
        }
    }

    /// Returns whether this failure is the first one of the outage.
    pub(super) fn is_first_failure(&mut self) -> bool {
        !std::mem::replace(&mut self.has_logged, true)
    }

    /// Returns how long to wait before the next attempt.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_once_and_tried_less_and_less_often() {
        let mut outage = Outage::default();
        assert!(outage.is_first_failure() && !outage.is_first_failure());
        let pauses: Vec<_> = (0..7).map(|_| outage.next_pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
        outage.connection_ended(Duration::from_millis(1999));
        assert!(!outage.is_first_failure(), "it was no success");
        outage.connection_ended(Duration::from_secs(2));
        assert_eq!((outage.next_pause(), outage.is_first_failure()), (MIN_PAUSE, true));
    }
}
