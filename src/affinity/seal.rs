//! Owns: the sealed pin: its byte format, its keys and the key ring.
//! Invariant: a token opens only with a key of the ring, for the pool and name that it was sealed for; no input panics.
//! Must not know: HTTP, or whether the pin still holds.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest;
use base64_simd::{AsOut, URL_SAFE_NO_PAD};

use super::nonce;

/// Ties a client to a backend. Times are wall-clock seconds since the Unix epoch, so that all Linchpins that share a
/// key ring agree on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The session's random id. Logs show it, and the failover order depends on it.
    pub session: u64,
    /// The backend's name, at most [`MAX_NAME`] bytes.
    pub backend: Box<str>,
    /// The incarnation of the backend that the pin was issued for.
    pub incarnation: u64,
    /// When the session began.
    pub issued: u64,
    /// When the session was last seen. Lags behind, since a pin is not renewed on each response.
    pub last_seen: u64,
    /// How often the session was handed over to another backend together with its copy. 0 without session copies.
    pub term: u32,
    /// The name of a second backend that holds the session's state, at most [`MAX_NAME`] bytes and never empty.
    pub replica: Option<Box<str>>,
}

/// The longest backend name, in bytes.
pub const MAX_NAME: usize = 64;

/// Returns whether a backend can have this name. Such a name needs no escape in a pin, a log line or a metric label.
pub fn is_valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_name_byte)
}

/// Returns whether a name may contain this byte.
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

/// The length of a key, in bytes.
pub const KEY_BYTES: usize = 32;

const KEY_ID: usize = 4;
const HEAD: usize = 1 + KEY_ID + nonce::LENGTH;
const TAG: usize = 16;
/// Four numbers: session, incarnation, issued, last seen.
const NUMBERS: usize = 4 * 8;
const MAX_SEALED: usize = HEAD + Version::Replicated.max_plain() + TAG;
/// The longest token, in characters. A longer text is never decoded.
pub const MAX_TOKEN: usize = MAX_SEALED.div_ceil(3) * 4;

/// A key for AES-256-GCM-SIV (RFC 8452). Nonces are random. At the rate at which a busy proxy issues pins, the 96-bit
/// nonces of plain GCM would repeat within weeks, which reveals the key; with SIV a repeated nonce only reveals whether
/// two pins are equal.
pub struct SealingKey {
    id: String,
    short: [u8; KEY_ID],
    key: LessSafeKey,
    /// A hash of the secret, to compare keys by.
    fingerprint: [u8; 32],
    secret: [u8; KEY_BYTES],
}

/// Compares id and secret.
impl PartialEq for SealingKey {
    fn eq(&self, other: &SealingKey) -> bool {
        (&self.id, &self.fingerprint) == (&other.id, &other.fingerprint)
    }
}

impl SealingKey {
    /// Creates a key with its id of the configuration. Returns `None` if the library refuses the secret.
    pub fn new(id: &str, secret: &[u8; KEY_BYTES]) -> Option<SealingKey> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, secret).ok()?);
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
        Some(SealingKey { id: id.into(), short: short_id(id), key, fingerprint, secret: *secret })
    }

    /// Creates a random key. Returns `None` if the system's random source fails.
    pub fn random(id: &str) -> Option<SealingKey> {
        SealingKey::new(id, &random_secret()?)
    }

    /// Its secret, for the process that takes over from this one. It belongs into no log.
    pub fn secret(&self) -> &[u8; KEY_BYTES] {
        &self.secret
    }

    /// The key's id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// The secret is never shown.
impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Whether a text has the shape of a token, of any key, pool and name. Decodes nothing.
pub fn looks_sealed(text: &[u8]) -> bool {
    // The first two characters encode the version and four more bits.
    let version = match text {
        [b'A', b'Q'..=b'Z' | b'a'..=b'f', ..] => Version::Plain,
        [b'A', b'g'..=b'v', ..] => Version::Replicated,
        _ => return false,
    };
    let plain = (text.len() * 3 / 4).checked_sub(HEAD + TAG);
    let is_whole = plain.is_some_and(|plain| {
        plain.is_multiple_of(version.pad()) && (version.fixed()..=version.max_plain()).contains(&plain)
    });
    is_whole && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// The layout of the plain text, named by the first byte of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// Numbers, name length, name. Every Linchpin reads it, so a pin without term and replica is sealed like this: who
    /// uses neither pays nothing, and can go back to an older Linchpin.
    Plain = 1,
    /// Numbers, term, name length, replica length, name, replica.
    Replicated = 2,
}

