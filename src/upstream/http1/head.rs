//! Owns: reading a response's header section: its fields, the framing of its body, whether the connection persists.
//! Invariant: pure; an ambiguous framing is refused, and what is held of an incomplete header section is bounded.
//! Must not know: sockets, bodies.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode, Version};
use httparse::{Header, ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::body::{Framing, skip};
use crate::upstream::failure::Fact;
use crate::upstream::framing::settle;
use crate::upstream::settings::MAX_RESPONSE_HEAD;

/// The number of fields for which there is room on the stack.
const FIELDS_ON_STACK: usize = 100;

/// About how many fields are added on the way to the client. Without room for them the map would grow once more.
const ADDED: usize = 4;

/// The most bytes of interim responses to one request.
const MAX_INTERIM: usize = 1024 * 1024;

/// What a connection accepts of the fields of a response.
#[derive(Debug, Clone, Copy)]
pub struct FieldRules {
    /// The most fields.
    pub max: usize,
    /// A field of this name is kept apart from the others, if there is one. Among them its value would be checked byte by
    /// byte once more, and the field would be hashed to be added, found and removed: that costs more than all other fields
    /// together if it is long.
    pub kept_apart: Option<&'static HeaderName>,
}

/// A header section.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub(super) response: Response<()>,
    /// The value of the first field that is kept apart. A further one is among the others.
    pub(super) kept_apart: Option<Bytes>,
    /// Whether the backend keeps the connection open for another request, as far as is known (RFC 9112 §9.3).
    pub(super) is_persistent: bool,
}

impl ResponseHead {
    /// Whether another response to the same request follows (RFC 9110 §15.2). None follows a 101: the connection
    /// switches to another protocol.
    pub(super) fn is_interim(&self) -> bool {
        self.response.status().is_informational() && self.response.status() != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Returns how the body is framed (RFC 9112 §6.3), if this is the final response to HEAD or to another request. A
    /// Content-Length beside Transfer-Encoding is removed.
    ///
    /// # Errors
    /// [`Fact::Garbage`] if another recipient could find the end elsewhere.
    pub(super) fn settle_framing(&mut self, is_response_to_head: bool) -> Result<Framing, Fact> {
        let settled = settle(self.response.headers_mut())?;
        // Such a backend may itself see the end elsewhere, so nothing else is read from the connection.
        self.is_persistent &= !settled.is_ambiguous;
        let status = self.response.status();
        let is_bodyless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if is_response_to_head || status.is_informational() || is_bodyless {
            return Ok(Framing::Empty);
        }
        match (settled.is_chunked, settled.length) {
            // RFC 9112 §6.1: the framing of such a message of HTTP/1.0 is faulty.
            (true, _) if self.response.version() == Version::HTTP_10 => Err(Fact::Garbage),
            (true, _) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => {
                self.is_persistent = false;
                Ok(Framing::UntilClose)
            }
        }
    }
}

/// Reads header sections from bytes that arrive in pieces.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// The beginning of an incomplete header section.
    partial: Vec<u8>,
    /// The number of bytes of empty lines before it, which RFC 9112 §2.2 lets a recipient ignore.
    empty: usize,
    /// The number of bytes of the interim responses so far.
    interim: usize,
}

