//! Owns: the export of spans to a collector: OTLP over HTTP, as protobufs.
//! Invariant: it works on the control thread, with one batch of bounded size; spans that no collector takes are counted.
//! Must not know: requests under way; how they are sampled.

mod connection;
mod encode;
mod endpoint;
mod export;
mod fields;
mod messages;
mod outcome;
mod settings;

pub use endpoint::{Endpoint, EndpointError};
pub use export::export;
pub use fields::{MAX_FIELDS, fields};
pub use settings::Settings;