impl Version {
    const ALL: [Version; 2] = [Version::Plain, Version::Replicated];

    fn of(pin: &Pin) -> Version {
        if pin.term == 0 && pin.replica.is_none() { Version::Plain } else { Version::Replicated }
    }

    fn from_byte(byte: u8) -> Option<Version> {
        Version::ALL.into_iter().find(|version| *version as u8 == byte)
    }

    /// The bytes of the fields of fixed length.
    const fn fixed(self) -> usize {
        match self {
            Version::Plain => NUMBERS + 1,
            Version::Replicated => NUMBERS + 4 + 1 + 1,
        }
    }

    /// The plain text is padded to a multiple of this, so that a token's length does not reveal which backends it
    /// names. Two names differ more in length than one.
    const fn pad(self) -> usize {
        match self {
            Version::Plain => 16,
            Version::Replicated => 32,
        }
    }

    const fn max_plain(self) -> usize {
        let names = match self {
            Version::Plain => MAX_NAME,
            Version::Replicated => 2 * MAX_NAME,
        };
        (self.fixed() + names).next_multiple_of(self.pad())
    }
}

/// Returns the four bytes that stand for a key id in a token. Two ids with the same four bytes are a configuration
/// error.
pub fn short_id(id: &str) -> [u8; KEY_ID] {
    let hash = digest::digest(&digest::SHA256, id.as_bytes());
    let mut short = [0; KEY_ID];
    short.copy_from_slice(&hash.as_ref()[..KEY_ID]);
    short
}

/// Returns a secret for a new key, or `None` if the system's random source fails.
pub fn random_secret() -> Option<[u8; KEY_BYTES]> {
    let mut secret = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut secret).ok()?;
    Some(secret)
}

/// The keys of a configuration. The first key seals and all keys open, so that keys rotate without losing a session.
#[derive(Debug, PartialEq)]
pub struct KeyRing {
    first: Arc<SealingKey>,
    others: Vec<Arc<SealingKey>>,
}

impl KeyRing {
    /// Creates a ring that seals with `first` and opens with all.
    pub fn new(first: SealingKey, others: Vec<SealingKey>) -> KeyRing {
        KeyRing { first: Arc::new(first), others: others.into_iter().map(Arc::new).collect() }
    }

    /// Makes a ring that seals with the first key alone and opens nothing else.
    pub fn of(first: &Arc<SealingKey>) -> KeyRing {
        KeyRing { first: Arc::clone(first), others: Vec::new() }
    }

    /// Makes a ring that also opens with `former`, which pins may still be sealed with.
    pub fn with_former(&self, former: &Arc<SealingKey>) -> KeyRing {
        let others = self.others.iter().chain([former]).cloned().collect();
        KeyRing { first: Arc::clone(&self.first), others }
    }

    /// The key that seals.
    pub fn first(&self) -> &Arc<SealingKey> {
        &self.first
    }

    fn by_short_id(&self, short: &[u8]) -> Option<&SealingKey> {
        std::iter::once(&self.first).chain(&self.others).map(|key| &**key).find(|key| key.short == *short)
    }
}

/// Seals and opens pins for one pool and one cookie or field name.
#[derive(Debug)]
pub struct Sealer {
    ring: std::sync::Arc<KeyRing>,
    /// The authenticated data of each version's tokens, in the order of [`Version::ALL`].
    contexts: [Vec<u8>; 2],
}

impl Sealer {
    /// Creates a sealer for the pool `pool` and the cookie or field `carrier`. Both names are authenticated data of the
    /// token, so that a pin is worthless in another pool or under another name. So is the version: a client that
    /// changes it can't have one layout read as the other.
    pub fn new(ring: &std::sync::Arc<KeyRing>, pool: &str, carrier: &str) -> Sealer {
        let context = |version| {
            let purpose = match version {
                Version::Plain => "linchpin pin",
                Version::Replicated => "linchpin pin 2",
            };
            let mut context = Vec::new();
            for part in [purpose, pool, carrier] {
                context.extend_from_slice(&(part.len() as u64).to_be_bytes());
                context.extend_from_slice(part.as_bytes());
            }
            context
        };
        Sealer { ring: std::sync::Arc::clone(ring), contexts: Version::ALL.map(context) }
    }

