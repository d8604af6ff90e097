//! Owns: the keys of `[log]`.
//! Invariant: plain data; the defaults are those of the documentation.
//! Must not know: who writes the logs.

use std::path::PathBuf;

use super::access_layout::AccessLayout;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of the tracing crate.
    pub level: String,
    /// The format of messages.
    pub format: LogFormat,
    /// Where the access log is written.
    pub access: AccessTarget,
    /// The format and the fields of the access log.
    pub layout: AccessLayout,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Lines of `name=value`, for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Where the access log is written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessTarget {
    /// Not written at all.
    Off,
    /// To standard output.
    #[default]
    Stdout,
    /// To a file, appended.
    File(PathBuf),
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            level: "info".into(),
            format: LogFormat::default(),
            access: AccessTarget::default(),
            layout: AccessLayout::default(),
        }
    }
}
