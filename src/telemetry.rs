//! Owns: what Linchpin says of itself: the access log, the metrics, the tracing of everything else.
//! Invariant: nothing here ever makes a request wait; what can't be written is counted.
//! Must not know: any other room: it is handed plain records.

pub mod access;
mod limited;
mod line;
mod losses;
mod messages;
pub mod metrics;
pub mod panics;
mod sink;
mod writer;

use std::io::IsTerminal;
use std::path::PathBuf;

use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use access::{Lines, Record};
pub use limited::{Limit, Limited};
pub use losses::Watch;
pub use messages::flush;
pub use metrics::Metrics;
pub use writer::{AccessLog, OpenError, Reopen};

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter of the tracing crate.
    pub level: String,
    /// How lines look, of the access log and of everything else.
    pub format: Format,
    /// Where the access log goes.
    pub access: Access,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
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
        Settings { level: "info".into(), format: Format::default(), access: Access::default() }
    }
}

/// Sends all that is not the access log to standard error, without that anybody waits for it; once per process: a
/// second call, as tests make it, changes nothing.
pub fn trace(settings: &Settings) {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Colours are for people: in a file or a journal they are rubbish.
    let colours = std::io::stderr().is_terminal();
    let writer = match messages::Messages::of_process() {
        Ok(messages) => BoxMakeWriter::new(move || messages.clone()),
        // A process that can have no thread says so, and ends.
        Err(_) => BoxMakeWriter::new(std::io::stderr),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer);
    // Left on, a line that can't be written is reported to standard error, which panics where that is closed.
    let builder = builder.log_internal_errors(false);
    // An error means that there is a subscriber already.
    let _ = match settings.format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
}
