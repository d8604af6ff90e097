//! Owns: the format of a session in Redis: its key, its value, and the scripts that write it.
//! Invariant: of two writers of one session the one that knows more moves wins, whatever their clocks say.
//! Must not know: connections, time limits.

use std::sync::Arc;

use super::skew::Skew;
use crate::affinity::learned::{BackendRef, SessionRecord};
use crate::affinity::seal::is_valid_name;

/// The prefix of all keys and channels. The pool's name follows.
pub(super) const PREFIX: &str = "linchpin:";

/// The value of a session that has ended. It stays for a while: a comparison that began before the end would otherwise
/// write the session again.
pub(super) const ENDED: &str = "-";
/// How long the value [`ENDED`] stays, in seconds: longer than any comparison takes.
pub(super) const ENDED_TTL: u64 = 300;

/// Writes a session if its version is higher than the stored one, and publishes it. Otherwise returns the stored value
/// and extends its lifetime to at least that of the new one. A session that has ended is written only if it begins
/// again.
pub(super) const WRITE_SCRIPT: &str = r"
local known = redis.call('GET', KEYS[1])
if known == '-' then
  if ARGV[6] == '0' then return known end
elseif known then
  local version = tonumber(string.match(known, '^%d+'))
  if version and version >= tonumber(ARGV[1]) then
    if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
    return known
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5])
return false";

/// Ends a session and publishes its end.
pub(super) const END_SCRIPT: &str = r"
redis.call('SET', KEYS[1], '-', 'EX', ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])";

/// Encodes a record as `VERSION ISSUED INCARNATION BACKEND`, with times of the store's clock. `TERM` and `REPLICA` follow
/// only if there are any: an older Linchpin can't read such a value, and who uses neither keeps what all can read.
pub(super) fn encode(skew: &Skew, record: &SessionRecord) -> String {
    let SessionRecord { backend, issued, version, term, replica, .. } = record;
    let mut value = format!("{version} {} {:016x} {}", skew.theirs(*issued), backend.incarnation, backend.name);
    let more = match replica {
        Some(replica) => format!(" {term} {replica}"),
        None if *term > 0 => format!(" {term}"),
        None => String::new(),
    };
    value.push_str(&more);
    value
}

/// Decodes a value, as a session that was seen at `now`: the store would have expired it otherwise. A value that names
/// what can't be a backend is none of ours: its name would get into the access log.
pub(super) fn decode(skew: &Skew, value: &str, now: u64) -> Option<SessionRecord> {
    let mut parts = value.splitn(6, ' ');
    let version = parts.next()?.parse().ok()?;
    let issued = skew.ours(parts.next()?.parse().ok()?, now);
    let incarnation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let backend = parts.next().filter(|name| is_valid_name(name))?;
    let backend = BackendRef { name: backend.into(), incarnation };
    let term = parts.next().map_or(Some(0), |term| term.parse().ok())?;
    let replica = match parts.next() {
        Some(name) => Some(name).filter(|name| is_valid_name(name))?,
        None => "",
    };
    let replica = Some(replica).filter(|name| !name.is_empty()).map(Arc::from);
    Some(SessionRecord { backend, issued, last_seen: now, version, term, replica })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_written_and_read_back() {
        let backend = BackendRef { name: "a".into(), incarnation: u64::MAX };
        let record = SessionRecord { backend, issued: 5, last_seen: 9, version: 3, term: 0, replica: None };
        let skew = Skew::default();
        for (term, replica, expected) in [
            (0, None, "3 5 ffffffffffffffff a"),
            (7, None, "3 5 ffffffffffffffff a 7"),
            (7, Some("b"), "3 5 ffffffffffffffff a 7 b"),
            (0, Some("b"), "3 5 ffffffffffffffff a 0 b"),
        ] {
            let record = SessionRecord { term, replica: replica.map(Arc::from), ..record.clone() };
            let text = encode(&skew, &record);
            assert_eq!(text, expected);
            assert_eq!(decode(&skew, &text, 9), Some(record));
        }
        let long = format!("1 5 0 {}", "a".repeat(65));
        for bad in [
            "",
            "1",
            "x 5 0 a",
            "1 5 0",
            "1 5 0 ",
            "1 5 g a",
            "1 5 0 a b",
            "1 5 0 a\nb",
            "1 5 0 a\"b",
            "1 5 0 a 1 ",
            "1 5 0 a 1 b c",
            "1 5 0 a -1",
            &long,
        ] {
            assert_eq!(decode(&skew, bad, 9), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value: String) {
            decode(&Skew::default(), &value, 9);
        }
    }
}
