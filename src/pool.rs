//! Owns: pools: ordered sets of backends that serve one application, and the live state of each backend.
//! Invariant: a pool never changes; live state (health, counts) belongs to a name and address, across reloads.
//! Must not know: HTTP, cookies, or how a backend is chosen.

pub mod admission;
pub mod backend;
mod backend_set;
pub mod capacity_queue;
pub mod drain;
mod drain_control;
pub mod draining;
pub mod failure_evidence;
pub mod hash;
pub mod health_state;
pub mod health_tracker;
pub mod history;
pub mod in_flight;
pub mod inherited;
pub mod live;
pub mod merge;
pub mod observe;
pub mod pool_queue;
pub mod pool_waiting;
pub mod queue;
pub mod rebalance;
mod rebalance_step;
pub mod rebalancer;
pub mod rebalancing;
pub mod reconcile;
pub mod release;
pub mod sessions;
pub mod slow_start;
pub mod totals;
pub mod waiting;

pub use admission::{AdminState, Closed};
pub use backend::Backend;
pub use backend_set::{Pool, Settings};
pub use health_state::Health;
pub use health_tracker::HealthTracker;
pub use in_flight::InFlight;
pub use live::Live;
pub use pool_waiting::{PoolClaim, PoolWaiting};
pub use waiting::{CapacityPermit, Grant, Waiting};
