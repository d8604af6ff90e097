//! Owns: whether a backend may be sent a new session, or one that it holds already.
//! Invariant: the rule is a pure function of admin state, health, weight and what of its limits is reached.
//! Must not know: why any of them changed.

use super::health_state::Health;

/// What the operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// Serve.
    #[default]
    Ready,
    /// Keep the sessions it has, take no new one.
    Drain,
    /// Serve nothing.
    Maintenance,
}

impl AdminState {
    /// All states, in the order of the design.
    pub const ALL: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maintenance];

    /// The word of the configuration and the status API for this state.
    pub fn as_str(self) -> &'static str {
        match self {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Maintenance => "maintenance",
        }
    }
}

/// Why a backend takes no new session, or none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its probes fail, or requests failed on it one after the other.
    Down,
    /// The operator took it out.
    Maintenance,
    /// The operator drains it: sessions that it holds stay.
    Draining,
    /// Its weight is 0: sessions that it holds stay.
    NoWeight,
    /// It has as many requests, or for a new session as many sessions, as it may have.
    Full,
}

/// Which limits of a backend are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReachedLimits {
    /// `max_requests`: it takes nothing more.
    pub requests: bool,
    /// `max_sessions`: it takes no new session.
    pub sessions: bool,
}

/// May a backend be sent a session that it doesn't hold yet?
///
/// # Errors
/// Why not.
pub fn accepts_new(state: AdminState, health: Health, weight: u32, full: ReachedLimits) -> Result<(), Closed> {
    accepts_existing(state, health, full)?;
    match (state, weight) {
        (AdminState::Drain, _) => Err(Closed::Draining),
        (_, 0) => Err(Closed::NoWeight),
        _ if full.sessions => Err(Closed::Full),
        _ => Ok(()),
    }
}

/// May a backend be sent a session that is pinned to it? (GEP-1619: also at weight 0.)
///
/// # Errors
/// Why not.
pub fn accepts_existing(state: AdminState, health: Health, full: ReachedLimits) -> Result<(), Closed> {
    match (state, health) {
        (AdminState::Maintenance, _) => Err(Closed::Maintenance),
        (_, Health::Down | Health::Ejected) => Err(Closed::Down),
        (AdminState::Ready | AdminState::Drain, Health::Up) if full.requests => Err(Closed::Full),
        (AdminState::Ready | AdminState::Drain, Health::Up) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_health_and_weight_has_its_rule() {
        use AdminState::{Drain, Maintenance, Ready};
        let table = [
            (Ready, Health::Up, 1, Ok(()), Ok(())),
            (Ready, Health::Up, 0, Err(Closed::NoWeight), Ok(())),
            (Ready, Health::Down, 1, Err(Closed::Down), Err(Closed::Down)),
            (Ready, Health::Ejected, 1, Err(Closed::Down), Err(Closed::Down)),
            (Drain, Health::Up, 1, Err(Closed::Draining), Ok(())),
            (Drain, Health::Down, 1, Err(Closed::Down), Err(Closed::Down)),
            (Maintenance, Health::Up, 1, Err(Closed::Maintenance), Err(Closed::Maintenance)),
            (Maintenance, Health::Down, 1, Err(Closed::Maintenance), Err(Closed::Maintenance)),
        ];
        let room = ReachedLimits::default();
        for (state, health, weight, new, existing) in table {
            assert_eq!(accepts_new(state, health, weight, room), new, "{state:?} {health:?} {weight}");
            assert_eq!(accepts_existing(state, health, room), existing, "{state:?} {health:?}");
        }
    }

    #[test]
    fn enough_requests_close_it_to_all_and_enough_sessions_to_new_ones() {
        let new = |full| accepts_new(AdminState::Ready, Health::Up, 1, full);
        let existing = |full| accepts_existing(AdminState::Ready, Health::Up, full);
        let (requests, sessions) =
            (ReachedLimits { requests: true, sessions: false }, ReachedLimits { requests: false, sessions: true });
        assert_eq!((new(requests), existing(requests)), (Err(Closed::Full), Err(Closed::Full)));
        assert_eq!((new(sessions), existing(sessions)), (Err(Closed::Full), Ok(())));
        assert_eq!(accepts_existing(AdminState::Ready, Health::Down, requests), Err(Closed::Down), "the graver one");
    }
}
