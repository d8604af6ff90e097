//! Owns: reading a `Linchpin-Session-Save` in the form in which middlewares write it, quickly.
//! Invariant: what it reads, the reader of structured fields reads in the same way; of everything else it says nothing.
//! Must not know: fields in any other form, what is too long, what follows from a save.

use base64_simd::STANDARD;

use super::version::Version;

/// The most digits of an integer (RFC 9651 §3.3.1).
const MAX_DIGITS: usize = 15;

/// A save.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PlainSave {
    pub(super) version: Version,
    /// In seconds; 1 or more.
    pub(super) ttl: Option<u64>,
    /// Not empty.
    pub(super) bytes: Box<[u8]>,
}

/// Reads a byte sequence with no other parameters than `term`, `seq` and `ttl`, without white space. Returns `None` if
/// `value` is anything else, or if its byte sequence has more than `max` bytes.
///
/// The copy is nearly all of such a response's header section: the general reader spends more time on it than the rest of
/// the request takes in user space.
pub(super) fn read(value: &[u8], max: usize) -> Option<PlainSave> {
    let value = value.strip_prefix(b":")?;
    // The parameters are much shorter than the copy.
    let (text, parameters) = value.split_at_checked(memchr::memrchr(b':', value)?)?;
    if text.len() / 4 > max / 3 + 1 {
        return None;
    }
    let (mut term, mut seq, mut ttl) = (None, None, None);
    for parameter in parameters.strip_prefix(b":;")?.split(|byte| *byte == b';') {
        let (number, name) = match parameter {
            [b't', b'e', b'r', b'm', b'=', digits @ ..] => (digits, &mut term),
            [b's', b'e', b'q', b'=', digits @ ..] => (digits, &mut seq),
            [b't', b't', b'l', b'=', digits @ ..] => (digits, &mut ttl),
            _ => return None,
        };
        if name.replace(integer(number)?).is_some() {
            return None;
        }
    }
    let version = Version::named(term?, seq?)?;
    if ttl == Some(0) {
        return None;
    }
    let bytes = STANDARD.decode_to_vec(text).ok()?.into_boxed_slice();
    (1..=max).contains(&bytes.len()).then_some(PlainSave { version, ttl, bytes })
}

fn integer(digits: &[u8]) -> Option<u64> {
    if !(1..=MAX_DIGITS).contains(&digits.len()) {
        return None;
    }
    digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))
}
