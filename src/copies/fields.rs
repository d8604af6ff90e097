//! Owns: the fields of session copies, as structured fields (RFC 9651): their names, reading and writing them.
//! Invariant: a field that says two things, or that this file can't read to its end, says nothing.
//! Must not know: what follows from a field; connections.

use bytes::{BufMut, Bytes};
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

use super::plain_save::{self, PlainSave};
use super::rules::Claim;
use super::session_ref::SessionRef;
use super::version::Version;

/// In requests: the session, and the state that Linchpin knows of.
pub static SESSION: HeaderName = HeaderName::from_static("linchpin-session");
/// In responses: the session's new state.
pub static SAVE: HeaderName = HeaderName::from_static("linchpin-session-save");
/// In responses: the session has ended.
pub const DROP: HeaderName = HeaderName::from_static("linchpin-session-drop");
/// In responses: the server lacks the state that the request names, and has done nothing.
pub const WANT: HeaderName = HeaderName::from_static("linchpin-session-want");
/// In requests that give a copy: what the server is for the session.
pub const ROLE: HeaderName = HeaderName::from_static("linchpin-session-role");
/// Where a server takes copies.
pub const PATH: &str = "/.well-known/linchpin/session";

/// The longest time that a copy is kept without a request, in seconds: a year. A longer `ttl` means this.
const MAX_TTL: u64 = 365 * 24 * 3600;

/// Returns whether a field of this name, in lower case, belongs to session copies.
fn is_of_copies(name: &str) -> bool {
    name.starts_with("linchpin-session")
}

/// What a response says about its session's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewState {
    /// It has not changed.
    Unchanged,
    /// It is new.
    Save {
        /// Its version.
        version: Version,
        /// How long it is valid without a request, in seconds.
        ttl: Option<u64>,
        /// The copy.
        bytes: Bytes,
    },
    /// The session has ended at this version.
    Drop(Version),
    /// It is new, but no copy can be stored. Its version, if that is readable.
    Unusable(Option<Version>, Defect),
}

/// Why a new state can't be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// The copy is longer than `max`.
    TooLong,
    /// The field is malformed, or there are several.
    Malformed,
}

/// Reads what a response says about its session's state. `kept_apart` is the value of a [`SAVE`] that is not among
/// `headers`, and `max` is the longest copy, in bytes.
pub fn new_state(headers: &HeaderMap, kept_apart: Option<&[u8]>, max: usize) -> NewState {
    let malformed = NewState::Unusable(None, Defect::Malformed);
    let (mut save, mut drop) = (kept_apart.map_or(Single::None, Single::One), Single::None);
    // One pass over the few fields that there are: to look up one that most responses lack costs a hash.
    for (name, value) in headers {
        if !is_of_copies(name.as_str()) {
            continue;
        }
        if *name == SAVE {
            save.add(value);
        } else if *name == DROP {
            drop.add(value);
        }
    }
    match (save, drop) {
        (Single::None, Single::None) => NewState::Unchanged,
        (Single::One(save), Single::None) => read_save(save, max).unwrap_or(malformed),
        (Single::None, Single::One(drop)) => read_drop(drop).map_or(malformed, NewState::Drop),
        _ => malformed,
    }
}

/// Returns whether a response says that its server lacks the session's state, and has done nothing.
pub fn is_wanted(status: StatusCode, headers: &HeaderMap) -> bool {
    if status != StatusCode::CONFLICT {
        return false;
    }
    match single(headers, &WANT) {
        Single::One(value) => Parser::new(value).parse::<Item>().is_ok_and(|item| is_true(&item.bare_item)),
        Single::None | Single::Several => false,
    }
}

/// Reads the version in the `Linchpin-Session` of a server that did not take a copy since it has a newer state.
pub fn version_of_response(headers: &HeaderMap) -> Option<Version> {
    let Single::One(value) = single(headers, &SESSION) else { return None };
    let dictionary: Dictionary = Parser::new(value).parse().ok()?;
    match dictionary.get("ref")? {
        ListEntry::Item(item) => version_in(item),
        ListEntry::InnerList(_) => None,
    }
}

