//! Owns: backends that the configuration doesn't name but says where to find: behind a DNS name, or in a file.
//! Invariant: what was found last holds until something better is known; nothing that is found grows without bound.
//! Must not know: requests, probes, or how a pool's next members are published.

pub mod answer;
mod backend;
mod dns;
pub mod file;
pub mod members;
mod name;
mod settings;
pub mod source_status;
pub mod source_watcher;
mod targets;
pub mod trust;

pub use backend::DiscoveredBackend;
pub use members::{Members, Now, OwnAddresses};
pub use settings::{Dns, Records, RefreshInterval, Settings, Source};
pub use source_status::SourceStatus;
