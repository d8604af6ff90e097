//! Owns: the rule which fields trailers may carry, in both directions and over every version of HTTP.
//! Invariant: no trailer restores a field that was removed from the header section, or replaces one that was set there.
//! Must not know: bodies, routes.

use http::header::HeaderMap;

use super::fields::Fields;
use super::headers::{is_hop_by_hop, is_reserved, remove};

/// Removes the fields that RFC 9110 §6.5.1 forbids in trailers, those that Linchpin sets, and those that a route
/// `edits` in the header section. Many servers and clients merge trailers into the header fields, and no HTTP/2 library
/// checks them.
pub(super) fn sanitize(trailers: &mut HeaderMap, edits: Option<&Fields>) {
    remove(trailers, |name| is_hop_by_hop(name) || is_reserved(name) || belongs_in_header_section(name));
    for name in edits.into_iter().flat_map(Fields::names) {
        trailers.remove(name);
    }
}

/// Whether a recipient needs a field before the content: it frames, routes, authenticates or modifies the message, or
/// controls how the content is processed or cached.
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
    fn only_fields_that_may_follow_the_content_stay_in_trailers() {
        let kept =
            ["grpc-status", "grpc-message", "x-sum", "etag", "digest", "content-digest", "server-timing", "signature"];
        let removed = [
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
        for name in kept.into_iter().chain(removed) {
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
