//! Owns: a backend's interim responses on their way to the client (RFC 9110 §15.2).
//! Invariant: bounded in number and size; no field of the hop, and none that frames a message.
//! Must not know: sockets, connections to clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Request, StatusCode};

use super::fields::Fields;
use super::headers;
use crate::net::interim::InterimQueue;

/// Interim responses to one attempt that are forwarded on. A page has one, a slow task some dozens of 102.
const MAX_INTERIM_RESPONSES: u32 = 64;

/// Has `request` tell of interim responses: a 100 opens `gate`, behind which the body waits, and all others
/// but 101 are queued for the `client`, without the fields that its route `edits`. A 100 is not forwarded on:
/// hyper's server says so itself where it was asked for, as soon as the body is read.
///
/// hyper takes an allocation or two for it, so a request that needs none of both registers nothing. It calls
/// nobody for the interim responses of HTTP/2, and its server sends none over HTTP/2.
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

/// The bytes of an interim response.
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
    // A value of `http` has no end of a line in it.
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
    fn an_interim_response_has_neither_fields_of_the_hop_nor_a_length_nor_what_its_route_takes_out() {
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
