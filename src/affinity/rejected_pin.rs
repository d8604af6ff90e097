//! Owns: why a pin was not accepted, in the words of the metrics.
//! Invariant: a pin that was accepted and then moved was not rejected; that has a cause of its own.
//! Must not know: who counts.

use super::lookup::PinLookup;
use super::verdict::Cause;

/// Why a request's pin was not accepted, so that its client gets a new session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedPin {
    /// It is sealed with a key that is not among `[[keys]]`.
    UnknownKey,
    /// It is forged, damaged, or for another pool.
    Unreadable,
    /// It is dated further ahead than `max_clock_skew` allows.
    DatedAhead,
    /// Its session had no request for `idle_timeout`.
    IdleExpired,
    /// Its session is older than `absolute_timeout`.
    AbsoluteExpired,
}

impl RejectedPin {
    /// The words for the metrics, in the order of the variants.
    pub const NAMES: [&'static str; 5] =
        ["unknown_key", "unreadable", "dated_ahead", "idle_expired", "absolute_expired"];

    /// Returns why the pin that was read of a request is rejected, from the cause in the decision on it.
    pub fn of(read: ReadPin, cause: Option<Cause>) -> Option<RejectedPin> {
        match (cause?, read) {
            (Cause::Unreadable, ReadPin::UnknownKey) => Some(RejectedPin::UnknownKey),
            (Cause::Unreadable, ReadPin::Nothing) => Some(RejectedPin::Unreadable),
            (Cause::Unreadable, ReadPin::Pin) => Some(RejectedPin::DatedAhead),
            (Cause::IdleExpired, _) => Some(RejectedPin::IdleExpired),
            (Cause::AbsoluteExpired, _) => Some(RejectedPin::AbsoluteExpired),
            _ => None,
        }
    }
}

/// What could be read of a request's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPin {
    /// Nothing, since its key is not among `[[keys]]`.
    UnknownKey,
    /// Nothing.
    Nothing,
    /// A pin.
    Pin,
}

impl From<&PinLookup> for ReadPin {
    fn from(lookup: &PinLookup) -> ReadPin {
        match lookup {
            PinLookup::UnknownKey => ReadPin::UnknownKey,
            PinLookup::Pinned(_) => ReadPin::Pin,
            PinLookup::Absent | PinLookup::Unreadable | PinLookup::Routed(_) | PinLookup::Unlearned(_) => {
                ReadPin::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_that_moved_was_not_rejected() {
        let of = |read, cause| RejectedPin::of(read, Some(cause)).map(|rejected| RejectedPin::NAMES[rejected as usize]);
        assert_eq!(of(ReadPin::UnknownKey, Cause::Unreadable), Some("unknown_key"));
        assert_eq!(of(ReadPin::Nothing, Cause::Unreadable), Some("unreadable"));
        assert_eq!(of(ReadPin::Pin, Cause::Unreadable), Some("dated_ahead"));
        assert_eq!(of(ReadPin::Pin, Cause::IdleExpired), Some("idle_expired"));
        assert_eq!(of(ReadPin::Pin, Cause::Down), None);
        assert_eq!(RejectedPin::of(ReadPin::Pin, None), None);
    }
}
