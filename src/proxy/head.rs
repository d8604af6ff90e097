//! Owns: copies of a head's parts, for code that needs them longer than the buffer that the head was read into.
//! Invariant: a copy is equal to the original, and part of no larger buffer.
//! Must not know: who needs a copy, and for how long.

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue};
use http::uri::{Authority, PathAndQuery, Uri};

/// Copies a target.
pub(super) fn target(target: Uri) -> Uri {
    let copy = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut parts = target.clone().into_parts();
    parts.authority = parts.authority.and_then(|authority| Authority::from_maybe_shared(copy(authority.as_str())).ok());
    parts.path_and_query =
        parts.path_and_query.and_then(|path| PathAndQuery::from_maybe_shared(copy(path.as_str())).ok());
    Uri::from_parts(parts).ok().filter(|copied| *copied == target).unwrap_or(target)
}

/// Copies all values of `fields` into one piece of memory.
pub(super) fn detach(fields: &mut HeaderMap) {
    let mut all = BytesMut::with_capacity(fields.values().map(HeaderValue::len).sum());
    for value in fields.values_mut() {
        all.extend_from_slice(value.as_bytes());
        if let Ok(mut copied) = HeaderValue::from_maybe_shared(all.split().freeze()) {
            copied.set_sensitive(value.is_sensitive());
            *value = copied;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_head_keeps_none_of_its_buffer() {
        let buffer = Bytes::from(b"a.example/chat?token=1 and eight kilobytes more".to_vec());
        let whole = target(Uri::from_maybe_shared(buffer.slice(9..22)).unwrap());
        let mut fields = HeaderMap::new();
        for at in [0..9, 10..14, 5..5] {
            fields.append("x-one", HeaderValue::from_maybe_shared(buffer.slice(at)).unwrap());
        }
        detach(&mut fields);
        assert!(buffer.is_unique());
        assert_eq!(whole, Uri::from_static("/chat?token=1"));
        assert_eq!(fields.get_all("x-one").iter().collect::<Vec<_>>(), ["a.example", "chat", ""]);
    }

    #[test]
    fn a_target_of_any_form_stays_what_it_is() {
        for text in ["*", "/", "/a?b=c&d", "http://a.example:80/b?c", "/\u{e4}?b"] {
            let uri = Uri::from_maybe_shared(Bytes::from(text)).unwrap();
            assert_eq!(target(uri.clone()), uri, "{text}");
        }
    }
}
