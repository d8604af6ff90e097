//! What must hold of any fields of session copies that a backend sends: what is plain is read as it stands, and what a
//! backend says moves its session forward or not at all.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use linchpin::copies::fields::{self, Defect, NewState};
use linchpin::copies::{CopyStore, Entry, Given, Holder, InFlight, Preparation, Session, SessionRef, Version};

/// The longest copy that is stored.
const MAX: usize = 24;
const LIFETIME: u64 = 1000;
const YEAR: u64 = 365 * 24 * 3600;
const MAX_SEQ: u64 = 999_999_999_999_999;
const MAX_TERM: u32 = u32::MAX / 2;

/// Each paragraph of `data` is a response: a line for each field, behind a letter that names it. The response's server
/// is the one of the letters `0` and `1`, if there is such a line.
pub fn holds(data: &[u8]) {
    let (store, session) = (CopyStore::new(1 << 20, LIFETIME), SessionRef::new("app", b"1"));
    let entry = store.find_or_insert(session, 1, || Session::new(1, None));
    let mut headers = HeaderMap::new();
    let mut server = 0;
    for line in data.split(|byte| *byte == b'\n').take(100).chain([&b""[..]]) {
        let name: HeaderName = match line.first() {
            Some(b's') => fields::SAVE.clone(),
            Some(b'd') => fields::DROP,
            Some(b'w') => fields::WANT,
            Some(b'v') => fields::SESSION.clone(),
            Some(digit @ (b'0' | b'1')) => {
                server = usize::from(*digit - b'0');
                continue;
            }
            Some(_) => continue,
            None => {
                responds(&entry, server, &std::mem::take(&mut headers));
                assert!(store.bytes() <= 1 << 20 && entry.view().bytes <= MAX);
                continue;
            }
        };
        if let Ok(value) = HeaderValue::from_bytes(&line[1..]) {
            headers.append(name, value);
        }
    }
}

/// A request of the session gets this response.
fn responds(entry: &std::sync::Arc<Entry>, server: usize, headers: &HeaderMap) {
    let new = fields::new_state(headers, None, MAX);
    is_read_as_it_stands(headers, &new);
    let newer = fields::version_of_response(headers);
    assert!(newer.is_none_or(is_a_version), "{newer:?}");
    let is_wanted = fields::is_wanted(StatusCode::CONFLICT, headers);
    assert!(!fields::is_wanted(StatusCode::OK, headers));
    assert!(!is_wanted || headers.get_all(fields::WANT).iter().count() == 1);

    let before = entry.view();
    let in_flight = prepare(entry, server, newer);
    let claim = *in_flight.claim();
    assert!(claim.term >= before.term);
    let (known, ended) = (entry.view().version, entry.view().dropped);
    if is_wanted {
        entry.wanted(&claim);
        return;
    }
    entry.take(&claim, new.clone(), 1, LIFETIME);
    let after = entry.view();
    assert!(after.version >= known && after.term == claim.term, "{known:?} before {after:?}");
    assert_eq!(after.is_held, after.bytes > 0);
    match new {
        // A state of another term says nothing about this session, and an older one nothing new.
        NewState::Save { version, ref bytes, .. } if version.term == claim.term && version > known => {
            assert_eq!((after.version, after.bytes, after.dropped), (version, bytes.len(), false));
        }
        NewState::Drop(version) if version.term == claim.term && version > known => {
            assert_eq!((after.version, after.bytes, after.dropped), (version, 0, true));
        }
        NewState::Save { .. } | NewState::Drop(_) | NewState::Unchanged => {
            assert_eq!((after.version, after.dropped), (known, ended));
        }
        NewState::Unusable(..) => assert!(!after.is_held || after.version == known),
    }
}

/// Prepares a request for the server; if it has to be given the copy, that has a newer one, or takes it.
fn prepare(entry: &std::sync::Arc<Entry>, server: usize, newer: Option<Version>) -> InFlight {
    let to = Holder { backend: server, incarnation: 1, losses: 0 };
    loop {
        let term = entry.view().term;
        match entry.prepare(to, |_| false, true, false, 1, LIFETIME) {
            Preparation::Send(in_flight) => return in_flight,
            Preparation::Give(offer) => {
                assert!(offer.version().term > term, "each hand-over has a term of its own");
                let given = newer.map_or(Given::Taken, Given::Newer);
                offer.end(given);
            }
            other => panic!("{other:?} of the only request"),
        }
    }
}