impl HeadReader {
    /// Takes the next header section out of `input`. Returns `None` if it is incomplete: all of `input` was used then.
    /// `fields` returns an empty map, which its fields are put into.
    ///
    /// # Errors
    /// [`Fact::Garbage`] if it is malformed, and [`Fact::HeadTooLarge`] if it exceeds a limit.
    pub(super) fn read(
        &mut self,
        input: &mut Bytes,
        rules: FieldRules,
        fields: impl FnOnce() -> HeaderMap,
    ) -> Result<Option<ResponseHead>, Fact> {
        if !self.partial.is_empty() {
            let searched = self.partial.len().saturating_sub(2);
            self.partial.extend_from_slice(input);
            input.clear();
            // To parse everything again for each piece would take quadratic time.
            if !has_end(self.partial.get(searched..).unwrap_or_default()) {
                return self.check_size(self.partial.len()).map(|()| None);
            }
            *input = std::mem::take(&mut self.partial).into();
        }
        while let [b'\n', ..] | [b'\r', b'\n', ..] = &**input {
            let length = if input.starts_with(b"\r") { 2 } else { 1 };
            skip(input, length);
            self.empty += length;
        }
        match parse(input, rules, fields)? {
            Some((head, length)) => {
                self.check_size(length.saturating_sub(1))?;
                skip(input, length);
                if head.is_interim() {
                    self.interim += self.empty + length;
                    self.empty = 0;
                    // Each is read within one poll of the connection if it is there: without end, nothing else would run.
                    if self.interim > MAX_INTERIM {
                        return Err(Fact::HeadTooLarge);
                    }
                }
                Ok(Some(head))
            }
            None => {
                self.check_size(input.len())?;
                self.partial = std::mem::take(input).into();
                Ok(None)
            }
        }
    }

    /// Fails if a header section that is longer than `length` exceeds the limit.
    fn check_size(&self, length: usize) -> Result<(), Fact> {
        if self.empty + length < MAX_RESPONSE_HEAD { Ok(()) } else { Err(Fact::HeadTooLarge) }
    }
}

/// Whether the end of a header section may be in `bytes`: an empty line.
fn has_end(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| matches!(bytes.get(at + 1..), Some([b'\n', ..] | [b'\r', b'\n', ..])))
}

/// Parses a header section. Returns it with its length, or `None` if it is incomplete.
fn parse(
    bytes: &Bytes,
    rules: FieldRules,
    fields: impl FnOnce() -> HeaderMap,
) -> Result<Option<(ResponseHead, usize)>, Fact> {
    let mut few = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS_ON_STACK];
    let mut many = Vec::new();
    let space = match few.get_mut(..rules.max) {
        Some(space) => space,
        None => {
            many.resize_with(rules.max, MaybeUninit::uninit);
            &mut many[..]
        }
    };
    // RFC 9112 §5.1: a proxy must remove the white space between a field's name and the colon from a response. A folded
    // line stays malformed, which §5.2 allows.
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    let mut parsed = httparse::Response::new(&mut []);
    let length = match config.parse_response_with_uninit_headers(&mut parsed, bytes, space) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Fact::HeadTooLarge),
        Err(_) => return Err(Fact::Garbage),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Fact::Garbage)?;
    let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    if let Some(reason) = parsed.reason.filter(|reason| Some(*reason) != status.canonical_reason()) {
        // hyper's server sends it on.
        let reason = ReasonPhrase::try_from(reason.as_bytes()).map_err(|_| Fact::Garbage)?;
        response.extensions_mut().insert(reason);
    }
    let mut headers = fields();
    headers.reserve(parsed.headers.len() + ADDED);
    let (mut closes, mut keeps_alive) = (false, version == Version::HTTP_11);
    let mut kept_apart = None;
    for Header { name, value } in &*parsed.headers {
        let is_kept_apart = |kept: &HeaderName| name.eq_ignore_ascii_case(kept.as_str());
        if kept_apart.is_none() && rules.kept_apart.is_some_and(is_kept_apart) {
            kept_apart = Some(bytes.slice_ref(value));
            continue;
        }
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Fact::Garbage)?;
        // A part of `bytes`: each field would take memory of its own otherwise.
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value)).map_err(|_| Fact::Garbage)?;
        if name == CONNECTION {
            closes |= has_option(&value, "close");
            keeps_alive |= has_option(&value, "keep-alive");
        }
        headers.append(name, value);
    }
    *response.headers_mut() = headers;
    Ok(Some((ResponseHead { response, kept_apart, is_persistent: keeps_alive && !closes }, length)))
}

