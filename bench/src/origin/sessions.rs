//! Owns: what an origin remembers as the middleware of docs/session-copies.md: sessions of one size, and their versions.
//! Invariant: a session is never replaced by one of a lower version; a request for a newer one is wanted, not served.
//! Must not know: sockets, or HTTP beyond the protocol's fields.

use std::collections::HashMap;

/// The size of every session, in bytes.
const SIZE: usize = 2 * 1024;
/// `xxx` and `xx` in base64.
const TRIPLE: &str = "eHh4";
const REST: &str = "eHg=";

/// What a request wants of its session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It changes nothing: there is a save only where the protocol has one all the same.
    Nothing,
    /// It changes the session.
    Everything,
}

/// What the origin does with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Serves it, without a save.
    Serve,
    /// Serves it with this field.
    Save(String),
    /// Asks for the copy.
    Want,
}

/// `(term, seq)` of a state.
type Version = (u64, u64);

/// A state: its version, and its bytes unless the session has ended.
type State = (Version, Option<Box<[u8]>>);

/// The sessions of one origin.
#[derive(Default)]
pub(super) struct Sessions {
    /// By ref.
    held: HashMap<String, State>,
    saves: u64,
    puts: u64,
    deletes: u64,
    wants: u64,
}

/// What `Linchpin-Session` says.
struct Stated<'f> {
    reference: &'f str,
    term: u64,
    seq: Option<u64>,
    is_dropped: bool,
}

impl Sessions {
    /// Handles a request with this value of `Linchpin-Session`.
    pub(super) fn serve(&mut self, field: &str, change: Change) -> Option<Outcome> {
        let stated = parse(field)?;
        let own = self.held.get(stated.reference).map(|(version, _)| *version);
        let version = stated.seq.map(|seq| (stated.term, seq));
        if version > own && !stated.is_dropped {
            self.wants += 1;
            return Some(Outcome::Want);
        }
        if change == Change::Nothing && version.is_some() && version == own {
            return Some(Outcome::Serve);
        }
        let seq = 1 + stated.seq.unwrap_or(0).max(own.map_or(0, |(_, seq)| seq));
        self.saves += 1;
        self.keep(stated.reference, (stated.term, seq), &[b'x'; SIZE]);
        let copy = TRIPLE.repeat(SIZE / 3) + REST;
        Some(Outcome::Save(format!("Linchpin-Session-Save: :{copy}:;term={};seq={seq};ttl=1800\r\n", stated.term)))
    }

    /// Takes a copy, or forgets one without a body. Returns the version of a newer state, if the origin has one.
    pub(super) fn put(&mut self, field: &str, body: Option<&[u8]>) -> Option<Result<(), String>> {
        let stated = parse(field)?;
        let version = (stated.term, stated.seq?);
        *(if body.is_some() { &mut self.puts } else { &mut self.deletes }) += 1;
        if let Some(((term, seq), _)) = self.held.get(stated.reference).filter(|(own, _)| *own > version) {
            return Some(Err(format!("Linchpin-Session: ref=\"{}\";term={term};seq={seq}\r\n", stated.reference)));
        }
        match body {
            Some(body) => self.keep(stated.reference, version, body),
            None => drop(self.held.insert(stated.reference.to_owned(), (version, None))),
        }
        Some(Ok(()))
    }

    /// Returns what happened so far, in JSON.
    pub(super) fn counts(&self) -> String {
        let held = self.held.values().filter(|(_, bytes)| bytes.is_some()).count();
        format!(
            "{{\"held\":{held},\"saves\":{},\"puts\":{},\"deletes\":{},\"wants\":{}}}",
            self.saves, self.puts, self.deletes, self.wants
        )
    }

    fn keep(&mut self, reference: &str, version: Version, bytes: &[u8]) {
        match self.held.get_mut(reference) {
            Some((own, Some(held))) if held.len() == bytes.len() => {
                *own = version;
                held.copy_from_slice(bytes);
            }
            Some(state) => *state = (version, Some(bytes.into())),
            None => drop(self.held.insert(reference.to_owned(), (version, Some(bytes.into())))),
        }
    }
}

fn parse(field: &str) -> Option<Stated<'_>> {
    let mut parts = field.split(';').map(str::trim);
    let reference = parts.next()?.strip_prefix("ref=\"")?.strip_suffix('"')?;
    let mut stated = Stated { reference, term: 0, seq: None, is_dropped: false };
    for part in parts {
        match part.split_once('=') {
            Some(("term", term)) => stated.term = term.parse().ok()?,
            Some(("seq", seq)) => stated.seq = Some(seq.parse().ok()?),
            None if part == "dropped" => stated.is_dropped = true,
            _ => {}
        }
    }
    Some(stated)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(sessions: &mut Sessions, field: &str, change: Change) -> String {
        match sessions.serve(field, change).unwrap() {
            Outcome::Save(field) => field.rsplit_once(":;").unwrap().1.trim().to_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn an_unchanged_session_is_saved_only_when_linchpin_has_no_copy() {
        let mut sessions = Sessions::default();
        let unchanged = Change::Nothing;
        assert_eq!(saved(&mut sessions, "ref=\"a\";term=1", unchanged), "term=1;seq=1;ttl=1800");
        assert_eq!(saved(&mut sessions, "ref=\"a\";term=1;seq=1", unchanged), "Serve");
        assert_eq!(saved(&mut sessions, "ref=\"a\";term=1;seq=1", Change::Everything), "term=1;seq=2;ttl=1800");
        // That save was lost.
        assert_eq!(saved(&mut sessions, "ref=\"a\";seq=1;term=1", unchanged), "term=1;seq=3;ttl=1800");
    }

    #[test]
    fn a_newer_version_is_wanted_and_then_taken() {
        let mut sessions = Sessions::default();
        let (field, unchanged) = ("ref=\"a\";term=2;seq=7", Change::Nothing);
        assert_eq!(sessions.serve(field, unchanged), Some(Outcome::Want));
        assert_eq!(sessions.put(field, Some(b"copy")), Some(Ok(())));
        assert_eq!(sessions.serve(field, unchanged), Some(Outcome::Serve));
        let newer = "Linchpin-Session: ref=\"a\";term=2;seq=7\r\n";
        assert_eq!(sessions.put("ref=\"a\";term=1;seq=9", Some(b"old")), Some(Err(newer.into())));
        assert_eq!(sessions.put("ref=\"a\";term=2;seq=8", None), Some(Ok(())));
        assert_eq!(sessions.serve("ref=\"a\";term=2;seq=8;dropped", unchanged), Some(Outcome::Serve));
        assert_eq!(sessions.counts(), "{\"held\":0,\"saves\":0,\"puts\":2,\"deletes\":1,\"wants\":1}");
    }

    #[test]
    fn what_is_saved_is_the_base64_of_a_session() {
        let Some(Outcome::Save(field)) = Sessions::default().serve("ref=\"a\";term=1", Change::Nothing) else {
            unreachable!()
        };
        assert_eq!(field.split(':').nth(2).unwrap().len(), SIZE.div_ceil(3) * 4);
    }
}
