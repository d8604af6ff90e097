//! Owns: forwarding a backend's interim responses to the client (RFC 9110 §15.2).
//! Invariant: they are bounded in number and size, and have no hop-by-hop field and none that frames a message.
//! Must not know: sockets, client connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Request, StatusCode};

use super::fields::Fields;
use super::headers;
use crate::net::interim::InterimQueue;

/// The most interim responses that are forwarded per attempt. A page has one, a slow task some dozens of 102.
const MAX_INTERIM_RESPONSES: u32 = 64;

/// Registers a callback for interim responses on `request`. A 100 opens `gate`, for which the body waits. All others
/// but 101 are queued for the `client`, without the fields that the route `edits`. A 100 is not forwarded: hyper's
/// server sends one by itself if the client expects it, as soon as the body is read.
///
/// The callback costs hyper an allocation or two, so a request that needs neither registers none. hyper does not call
/// it for interim responses over HTTP/2, and its server sends none over HTTP/2.
pub(super) fn register<B>(
    request: &mut Request<B>,
    gate: Option<&Arc<AtomicBool>>,
    client: Option<&Arc<InterimQueue>>,
    edits: Option<&Fields>,
) {
    if gate.is_none() && client.is_none() {
        return;
    }
    let (gate, client) = (gate.cloned(), client.cloned());
    let edited: Vec<HeaderName> = edits.into_iter().flat_map(Fields::names).cloned().collect();
    let forwarded = AtomicU32::new(0);
    hyper::ext::on_informational(request, move |response| match (response.status(), &gate, &client) {
        (StatusCode::CONTINUE, Some(gate), _) => gate.store(true, Ordering::Relaxed),
        (StatusCode::CONTINUE | StatusCode::SWITCHING_PROTOCOLS, ..) | (_, _, None) => {}
        (status, _, Some(client)) => {
            if forwarded.fetch_add(1, Ordering::Relaxed) < MAX_INTERIM_RESPONSES {
                client.push(&head(status, response.headers().clone(), &edited));
            }
        }
    });
}

/// Serializes an interim response.
fn head(status: StatusCode, mut fields: HeaderMap, edited: &[HeaderName]) -> Vec<u8> {
    headers::to_client(&mut fields);
    fields.remove(CONTENT_LENGTH);
    for name in edited {
        fields.remove(name);
    }
    let mut bytes = Vec::with_capacity(32 + 64 * fields.len());
    for part in
        [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", status.canonical_reason().unwrap_or("Interim").as_bytes()]
    {
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(b"\r\n");
    // A `HeaderValue` contains no line break.
    for (name, value) in &fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::HeaderValue;

    #[test]
    fn an_interim_response_has_no_hop_by_hop_field_no_length_and_no_field_that_the_route_removes() {
        let fields = [
            ("link", "</a.css>"),
            ("link", "</b.css>"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("x-internal", "1"),
        ];
        let mut all = HeaderMap::new();
        for (name, value) in fields {
            all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let bytes = head(StatusCode::from_u16(103).unwrap(), all, &[HeaderName::from_static("x-internal")]);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.css>\r\n\r\n");
        let bytes = head(StatusCode::from_u16(199).unwrap(), HeaderMap::new(), &[]);
        assert_eq!(bytes, b"HTTP/1.1 199 Interim\r\n\r\n");
    }
}
