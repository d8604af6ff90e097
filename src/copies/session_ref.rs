//! Owns: the ref, by which an application and the stores know a session.
//! Invariant: every Linchpin computes the same ref; none reveals a cookie, or an id that an application would accept.
//! Must not know: where the session's id comes from.

use aws_lc_rs::digest::{SHA256, digest};

/// Names a session to its application and in the stores: 128 bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionRef([u64; 2]);

impl SessionRef {
    /// Makes the ref of the session `id` in the pool named `pool`: the first half of SHA-256 over the pool's name, a
    /// zero byte, and the id.
    pub fn new(pool: &str, id: &[u8]) -> SessionRef {
        let hash = digest(&SHA256, &[pool.as_bytes(), &[0], id].concat());
        let word = |at: usize| hash.as_ref().iter().skip(at).take(8).fold(0, |word, byte| word << 8 | u64::from(*byte));
        SessionRef([word(0), word(8)])
    }

    /// Takes a ref whose two halves were computed elsewhere in the same way.
    pub fn from_words(words: [u64; 2]) -> SessionRef {
        SessionRef(words)
    }

    /// Returns its two halves.
    pub fn words(self) -> [u64; 2] {
        self.0
    }

    /// Returns it as 32 hex digits.
    pub fn hex(self) -> [u8; 32] {
        let mut hex = [0; 32];
        let words = self.0.iter().flat_map(|word| [(word >> 32) as u32, *word as u32]);
        for (digits, word) in hex.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *digits = hex_digits(word);
        }
        hex
    }
}

/// Returns a word as 8 hex digits, computed all at once: each request with a save says its ref.
fn hex_digits(word: u32) -> [u8; 8] {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let word = u64::from(word);
    let word = (word << 16 | word) & 0x0000_ffff_0000_ffff;
    let word = (word << 8 | word) & 0x00ff_00ff_00ff_00ff;
    let nibbles = (word << 4 | word) & (EACH * 0x0f);
    // 1 for each nibble above 9.
    let above_nine = (nibbles + EACH * 6) >> 4 & EACH;
    (nibbles + EACH * u64::from(b'0') + above_nine * u64::from(b'a' - b'0' - 10)).to_be_bytes()
}

/// Writes 32 hex digits.
impl std::fmt::Display for SessionRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// Reads what `Display` writes.
impl std::str::FromStr for SessionRef {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<SessionRef, Self::Err> {
        let (high, low) = text.split_at_checked(16).unwrap_or((text, ""));
        Ok(SessionRef([u64::from_str_radix(high, 16)?, u64::from_str_radix(low, 16)?]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ref_depends_on_pool_and_id_and_is_the_same_everywhere() {
        let hex = |of: SessionRef| String::from_utf8(of.hex().to_vec()).unwrap();
        let one = SessionRef::new("app", b"7");
        assert_eq!(hex(one), "a05579086712d09d0c96f286f6e8df25");
        assert_eq!(hex(one), one.to_string());
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_ne!(one, SessionRef::new("app", b"8"));
        assert_ne!(one, SessionRef::new("ap", b"p\x007"));
        assert_eq!(SessionRef::from_words(one.words()), one);
    }

    #[test]
    fn a_ref_is_written_in_lower_case_with_all_of_its_digits() {
        for words in [[0, u64::MAX], [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210], [0x0909_0a0a_9090_a0a0, 1]] {
            let session = SessionRef::from_words(words);
            assert_eq!(session.hex(), *session.to_string().as_bytes(), "{session}");
        }
    }
}
