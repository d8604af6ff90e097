//! Owns: the bytes of a request: its header section, and the framing of its body.
//! Invariant: pure; the body of a request is framed in one way alone, and has the length that was announced.
//! Must not know: sockets, where a body comes from.

use std::io::Write;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING};

use crate::upstream::outgoing::RequestHead;

/// The end of a chunk, the last chunk with an empty trailer section, and both.
const CHUNK_END: &[u8] = b"\r\n";
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const CHUNK_END_AND_LAST: &[u8] = b"\r\n0\r\n\r\n";

/// Encodes the body of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyEncoder {
    /// This many bytes are left.
    Length(u64),
    /// In chunks. Of the trailers, those are sent that the field Trailer announces.
    Chunked { announced: Vec<HeaderName> },
}

/// The body has another length than was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WrongLength;

/// Appends a header section to `into`. The body has `length` bytes, if known. Returns the encoder for its body, unless
/// it is empty.
pub(super) fn encode_head(
    head: &RequestHead<'_>,
    is_empty: bool,
    length: Option<u64>,
    into: &mut Vec<u8>,
) -> Option<BodyEncoder> {
    let RequestHead { method, target, fields, added } = head;
    into.extend_from_slice(method.as_str().as_bytes());
    into.push(b' ');
    into.extend_from_slice(target.path().as_bytes());
    if let Some(query) = target.query() {
        into.push(b'?');
        into.extend_from_slice(query.as_bytes());
    }
    into.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in *fields {
        // These are written once, by the body's encoder. A client's `Content-Length: 0` stays.
        let is_framing = *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH;
        if is_framing && !(is_empty && *name == CONTENT_LENGTH && value == "0") {
            continue;
        }
        write_line(name, value, into);
    }
    if let Some((name, value)) = added {
        write_line(name, value, into);
    }
    let encoder = match (is_empty, length) {
        (true, _) => None,
        (false, Some(length)) => {
            for part in [&b"content-length: "[..], itoa::Buffer::new().format(length).as_bytes(), b"\r\n"] {
                into.extend_from_slice(part);
            }
            Some(BodyEncoder::Length(length))
        }
        (false, None) => {
            into.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Some(BodyEncoder::Chunked { announced: announced_trailers(fields) })
        }
    };
    into.extend_from_slice(b"\r\n");
    encoder
}

fn write_line(name: &HeaderName, value: &HeaderValue, into: &mut Vec<u8>) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        into.extend_from_slice(part);
    }
}

