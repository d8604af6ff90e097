//! Owns: what requests tell of a backend's health.
//! Invariant: a request that goes well on a backend without marks does not come here at all.
//! Must not know: which request it was.

use std::time::Instant;

use crate::pool::Pool;
use crate::pool::roster::Observation;
use crate::pool::vitals::Failed;

/// A request failed on the backend at `index`, and this is held against it.
pub fn failed(pool: &Pool, index: usize, failed: Failed, now: Instant) {
    report(pool, index, Observation::Failure(failed), now);
}

/// A request was answered by the backend at `index`, which had failures to its name.
pub fn succeeded(pool: &Pool, index: usize, now: Instant) {
    report(pool, index, Observation::Success, now);
}

fn report(pool: &Pool, index: usize, observation: Observation, now: Instant) {
    if let Some(change) = pool.observe(index, observation, now) {
        super::announce(pool, index, change, "requests");
    }
}
