//! Owns: what the outcome of a request says about a backend's health.
//! Invariant: a request that succeeds on a backend without failures doesn't come here at all.
//! Must not know: which request it was.

use std::time::Instant;

use super::announce::announce;
use crate::pool::Pool;
use crate::pool::failure_evidence::{ClientKey, FailureEvidence};
use crate::pool::hash::stable_hash;
use crate::pool::health_state::FailedRequest;
use crate::pool::observe::Observation;
use crate::reason::Reason;

/// A request failed on the backend at `index` for this reason, and this is held against it.
pub fn failed(pool: &Pool, index: usize, failed: FailedRequest, reason: Reason, now: Instant) {
    report(pool, index, Observation::Failure(failed, reason), now);
}

/// An answer that failed, as evidence: `client` asked for `path` at `now`, in seconds.
pub fn met(pool: &Pool, client: ClientKey, path: &str, now: u64) -> FailedRequest {
    let only_client = pool.health_tracker().clients().has_one_client(now);
    FailedRequest::Response(FailureEvidence { client, path: stable_hash(path.as_bytes()), only_client })
}

/// A request was answered by the backend at `index`, which had failures to its name.
pub fn succeeded(pool: &Pool, index: usize, now: Instant) {
    report(pool, index, Observation::Success, now);
}

/// The backend at `index` was reached by a request that had waited for that.
pub fn reached(pool: &Pool, index: usize, now: Instant) {
    report(pool, index, Observation::Reached, now);
}

fn report(pool: &Pool, index: usize, observation: Observation, now: Instant) {
    if let Some(news) = pool.observe(index, observation, now) {
        announce(pool, index, news, "requests");
    }
}
