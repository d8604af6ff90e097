//! Owns: what identifies a server that may hold a session.
//! Invariant: a server that may have lost its memory is another one.
//! Must not know: sessions.

use crate::pool::Backend;

/// A server, for as long as it can't have lost its memory without being noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The backend's number in this process.
    pub backend: usize,
    /// The incarnation of its address.
    pub incarnation: u64,
    /// How often it had been down or ejected by then. A server that was down may have restarted.
    pub losses: u32,
}

impl Holder {
    /// Returns the server that `backend` is now.
    pub fn of(backend: &Backend) -> Holder {
        let live = backend.live();
        Holder { backend: live.id(), incarnation: backend.incarnation(), losses: live.times_lost() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::observe::Observation;
    use crate::pool::{Settings, backend, health_state, reconcile::Reconciler};

    #[test]
    fn a_server_that_was_lost_or_has_another_address_is_another_one() {
        let mut reconciler = Reconciler::new(1);
        let mut pool = |port: u16| {
            let health_state = health_state::Settings { consecutive_failures: 1, ..health_state::Settings::default() };
            let address = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
            let backends = vec![backend::Settings::new("a", address(port)), backend::Settings::new("b", address(1))];
            reconciler
                .pools(&[Settings { name: "app".into(), backends, health_state, ..Settings::default() }])
                .remove(0)
        };
        let one = pool(2);
        let first = Holder::of(one.backend(0));
        assert_eq!(first, Holder::of(one.backend(0)));
        assert_ne!(first, Holder::of(one.backend(1)));
        one.observe(0, Observation::failure(health_state::FailedRequest::Connect), std::time::Instant::now());
        let lost = Holder::of(one.backend(0));
        assert_ne!(first, lost);
        let moved = pool(3);
        assert!(![first, lost].contains(&Holder::of(moved.backend(0))));
    }
}
