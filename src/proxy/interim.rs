//! Owns: forwarding a backend's interim responses to the client (RFC 9110 §15.2).
//! Invariant: they are bounded in number and size, and have no hop-by-hop field and none that frames a message.
//! Must not know: sockets, client connections.

use std::cell::Cell;

use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};
use http::{Response, StatusCode};

use super::fields::Fields;
use super::headers;
use crate::handler::Interim;

/// The most interim responses that are forwarded per attempt. A page has one, a slow task some dozens of 102.
const MAX_INTERIM_RESPONSES: u32 = 64;

/// Forwards the interim responses of one attempt.
pub(super) struct InterimForwarder<'a> {
    /// Opened by a 100. The body of the request waits for it.
    pub(super) gate: Option<&'a Cell<bool>>,
    /// Where all others go but 101. A 100 is not forwarded: hyper's server sends one by itself if the client expects it,
    /// as soon as the body is read.
    pub(super) client: Option<&'a Interim>,
    /// The fields that the route changes, which are removed.
    pub(super) edits: Option<&'a Fields>,
    /// How many were forwarded.
    pub(super) forwarded: u32,
}

impl InterimForwarder<'_> {
    /// Notes an interim response of the backend.
    pub(super) fn received(&mut self, status: StatusCode, fields: HeaderMap) {
        if status == StatusCode::CONTINUE {
            self.gate.inspect(|gate| gate.set(true));
        } else if let Some(client) = self.client
            && self.forwarded < MAX_INTERIM_RESPONSES
        {
            self.forwarded += 1;
            let fields = to_client(fields, self.edits.into_iter().flat_map(Fields::names));
            match client {
                Interim::Http1(queue) => drop(queue.push(&head(status, &fields))),
                Interim::Http2(stream) => {
                    let mut response = Response::new(());
                    (*response.status_mut(), *response.headers_mut()) = (status, fields);
                    stream.push(response);
                }
            }
        }
    }
}

/// Removes the fields that no interim response has, and those that the route changes.
fn to_client<'e>(mut fields: HeaderMap, edited: impl Iterator<Item = &'e HeaderName>) -> HeaderMap {
    headers::to_client(&mut fields);
    fields.remove(CONTENT_LENGTH);
    for name in edited {
        fields.remove(name);
    }
    fields
}

/// Serializes an interim response.
fn head(status: StatusCode, fields: &HeaderMap) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32 + 64 * fields.len());
    for part in
        [b"HTTP/1.1 ", status.as_str().as_bytes(), b" ", status.canonical_reason().unwrap_or("Interim").as_bytes()]
    {
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(b"\r\n");
    // A `HeaderValue` contains no line break.
    for (name, value) in fields {
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
        let fields = to_client(all, [HeaderName::from_static("x-internal")].iter());
        let bytes = head(StatusCode::from_u16(103).unwrap(), &fields);
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nlink: </b.css>\r\n\r\n");
        let bytes = head(StatusCode::from_u16(199).unwrap(), &HeaderMap::new());
        assert_eq!(bytes, b"HTTP/1.1 199 Interim\r\n\r\n");
    }
}