/// Whether a line of the field Connection has this option.
fn has_option(line: &HeaderValue, option: &str) -> bool {
    let has_text = |text: &str| text.split(',').any(|other| other.trim().eq_ignore_ascii_case(option));
    line.to_str().is_ok_and(has_text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::LINK;

    const RULES: FieldRules = FieldRules { max: 100, kept_apart: Some(&LINK) };

    /// Reads a header section that arrives in these pieces. Returns it with what follows it.
    fn read(pieces: &[&[u8]]) -> Result<Option<(ResponseHead, Vec<u8>)>, Fact> {
        let mut reader = HeadReader::default();
        for (at, piece) in pieces.iter().enumerate() {
            let mut input = Bytes::copy_from_slice(piece);
            if let Some(head) = reader.read(&mut input, RULES, HeaderMap::new)? {
                return Ok(Some((head, [&input[..], &pieces[at + 1..].concat()].concat())));
            }
            assert!(input.is_empty());
        }
        Ok(None)
    }

    fn framing(head: &str, is_response_to_head: bool) -> Result<(Framing, bool), Fact> {
        let (mut head, _) = read(&[head.as_bytes()])?.expect("a complete header section");
        let framing = head.settle_framing(is_response_to_head)?;
        Ok((framing, head.is_persistent))
    }

    #[test]
    fn a_body_is_framed_as_rfc_9112_says_and_an_ambiguous_framing_is_refused() {
        use Framing::{Chunked, Empty, Length, UntilClose};
        for (head, expected) in [
            ("1.1 200 X\r\ncontent-length: 3", Ok((Length(3), true))),
            ("1.1 200 X\r\ncontent-length: 0", Ok((Length(0), true))),
            ("1.1 200 X\r\nContent-Length:3\t ", Ok((Length(3), true))),
            ("1.1 200 X\r\ncontent-length : 3", Ok((Length(3), true))),
            ("1.1 200 X\r\ntransfer-encoding: chunked", Ok((Chunked, true))),
            ("1.1 200 X\r\nTransfer-Encoding:\tCHUNKED", Ok((Chunked, true))),
            ("1.1 200 X\r\ntransfer-encoding : chunked", Ok((Chunked, true))),
            ("1.1 200 X\r\nx: y", Ok((UntilClose, false))),
            // Both: chunked, and the connection is not used again.
            ("1.1 200 X\r\ncontent-length: 3\r\ntransfer-encoding: chunked", Ok((Chunked, false))),
            ("1.1 200 X\r\ntransfer-encoding: chunked\r\ncontent-length: 3", Ok((Chunked, false))),
            // No body, whatever the fields say.
            ("1.1 204 X\r\ntransfer-encoding: chunked", Ok((Empty, true))),
            ("1.1 304 X\r\ncontent-length: 3", Ok((Empty, true))),
            ("1.1 101 X\r\nupgrade: x", Ok((Empty, true))),
            // Persistence.
            ("1.0 200 X\r\ncontent-length: 3", Ok((Length(3), false))),
            ("1.0 200 X\r\ncontent-length: 3\r\nconnection: Keep-Alive", Ok((Length(3), true))),
            ("1.1 200 X\r\ncontent-length: 3\r\nconnection: x, Close", Ok((Length(3), false))),
            ("1.1 200 X\r\ncontent-length: 3\r\nconnection: close\r\nconnection: keep-alive", Ok((Length(3), false))),
            ("1.0 200 X\r\nconnection: keep-alive", Ok((UntilClose, false))),
            // Ambiguous.
            ("1.1 200 X\r\ncontent-length: 3\r\ncontent-length: 4", Err(Fact::Garbage)),
            ("1.1 200 X\r\ncontent-length: 3\r\ncontent-length: 3", Err(Fact::Garbage)),
            ("1.1 200 X\r\ncontent-length: 3, 3", Err(Fact::Garbage)),
            ("1.1 200 X\r\ncontent-length: +3", Err(Fact::Garbage)),
            ("1.1 200 X\r\ncontent-length: 0x10", Err(Fact::Garbage)),
            ("1.1 200 X\r\ncontent-length: 99999999999999999999", Err(Fact::Garbage)),
            ("1.1 200 X\r\ntransfer-encoding: chunked, chunked", Err(Fact::Garbage)),
            ("1.1 200 X\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked", Err(Fact::Garbage)),
            ("1.1 200 X\r\ntransfer-encoding: \x0bchunked", Err(Fact::Garbage)),
            ("1.1 200 X\r\ntransfer-encoding: gzip, chunked", Err(Fact::Garbage)),
            ("1.1 200 X\r\ntransfer-encoding: identity", Err(Fact::Garbage)),
            ("1.0 200 X\r\ntransfer-encoding: chunked", Err(Fact::Garbage)),
        ] {
            assert_eq!(framing(&format!("HTTP/{head}\r\n\r\n"), false), expected, "{head}");
        }
        assert_eq!(framing("HTTP/1.1 200 X\r\ncontent-length: 3\r\n\r\n", true), Ok((Empty, true)));
        assert_eq!(framing("HTTP/1.1 200 X\r\ncontent-length: 3, 4\r\n\r\n", true), Err(Fact::Garbage));
    }

    #[test]
    fn a_malformed_header_section_is_refused() {
        for head in [
            "hello\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.2 200 X\r\n\r\n",
            "http/1.1 200 X\r\n\r\n",
            " HTTP/1.1 200 X\r\n\r\n",
            "\rHTTP/1.1 200 X\r\n\r\n",
            "\r\n\rHTTP/1.1 200 X\r\n\r\n",
            "\0HTTP/1.1 200 X\r\n\r\n",
            "HTTP/1.1 2000 X\r\n\r\n",
            "HTTP/1.1 099 X\r\n\r\n",
            "HTTP/1.1 20 X\r\n\r\n",
            "HTTP/1.1  200 X\r\n\r\n",
            "HTTP/1.1 200 X\rY\r\n\r\n",
            "HTTP/1.1 200 X\0\r\n\r\n",
            "HTTP/1.1 200 X\r\n x: y\r\n\r\n",
            "HTTP/1.1 200 X\r\nx\r\n\r\n",
            "HTTP/1.1 200 X\r\n: y\r\n\r\n",
            "HTTP/1.1 200 X\r\nx y: z\r\n\r\n",
            "HTTP/1.1 200 X\r\nx\0: y\r\n\r\n",
            "HTTP/1.1 200 X\r\nx: a\0b\r\n\r\n",
            "HTTP/1.1 200 X\r\nx: a\rb\r\n\r\n",
            "HTTP/1.1 200 X\r\nx: a\r\n b\r\n\r\n",
            "HTTP/1.1 200 X\r\nx: a\x7f\r\n\r\n",
            "HTTP/1.1 200 X\r\nx: a\r\n\r\r\n",
        ] {
            assert_eq!(read(&[head.as_bytes()]).err(), Some(Fact::Garbage), "{head:?}");
        }
    }

    #[test]
    fn a_header_section_is_the_same_however_it_is_split() {
        for all in [
            &b"HTTP/1.1 200 Fine\r\na: b\r\nA:c\r\n\r\nbody\r\n\r\n"[..],
            b"\r\n\n\r\nHTTP/1.1 200 Fine\na: b\nA:c\n\nbody\n\n",
            b"HTTP/1.0 200 Fine\r\na : b\nA:c\n\r\nbody",
        ] {
            for first in 0..all.len() {
                for second in first..all.len() {
                    let (head, rest) =
                        read(&[&all[..first], &all[first..second], &all[second..]]).unwrap().expect("a head");
                    let values: Vec<_> = head.response.headers().get_all("a").iter().collect();
                    assert_eq!(values, ["b", "c"], "{first} {second}");
                    assert!(rest.starts_with(b"body"));
                    let reason = head.response.extensions().get::<ReasonPhrase>().unwrap();
                    assert_eq!(reason.as_bytes(), b"Fine");
                }
            }
        }
    }

    #[test]
    fn the_first_field_of_one_name_is_kept_apart_and_counted_and_checked_like_the_others() {
        let head = |fields: &str| read(&[format!("HTTP/1.1 200 X\r\n{fields}\r\n").as_bytes()]);
        let (kept, rest) = head("a: b\r\nLINK:  cé \r\nlink: d\r\n")
            .unwrap()
            .map(|(head, _)| (head.kept_apart, head.response))
            .unwrap();
        assert_eq!(kept.as_deref(), Some("cé".as_bytes()));
        assert_eq!(
            (rest.headers().len(), &rest.headers()["a"], &rest.headers()["link"]),
            (2, &"b".parse().unwrap(), &"d".parse().unwrap())
        );
        assert!(head("a: b\r\n").unwrap().is_some_and(|(head, _)| head.kept_apart.is_none()));
        for value in ["\0", "a\x7f", "a\x1fb"] {
            assert_eq!(head(&format!("link: {value}\r\n")).err(), Some(Fact::Garbage), "{value:?}");
        }
        let of = |max: usize| {
            let mut input = Bytes::from_static(b"HTTP/1.1 200 X\r\nlink: a\r\nb: c\r\n\r\n");
            HeadReader::default()
                .read(&mut input, FieldRules { max, ..RULES }, HeaderMap::new)
                .map(|head| head.is_some())
        };
        assert_eq!((of(2), of(1)), (Ok(true), Err(Fact::HeadTooLarge)));
    }

    #[test]
    fn a_header_section_is_bounded_in_size_and_fields() {
        let sized = |length: usize| format!("HTTP/1.1 200 X\r\nx:{}\r\n\r\n", "y".repeat(length - 22)).into_bytes();
        assert!(read(&[&sized(MAX_RESPONSE_HEAD)]).unwrap().is_some());
        let too_large = sized(MAX_RESPONSE_HEAD + 1);
        assert_eq!(read(&[&too_large]).err(), Some(Fact::HeadTooLarge));
        assert_eq!(read(&too_large.chunks(1000).collect::<Vec<_>>()).err(), Some(Fact::HeadTooLarge));
        let empty_lines = b"\r\n".repeat(MAX_RESPONSE_HEAD);
        assert_eq!(read(&empty_lines.chunks(7).collect::<Vec<_>>()).err(), Some(Fact::HeadTooLarge));
        for max in [1, 100, 101, 1000] {
            let read = |count: usize| {
                let mut input = format!("HTTP/1.1 200 X\r\n{}\r\n", "x: y\r\n".repeat(count)).into();
                let rules = FieldRules { max, kept_apart: None };
                HeadReader::default().read(&mut input, rules, HeaderMap::new).map(|head| head.is_some())
            };
            assert_eq!((read(max), read(max + 1)), (Ok(true), Err(Fact::HeadTooLarge)), "{max}");
        }
    }

    #[test]
    fn nothing_is_held_behind_a_header_section_but_its_own_fields() {
        let buffer = Bytes::from(b"HTTP/1.1 204 X\r\nx: y\r\n\r\n".to_vec());
        let mut input = buffer.clone();
        let head = HeadReader::default().read(&mut input, RULES, HeaderMap::new).unwrap().unwrap();
        drop(head);
        assert!(input.is_empty() && buffer.is_unique());
    }

    #[test]
    fn interim_responses_without_end_are_refused() {
        let interim = b"HTTP/1.1 102 X\r\n\r\n";
        let read = |count: usize| {
            let mut reader = HeadReader::default();
            for _ in 0..count {
                let mut input = Bytes::from_static(interim);
                assert!(reader.read(&mut input, RULES, HeaderMap::new)?.is_some_and(|head| head.is_interim()));
            }
            reader.read(&mut Bytes::from_static(b"HTTP/1.1 200 X\r\n\r\n"), RULES, HeaderMap::new)
        };
        let most = MAX_INTERIM / interim.len();
        assert!(read(most).is_ok_and(|head| head.is_some()));
        assert_eq!(read(most + 1).err(), Some(Fact::HeadTooLarge));
    }

    #[test]
    fn an_interim_response_precedes_the_final_one() {
        let mut input = Bytes::from_static(b"HTTP/1.1 103 X\r\nlink: a\r\n\r\nHTTP/1.1 200 X\r\n\r\n");
        let mut reader = HeadReader::default();
        let mut next = || reader.read(&mut input, RULES, HeaderMap::new).unwrap().unwrap().is_interim();
        assert_eq!([next(), next()], [true, false]);
    }
}
