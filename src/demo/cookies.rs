//! Owns: reading and writing of cookies in header fields.
//! Invariant: neither scripts nor other sites' forms can use a cookie that is written here.
//! Must not know: what a cookie means.

use cookie::{Cookie, SameSite};
use http::HeaderMap;
use http::header::{COOKIE, HeaderValue};

/// Returns the values of all cookies of this name.
pub(super) fn values<'a>(headers: &'a HeaderMap, wanted: &str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(name, value)| (name == wanted).then_some(value))
}

/// Renders a cookie as a `Set-Cookie` value for the whole site. Scripts can't read it, and browsers don't send it
/// with the POSTs of other sites' pages.
pub(super) fn set_cookie(mut cookie: Cookie<'_>) -> Option<HeaderValue> {
    cookie.set_path("/");
    cookie.set_http_only(true);
    cookie.set_same_site(SameSite::Lax);
    HeaderValue::from_str(&cookie.to_string()).ok()
}