    fn context(&self, version: Version) -> Aad<&[u8]> {
        let [plain, replicated] = &self.contexts;
        Aad::from(match version {
            Version::Plain => plain,
            Version::Replicated => replicated,
        })
    }

    /// Appends the token for `pin` to `out`: version ‖ key id ‖ nonce ‖ sealed pin ‖ tag, in base64url. Returns `None`
    /// and appends nothing if the system's random source fails or a backend's name is too long.
    pub fn seal(&self, pin: &Pin, out: &mut String) -> Option<()> {
        let nonce = nonce::next()?;
        let key = self.ring.first();
        let version = Version::of(pin);
        let (name, replica) = (pin.backend.as_bytes(), pin.replica.as_deref().unwrap_or_default().as_bytes());
        let length = |name: &[u8]| u8::try_from(name.len()).ok().filter(|_| name.len() <= MAX_NAME);
        let (name_length, replica_length) = (length(name)?, length(replica)?);

        let mut token = [0; MAX_SEALED];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            token[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&[version as u8]);
        put(&key.short);
        put(&nonce);
        for number in [pin.session, pin.incarnation, pin.issued, pin.last_seen] {
            put(&number.to_be_bytes());
        }
        match version {
            Version::Plain => put(&[name_length]),
            Version::Replicated => {
                put(&pin.term.to_be_bytes());
                put(&[name_length, replica_length]);
            }
        }
        put(name);
        put(replica);
        let end = HEAD + (at - HEAD).next_multiple_of(version.pad());
        let tag = key
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                self.context(version),
                &mut token[HEAD..end],
            )
            .ok()?;
        token[end..end + TAG].copy_from_slice(tag.as_ref());
        URL_SAFE_NO_PAD.encode_append(&token[..end + TAG], out);
        Some(())
    }

    /// Opens a token. Returns `None` if no key of the ring sealed it for this pool and name. Does not say which of the
    /// reasons applies: only an attacker could use that.
    pub fn open(&self, token: &[u8]) -> Option<Pin> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        // The decoder panics without space for all that a text of this length can hold.
        let mut buffer = [0; MAX_TOKEN.div_ceil(4) * 3];
        let bytes = URL_SAFE_NO_PAD.decode(token, buffer.as_mut_slice().as_out()).ok()?;
        let (head, sealed) = bytes.split_at_mut_checked(HEAD)?;
        let version = Version::from_byte(head[0])?;
        let key = self.ring.by_short_id(&head[1..1 + KEY_ID])?;
        let nonce = Nonce::try_assume_unique_for_key(&head[1 + KEY_ID..]).ok()?;
        let plain = key.key.open_in_place(nonce, self.context(version), sealed).ok()?;
        parse(version, plain)
    }

    /// Returns whether a token names the key that seals now, whether it opens or not.
    pub fn is_of_first_key(&self, token: &[u8]) -> bool {
        // These characters encode the version, the key and one byte more.
        const START: usize = 8;
        let mut start = [0; START / 4 * 3];
        let decoded =
            token.get(..START).and_then(|token| URL_SAFE_NO_PAD.decode(token, start.as_mut_slice().as_out()).ok());
        decoded.is_some() && start[1..1 + KEY_ID] == self.ring.first.short
    }

    /// The id of the key that a token names, even if the token does not open.
    pub fn key_of(&self, token: &[u8]) -> Option<&str> {
        let bytes = URL_SAFE_NO_PAD.decode_to_vec(token.get(..MAX_TOKEN.min(token.len()))?).ok()?;
        self.ring.by_short_id(bytes.get(1..1 + KEY_ID)?).map(SealingKey::id)
    }
}

