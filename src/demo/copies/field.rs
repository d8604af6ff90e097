//! Owns: the fields of session copies: reading `Linchpin-Session`, writing the fields that save and drop.
//! Invariant: a field in any other format is no field; a value that is written here needs no escape.
//! Must not know: sessions, nor what a copy holds.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// From Linchpin, with each request: which session it is, and which version of it Linchpin holds.
pub(super) const SESSION: HeaderName = HeaderName::from_static("linchpin-session");
/// From Linchpin, with a copy: whether this server takes the session over or keeps the copy for later.
pub(super) const ROLE: HeaderName = HeaderName::from_static("linchpin-session-role");
/// To Linchpin: a changed session.
pub(super) const SAVE: HeaderName = HeaderName::from_static("linchpin-session-save");
/// To Linchpin: the session has ended.
pub(super) const DROP: HeaderName = HeaderName::from_static("linchpin-session-drop");
/// To Linchpin: this server needs the copy before it runs the request.
pub(super) const WANT: HeaderName = HeaderName::from_static("linchpin-session-want");

/// Longest name of a session, in characters.
const MAX_REF_CHARS: usize = 64;

/// Linchpin's name of a session. It stays the same when the session id changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::demo) struct SessionRef(Box<str>);

impl SessionRef {
    fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        ((1..=MAX_REF_CHARS).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.into()))
    }
}

/// Which state of a session it is. The higher version is the newer state: `term` counts how often Linchpin handed the
/// session over, and `seq` is counted by the servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::demo) struct Version {
    pub(super) term: u64,
    pub(super) seq: u64,
}

/// The value of `Linchpin-Session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionField {
    pub(super) session_ref: SessionRef,
    pub(super) term: u64,
    /// The state that Linchpin holds a copy of, or `None` if it holds none.
    pub(super) seq: Option<u64>,
    /// The state is the end of the session.
    pub(super) dropped: bool,
}

impl SessionField {
    /// Reads the field of a request. Returns `None` if there is none, more than one, or one in another format.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(&SESSION).iter();
        let field = fields.next()?.to_str().ok()?;
        if fields.next().is_some() { None } else { Self::parse(field) }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let quoted = parts.next()?.strip_prefix("ref=\"")?.strip_suffix('"')?;
        let (session_ref, mut term, mut seq, mut dropped) = (SessionRef::parse(quoted)?, None, None, false);
        for part in parts {
            match part.split_once('=') {
                Some(("term", number)) => term = Some(number.parse().ok()?),
                Some(("seq", number)) => seq = Some(number.parse().ok()?),
                None if part == "dropped" => dropped = true,
                // Later versions may add parameters.
                _ => {}
            }
        }
        Some(Self { session_ref, term: term?, seq, dropped })
    }

    /// The version that Linchpin holds, if it holds one.
    pub(super) fn version(&self) -> Option<Version> {
        self.seq.map(|seq| Version { term: self.term, seq })
    }
}

impl fmt::Display for SessionField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ref=\"{}\";term={}", self.session_ref.0, self.term)?;
        self.seq.map_or(Ok(()), |seq| write!(f, ";seq={seq}"))?;
        if self.dropped { f.write_str(";dropped") } else { Ok(()) }
    }
}

/// Returns the value of `Linchpin-Session-Save`: the copy as a byte sequence (RFC 9651 §3.3.5) with its version. The
/// copy lives for `ttl` seconds after the session's last request.
pub(super) fn save(copy: &[u8], version: Version, ttl: u64) -> Option<HeaderValue> {
    let Version { term, seq } = version;
    HeaderValue::from_str(&format!(":{}:;term={term};seq={seq};ttl={ttl}", STANDARD.encode(copy))).ok()
}

/// Returns the value of `Linchpin-Session-Drop`.
pub(super) fn drop(version: Version) -> Option<HeaderValue> {
    let Version { term, seq } = version;
    HeaderValue::from_str(&format!("?1;term={term};seq={seq}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_form_of_the_field() {
        let session_ref = SessionRef("0f-_".into());
        for (text, seq, dropped) in [
            ("ref=\"0f-_\";term=3", None, false),
            ("ref=\"0f-_\";term=3;seq=17", Some(17), false),
            ("ref=\"0f-_\";term=3;seq=19;dropped", Some(19), true),
        ] {
            let field = SessionField { session_ref: session_ref.clone(), term: 3, seq, dropped };
            assert_eq!(SessionField::parse(text), Some(field.clone()), "{text}");
            assert_eq!(field.to_string(), text);
        }
        assert!(SessionField::parse("ref=\"a\"; term=3; seq=17; new=1;also").is_some());
    }

    #[test]
    fn a_field_in_another_format_is_none() {
        let long = format!("ref=\"{}\";term=1", "a".repeat(MAX_REF_CHARS + 1));
        for text in
            ["", "ref=a;term=1", "ref=\"a\"", "ref=\"a\";seq=1", "ref=\"\";term=1", "ref=\"a\";term=x", "term=1", &long]
        {
            assert_eq!(SessionField::parse(text), None, "{text}");
        }
        let twice: HeaderMap = ["ref=\"a\";term=1", "ref=\"b\";term=1"]
            .map(|value| (SESSION, HeaderValue::from_static(value)))
            .into_iter()
            .collect();
        assert_eq!(SessionField::read(&twice), None);
    }

    #[test]
    fn a_higher_term_is_newer_whatever_the_seq() {
        let version = |term, seq| Version { term, seq };
        assert!(version(4, 1) > version(3, 17) && version(3, 18) > version(3, 17));
    }

    #[test]
    fn writes_the_fields_that_save_and_drop() {
        let version = Version { term: 3, seq: 18 };
        assert_eq!(save(b"\xff\x00", version, 1200).unwrap(), ":/wA=:;term=3;seq=18;ttl=1200");
        assert_eq!(drop(version).unwrap(), "?1;term=3;seq=18");
    }
}
