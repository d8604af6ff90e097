//! Owns: finding a fragment in the target of a request line.
//! Invariant: it decides nothing about where a message begins or ends, and reports no fragment where it is not sure.
//! Must not know: sockets, hyper, what the handler does with a request.

use memchr::memchr3;

/// How far the request line has been read.
///
/// A request target has no fragment (RFC 9112 §3.2), and a request with one is rejected. But the `http` crate cuts off
/// a fragment when it parses a target, so hyper can't report it. This type finds it in the bytes on their way to hyper.
/// Accepting hyper's behaviour was refused: the two ends of the connection would disagree on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestLine {
    /// No byte of the line was read, at most empty lines before it (RFC 9112 §2.2).
    Start,
    /// The method was begun.
    Method,
    /// The target was begun.
    Target,
    /// The target has ended, or this is no request line.
    Done,
}

impl RequestLine {
    /// Reads on with the next `bytes` and returns whether a fragment of the target begins in them.
    pub(super) fn has_fragment(&mut self, mut bytes: &[u8]) -> bool {
        while let (Some((&byte, rest)), false) = (bytes.split_first(), *self == RequestLine::Done) {
            *self = match (*self, byte) {
                (RequestLine::Start, b'\r' | b'\n') => RequestLine::Start,
                (RequestLine::Start | RequestLine::Method, byte) if byte.is_ascii_graphic() => RequestLine::Method,
                (RequestLine::Method, b' ') => {
                    *self = RequestLine::Target;
                    return self.has_fragment(rest);
                }
                (RequestLine::Target, _) => match memchr3(b'#', b' ', b'\n', bytes).and_then(|at| bytes.get(at)) {
                    Some(end) => {
                        *self = RequestLine::Done;
                        return *end == b'#';
                    }
                    None => return false,
                },
                _ => RequestLine::Done,
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
        let whole = RequestLine::Start.has_fragment(text.as_bytes());
        let mut line = RequestLine::Start;
        let in_pieces = text.as_bytes().chunks(1).any(|piece| line.has_fragment(piece));
        assert_eq!(whole, in_pieces, "{text:?}");
        whole
    }

    #[test]
    fn a_fragment_is_found_in_a_target_and_nowhere_else() {
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
