//! Owns: which fields trailers may carry, in both directions and over every version of HTTP.
//! Invariant: trailers say nothing that a head says: nobody can add there what was removed or set in the head.
//! Must not know: bodies, routes.

use http::header::HeaderMap;

use super::fields::Fields;
use super::headers::{is_hop_by_hop, is_reserved, remove};

/// Removes from trailers what RFC 9110 §6.5.1 has no place for there, the fields that Linchpin sets, and
/// those that a route `edits` in the head. Many servers and clients hand trailers to the application among
/// the fields of the head, and over HTTP/2 no library asks what they are.
pub(super) fn sanitize(trailers: &mut HeaderMap, edits: Option<&Fields>) {
    remove(trailers, |name| is_hop_by_hop(name) || is_reserved(name) || belongs_in_header_section(name));
    for name in edits.into_iter().flat_map(Fields::names) {
        trailers.remove(name);
    }
}

/// Whether a field has to be known before the content is: what frames, routes, authenticates or modifies a
/// message, and what says how its content is to be read or kept.
fn belongs_in_header_section(name: &str) -> bool {
    match name {
        "content-digest" | "content-md5" => false,
        "trailer"
        | "via"
        | "host"
        | "max-forwards"
        | "authorization"
        | "www-authenticate"
        | "cookie"
        | "set-cookie"
        | "set-cookie2"
        | "cache-control"
        | "pragma"
        | "expect"
        | "range"
        | "accept-ranges"
        | "origin"
        | "referer"
        | "age"
        | "date"
        | "expires"
        | "location"
        | "refresh"
        | "retry-after"
        | "vary"
        | "warning"
        | "allow"
        | "strict-transport-security"
        | "clear-site-data"
        | "alt-svc" => true,
        // Content-Length, -Type, -Encoding, -Range, -Disposition, -Security-Policy …
        _ => ["content-", "if-", "proxy-", "access-control-", "sec-"].into_iter().any(|start| name.starts_with(start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{HeaderName, HeaderValue};

    #[test]
    fn trailers_keep_what_is_known_at_the_end_alone() {
        let kept =
            ["grpc-status", "grpc-message", "x-sum", "etag", "digest", "content-digest", "server-timing", "signature"];
        let gone = [
            "content-length",
            "transfer-encoding",
            "trailer",
            "te",
            "connection",
            "x-listed",
            "host",
            "set-cookie",
            "cookie",
            "authorization",
            "www-authenticate",
            "proxy-authorization",
            "cache-control",
            "expect",
            "range",
            "if-match",
            "content-type",
            "content-encoding",
            "content-range",
            "content-disposition",
            "location",
            "vary",
            "date",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "linchpin-client-subject",
            "x-edited",
            "upgrade",
        ];
        let mut trailers = HeaderMap::new();
        for name in kept.into_iter().chain(gone) {
            let value = if name == "connection" { "x-listed" } else { "1" };
            trailers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let edits = Fields { remove: vec![HeaderName::from_static("x-edited")], ..Fields::default() };
        sanitize(&mut trailers, Some(&edits));
        let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let mut expected = kept;
        expected.sort_unstable();
        assert_eq!(names, expected);
    }
}
