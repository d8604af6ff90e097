//! Owns: discovery: finding backends behind a DNS name, in a file or in Kubernetes, and deciding who is a pool's member.
//! Invariant: the last believed answer holds until a better one comes; everything that is kept has a bound.
//! Must not know: requests, probes, or how a pool's next members are published.

pub mod answer;
mod backend;
mod dns;
pub mod file;
mod kubernetes;
pub mod members;
mod name;
mod settings;
pub mod source_status;
pub mod source_watcher;
mod targets;
pub mod trust;

pub use backend::DiscoveredBackend;
pub use members::{Members, Now, OwnAddresses};
pub use settings::{ApiServer, Dns, Kubernetes, PodPort, Records, RefreshInterval, Settings, Source};
pub use source_status::SourceStatus;