/// Writes the `Linchpin-Session` of a request.
pub fn session(session: SessionRef, claim: &Claim) -> Option<HeaderValue> {
    write_session(session, claim.term, claim.seq, claim.dropped)
}

/// Writes the `Linchpin-Session` of a request that gives or drops a copy.
pub fn session_of_copy(session: SessionRef, version: Version) -> Option<HeaderValue> {
    write_session(session, version.term, Some(version.seq), false)
}

fn write_session(session: SessionRef, term: u32, seq: Option<u64>, dropped: bool) -> Option<HeaderValue> {
    // It takes 87 bytes at most.
    let mut field = [0; 96];
    let mut rest = &mut field[..];
    let mut number = itoa::Buffer::new();
    rest.put_slice(b"ref=\"");
    rest.put_slice(&session.hex());
    rest.put_slice(b"\";term=");
    rest.put_slice(number.format(term).as_bytes());
    if let Some(seq) = seq {
        rest.put_slice(b";seq=");
        rest.put_slice(number.format(seq).as_bytes());
    }
    if dropped {
        rest.put_slice(b";dropped");
    }
    let left = rest.len();
    HeaderValue::from_bytes(field.get(..field.len() - left)?).ok()
}

/// How often a field occurs.
enum Single<'a> {
    None,
    One(&'a [u8]),
    Several,
}

impl<'a> Single<'a> {
    fn add(&mut self, value: &'a HeaderValue) {
        *self = if matches!(self, Single::None) { Single::One(value.as_bytes()) } else { Single::Several };
    }
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Single<'a> {
    let mut found = Single::None;
    headers.get_all(name).iter().for_each(|value| found.add(value));
    found
}

fn read_save(value: &[u8], max: usize) -> Option<NewState> {
    match plain_save::read(value, max) {
        Some(PlainSave { version, ttl, bytes }) => {
            Some(NewState::Save { version, ttl: ttl.map(|ttl| ttl.min(MAX_TTL)), bytes: bytes.into() })
        }
        None => read_any_save(value, max),
    }
}

fn read_any_save(value: &[u8], max: usize) -> Option<NewState> {
    let Item { bare_item, params } = Parser::new(value).parse().ok()?;
    let item = Item { bare_item: BareItem::Boolean(true), params };
    let Some(version) = version_in(&item) else { return Some(NewState::Unusable(None, Defect::Malformed)) };
    let malformed = NewState::Unusable(Some(version), Defect::Malformed);
    let ttl = match integer(&item, "ttl") {
        Ok(None) => None,
        Ok(Some(ttl @ 1..)) => Some(ttl.min(MAX_TTL)),
        Ok(Some(0)) | Err(NoNumber) => return Some(malformed),
    };
    match bare_item {
        BareItem::ByteSequence(bytes) if bytes.len() > max => Some(NewState::Unusable(Some(version), Defect::TooLong)),
        // A copy of nothing is no copy.
        BareItem::ByteSequence(bytes) if bytes.is_empty() => Some(malformed),
        // Without the room that the decoder had to spare.
        BareItem::ByteSequence(bytes) => Some(NewState::Save { version, ttl, bytes: bytes.into_boxed_slice().into() }),
        _ => Some(malformed),
    }
}

fn read_drop(value: &[u8]) -> Option<Version> {
    let item: Item = Parser::new(value).parse().ok()?;
    version_in(&item).filter(|_| is_true(&item.bare_item))
}

fn is_true(item: &BareItem) -> bool {
    matches!(item, BareItem::Boolean(true))
}

fn version_in(item: &Item) -> Option<Version> {
    Version::named(integer(item, "term").ok()??, integer(item, "seq").ok()??)
}

/// A parameter is no integer from 0.
struct NoNumber;

