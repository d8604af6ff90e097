//! Owns: the access log, the metrics, and the log of messages.
//! Invariant: no request ever waits for a log; lines that can't be written are counted.
//! Must not know: any other module; it receives plain records.

pub mod access;
mod limits;
mod line_format;
mod log_queue;
mod loss_report;
mod messages;
pub mod metrics;
pub mod panics;
mod settings;
mod sink;
mod writer;

use std::io::IsTerminal;

use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use access::{Record, ThreadLog};
pub use limits::{Limit, LimitCounters};
pub use loss_report::LossReporter;
pub use messages::flush;
pub use metrics::Metrics;
pub use settings::{AccessTarget, LogFormat, Settings};
pub use writer::{AccessLog, OpenError, Reopen};

/// Sends log messages to standard error. No thread that logs waits for it. Call it once per process: further calls, as
/// tests make them, have no effect.
pub fn trace(settings: &Settings) {
    let filter = tracing_subscriber::EnvFilter::try_new(&settings.level)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    // Colours are for a terminal: a file or a journal would contain the escape sequences.
    let colours = std::io::stderr().is_terminal();
    let writer = match messages::Messages::of_process() {
        Ok(messages) => BoxMakeWriter::new(move || messages.clone()),
        // Without a thread the process cannot start; its error message is written directly.
        Err(_) => BoxMakeWriter::new(std::io::stderr),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(writer);
    // Otherwise the subscriber reports a line that it can't write to standard error, and panics if that is closed.
    let builder = builder.log_internal_errors(false);
    // An error means that the process has a subscriber already.
    let _ = match settings.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
