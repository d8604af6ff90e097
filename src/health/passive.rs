//! Owns: health checks of a backend by the outcome of its requests.
//! Invariant: nothing here is called for a request that succeeds on a backend without failures.
//! Must not know: which request it was.

use std::time::Instant;

use super::announce::announce;
use crate::pool::Pool;
use crate::pool::failure_evidence::{ClientKey, FailureEvidence};
use crate::pool::hash::stable_hash;
use crate::pool::health_state::FailedRequest;
use crate::pool::observe::Observation;
use crate::reason::Reason;

/// Counts a request that failed on the backend at `index`, for this reason.
pub fn failed(pool: &Pool, index: usize, failed: FailedRequest, reason: Reason, now: Instant) {
    report(pool, index, Observation::Failure(failed, reason), now);
}

/// Makes the evidence of a response that failed: `client` requested `path` at `now`, in seconds.
pub fn evidence(pool: &Pool, client: ClientKey, path: &str, now: u64) -> FailedRequest {
    let only_client = pool.health_tracker().clients().has_one_client(now);
    FailedRequest::Response(FailureEvidence { client, path: stable_hash(path.as_bytes()), only_client })
}

/// Counts a request that succeeded on the backend at `index`, after a run of failures.
pub fn succeeded(pool: &Pool, index: usize, now: Instant) {
    report(pool, index, Observation::Success, now);
}

/// Notes that a request which waited for the backend at `index` has reached it.
pub fn reached(pool: &Pool, index: usize, now: Instant) {
    report(pool, index, Observation::Reached, now);
}

fn report(pool: &Pool, index: usize, observation: Observation, now: Instant) {
    if let Some(change) = pool.observe(index, observation, now) {
        announce(pool, index, change, "requests");
    }
}
