//! Owns: the look at the first line of a request for a fragment in its target.
//! Invariant: it decides nothing about where a message begins or ends, and says "no" wherever it is not sure.
//! Must not know: sockets, hyper, what is served.

use memchr::memchr3;

/// How far the first line of a request has been read.
///
/// A target has no fragment (RFC 9112 §3.2), and one that has is refused. But the crate `http` cuts a
/// fragment off while it reads a target, so hyper cannot tell of one: it is looked for here, in the bytes on
/// their way to hyper. Refused was to leave it at that: what is cut off is nothing that the two ends of a
/// connection agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestLine {
    /// Nothing of it has come, at the most some of the empty lines before it (RFC 9112 §2.2).
    Begins,
    Method,
    Target,
    Over,
}

impl RequestLine {
    /// Goes on with what came next. Returns whether the target has a fragment.
    pub(super) fn has_fragment(&mut self, mut bytes: &[u8]) -> bool {
        while let (Some((&byte, rest)), false) = (bytes.split_first(), *self == RequestLine::Over) {
            *self = match (*self, byte) {
                (RequestLine::Begins, b'\r' | b'\n') => RequestLine::Begins,
                (RequestLine::Begins | RequestLine::Method, byte) if byte.is_ascii_graphic() => RequestLine::Method,
                (RequestLine::Method, b' ') => {
                    *self = RequestLine::Target;
                    return self.has_fragment(rest);
                }
                (RequestLine::Target, _) => match memchr3(b'#', b' ', b'\n', bytes).and_then(|at| bytes.get(at)) {
                    Some(end) => {
                        *self = RequestLine::Over;
                        return *end == b'#';
                    }
                    None => return false,
                },
                _ => RequestLine::Over,
            };
            bytes = rest;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_fragment(text: &str) -> bool {
        let whole = RequestLine::Begins.has_fragment(text.as_bytes());
        let mut line = RequestLine::Begins;
        let in_pieces = text.as_bytes().chunks(1).any(|piece| line.has_fragment(piece));
        assert_eq!(whole, in_pieces, "{text:?}");
        whole
    }

    #[test]
    fn a_fragment_is_seen_in_a_target_and_nowhere_else() {
        for text in ["GET /a#b HTTP/1.1\r\n", "GET #", "\r\n\nGET http://a/?b#c HTTP/1.1", "A#B /# HTTP/1.1"] {
            assert!(has_fragment(text), "{text:?}");
        }
        for text in [
            "",
            "GET /a HTTP/1.1\r\nreferer: /#b\r\n",
            "GET / #",
            "GET /\n#",
            "GET  /#",
            "A#B / HTTP/1.1",
            "GET\t/#",
            " GET /#",
            "GET\r\n/ /#",
            "\x16\x03\x01 #",
        ] {
            assert!(!has_fragment(text), "{text:?}");
        }
    }
}