fn is_a_version(version: Version) -> bool {
    (1..=MAX_SEQ).contains(&version.seq) && version.term <= MAX_TERM
}

/// A field in its plainest form is read as it stands, and what is read stands there.
fn is_read_as_it_stands(headers: &HeaderMap, new: &NewState) {
    let all = |name: &HeaderName| headers.get_all(name).iter().map(HeaderValue::as_bytes).collect::<Vec<_>>();
    let (saves, drops) = (all(&fields::SAVE), all(&fields::DROP));
    match (new, &saves[..], &drops[..]) {
        (NewState::Unchanged, [], []) => {}
        (NewState::Save { version, ttl, bytes }, [_], []) => {
            assert!(is_a_version(*version) && (1..=MAX).contains(&bytes.len()));
            assert!(ttl.is_none_or(|ttl| (1..=YEAR).contains(&ttl)));
            let Version { term, seq } = version;
            let ttl = ttl.map_or(String::new(), |ttl| format!(";ttl={ttl}"));
            let again = format!(":{}:;term={term};seq={seq}{ttl}", STANDARD.encode(bytes));
            let again = HeaderMap::from_iter([(fields::SAVE.clone(), HeaderValue::try_from(again).expect("a value"))]);
            assert_eq!(fields::new_state(&again, None, MAX), *new);
        }
        (NewState::Drop(version), [], [_]) => assert!(is_a_version(*version)),
        (NewState::Unusable(version, defect), ..) => {
            assert!(version.is_none_or(is_a_version));
            assert!(*defect == Defect::Malformed || saves.len() == 1);
        }
        _ => panic!("{saves:?} and {drops:?} are {new:?}"),
    }
    let plain = |[field]: [&[u8]; 1]| Plain::read(field);
    if let (Ok(Some(save)), []) = (<[&[u8]; 1]>::try_from(saves).map(plain), &drops[..]) {
        assert_eq!(*new, save.new_state());
    }
}

/// A `Linchpin-Session-Save` without a blank, with nothing twice and no parameter that is no number.
struct Plain {
    bytes: Vec<u8>,
    parameters: BTreeMap<String, u64>,
}

impl Plain {
    fn read(field: &[u8]) -> Option<Plain> {
        let (base64, rest) = std::str::from_utf8(field).ok()?.strip_prefix(':')?.split_once(':')?;
        // The decoder refuses bits that say nothing; Linchpin may be more lenient.
        let bytes = STANDARD.decode(base64).ok()?;
        let mut parameters = BTreeMap::new();
        let mut parts = rest.split(';');
        if !parts.next()?.is_empty() {
            return None;
        }
        for part in parts {
            let (name, number) = part.split_once('=')?;
            let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
            let is_number = (1..=15).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
            if !is_plain || !is_number || parameters.insert(name.into(), number.parse().ok()?).is_some() {
                return None;
            }
        }
        Some(Plain { bytes, parameters })
    }

    /// What docs/session-copies.md says about it.
    fn new_state(self) -> NewState {
        let get = |name: &str| self.parameters.get(name).copied();
        let term = get("term").and_then(|term| u32::try_from(term).ok()).filter(|term| *term <= MAX_TERM);
        let version = term.zip(get("seq").filter(|seq| *seq > 0)).map(|(term, seq)| Version { term, seq });
        let ttl = get("ttl");
        match version {
            Some(version) if ttl != Some(0) && self.bytes.len() > MAX => {
                NewState::Unusable(Some(version), Defect::TooLong)
            }
            Some(version) if ttl != Some(0) && !self.bytes.is_empty() => {
                NewState::Save { version, ttl: ttl.map(|ttl| ttl.min(YEAR)), bytes: self.bytes.into() }
            }
            version => NewState::Unusable(version, Defect::Malformed),
        }
    }
}
