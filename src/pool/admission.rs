//! Owns: the rule whether a backend accepts new sessions, and sessions that are pinned to it.
//! Invariant: the rule is a pure function of admin state, health, weight and the limits that are reached.
//! Must not know: why any of them changed.

use super::health_state::Health;

/// The state that the operator has set for a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AdminState {
    /// It serves.
    #[default]
    Ready,
    /// It keeps its sessions, and gets no new one.
    Drain,
    /// It serves nothing.
    Maintenance,
}

impl AdminState {
    /// All states, in the order of the documentation.
    pub const ALL: [AdminState; 3] = [AdminState::Ready, AdminState::Drain, AdminState::Maintenance];

    /// Returns the word for this state in the configuration and the status API.
    pub fn as_str(self) -> &'static str {
        match self {
            AdminState::Ready => "ready",
            AdminState::Drain => "drain",
            AdminState::Maintenance => "maintenance",
        }
    }

    /// Returns the state that this word means.
    pub fn of(word: &str) -> Option<AdminState> {
        AdminState::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Why a backend accepts no new session, or no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Its probes fail, or it is ejected because requests failed on it.
    Down,
    /// The operator has put it into maintenance.
    Maintenance,
    /// The operator drains it: its sessions stay.
    Draining,
    /// Its weight is 0: its sessions stay.
    NoWeight,
    /// It has reached `max_requests`, or other requests wait for capacity.
    Full,
    /// It has reached `max_sessions`: its sessions stay.
    SessionsFull,
}

/// Which limits of a backend are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReachedLimits {
    /// `max_requests`: it accepts no request.
    pub requests: bool,
    /// `max_sessions`: it accepts no new session.
    pub sessions: bool,
    /// Requests wait for capacity on any backend of the pool: a new session may not overtake them.
    pub is_awaited: bool,
}

/// Checks whether a backend accepts a session that it doesn't have yet.
///
/// # Errors
/// Why it doesn't.
pub fn accepts_new(state: AdminState, health: Health, weight: u32, full: ReachedLimits) -> Result<(), Closed> {
    accepts_existing(state, health, full)?;
    match (state, weight) {
        (AdminState::Drain, _) => Err(Closed::Draining),
        (_, 0) => Err(Closed::NoWeight),
        _ if full.sessions => Err(Closed::SessionsFull),
        _ if full.is_awaited => Err(Closed::Full),
        _ => Ok(()),
    }
}

/// Checks whether a backend accepts a session that is pinned to it; it does so at weight 0, too (GEP-1619).
///
/// # Errors
/// Why it doesn't.
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
        let none = ReachedLimits::default();
        for (state, health, weight, new, existing) in table {
            assert_eq!(accepts_new(state, health, weight, none), new, "{state:?} {health:?} {weight}");
            assert_eq!(accepts_existing(state, health, none), existing, "{state:?} {health:?}");
        }
    }

    #[test]
    fn enough_requests_close_it_to_all_and_enough_sessions_to_new_ones() {
        let new = |full| accepts_new(AdminState::Ready, Health::Up, 1, full);
        let existing = |full| accepts_existing(AdminState::Ready, Health::Up, full);
        let none = ReachedLimits::default();
        let (requests, sessions) = (ReachedLimits { requests: true, ..none }, ReachedLimits { sessions: true, ..none });
        let awaited = ReachedLimits { is_awaited: true, ..none };
        assert_eq!((new(requests), existing(requests)), (Err(Closed::Full), Err(Closed::Full)));
        assert_eq!((new(sessions), existing(sessions)), (Err(Closed::SessionsFull), Ok(())));
        assert_eq!((new(awaited), existing(awaited)), (Err(Closed::Full), Ok(())));
        assert_eq!(
            accepts_existing(AdminState::Ready, Health::Down, requests),
            Err(Closed::Down),
            "being down comes first"
        );
    }
}
