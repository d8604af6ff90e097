//! Owns: which of the bytes behind a response's header section are its body, and where it ends (RFC 9112 §6.3, §7.1).
//! Invariant: pure; a body is complete only where its framing says so, and what is held of its framing is bounded.
//! Must not know: sockets, header sections.

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};

/// The most bytes of chunk extensions in one body, and of its trailer section.
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// The most trailer fields.
const MAX_TRAILER_FIELDS: usize = 100;

/// The most digits of a chunk's size: as many as fit into 64 bits.
const MAX_DIGITS: u8 = 16;

/// How the end of a body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is no body.
    Empty,
    /// It has this many bytes.
    Length(u64),
    /// It ends with the last chunk and its trailer section.
    Chunked,
    /// It ends when the backend closes the connection.
    UntilClose,
}

/// A body violates its framing, or ends before it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// Decodes one body.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug)]
enum State {
    Complete,
    /// This many bytes are left.
    Length(u64),
    Chunked(Chunked),
    UntilClose,
    Broken,
}

#[derive(Debug)]
struct Chunked {
    next: Next,
    /// The size of the current chunk, less the bytes of it that were taken.
    size: u64,
    extensions: usize,
    /// The lines of the trailer section so far.
    trailers: Vec<u8>,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A chunk's size, of which this many digits were read.
    Size(u8),
    /// White space behind a size, which RFC 9112 §7.1.1 lets a recipient accept.
    Space,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A line of the trailer section, or the empty line behind it.
    TrailerLine,
    /// The rest of a line of the trailer section.
    Trailer,
    TrailerLf,
    LastLf,
    /// The trailer section is complete.
    Trailers,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Decoder {
        Decoder(match framing {
            Framing::Empty | Framing::Length(0) => State::Complete,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => {
                State::Chunked(Chunked { next: Next::Size(0), size: 0, extensions: 0, trailers: Vec::new() })
            }
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether the whole body was decoded.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.0, State::Complete)
    }

    /// Returns how much of the body is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.0 {
            State::Complete => SizeHint::with_exact(0),
            State::Length(left) => SizeHint::with_exact(left),
            _ => SizeHint::default(),
        }
    }

    /// Takes the next frame of the body out of `input`. Returns `None` if there is none in it; all of `input` was then
    /// used, unless the body is complete: the rest is no part of it.
    ///
    /// It also takes the framing behind the data, so that the last frame is known to be the last.
    ///
    /// # Errors
    /// The body violates its framing.
    pub(super) fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame<Bytes>>, Broken> {
        let frame = match &mut self.0 {
            State::Broken => return Err(Broken),
            State::Complete => None,
            State::UntilClose => take(input, u64::MAX),
            State::Length(left) => {
                let data = take(input, *left);
                *left -= data.as_ref().map_or(0, |data| data.len() as u64);
                if *left == 0 {
                    self.0 = State::Complete;
                }
                data
            }
            State::Chunked(chunked) => match chunked.decode(input) {
                Ok(data) => data,
                Err(Broken) => {
                    self.0 = State::Broken;
                    return Err(Broken);
                }
            },
        };
        self.finish_chunked(input, frame)
    }

    /// Takes the framing behind `data`, and the end of a chunked body.
    fn finish_chunked(&mut self, input: &mut Bytes, data: Option<Bytes>) -> Result<Option<Frame<Bytes>>, Broken> {
        let data = data.map(Frame::data);
        let State::Chunked(chunked) = &mut self.0 else { return Ok(data) };
        let mut trailers = None;
        // An error is reported after the data before it.
        let ended = chunked.skip_framing(input).and_then(|()| match chunked.next {
            Next::Trailers if chunked.trailers.is_empty() => Ok(true),
            Next::Trailers if data.is_none() => {
                trailers = Some(Frame::trailers(parse_trailers(&mut chunked.trailers)?));
                Ok(true)
            }
            _ => Ok(false),
        });
        match ended {
            Ok(true) => self.0 = State::Complete,
            Ok(false) => {}
            Err(Broken) => {
                self.0 = State::Broken;
                if data.is_none() {
                    return Err(Broken);
                }
            }
        }
        Ok(data.or(trailers))
    }

    /// Notes that the backend has ended the connection.
    ///
    /// # Errors
    /// The body is incomplete.
    pub(super) fn end_of_input(&mut self) -> Result<(), Broken> {
        match self.0 {
            State::Complete => Ok(()),
            State::UntilClose => {
                self.0 = State::Complete;
                Ok(())
            }
            _ => {
                self.0 = State::Broken;
                Err(Broken)
            }
        }
    }
}

