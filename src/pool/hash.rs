//! Owns: the hashes that all Linchpins and all releases compute alike.
//! Invariant: a change of either function would move sessions: none ever changes.
//! Must not know: what is hashed.

/// Returns a 64-bit hash that is the same on every machine and in every release: FNV-1a, then the
/// finalizer of SplitMix64, without which short names would differ in their low bits alone.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    mix(fnv)
}

/// Applies the finalizer of SplitMix64: every bit of the result depends on every bit of `value`.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_hash_never_changes_for_replicas_and_releases_must_agree_on_it() {
        assert_eq!(stable_hash(b""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(stable_hash(b"a"), mix(0xaf63_dc4c_8601_ec8c));
        assert_ne!(stable_hash(b"a"), stable_hash(b"b"));
    }
}
