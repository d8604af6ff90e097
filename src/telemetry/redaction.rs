//! Owns: what of a client's URLs the access log leaves out.
//! Invariant: no password, no value of a path parameter and, unless it is wanted, no query gets through.
//! Must not know: records, formats of lines.

use std::borrow::Cow;

/// Returns a path with `*` for the value of each of its parameters (RFC 3986 §3.3). Servers of applications keep the
/// session id there if a client takes no cookies (`/cart;jsessionid=…`), and with that id anybody has the session.
pub(super) fn path(path: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b';', path).is_none() {
        return path.into();
    }
    let mut shown = Vec::with_capacity(path.len());
    let mut in_value = false;
    let mut in_parameter = false;
    for byte in path {
        match byte {
            b';' => (in_parameter, in_value) = (true, false),
            b'/' => (in_parameter, in_value) = (false, false),
            b'=' if in_parameter && !in_value => {
                in_value = true;
                shown.extend_from_slice(b"=*");
                continue;
            }
            _ => {}
        }
        if !in_value {
            shown.push(*byte);
        }
    }
    shown.into()
}

/// Returns a URL without its fragment and its user information, and with its query only if `with_query`.
pub(super) fn url(url: &[u8], with_query: bool) -> Cow<'_, [u8]> {
    let url = memchr::memchr(b'#', url).map_or(url, |end| &url[..end]);
    let (before, query) = url.split_at(memchr::memchr(b'?', url).unwrap_or(url.len()));
    let (scheme, rest) = match memchr::memmem::find(before, b"//") {
        Some(at) => before.split_at(at + 2),
        None => (&before[..0], before),
    };
    let (authority, path_part) = rest.split_at(memchr::memchr(b'/', rest).unwrap_or(rest.len()));
    let user = memchr::memrchr(b'@', authority).filter(|_| !scheme.is_empty()).map_or(0, |at| at + 1);
    let query = if with_query { query } else { &[] };
    if user == 0 && query.is_empty() && memchr::memchr(b';', before).is_none() {
        return before.into();
    }
    [scheme, &path(&authority[user..]), &path(path_part), query].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_values_of_path_parameters_are_left_out() {
        for (sent, shown) in [
            ("/cart", "/cart"),
            ("/cart;jsessionid=SECRET.node1", "/cart;jsessionid=*"),
            ("/a;v=1;b=2/c;d=3/e=4", "/a;v=*;b=*/c;d=*/e=4"),
            ("/a;plain/b", "/a;plain/b"),
            ("/a;x==SECRET=", "/a;x=*"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(text(&path(sent.as_bytes())), shown);
        }
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_secret() {
        for (sent, shown, with_query) in [
            ("https://shop.example/cart", "https://shop.example/cart", "https://shop.example/cart"),
            ("https://shop.example/?token=SECRET", "https://shop.example/", "https://shop.example/?token=SECRET"),
            ("https://u:SECRET@shop.example/a@b", "https://shop.example/a@b", "https://shop.example/a@b"),
            ("https://a/b;jsessionid=SECRET?q#SECRET", "https://a/b;jsessionid=*", "https://a/b;jsessionid=*?q"),
            ("/only/a@path", "/only/a@path", "/only/a@path"),
            ("https://host.example", "https://host.example", "https://host.example"),
            ("https://u:SECRET@host", "https://host", "https://host"),
            ("", "", ""),
        ] {
            assert_eq!(text(&url(sent.as_bytes(), false)), shown);
            assert_eq!(text(&url(sent.as_bytes(), true)), with_query);
        }
    }
}
