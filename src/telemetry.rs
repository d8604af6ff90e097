//! Owns: the access log, the metrics and the log of everything else.
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
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