/// Returns the names that the field Trailer lists.
fn announced_trailers(headers: &HeaderMap) -> Vec<HeaderName> {
    let lines = headers.get_all(TRAILER).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

impl BodyEncoder {
    /// Frames data, which is not empty: appends what precedes it to `prefix`, and returns what follows it. `is_last`
    /// means that nothing comes after it.
    ///
    /// # Errors
    /// It exceeds the length.
    pub(super) fn encode(
        &mut self,
        data: &Bytes,
        is_last: bool,
        prefix: &mut Vec<u8>,
    ) -> Result<&'static [u8], WrongLength> {
        match self {
            BodyEncoder::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                if is_last && *left > 0 { Err(WrongLength) } else { Ok(&[]) }
            }
            BodyEncoder::Chunked { .. } => {
                // Writing to memory doesn't fail.
                let _ = write!(prefix, "{:x}\r\n", data.len());
                Ok(if is_last { CHUNK_END_AND_LAST } else { CHUNK_END })
            }
        }
    }

    /// Whether the body has its whole length.
    pub(super) fn is_complete(&self) -> bool {
        *self == BodyEncoder::Length(0)
    }

    /// Appends the end of a body to `into`, with its trailers.
    ///
    /// # Errors
    /// The body is shorter than its length.
    pub(super) fn encode_end(&self, trailers: Option<&HeaderMap>, into: &mut Vec<u8>) -> Result<(), WrongLength> {
        let announced = match self {
            BodyEncoder::Length(0) => return Ok(()),
            BodyEncoder::Length(_) => return Err(WrongLength),
            BodyEncoder::Chunked { announced } => announced,
        };
        let (last, end) = LAST_CHUNK.split_at(LAST_CHUNK.len() - 2);
        into.extend_from_slice(last);
        for (name, value) in trailers.into_iter().flatten().filter(|(name, _)| announced.contains(name)) {
            write_line(name, value, into);
        }
        into.extend_from_slice(end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(request: &Request<()>, is_empty: bool, length: Option<u64>) -> (String, Option<BodyEncoder>) {
        let mut bytes = Vec::new();
        let (method, target, fields) = (request.method(), request.uri(), request.headers());
        let head = RequestHead { method, target, fields, added: None };
        let encoder = encode_head(&head, is_empty, length, &mut bytes);
        (String::from_utf8(bytes).unwrap(), encoder)
    }

    #[test]
    fn a_body_is_framed_once_whatever_the_fields_say() {
        let request = Request::post("/a?b")
            .header("content-length", "7")
            .header("x", "y")
            .header("transfer-encoding", "gzip, chunked")
            .header("trailer", "x-sum, x-other")
            .header("content-length", "8")
            .body(())
            .unwrap();
        let rest = "x: y\r\ntrailer: x-sum, x-other\r\n";
        let (text, encoder) = head(&request, false, Some(3));
        assert_eq!(text, format!("POST /a?b HTTP/1.1\r\n{rest}content-length: 3\r\n\r\n"));
        assert_eq!(encoder, Some(BodyEncoder::Length(3)));
        let (text, encoder) = head(&request, false, None);
        assert_eq!(text, format!("POST /a?b HTTP/1.1\r\n{rest}transfer-encoding: chunked\r\n\r\n"));
        assert!(matches!(encoder, Some(BodyEncoder::Chunked { announced }) if announced == ["x-sum", "x-other"]));
        let (text, encoder) = head(&request, true, Some(0));
        assert_eq!((text, encoder), (format!("POST /a?b HTTP/1.1\r\n{rest}\r\n"), None));
    }

    #[test]
    fn a_request_without_a_body_keeps_a_content_length_of_zero() {
        let request =
            |uri| Request::builder().method("OPTIONS").uri(uri).header("content-length", "0").body(()).unwrap();
        for uri in ["*", "/", "/?", "/a?b=%20&c"] {
            let expected = format!("OPTIONS {uri} HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(head(&request(uri), true, Some(0)), (expected, None));
        }
    }

    #[test]
    fn a_body_has_the_length_that_was_announced_or_fails() {
        let data = |length: usize| Bytes::from(vec![0; length]);
        let mut encoder = BodyEncoder::Length(5);
        let mut prefix = Vec::new();
        assert_eq!(encoder.encode(&data(2), false, &mut prefix), Ok(&b""[..]));
        assert_eq!(encoder.encode_end(None, &mut prefix), Err(WrongLength));
        assert_eq!(encoder.encode(&data(4), false, &mut prefix), Err(WrongLength));
        assert_eq!(encoder.encode(&data(2), true, &mut prefix), Err(WrongLength));
        let mut encoder = BodyEncoder::Length(2);
        assert_eq!(encoder.encode(&data(2), true, &mut prefix), Ok(&b""[..]));
        assert!(encoder.is_complete() && encoder.encode_end(None, &mut prefix).is_ok() && prefix.is_empty());
    }

    #[test]
    fn a_chunked_body_has_the_trailers_that_were_announced() {
        let mut encoder = BodyEncoder::Chunked { announced: vec!["x-sum".parse().unwrap()] };
        let mut all = Vec::new();
        for (data, is_last, end) in [(&b"hello"[..], false, CHUNK_END), (&[b'x'; 16], true, CHUNK_END_AND_LAST)] {
            let data = Bytes::from_static(data);
            assert_eq!(encoder.encode(&data, is_last, &mut all), Ok(end));
        }
        assert_eq!(all, b"5\r\n10\r\n");
        all.clear();
        let trailers = [("x-sum", "1"), ("x-other", "2")]
            .map(|(name, value)| (HeaderName::from_static(name), http::HeaderValue::from_static(value)));
        encoder.encode_end(Some(&HeaderMap::from_iter(trailers)), &mut all).unwrap();
        assert_eq!(all, b"0\r\nx-sum: 1\r\n\r\n");
        all.clear();
        encoder.encode_end(None, &mut all).unwrap();
        assert_eq!(all, LAST_CHUNK);
    }
}
