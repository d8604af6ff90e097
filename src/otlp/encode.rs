//! Owns: what spans say: their names, kinds, states and attributes, in the words of OpenTelemetry's conventions for HTTP.
//! Invariant: a request is one span of kind SERVER, with one of kind CLIENT for each of its attempts.
//! Must not know: batches, collectors.

use std::time::Duration;

use prost::Message;

use super::messages::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans, Span,
    SpanKind, Status, StatusCode, Value,
};
use crate::telemetry::{AttemptSpan, RequestSpans, SpanError};

/// The trace flags of exported spans: sampled.
const SAMPLED: u32 = 1;
/// Whether the parent is in another process is known, and it is (opentelemetry-proto, SpanFlags).
const KNOWS_PARENT: u32 = 0x100;
const PARENT_IS_REMOTE: u32 = 0x200;

/// The methods that are known to the conventions; any other may be a client's invention, and would be a name without
/// bound.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// The errors by which a response broke off that was none yet: the client has a status that says otherwise.
const BROKEN: [&str; 2] = ["broken_off", "quiet_for_too_long"];

/// How the address of a Unix socket begins.
const UNIX: &str = "unix:";

/// Encodes the spans of some requests as one request to a collector.
pub(super) fn encode(service: &str, requests: &[RequestSpans]) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let mut resource = Attributes::default();
    resource.text("service.name", service);
    resource.text("service.version", version);
    let mut spans = Vec::new();
    for request in requests {
        spans.push(server(request));
        let attempts = request.attempts.iter().enumerate();
        spans.extend(attempts.map(|(number, attempt)| client(request, number, attempt)));
    }
    let scope = InstrumentationScope { name: "linchpin".into(), version: version.into() };
    let resource_spans = ResourceSpans {
        resource: Some(Resource { attributes: resource.0 }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
    };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

/// Makes the span of a request.
fn server(request: &RequestSpans) -> Span {
    let mut attributes = Attributes::default();
    attributes.method(&request.method);
    attributes.text("url.path", &request.path);
    attributes.text("url.scheme", if request.is_secure { "https" } else { "http" });
    attributes.address(&request.host);
    attributes.optional("client.address", request.client.as_deref());
    attributes.protocol(request.protocol);
    if let Some(status) = request.status {
        attributes.number("http.response.status_code", status.into());
    }
    attributes.text("linchpin.request", &request.id);
    attributes.text("linchpin.listener", &request.listener);
    attributes.optional("linchpin.pool", request.pool.as_deref());
    attributes.optional("linchpin.backend", request.backend.as_deref());
    attributes.text("linchpin.verdict", request.verdict);
    attributes.optional("linchpin.cause", request.cause);
    let pinned = if request.verdict == "moved" { "linchpin.moved_from" } else { "linchpin.pinned" };
    attributes.optional(pinned, request.pinned.as_deref());
    if let Some(session) = request.session {
        attributes.text("linchpin.session", &format!("{session:016x}"));
    }
    attributes.optional("linchpin.error", request.error.as_ref().map(|error| &*error.reason));
    // A response that says what the client did wrong is no error of the server, and neither is a client that leaves.
    let is_failed = request.status.is_some_and(|status| status >= 500) || broken(request).is_some();
    if is_failed || request.status.is_none() {
        attributes.error(request.error.as_ref(), request.status);
    }
    let place = &request.place;
    Span {
        trace_id: place.trace.0.into(),
        span_id: place.span.0.into(),
        trace_state: place.state.as_deref().unwrap_or_default().into(),
        parent_span_id: place.parent.map(|parent| parent.0.into()).unwrap_or_default(),
        name: name(&request.method),
        kind: SpanKind::Server.into(),
        start_time_unix_nano: nanos(request.begun),
        end_time_unix_nano: nanos(request.begun + request.took),
        attributes: attributes.0,
        status: Some(status(is_failed, request.error.as_ref())),
        flags: SAMPLED | KNOWS_PARENT | if place.parent.is_some() { PARENT_IS_REMOTE } else { 0 },
    }
}

/// Makes the span of an attempt, of which there were `number` before.
fn client(request: &RequestSpans, number: usize, attempt: &AttemptSpan) -> Span {
    let mut attributes = Attributes::default();
    attributes.method(&request.method);
    let scheme = if attempt.is_secure { "https" } else { "http" };
    let authority = if attempt.address.starts_with(UNIX) { "localhost" } else { &*attempt.address };
    attributes.text("url.full", &format!("{scheme}://{authority}{}", request.path));
    attributes.address(&attempt.address);
    attributes.protocol(attempt.protocol);
    if let Some(status) = attempt.status {
        attributes.number("http.response.status_code", status.into());
    }
    if number > 0 {
        attributes.number("http.request.resend_count", i64::try_from(number).unwrap_or(i64::MAX));
    }
    attributes.optional("linchpin.pool", request.pool.as_deref());
    attributes.text("linchpin.backend", &attempt.backend);
    // The last attempt has no end of its own: what ended the request ended it.
    let error = attempt.error.as_ref().or_else(|| if attempt.ended.is_none() { broken(request) } else { None });
    let is_failed = error.is_some() || attempt.status.is_some_and(|status| status >= 400);
    if is_failed {
        attributes.error(error, attempt.status);
    } else if attempt.status.is_none() {
        attributes.error(request.error.as_ref(), None);
    }
    Span {
        trace_id: request.place.trace.0.into(),
        span_id: attempt.id.0.into(),
        trace_state: request.place.state.as_deref().unwrap_or_default().into(),
        parent_span_id: request.place.span.0.into(),
        name: name(&request.method),
        kind: SpanKind::Client.into(),
        start_time_unix_nano: nanos(request.begun + attempt.begun),
        end_time_unix_nano: nanos(request.begun + attempt.ended.unwrap_or(request.took)),
        attributes: attributes.0,
        status: Some(status(is_failed, error)),
        flags: SAMPLED | KNOWS_PARENT,
    }
}

/// Returns the error of a request whose response broke off.
fn broken(request: &RequestSpans) -> Option<&SpanError> {
    request.error.as_ref().filter(|error| BROKEN.contains(&error.kind))
}

fn status(is_failed: bool, error: Option<&SpanError>) -> Status {
    let code = if is_failed { StatusCode::Error } else { StatusCode::Unset };
    let message = error.filter(|_| is_failed).map(|error| error.reason.to_string());
    Status { message: message.unwrap_or_default(), code: code.into() }
}

fn name(method: &str) -> String {
    if METHODS.contains(&method) { method.into() } else { "HTTP".into() }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The attributes of a span.
#[derive(Default)]
struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn text(&mut self, key: &str, value: &str) {
        self.push(key, Value::String(value.into()));
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        value.into_iter().for_each(|value| self.text(key, value));
    }

    fn number(&mut self, key: &str, value: i64) {
        self.push(key, Value::Int(value));
    }

    fn method(&mut self, method: &str) {
        let is_known = METHODS.contains(&method);
        self.text("http.request.method", if is_known { method } else { "_OTHER" });
        if !is_known {
            self.text("http.request.method_original", method);
        }
    }

    /// Adds the version of HTTP. That of HTTP/2 has no minor part.
    fn protocol(&mut self, protocol: Option<&str>) {
        let version = match protocol {
            Some("HTTP/2.0") => Some("2"),
            other => other.map(|name| name.trim_start_matches("HTTP/")),
        };
        self.optional("network.protocol.version", version);
    }

    /// Adds the kind of an error; that of a response without another error is its status.
    fn error(&mut self, error: Option<&SpanError>, status: Option<u16>) {
        match (error, status) {
            (Some(error), _) => self.text("error.type", error.kind),
            (None, Some(status)) => self.text("error.type", itoa::Buffer::new().format(status)),
            (None, None) => {}
        }
    }

    /// Adds a host and its port, if the text ends with one; or the path of a Unix socket.
    fn address(&mut self, text: &str) {
        if let Some(path) = text.strip_prefix(UNIX) {
            self.text("server.address", path);
            return self.text("network.transport", "unix");
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if host.ends_with(']') || !host.contains(':') => (host, port.parse::<u16>().ok()),
            _ => (text, None),
        };
        let host = if port.is_some() { host } else { text };
        self.text("server.address", host.trim_start_matches('[').trim_end_matches(']'));
        if let Some(port) = port {
            self.number("server.port", port.into());
        }
    }

    fn push(&mut self, key: &str, value: Value) {
        self.0.push(KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(attributes: Attributes) -> Vec<String> {
        let shown = attributes.0.into_iter().map(|attribute| match attribute.value.and_then(|value| value.value) {
            Some(Value::String(text)) => format!("{}={text}", attribute.key),
            Some(Value::Int(number)) => format!("{}={number}", attribute.key),
            None => attribute.key,
        });
        shown.collect()
    }

    #[test]
    fn an_address_is_a_host_and_perhaps_a_port() {
        for (text, expected) in [
            ("shop.example", &["server.address=shop.example"][..]),
            ("shop.example:8080", &["server.address=shop.example", "server.port=8080"]),
            ("10.0.0.1:9001", &["server.address=10.0.0.1", "server.port=9001"]),
            ("[::1]:9001", &["server.address=::1", "server.port=9001"]),
            ("[::1]", &["server.address=::1"]),
            ("unix:/run/a:1", &["server.address=/run/a:1", "network.transport=unix"]),
            ("a:99999", &["server.address=a:99999"]),
            ("", &["server.address="]),
        ] {
            let mut attributes = Attributes::default();
            attributes.address(text);
            assert_eq!(shown(attributes), expected, "{text}");
        }
    }

    #[test]
    fn versions_of_http_are_those_of_the_conventions() {
        for (name, version) in [("HTTP/1.0", "1.0"), ("HTTP/1.1", "1.1"), ("HTTP/2.0", "2")] {
            let mut attributes = Attributes::default();
            attributes.protocol(Some(name));
            assert_eq!(shown(attributes), [format!("network.protocol.version={version}")]);
        }
    }
}
