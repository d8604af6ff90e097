//! Owns: the section `[tracing]`.
//! Invariant: without the section nothing is traced, and trace fields pass untouched.
//! Must not know: how spans are made or sent.

use toml::de::DeValue;

use super::reader::Table;
use super::values::{InvalidValue, Value, found, must_be, shown, text};
use super::{secrets, tls};
use crate::otlp::{self, Endpoint, EndpointError};

/// The port of collectors for OTLP over gRPC.
const GRPC_PORT: u16 = 4317;

/// `[tracing]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracingPlan {
    /// Where spans go.
    pub export: otlp::Settings,
    /// Of a million requests whose sampling is Linchpin's to decide, how many are sampled.
    pub per_million: u32,
}

/// Reads the section. `None` if there is none, or its endpoint has an error.
pub(super) fn tracing(table: &Table<'_>) -> Option<TracingPlan> {
    let endpoint = table.required("otlp", "\"http://127.0.0.1:4318\"", endpoint);
    let per_million = table.get("sample", share).unwrap_or(1_000_000);
    let service = table.get("service", service).unwrap_or_else(|| "linchpin".into());
    let authorities = tls::collector_authorities(table, endpoint.as_ref().is_some_and(|url| url.value.is_secure));
    let headers = secrets::header_fields(table, "headers_file");
    let endpoint = endpoint?;
    if table.has("headers_file") && !endpoint.value.is_secure && !endpoint.value.is_local() {
        let problem = "`headers_file` without https: whoever is on the way to the collector can read its keys";
        let remedy = "write an https URL, or name a collector on this machine; on a network that you trust, leave it";
        table.notes().warn(&table.at("headers_file"), problem, remedy);
    }
    if endpoint.value.port == GRPC_PORT {
        let problem = "`otlp` has port 4317, where collectors take OTLP over gRPC; Linchpin sends it over HTTP";
        table.notes().warn(&endpoint.span, problem, "write the port for HTTP, which is 4318 by default");
    }
    Some(TracingPlan {
        export: otlp::Settings { endpoint: endpoint.value, authorities, headers, service },
        per_million,
    })
}

fn endpoint(value: &DeValue<'_>) -> Value<Endpoint> {
    let text = text(value)?;
    Endpoint::parse(text).map_err(|error| match error {
        EndpointError::Malformed => {
            let what = "the URL of a collector for OTLP over HTTP";
            must_be(what, shown(text), "write for example \"http://127.0.0.1:4318\"")
        }
        EndpointError::Password => InvalidValue {
            problem: "has a user name or password, which Linchpin does not send".into(),
            remedy: "write a line `authorization: Basic …` to a file, and its name to `headers_file`".into(),
        },
    })
}

/// Reads a share such as `"10%"` or `"0.1%"`, in millionths.
fn share(value: &DeValue<'_>) -> Value<u32> {
    let written = value.as_str().and_then(|text| text.trim().strip_suffix('%')?.trim_end().parse::<f64>().ok());
    let percent = written.filter(|percent| (0.0..=100.0).contains(percent));
    // From 0 to 1,000,000.
    percent
        .map(|percent| (percent * 10_000.0).round() as u32)
        .ok_or_else(|| must_be("a share from \"0%\" to \"100%\"", found(value), "write for example \"10%\""))
}

fn service(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    match (1..=255).contains(&text.len()) && !text.chars().any(char::is_control) {
        true => Ok(text.into()),
        false => Err(must_be("a name of 1 to 255 bytes", shown(text), "write for example \"linchpin\"")),
    }
}
