//! Owns: the request target and the form in which it is forwarded.
//! Invariant: a forwarded target starts with `/`, or is `*` in an OPTIONS request.
//! Must not know: routes, header fields, backends.

use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version};

use super::error::ProxyError;

const INVALID: ProxyError = ProxyError::Malformed("The request target is not valid.");

/// Converts a request target into origin-form or asterisk-form (RFC 9112 §3.2), in which it is forwarded. Returns the
/// authority of the target, which takes precedence over Host.
///
/// # Errors
/// Any other form, a scheme other than `http` and `https`, a path that does not start with `/`, and `*` with any method
/// but OPTIONS.
pub(super) fn normalize(uri: &mut Uri, method: &Method, version: Version) -> Result<Option<Authority>, ProxyError> {
    // Most targets are in one of these forms already.
    if uri.authority().is_none() {
        let is_valid = uri.path_and_query().is_some_and(|target| is_valid(target, method));
        return is_valid.then_some(None).ok_or(INVALID);
    }
    let parts = std::mem::take(uri).into_parts();
    let is_http = parts.scheme.is_some_and(|scheme| scheme == Scheme::HTTP || scheme == Scheme::HTTPS);
    let (true, Some(authority), Some(target)) = (is_http, parts.authority, parts.path_and_query) else {
        return Err(INVALID);
    };
    let target = match version {
        Version::HTTP_2 => target,
        _ => from_absolute_form(target, &authority, method)?,
    };
    if !is_valid(&target, method) {
        return Err(INVALID);
    }
    *uri = Uri::from(target);
    Ok(Some(authority))
}

/// Converts a target in absolute-form, whose path may be empty (RFC 9112 §3.2.4, RFC 9110 §4.2.3).
fn from_absolute_form(
    target: PathAndQuery,
    authority: &Authority,
    method: &Method,
) -> Result<PathAndQuery, ProxyError> {
    // The crate `http` replaces an empty path by the constant `/`. A path that was sent is in the same buffer, right
    // after the authority.
    let has_path = authority.as_str().as_bytes().as_ptr_range().end == target.as_str().as_ptr();
    if *method == Method::OPTIONS && !has_path {
        return Ok(PathAndQuery::from_static("*"));
    }
    match target.as_str().strip_prefix('?') {
        Some(query) => PathAndQuery::try_from(["/?", query].concat()).map_err(|_| INVALID),
        None => Ok(target),
    }
}

/// Whether a target starts with `/`, or is `*` in an OPTIONS request.
fn is_valid(target: &PathAndQuery, method: &Method) -> bool {
    match target.as_str() {
        // If a fragment follows an empty path, the crate `http` keeps an empty text: `as_str` returns `/`, but hyper
        // sends the empty text.
        "/" => *target == PathAndQuery::from_static("/"),
        "*" => *method == Method::OPTIONS,
        text => text.starts_with('/'),
    }
}

/// The authority of a target as the value of Host.
pub(super) fn host_field(authority: &Authority) -> Option<HeaderValue> {
    HeaderValue::from_str(authority.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(method: Method, text: &'static str) -> Option<String> {
        let mut uri = Uri::from_maybe_shared(bytes::Bytes::from_static(text.as_bytes())).unwrap();
        normalize(&mut uri, &method, Version::HTTP_11).ok()?;
        Some(uri.to_string())
    }

    #[test]
    fn a_forwarded_target_starts_with_a_slash_or_is_the_asterisk_of_options() {
        for (given, expected) in [
            ("/", Some("/")),
            ("/x?y", Some("/x?y")),
            ("//x", Some("//x")),
            ("/?", Some("/?")),
            ("http://a", Some("/")),
            ("http://a/", Some("/")),
            ("HTTP://a/x?y", Some("/x?y")),
            ("https://a?x", Some("/?x")),
            ("https://a?", Some("/?")),
            ("http://a#x", None),
            ("http://a?x#y", Some("/?x")),
            ("*", None),
            ("a", None),
            ("a:80", None),
            ("ftp://a/", None),
        ] {
            assert_eq!(target(Method::GET, given).as_deref(), expected, "{given}");
        }
        for (given, expected) in
            [("*", "*"), ("http://a", "*"), ("http://a/", "/"), ("http://a?x", "/?x"), ("http://a:80", "*")]
        {
            assert_eq!(target(Method::OPTIONS, given).as_deref(), Some(expected), "{given}");
        }
    }

    #[test]
    fn a_valid_path_of_http_2_is_forwarded_unchanged() {
        for (path, method, expected) in [
            ("/x?y", Method::GET, Some("/x?y")),
            ("*", Method::GET, None),
            ("*", Method::OPTIONS, Some("*")),
            ("/", Method::OPTIONS, Some("/")),
            ("?x", Method::GET, None),
            ("?", Method::GET, None),
            ("#x", Method::GET, None),
        ] {
            let mut parts = http::uri::Parts::default();
            (parts.scheme, parts.authority) = (Some(Scheme::HTTP), Some(Authority::from_static("a")));
            parts.path_and_query = Some(path.parse().unwrap());
            let mut uri = Uri::from_parts(parts).unwrap();
            let authority = normalize(&mut uri, &method, Version::HTTP_2);
            assert_eq!(authority.is_ok().then(|| uri.to_string()).as_deref(), expected, "{method} {path}");
        }
    }
}
