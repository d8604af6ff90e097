//! Owns: the format of a session in Redis: its key, its value, and the scripts that write it.
//! Invariant: of two writers of one session the one that knows more moves wins, whatever their clocks say.
//! Must not know: connections, time limits.

use super::skew::Skew;
use crate::affinity::learned::{BackendRef, SessionRecord};

/// What all that is written begins with; the pool's name follows.
pub(super) const PREFIX: &str = "linchpin:";

/// What stands in the place of a session that has ended, for a while: a comparison that began before
/// it ended would write it anew.
pub(super) const ENDED: &str = "-";
/// How long that stands there, in seconds; longer than any comparison takes.
pub(super) const ENDED_FOR: u64 = 300;

/// Writes a session if it has moved more often than what is there says, and tells the others;
/// otherwise gives what is there, which is kept at least as long as it would have been. One that has
/// ended is written only if it begins again.
pub(super) const WRITE: &str = r"
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

/// Gives the store's marker, and makes one if there is none; and the store's time.
pub(super) const LOOK: &str = r"
local marker = redis.call('GET', KEYS[1])
if not marker then
  marker = ARGV[1]
  redis.call('SET', KEYS[1], marker, 'EX', ARGV[2])
end
local time = redis.call('TIME')
return {marker, time[1], time[2]}";

/// The end of the marker's key. A store that has another marker than it had is not the one that it was: it was
/// flushed, or began anew. Nobody has to write it but the first, and a session costs no write more.
pub(super) const MARKER: &str = "store";
/// How long a marker stands, in seconds, so that a store isn't left with it for ever. When it ends, table and
/// store are compared once for nothing.
pub(super) const MARKER_FOR: u64 = 30 * 24 * 3600;

/// Ends a session and tells the others.
pub(super) const END: &str = r"
redis.call('SET', KEYS[1], '-', 'EX', ARGV[3])
redis.call('PUBLISH', ARGV[1], ARGV[2])";

/// `VERSION ISSUED INCARNATION BACKEND`, with the store's time; names have no blanks.
pub(super) fn written(skew: &Skew, found: &SessionRecord) -> String {
    let SessionRecord { backend, issued, version, .. } = found;
    format!("{version} {} {:016x} {}", skew.theirs(*issued), backend.incarnation, backend.name)
}

/// The session that a value is about; seen just now, or the store would have let it go.
pub(super) fn read(skew: &Skew, value: &str, now: u64) -> Option<SessionRecord> {
    let mut parts = value.splitn(4, ' ');
    let version = parts.next()?.parse().ok()?;
    let issued = skew.ours(parts.next()?.parse().ok()?, now);
    let incarnation = u64::from_str_radix(parts.next()?, 16).ok()?;
    let backend = parts.next().filter(|name| !name.is_empty() && name.len() <= crate::affinity::seal::MAX_NAME)?;
    let backend = BackendRef { name: backend.into(), incarnation };
    Some(SessionRecord { backend, issued, last_seen: now, version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_written_and_read_back() {
        let backend = BackendRef { name: "a".into(), incarnation: u64::MAX };
        let found = SessionRecord { backend, issued: 5, last_seen: 9, version: 3 };
        let skew = Skew::default();
        let text = written(&skew, &found);
        assert_eq!(text, "3 5 ffffffffffffffff a");
        assert_eq!(read(&skew, &text, 9), Some(found));
        for bad in ["", "1", "x 5 0 a", "1 5 0", "1 5 0 ", "1 5 g a", &format!("1 5 0 {}", "a".repeat(65))] {
            assert_eq!(read(&skew, bad, 9), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_value_panics(value: String) {
            read(&Skew::default(), &value, 9);
        }
    }
}
