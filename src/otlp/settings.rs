//! Owns: the keys of `[tracing]` that the export needs.
//! Invariant: plain data.
//! Must not know: the file; connections.

use std::path::PathBuf;

use super::endpoint::Endpoint;

/// `[tracing]`, as far as the export goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the collector is.
    pub endpoint: Endpoint,
    /// The file of the authorities that issue its certificate; the system's authorities if not set.
    pub authorities: Option<PathBuf>,
    /// The file of the fields that it asks for, such as an API key.
    pub headers: Option<PathBuf>,
    /// The name of this service in traces.
    pub service: String,
}
