//! Owns: which messages are logged, and in which format; both can change while the process runs.
//! Invariant: no thread that logs waits for standard error; a process that set nothing up changes nothing.
//! Must not know: what a message says.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use super::messages::Messages;
use super::settings::{LogFormat, Settings};

/// The subscriber below the layer that formats.
type Filtering = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Format = Box<dyn Layer<Filtering> + Send + Sync>;

/// Changes what [`trace`] has set up. Filter and format are two layers: one that filters for itself panics if it is
/// exchanged.
struct Handles {
    filter: Handle<EnvFilter, Registry>,
    format: Handle<Format, Filtering>,
}

/// The target of audit lines.
const AUDIT: &str = "linchpin::audit";

static CURRENT: OnceLock<Handles> = OnceLock::new();

/// Sends log messages to standard error. No thread that logs waits for it. Call it once per process: further calls, as
/// tests make them, have no effect.
pub fn trace(settings: &Settings) {
    let (filtering, filter) = reload::Layer::new(filter_of(settings));
    let (formatting, format) = reload::Layer::new(format_of(settings));
    // An error means that the process has a subscriber already.
    if tracing_subscriber::registry().with(filtering).with(formatting).try_init().is_ok() {
        // An error means that two threads got here, of which one was first.
        let _ = CURRENT.set(Handles { filter, format });
    }
}

/// Changes level and format of the messages from now on, if [`trace`] was called in this process.
pub fn retrace(settings: &Settings) {
    if let Some(Handles { filter, format }) = CURRENT.get() {
        // An error means that the subscriber is gone: the process ends.
        let _ = filter.reload(filter_of(settings)).and_then(|()| format.reload(format_of(settings)));
    }
}

fn filter_of(settings: &Settings) -> EnvFilter {
    let filter = |level: &str| EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    // An operator who asks for warnings only still wants to know who changed what, unless they say otherwise.
    match settings.level.as_str() {
        "off" => filter("off"),
        level if level.contains(AUDIT) => filter(level),
        level => filter(&format!("{level},{AUDIT}=info")),
    }
}

fn format_of(settings: &Settings) -> Format {
    // Colours are for a terminal: a file or a journal would contain the escape sequences.
    let colours = std::io::stderr().is_terminal();
    let writer = match Messages::of_process() {
        Ok(messages) => BoxMakeWriter::new(move || messages.clone()),
        // Without a thread the process cannot start; its error message is written directly.
        Err(_) => BoxMakeWriter::new(std::io::stderr),
    };
    // Otherwise the subscriber reports a line that it can't write to standard error, and panics if that is closed.
    let layer = fmt::layer().with_ansi(colours).with_writer(writer).log_internal_errors(false);
    match settings.format {
        LogFormat::Text => layer.with_target(false).boxed(),
        // Without the spans of libraries: the layer panics at one that began while messages were text.
        LogFormat::Json => layer.json().with_current_span(false).with_span_list(false).boxed(),
    }
}
