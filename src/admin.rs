//! Owns: the operator's interface: status, metrics, liveness, readiness and the dashboard.
//! Invariant: it has a listener of its own, on loopback, on a Unix socket, or with a token.
//! Must not know: the proxy.

mod actor;
mod api;
mod backend_api;
mod bind;
mod certificates_view;
mod change;
mod copies_view;
mod dashboard;
mod drain_view;
mod event_stream;
mod explain_report;
mod exposition;
mod gauges;
mod guard;
mod pool_entry;
mod precondition;
mod process_view;
mod reload;
mod renewals_view;
mod serve;
mod sessions_api;
mod sessions_view;
mod settings;
mod sources;
mod trends;
mod view;

pub use actor::Actor;
pub use bind::{Bound, bind, check};
pub use explain_report::{CopyReport, CopyState, ExplainReport};
pub use guard::AccessRules;
pub use pool_entry::PoolEntry;
pub use reload::{ReloadChange, ReloadError, ReloadFigures, ReloadReport, ReloadRequest, ReloadResult, Reloader};
pub use serve::run;
pub use settings::{Settings, SocketAccess};
pub use sources::{Phase, StatusSources};
pub use trends::{TREND_INTERVAL, Trends};

#[cfg(test)]
mod tests;