impl Chunked {
    /// Takes the next data.
    fn decode(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, Broken> {
        self.skip_framing(input)?;
        if self.next != Next::Data {
            return Ok(None);
        }
        let data = take(input, self.size);
        self.size -= data.as_ref().map_or(0, |data| data.len() as u64);
        if self.size == 0 {
            self.next = Next::DataCr;
        }
        Ok(data)
    }

    /// Takes everything before the next data, or before the end.
    fn skip_framing(&mut self, input: &mut Bytes) -> Result<(), Broken> {
        let mut used = 0;
        for byte in input.iter() {
            if matches!(self.next, Next::Data | Next::Trailers) {
                break;
            }
            self.next = self.step(*byte)?;
            used += 1;
        }
        skip(input, used);
        Ok(())
    }

    /// Takes one byte of the framing.
    fn step(&mut self, byte: u8) -> Result<Next, Broken> {
        Ok(match (self.next, byte) {
            (Next::Size(digits), byte) => match (hex_digit(byte), byte) {
                (Some(_), _) if digits == MAX_DIGITS => return Err(Broken),
                // 16 digits fit.
                (Some(digit), _) => {
                    self.size = (self.size << 4) | digit;
                    Next::Size(digits + 1)
                }
                (None, _) if digits == 0 => return Err(Broken),
                (None, b' ' | b'\t') => Next::Space,
                (None, b';') => Next::Extension,
                (None, b'\r') => Next::SizeLf,
                (None, _) => return Err(Broken),
            },
            (Next::Space, b'\r') | (Next::Extension, b'\r') => Next::SizeLf,
            // Not every recipient of a bare line feed would find the end of the line in the same place.
            (Next::Extension, b'\n') => return Err(Broken),
            (Next::Space | Next::Extension, byte) => {
                self.extensions += 1;
                match byte {
                    _ if self.extensions >= MAX_EXTENSIONS => return Err(Broken),
                    b';' => Next::Extension,
                    b' ' | b'\t' => self.next,
                    _ if self.next == Next::Extension => Next::Extension,
                    _ => return Err(Broken),
                }
            }
            (Next::SizeLf, b'\n') if self.size == 0 => Next::TrailerLine,
            (Next::SizeLf, b'\n') => Next::Data,
            (Next::DataCr, b'\r') => Next::DataLf,
            (Next::DataLf, b'\n') => Next::Size(0),
            (Next::TrailerLine, b'\r') => Next::LastLf,
            (Next::LastLf, b'\n') => Next::Trailers,
            (Next::TrailerLine | Next::Trailer, byte) if byte != b'\n' => {
                if self.trailers.len() >= MAX_TRAILERS {
                    return Err(Broken);
                }
                self.trailers.push(byte);
                if byte == b'\r' { Next::TrailerLf } else { Next::Trailer }
            }
            (Next::TrailerLf, b'\n') => {
                self.trailers.push(byte);
                Next::TrailerLine
            }
            _ => return Err(Broken),
        })
    }
}

/// Removes the first `length` bytes of `input`. Once none are left, it keeps no memory: an empty rest would still hold the
/// whole buffer, for as long as the connection waits.
pub(super) fn skip(input: &mut Bytes, length: usize) {
    input.advance(length);
    if input.is_empty() {
        *input = Bytes::new();
    }
}

/// Takes at most `most` bytes out of `input`; `None` if it is empty.
fn take(input: &mut Bytes, most: u64) -> Option<Bytes> {
    let length = input.len().min(usize::try_from(most).unwrap_or(usize::MAX));
    (length > 0).then(|| input.split_to(length))
}

fn hex_digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// Parses the lines of a trailer section.
fn parse_trailers(lines: &mut Vec<u8>) -> Result<HeaderMap, Broken> {
    lines.extend_from_slice(b"\r\n");
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let Ok(httparse::Status::Complete((_, fields))) = httparse::parse_headers(lines, &mut fields) else {
        return Err(Broken);
    };
    let mut trailers = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Broken)?;
        trailers.append(name, HeaderValue::from_bytes(field.value).map_err(|_| Broken)?);
    }
    Ok(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a body turned out to be.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Decoded {
        data: Vec<u8>,
        trailers: Option<HeaderMap>,
        /// The bytes behind the body, if it is complete.
        rest: Option<Vec<u8>>,
    }

    /// Decodes `input`, which arrives in these pieces and then ends.
    fn decoded(framing: Framing, pieces: &[&[u8]]) -> Decoded {
        let mut decoder = Decoder::new(framing);
        let mut all = Decoded { data: Vec::new(), trailers: None, rest: None };
        let mut behind = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(frame)) => match frame.into_data() {
                        Ok(data) => all.data.extend_from_slice(&data),
                        Err(frame) => all.trailers = frame.into_trailers().ok(),
                    },
                    Ok(None) => break,
                    Err(Broken) => {
                        assert!(decoder.end_of_input().is_err() && decoder.decode(&mut input).is_err());
                        return all;
                    }
                }
            }
            assert!(decoder.is_complete() || input.is_empty(), "it needs more, and has not used what there is");
            behind.extend_from_slice(&input);
        }
        all.rest = decoder.end_of_input().ok().map(|()| behind);
        all
    }

    fn chunked(input: &[u8]) -> Option<(String, String)> {
        let all = decoded(Framing::Chunked, &[input]);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        all.rest.map(|rest| (text(all.data), text(rest)))
    }

    #[test]
    fn a_chunked_body_ends_behind_its_trailer_section_and_nowhere_else() {
        for (input, expected) in [
            (&b"0\r\n\r\n"[..], Some(("", ""))),
            (b"3\r\nabc\r\n0\r\n\r\n", Some(("abc", ""))),
            (b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\nHTTP/1.1 200", Some(("abcde", "HTTP/1.1 200"))),
            (b"a\r\n0123456789\r\nA\r\n0123456789\r\n00\r\n\r\n", Some(("01234567890123456789", ""))),
            (b"3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", Some(("abc", ""))),
            (b"3 \t;a\r\nabc\r\n0 \r\n\r\n", Some(("abc", ""))),
            (b"0000000000000003\r\nabc\r\n0\r\n\r\n", Some(("abc", ""))),
            (b"0\r\nx: y\r\n\r\n", Some(("", ""))),
            (b"3\r\nabc\r\n0\r\nx: y\r\nz:\r\n\r\nmore", Some(("abc", "more"))),
            // A carriage return and a line feed as data.
            (b"2\r\n\r\n\r\n0\r\n\r\n", Some(("\r\n", ""))),
            // Sizes that are none, or that other recipients read differently.
            (b"", None),
            (b"\r\n0\r\n\r\n", None),
            (b" 3\r\nabc\r\n0\r\n\r\n", None),
            (b"\r\n\r\n", None),
            (b";a\r\n\r\n", None),
            (b"+3\r\nabc\r\n0\r\n\r\n", None),
            (b"-3\r\nabc\r\n0\r\n\r\n", None),
            (b"0x3\r\nabc\r\n0\r\n\r\n", None),
            (b"0x10\r\nabc\r\n0\r\n\r\n", None),
            (b"3g\r\nabc\r\n0\r\n\r\n", None),
            (b"3 3\r\nabc\r\n0\r\n\r\n", None),
            (b"3\0\r\nabc\r\n0\r\n\r\n", None),
            (b"3\x0b\r\nabc\r\n0\r\n\r\n", None),
            (b";a\r\nabc\r\n0\r\n\r\n", None),
            (b"10000000000000000\r\nabc", None),
            (b"00000000000000003\r\nabc\r\n0\r\n\r\n", None),
            (b"ffffffffffffffff\r\nabc\r\n0\r\n\r\n", None),
            // Line ends that are none.
            (b"3\nabc\r\n0\r\n\r\n", None),
            (b"3\rabc\r\n0\r\n\r\n", None),
            (b"3\rxabc\r\n0\r\n\r\n", None),
            (b"3\r\nabc\rx0\r\n\r\n", None),
            (b"3\r\nabcx\n0\r\n\r\n", None),
            (b"3\r\nabc\n0\r\n\r\n", None),
            (b"3\r\nabc\r0\r\n\r\n", None),
            (b"3\r\nabc0\r\n\r\n", None),
            (b"3\r\nabcd\r\n0\r\n\r\n", None),
            (b"3;a\nb\r\nabc\r\n0\r\n\r\n", None),
            (b"3;a\rb\r\nabc\r\n0\r\n\r\n", None),
            (b"0\r\n\n", None),
            (b"0\n\r\n", None),
            (b"0\r\n\rx", None),
            // Trailers that are none.
            (b"0\r\nx: y\n\r\n", None),
            (b"0\r\nx: y\rz\r\n\r\n", None),
            (b"0\r\nx\r\n\r\n", None),
            (b"0\r\nx : y\r\n\r\n", None),
            (b"0\r\n x: y\r\n\r\n", None),
            (b"0\r\nx: y\r\n z\r\n\r\n", None),
            (b"0\r\n: y\r\n\r\n", None),
            (b"0\r\nx: a\0b\r\n\r\n", None),
            // Incomplete.
            (b"3", None),
            (b"3\r\n", None),
            (b"3\r\nab", None),
            (b"3\r\nabc", None),
            (b"3\r\nabc\r\n", None),
            (b"3\r\nabc\r\n0", None),
            (b"3\r\nabc\r\n0\r\n", None),
            (b"3\r\nabc\r\n0\r\n\r", None),
            (b"3\r\nabc\r\n0\r\nx: y\r\n", None),
        ] {
            let expected = expected.map(|(data, rest)| (data.to_owned(), rest.to_owned()));
            assert_eq!(chunked(input), expected, "{}", input.escape_ascii());
        }
    }

    #[test]
    fn what_surrounds_the_data_of_a_chunked_body_is_bounded() {
        let extension = |length: usize| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(length)).into_bytes();
        assert!(chunked(&extension(MAX_EXTENSIONS - 1)).is_some());
        assert!(chunked(&extension(MAX_EXTENSIONS)).is_none());
        let many = b"1;x\r\na\r\n".repeat(MAX_EXTENSIONS);
        assert!(chunked(&[&many[..], b"0\r\n\r\n"].concat()).is_none(), "all of them together");
        let trailer = |length: usize| format!("0\r\nx:{}\r\n\r\n", "y".repeat(length)).into_bytes();
        assert!(chunked(&trailer(MAX_TRAILERS - 3)).is_some());
        assert!(chunked(&trailer(MAX_TRAILERS)).is_none());
        let fields = |count: usize| [b"0\r\n", &b"x:y\r\n".repeat(count)[..], b"\r\n"].concat();
        assert!(chunked(&fields(MAX_TRAILER_FIELDS)).is_some() && chunked(&fields(MAX_TRAILER_FIELDS + 1)).is_none());
    }

    #[test]
    fn trailers_follow_the_data_as_a_frame_of_their_own() {
        let all = decoded(Framing::Chunked, &[b"1\r\na\r\n0\r\nX-A: 1\r\nx-a:  2 \r\nx-b:\r\n\r\n"]);
        let trailers = all.trailers.unwrap();
        assert_eq!(trailers.get_all("x-a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!((trailers.len(), &all.data[..]), (3, &b"a"[..]));
    }

    #[test]
    fn the_last_data_is_known_to_be_the_last_if_the_end_has_arrived_too() {
        for (framing, input, is_last) in [
            (Framing::Length(3), "abc", true),
            (Framing::Length(4), "abc", false),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\n", true),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n", false),
            (Framing::Chunked, "3\r\nabc\r\n0\r\nx: y\r\n\r\n", false),
            (Framing::UntilClose, "abc", false),
        ] {
            let (mut decoder, mut input) = (Decoder::new(framing), Bytes::from(input));
            assert!(decoder.decode(&mut input).unwrap().is_some_and(|frame| frame.is_data()));
            assert_eq!(decoder.is_complete(), is_last, "{framing:?}");
        }
    }

    #[test]
    fn a_body_that_waits_or_has_ended_holds_no_buffer() {
        for (framing, input) in [
            (Framing::Length(9), "abc"),
            (Framing::Length(3), "abc"),
            (Framing::UntilClose, "abc"),
            (Framing::Chunked, "3\r\nabc\r\n4"),
            (Framing::Chunked, "3\r\nabc\r\n0\r\n\r\n"),
            (Framing::Chunked, "3\r\nabc\r\n0\r\nx: y\r\n\r\n"),
        ] {
            let buffer = Bytes::from(input.as_bytes().to_vec());
            let (mut decoder, mut input) = (Decoder::new(framing), buffer.clone());
            while decoder.decode(&mut input).unwrap().is_some() {}
            assert!(buffer.is_unique(), "{framing:?} {buffer:?}");
        }
    }

    #[test]
    fn data_before_a_violation_is_passed_on() {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut input = Bytes::from_static(b"3\r\nabcX");
        assert!(decoder.decode(&mut input).unwrap().is_some());
        assert_eq!(decoder.decode(&mut input).unwrap_err(), Broken);
    }

    #[test]
    fn a_body_with_a_length_ends_after_it_and_one_without_at_the_close() {
        let all = |framing, input: &[u8]| {
            let all = decoded(framing, &[input]);
            (all.data, all.rest)
        };
        assert_eq!(all(Framing::Empty, b"more"), (b"".to_vec(), Some(b"more".to_vec())));
        assert_eq!(all(Framing::Length(0), b""), (b"".to_vec(), Some(b"".to_vec())));
        assert_eq!(all(Framing::Length(3), b"abcmore"), (b"abc".to_vec(), Some(b"more".to_vec())));
        assert_eq!(all(Framing::Length(3), b"ab"), (b"ab".to_vec(), None));
        assert_eq!(all(Framing::Length(u64::MAX), b"ab"), (b"ab".to_vec(), None));
        assert_eq!(all(Framing::UntilClose, b"abc"), (b"abc".to_vec(), Some(b"".to_vec())));
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_it_is_split(
            input in prop_oneof![
                proptest::collection::vec(proptest::sample::select(&b"0123aF;x: \r\n\r\n"[..]), 0..60),
                "(([1-9a-f]{1,2}(;[a-z=\"]{0,4})?\r\n[a-z\r\n]{0,20}\r\n){0,3}0\r\n(x: [a-z]{0,4}\r\n){0,2}\r\n?)"
                    .prop_map(String::into_bytes),
            ],
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
            length in 0_u64..30,
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([input.len()]) {
                pieces.push(&input[from..to]);
                from = to;
            }
            for framing in [Framing::Chunked, Framing::Length(length), Framing::UntilClose] {
                prop_assert_eq!(decoded(framing, &pieces), decoded(framing, &[&input]));
            }
        }
    }
}
