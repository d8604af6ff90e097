//! Owns: bytes as hex digits.
//! Invariant: what is written is read back; nothing else is read.
//! Must not know: what the bytes are.

/// Writes bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads what [`hex`] writes.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_as_it_was_written() {
        let secret = [7, 255, 0, 16];
        assert_eq!(from_hex(&hex(&secret)), Some(secret));
        for bad in ["", "07ff00", "07ff001g", "07ff0010 "] {
            assert_eq!(from_hex::<4>(bad), None, "{bad}");
        }
    }
}