fn parse(version: Version, plain: &[u8]) -> Option<Pin> {
    let (numbers, rest) = plain.split_at_checked(NUMBERS)?;
    let mut numbers = numbers.chunks_exact(8).map(|number| number.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)));
    let (term, name_length, replica_length, names) = match version {
        Version::Plain => {
            let (length, names) = rest.split_first()?;
            (0, *length, 0, names)
        }
        Version::Replicated => {
            let (term, rest) = rest.split_first_chunk()?;
            let ([name_length, replica_length], names) = rest.split_first_chunk()?;
            (u32::from_be_bytes(*term), *name_length, *replica_length, names)
        }
    };
    let (name, rest) = names.split_at_checked(usize::from(name_length))?;
    let replica = std::str::from_utf8(rest.get(..usize::from(replica_length))?).ok()?;
    Some(Pin {
        session: numbers.next()?,
        incarnation: numbers.next()?,
        issued: numbers.next()?,
        last_seen: numbers.next()?,
        backend: std::str::from_utf8(name).ok()?.into(),
        term,
        replica: Some(replica).filter(|replica| !replica.is_empty()).map(Box::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    // Another library than the one that is tested.
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn ring(ids: &[&str]) -> Arc<KeyRing> {
        let mut keys = ids.iter().map(|id| SealingKey::new(id, &[id.len() as u8; KEY_BYTES]).unwrap());
        Arc::new(KeyRing::new(keys.next().unwrap(), keys.collect()))
    }

    fn pin(backend: &str) -> Pin {
        let (term, replica) = (0, None);
        Pin { session: 7, backend: backend.into(), incarnation: u64::MAX, issued: 1, last_seen: 2, term, replica }
    }

    /// A pin of the second version.
    fn replicated(backend: &str, replica: &str) -> Pin {
        Pin { term: 3, replica: Some(replica.into()), ..pin(backend) }
    }

    fn seal(sealer: &Sealer, pin: &Pin) -> String {
        let mut token = String::new();
        sealer.seal(pin, &mut token).unwrap();
        token
    }

    #[test]
    fn a_pin_opens_for_its_pool_and_name_alone() {
        let ring = ring(&["k"]);
        let token = seal(&Sealer::new(&ring, "app", "pin"), &pin("a"));
        assert_eq!(Sealer::new(&ring, "app", "pin").open(token.as_bytes()), Some(pin("a")));
        assert_eq!(Sealer::new(&ring, "shop", "pin").open(token.as_bytes()), None);
        assert_eq!(Sealer::new(&ring, "app", "other").open(token.as_bytes()), None);
        assert_eq!(Sealer::new(&ring, "ap", "ppin").open(token.as_bytes()), None);
    }

    #[test]
    fn tokens_look_like_tokens_and_nothing_else_does() {
        let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
        let plain = (0..=MAX_NAME).map(|length| pin(&"n".repeat(length)));
        let two_names = (1..=MAX_NAME).map(|length| replicated(&"n".repeat(length), &"r".repeat(length)));
        for (length, pin) in plain.chain(two_names).enumerate() {
            let token = seal(&sealer, &pin);
            assert!(looks_sealed(token.as_bytes()), "{length}");
            assert!(
                !looks_sealed(format!("{token}AA").as_bytes()) && !looks_sealed(&token.as_bytes()[1..]),
                "{length}"
            );
            assert!(!looks_sealed(token.replacen('A', "B", 1).as_bytes()), "another version");
            assert!(!looks_sealed(format!("{}.", &token[1..]).as_bytes()));
        }
        assert!(!looks_sealed(b"") && !looks_sealed(b"AQ") && !looks_sealed(&[b'A'; 5000]));
    }

    #[test]
    fn keys_rotate_in_three_steps_without_losing_a_pin() {
        let (old, both_old_first) = (ring(&["old"]), ring(&["old", "newer"]));
        let (both, new) = (ring(&["newer", "old"]), ring(&["newer"]));
        let sealer = |ring| Sealer::new(ring, "app", "pin");
        let first = seal(&sealer(&old), &pin("a"));
        assert!(sealer(&both_old_first).open(first.as_bytes()).is_some());
        let second = seal(&sealer(&both), &pin("a"));
        assert!(sealer(&both).open(first.as_bytes()).is_some());
        assert!(sealer(&both_old_first).open(second.as_bytes()).is_some(), "a replica one step behind");
        assert!(sealer(&new).open(second.as_bytes()).is_some());
        assert!(sealer(&new).open(first.as_bytes()).is_none());
        assert_eq!(sealer(&both).key_of(first.as_bytes()), Some("old"));
    }

    #[test]
    fn the_length_does_not_reveal_the_name() {
        let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
        assert_eq!(seal(&sealer, &pin("a")).len(), seal(&sealer, &pin("backend-no-7")).len());
        let length = |name, replica| seal(&sealer, &replicated(name, replica)).len();
        assert_eq!(length("a", "b"), length("backend-no-7", "backend-no-12"));
    }

    /// A token of the first release, with the key of 32 bytes of 1 and id `k`: neither an update nor the way back loses
    /// a session.
    #[test]
    fn a_pin_without_term_and_replica_is_sealed_as_by_every_earlier_version() {
        let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
        let earlier = "AYJUwynfNCrWrNTUg198e-xo0BMYazixITSK2xcWwb1XgUheYOuBnMY0w79mEJ01P08iaMVeMowtXugNedWxQECeYGVf9Qnvt-cFpfEm2sRf";
        assert_eq!(sealer.open(earlier.as_bytes()), Some(pin("a")));
        let now = seal(&sealer, &pin("a"));
        assert_eq!((now.len(), &now[..6]), (earlier.len(), &earlier[..6]));
        let changed = [Pin { term: 1, ..pin("a") }, Pin { replica: Some("b".into()), ..pin("a") }];
        assert!(changed.iter().all(|pin| URL_SAFE_NO_PAD.decode(seal(&sealer, pin)).unwrap()[0] == 2));
    }

    #[test]
    fn no_layout_is_read_as_the_other() {
        let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
        // With these lengths the plain text of either version could be parsed as the other.
        for (pin, other) in [(pin(&"n".repeat(20)), 2), (replicated("a", "b"), 1)] {
            let mut bytes = URL_SAFE_NO_PAD.decode(seal(&sealer, &pin)).unwrap();
            bytes[0] = other;
            assert_eq!(sealer.open(URL_SAFE_NO_PAD.encode(bytes).as_bytes()), None);
        }
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
        assert_ne!(seal(&sealer, &pin("a")), seal(&sealer, &pin("a")));
    }

    proptest! {
        #[test]
        fn a_text_of_any_length_is_decoded_as_by_another_library_or_refused_like_there(
            text in "[A-Za-z0-9_-]{0,300}[A-Za-z0-9_=+/ -]?"
        ) {
            let mut buffer = [0; MAX_TOKEN.div_ceil(4) * 3];
            let text = &text.as_bytes()[..text.len().min(MAX_TOKEN)];
            let decoded = super::URL_SAFE_NO_PAD.decode(text, buffer.as_mut_slice().as_out()).ok().map(|bytes| bytes.to_vec());
            prop_assert_eq!(&decoded, &URL_SAFE_NO_PAD.decode(text).ok());
            let encoded = super::URL_SAFE_NO_PAD.encode_to_string(text);
            prop_assert_eq!(encoded, URL_SAFE_NO_PAD.encode(text));
        }

        #[test]
        fn what_was_sealed_opens(
            session: u64, incarnation: u64, issued: u64, last_seen: u64, name in "[a-z.]{0,64}",
            term: u32, replica in proptest::option::of("[a-z.]{1,64}")
        ) {
            let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
            let replica = replica.map(Box::from);
            let pin = Pin { session, backend: name.into(), incarnation, issued, last_seen, term, replica };
            let token = seal(&sealer, &pin);
            prop_assert!(token.len() <= MAX_TOKEN);
            prop_assert_eq!(sealer.open(token.as_bytes()), Some(pin));
        }

        #[test]
        fn one_changed_character_is_enough_to_refuse_a_token(at: prop::sample::Index, to in "[A-Za-z0-9_=.-]") {
            let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
            let token = seal(&sealer, &pin("a"));
            let at = at.index(token.len());
            let mut forged = token.clone();
            forged.replace_range(at..=at, &to);
            prop_assume!(forged != token);
            prop_assert_eq!(sealer.open(forged.as_bytes()), None);
        }

        #[test]
        fn garbage_is_refused_and_never_panics(token in prop::collection::vec(any::<u8>(), 0..600)) {
            let sealer = Sealer::new(&ring(&["k"]), "app", "pin");
            prop_assert_eq!(sealer.open(&token), None);
            sealer.key_of(&token);
        }
    }
}