fn integer(item: &Item, name: &str) -> Result<Option<u64>, NoNumber> {
    match item.params.get(name) {
        None => Ok(None),
        Some(BareItem::Integer(number)) => u64::try_from(*number).map(Some).map_err(|_| NoNumber),
        Some(_) => Err(NoNumber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| ((*name).clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    fn read(fields: &[(&HeaderName, &str)]) -> NewState {
        let new = new_state(&headers(fields), None, 8);
        // As an HTTP/1.1 connection delivers it.
        if let Some(first) = fields.iter().position(|(name, _)| **name == SAVE) {
            let (mut others, (_, save)) = (fields.to_vec(), fields[first]);
            others.remove(first);
            assert_eq!(new_state(&headers(&others), Some(save.trim().as_bytes()), 8), new, "{fields:?}");
        }
        new
    }

    const VERSION: Version = Version { term: 3, seq: 18 };

    #[test]
    fn what_middlewares_write_is_read_in_the_plain_form() {
        let plain = |value: &str| plain_save::read(value.as_bytes(), 8).is_some();
        for value in [":aGVsbG8=:;term=3;seq=18;ttl=1800", ":aGk=:;seq=1;term=0", ":aGVsbG9oZWw=:;ttl=1;term=3;seq=18"]
        {
            assert!(plain(value), "{value}");
        }
        for value in
            [":aGVsbG9oZWxs:;term=3;seq=18", ":aGk=:;term=3;seq=18;seq=18", ":aGk=:;term=3;seq=18;new=1", "aGk"]
        {
            assert!(!plain(value), "{value}");
        }
    }

    #[test]
    fn a_save_has_a_version_perhaps_a_time_to_live_and_bytes() {
        let save =
            |ttl: Option<u64>, bytes: &'static [u8]| NewState::Save { version: VERSION, ttl, bytes: bytes.into() };
        assert_eq!(read(&[(&SAVE, ":aGVsbG8=:;term=3;seq=18;ttl=1800")]), save(Some(1800), b"hello"));
        assert_eq!(read(&[(&SAVE, "  :aGVsbG8=:; ttl=60; seq=18; other=\"x\"; term=3 ")]), save(Some(60), b"hello"));
        assert_eq!(read(&[(&SAVE, ":aGVsbG8:;term=3;seq=18")]), save(None, b"hello"));
        assert_eq!(read(&[(&SAVE, ":aGk=:;term=3;seq=18;ttl=999999999999999")]), save(Some(MAX_TTL), b"hi"));
        assert_eq!(read(&[(&DROP, "?1;term=3;seq=18")]), NewState::Drop(VERSION));
        assert_eq!(read(&[]), NewState::Unchanged);
    }

    #[test]
    fn what_is_malformed_repeated_or_too_long_is_unusable_and_its_version_is_kept_if_it_is_readable() {
        let unusable = |version: Option<Version>, why: Defect| NewState::Unusable(version, why);
        for (fields, version, why) in [
            (&[(&SAVE, ":aGVsbG9oZWxsbw==:;term=3;seq=18;ttl=1")][..], Some(VERSION), Defect::TooLong),
            (&[(&SAVE, "::;term=3;seq=18;ttl=1")], Some(VERSION), Defect::Malformed),
            (&[(&SAVE, "?0;term=3;seq=18")], Some(VERSION), Defect::Malformed),
            (&[(&SAVE, "aGVsbG8=;term=3;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18;ttl=0")], Some(VERSION), Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18;ttl=-1")], Some(VERSION), Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18;ttl=soon")], Some(VERSION), Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=0")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=-3;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=4294967296;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=2147483648;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=9999999999999999")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18, :aGk=:;term=3;seq=19")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18"), (&SAVE, ":aGk=:;term=3;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, ":aGk=:;term=3;seq=18"), (&DROP, "?1;term=3;seq=19")], None, Defect::Malformed),
            (&[(&SAVE, ":a!k=:;term=3;seq=18")], None, Defect::Malformed),
            (&[(&SAVE, "")], None, Defect::Malformed),
            (&[(&DROP, "?0;term=3;seq=18")], None, Defect::Malformed),
            (&[(&DROP, "?1")], None, Defect::Malformed),
            (&[(&DROP, "1;term=3;seq=18")], None, Defect::Malformed),
        ] {
            assert_eq!(read(fields), unusable(version, why), "{fields:?}");
        }
    }

    #[test]
    fn only_a_single_true_is_a_want() {
        for (values, expected) in [
            (&["?1"][..], true),
            (&["?1;why=evicted"], true),
            (&["?0"], false),
            (&["1"], false),
            (&["?1", "?1"], false),
        ] {
            let want = WANT;
            let fields: Vec<_> = values.iter().map(|value| (&want, *value)).collect();
            assert_eq!(is_wanted(StatusCode::CONFLICT, &headers(&fields)), expected, "{values:?}");
        }
        assert!(!is_wanted(StatusCode::CONFLICT, &HeaderMap::new()));
        assert!(!is_wanted(StatusCode::OK, &headers(&[(&WANT, "?1")])));
    }

    #[test]
    fn a_version_is_written_and_read_back() {
        let session = SessionRef::new("app", b"1");
        let field = session_of_copy(session, VERSION).unwrap();
        assert_eq!(field.to_str().unwrap(), format!("ref=\"{session}\";term=3;seq=18"));
        assert_eq!(version_of_response(&HeaderMap::from_iter([(SESSION.clone(), field)])), Some(VERSION));
        for other in ["ref=\"x\";term=3", "ref=(\"x\");term=3;seq=1", "other=1;term=3;seq=1", "ref", "ref=\"x"] {
            assert_eq!(version_of_response(&headers(&[(&SESSION, other)])), None, "{other}");
        }
    }

    #[test]
    fn a_request_says_the_state_that_is_known_and_whether_it_has_ended() {
        let session = SessionRef::new("app", b"1");
        let written = |seq, dropped| {
            let field = write_session(session, 2, seq, dropped).unwrap();
            field.to_str().unwrap().strip_prefix(&format!("ref=\"{session}\"")).unwrap().to_owned()
        };
        assert_eq!(written(None, false), ";term=2");
        assert_eq!(written(Some(7), false), ";term=2;seq=7");
        assert_eq!(written(Some(7), true), ";term=2;seq=7;dropped");
    }

    proptest! {
        #[test]
        fn a_save_in_the_plain_form_means_what_it_means_as_a_structured_field(
            text in "[A-Za-z0-9+/]{0,14}(|=|==|:|!|-)",
            parameters in prop::collection::vec(
                "(; ?|)(term|seq|ttl|t|Term|other)(=|)(|-|0{0,3}|\"|[0-9]{1,17}|[0-4]|[0-9]{1,3}( |[.]5))", 0..5
            ),
        ) {
            let value = format!(":{text}:{}", parameters.concat());
            if let Some(plain) = plain_save::read(value.as_bytes(), 8) {
                let PlainSave { version, ttl, bytes } = plain;
                let save = NewState::Save { version, ttl: ttl.map(|ttl| ttl.min(MAX_TTL)), bytes: bytes.into() };
                prop_assert_eq!(read_any_save(value.as_bytes(), 8), Some(save));
            }
        }

        #[test]
        fn no_field_panics(save: Vec<u8>, drop: Vec<u8>) {
            let mut headers = HeaderMap::new();
            for (name, bytes) in [(&SAVE, save), (&DROP, drop)] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.insert(name.clone(), value.clone());
                    headers.insert(WANT, value.clone());
                    headers.insert(&SESSION, value);
                }
                let all = new_state(&headers, None, 8);
                let save = headers.remove(&SAVE);
                prop_assert_eq!(new_state(&headers, save.as_ref().map(HeaderValue::as_bytes), 8), all);
                is_wanted(StatusCode::CONFLICT, &headers);
                version_of_response(&headers);
            }
        }
    }
}
