//! Owns: keeping a response that carries a pin out of shared caches.
//! Invariant: directives for private caches stay; directives that let a shared cache store the response are removed.
//! Must not know: where the pin travels.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

/// RFC 9213: a CDN obeys this field before Cache-Control.
const CDN_CACHE_CONTROL: HeaderName = HeaderName::from_static("cdn-cache-control");
/// The predecessor of CDN-Cache-Control, which CDNs still obey.
const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Marks a response that carries a pin as private (RFC 9111 §5.2.2.7), unless it is already: a shared cache that stored
/// the response would give one client's pin to all others.
pub(super) fn keep_private(headers: &mut HeaderMap) {
    headers.remove(CDN_CACHE_CONTROL);
    headers.remove(SURROGATE_CONTROL);
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
        return;
    }
    let mut kept = String::from("private");
    for field in headers.get_all(CACHE_CONTROL) {
        let Ok(field) = field.to_str() else { continue };
        for directive in directives(field) {
            let name = directive.split('=').next().unwrap_or_default().trim_end();
            if name.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("private") {
                return;
            }
            // `private="field"` keeps only that field out of caches, so it is removed, too.
            let is_for_shared_caches = ["public", "s-maxage", "private", "proxy-revalidate"]
                .iter()
                .any(|word| name.eq_ignore_ascii_case(word));
            if !is_for_shared_caches {
                kept.push_str(", ");
                kept.push_str(directive);
            }
        }
    }
    let value = HeaderValue::try_from(kept).unwrap_or(HeaderValue::from_static("private"));
    headers.insert(CACHE_CONTROL, value);
}

/// Splits a Cache-Control field into directives. A comma inside quotes does not separate.
fn directives(field: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    field
        .split(move |c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_with_a_pin_is_kept_out_of_shared_caches() {
        for (before, after) in [
            (&[][..], "private"),
            (&["public, max-age=60"][..], "private, max-age=60"),
            (&["max-age=60", "s-maxage=9, must-revalidate"], "private, max-age=60, must-revalidate"),
            (&["private=\"a, public\", no-cache"], "private, no-cache"),
            (&["no-store"], "no-store"),
            (&["max-age=5, Private"], "max-age=5, Private"),
        ] {
            let mut headers = HeaderMap::new();
            for value in before {
                headers.append(CACHE_CONTROL, HeaderValue::from_static(value));
            }
            headers.insert(CDN_CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
            keep_private(&mut headers);
            assert_eq!(headers[CACHE_CONTROL], after, "{before:?}");
            assert!(!headers.contains_key(CDN_CACHE_CONTROL));
        }
    }
}
