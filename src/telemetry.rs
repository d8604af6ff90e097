//! Owns: the access log, the metrics, and the log of messages.
//! Invariant: no request ever waits for a log; lines that can't be written are counted.
//! Must not know: any other module; it receives plain records.

mod access;
mod access_layout;
mod access_line;
mod access_record;
mod denials;
mod durations;
mod event_counters;
mod limits;
mod line_format;
mod log_queue;
mod loss_report;
mod messages;
mod messages_setup;
pub mod metrics;
pub mod panics;
mod redaction;
mod series;
mod settings;
mod sink;
mod span_queue;
mod spans;
mod trace_ids;
mod writer;

pub use access::{AccessLogHandle, ThreadLog};
pub use access_layout::{AccessField, AccessFormat, AccessLayout, Captures};
pub use access_record::Record;
pub use denials::{Denial, DenialCounters};
pub use limits::{Limit, LimitCounters};
pub use loss_report::LossReporter;
pub use messages::flush;
pub use messages_setup::{retrace, trace};
pub use metrics::Metrics;
pub use settings::{AccessTarget, LogFormat, Settings};
pub use span_queue::{SpanCounters, SpanQueue, SpanReceiver, Tracer};
pub use spans::{AttemptSpan, RequestSpans, SpanError, SpanFacts, SpanPlace};
pub use trace_ids::{SpanId, TraceId};
pub use writer::{AccessLog, OpenError, Reopen};
