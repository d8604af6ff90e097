//! Owns: the keys of `[log]`.
//! Invariant: plain data; the defaults are those of the documentation.
//! Must not know: who writes the logs.

use std::path::PathBuf;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of the tracing crate.
    pub level: String,
    /// How lines look, of the access log and of everything else.
    pub format: LogFormat,
    /// Where the access log goes.
    pub access: AccessTarget,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessTarget {
    /// Nowhere.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To a file, appended.
    File(PathBuf),
}

impl Default for Settings {
    fn default() -> Self {
        Settings { level: "info".into(), format: LogFormat::default(), access: AccessTarget::default() }
    }
}
