//! Owns: a pool of the running configuration with all that the admin API shows of it.
//! Invariant: the counters have the positions of the backends.
//! Must not know: how it is shown, or who publishes it.

use std::sync::Arc;

use crate::affinity::Affinity;
use crate::copies::PoolCopies;
use crate::discover::SourceStatus;
use crate::pool::Pool;
use crate::telemetry::metrics::Series;

/// A pool and what the API shows of it.
#[derive(Debug, Clone)]
pub struct PoolEntry {
    /// Its backends.
    pub pool: Arc<Pool>,
    /// The word for how it chooses: `round_robin`, …
    pub balance: &'static str,
    /// How clients are pinned.
    pub affinity: Arc<Affinity>,
    /// The session copies, if the pool keeps any.
    pub copies: Option<Arc<PoolCopies>>,
    /// Counters, by position of the backend.
    pub series: Vec<Arc<Series>>,
    /// Counters of requests that no backend served.
    pub unserved: Arc<Series>,
    /// The status of its discovery sources.
    pub sources: Vec<Arc<SourceStatus>>,
}
