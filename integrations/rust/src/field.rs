//! Owns: the fields of the protocol: reading `Linchpin-Session`, writing those that save and drop.
//! Invariant: a field in any other format is no field.
//! Must not know: sessions, nor what a copy holds.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};

pub(crate) const SESSION: HeaderName = HeaderName::from_static("linchpin-session");
pub(crate) const SAVE: HeaderName = HeaderName::from_static("linchpin-session-save");
pub(crate) const DROP: HeaderName = HeaderName::from_static("linchpin-session-drop");
pub(crate) const WANT: HeaderName = HeaderName::from_static("linchpin-session-want");

const MAX_REF_CHARS: usize = 64;

/// Linchpin's name of a session, which stays when the session's id changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionRef(Box<str>);

impl SessionRef {
    fn parse(text: &str) -> Option<Self> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        ((1..=MAX_REF_CHARS).contains(&text.len()) && text.bytes().all(is_plain)).then(|| Self(text.into()))
    }
}

impl fmt::Display for SessionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of a session's state; the higher one is newer. Linchpin raises `term` when it hands the session over, a
/// server raises `seq` when it saves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) term: u64,
    pub(crate) seq: u64,
}

/// The value of `Linchpin-Session`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SessionField {
    pub(crate) session_ref: SessionRef,
    pub(crate) term: u64,
    /// The state that Linchpin knows of; `None`: it holds no copy.
    pub(crate) seq: Option<u64>,
    /// With that state the session has ended.
    pub(crate) dropped: bool,
}

impl SessionField {
    /// Reads the field. Returns `None` if there is none, more than one, or one in another format.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(&SESSION).iter();
        let field = fields.next()?.to_str().ok()?;
        if fields.next().is_some() { None } else { Self::parse(field) }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(str::trim);
        let session_ref = SessionRef::parse(parts.next()?.strip_prefix("ref=\"")?.strip_suffix('"')?)?;
        let (mut term, mut seq, mut dropped) = (None, None, false);
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

    pub(crate) fn version(&self) -> Option<Version> {
        self.seq.map(|seq| Version { term: self.term, seq })
    }
}

/// Returns the value of `Linchpin-Session` that names this version.
pub(crate) fn session(session_ref: &SessionRef, Version { term, seq }: Version) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("ref=\"{session_ref}\";term={term};seq={seq}")).ok()
}

/// Returns the value of `Linchpin-Session-Save`. The copy lives for `ttl` seconds after the session's last request.
pub(crate) fn save(copy: &[u8], Version { term, seq }: Version, ttl: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!(":{}:;term={term};seq={seq};ttl={ttl}", STANDARD.encode(copy))).ok()
}

/// Returns the value of `Linchpin-Session-Drop`.
pub(crate) fn drop(Version { term, seq }: Version) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("?1;term={term};seq={seq}")).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_each_form_of_the_field() {
        for (text, seq, dropped) in [
            ("ref=\"0f-_\";term=3", None, false),
            ("ref=\"0f-_\"; term=3; seq=17; later=1", Some(17), false),
            ("ref=\"0f-_\";term=3;seq=19;dropped", Some(19), true),
        ] {
            let field = SessionField { session_ref: SessionRef("0f-_".into()), term: 3, seq, dropped };
            assert_eq!(SessionField::parse(text), Some(field), "{text}");
        }
    }

    #[test]
    fn a_field_in_another_format_is_none() {
        let long = format!("ref=\"{}\";term=1", "a".repeat(MAX_REF_CHARS + 1));
        for text in ["", "ref=a;term=1", "ref=\"a\"", "ref=\"\";term=1", "ref=\"a\";term=x", "term=1", &long] {
            assert_eq!(SessionField::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = SessionField::parse(&text);
        }
    }
}
