//! What must hold of any bytes that come as a token, and of any pin that is sealed.

use std::sync::{Arc, LazyLock};

use linchpin::affinity::seal::{MAX_NAME, MAX_TOKEN, SealingKey, looks_sealed};
use linchpin::affinity::{KeyRing, Pin, Sealer};

static RING: LazyLock<Arc<KeyRing>> = LazyLock::new(|| {
    let key = |id: &str, byte| SealingKey::new(id, &[byte; 32]).expect("a key of 32 bytes");
    Arc::new(KeyRing::new(key("new", 1), vec![key("old", 2)]))
});

pub fn holds(data: &[u8]) {
    let sealer = Sealer::new(&RING, "app", "pin");
    never_opens(&sealer, data);
    comes_back(&sealer, data);
}

/// Only the ring's keys make tokens that open; no other bytes do.
fn never_opens(sealer: &Sealer, token: &[u8]) {
    assert_eq!(sealer.open(token), None);
    sealer.key_of(token);
}

/// A pin made of `data` opens to itself; changed anywhere, or elsewhere, it does not open.
fn comes_back(sealer: &Sealer, data: &[u8]) {
    let mut data = data.iter().copied();
    let at = usize::from(data.next().unwrap_or_default());
    let by = data.next().unwrap_or_default();
    let mut number = || data.by_ref().take(8).fold(0, |number, byte| number << 8 | u64::from(byte));
    let (session, incarnation, issued, last_seen) = (number(), number(), number(), number());
    let term = number() as u32;
    // The two names are what is before and after a line break.
    let names = String::from_utf8_lossy(&data.collect::<Vec<_>>()).into_owned();
    let (backend, replica) = names.split_once('\n').unwrap_or((&names, ""));
    let replica = Some(replica).filter(|replica| !replica.is_empty()).map(Box::from);
    let is_replicated = term != 0 || replica.is_some();
    let pin = Pin { session, backend: backend.into(), incarnation, issued, last_seen, term, replica };

    let mut token = String::from("before");
    let sealed = sealer.seal(&pin, &mut token);
    let token = token.strip_prefix("before").expect("sealing only appends");
    if pin.backend.len() > MAX_NAME || pin.replica.as_ref().is_some_and(|replica| replica.len() > MAX_NAME) {
        assert_eq!((sealed, token), (None, ""));
        return;
    }
    assert!(sealed.is_some() && token.len() <= MAX_TOKEN);
    assert_eq!(sealer.open(token.as_bytes()), Some(pin));
    assert_eq!(sealer.key_of(token.as_bytes()), Some("new"));
    assert_eq!(Sealer::new(&RING, "other", "pin").open(token.as_bytes()), None);

    assert!(looks_sealed(token.as_bytes()));
    // The first two characters encode the version. Who uses neither term nor replica can go back to an older Linchpin.
    assert_eq!(token.as_bytes()[1] > b'f', is_replicated);

    let mut forged = token.as_bytes().to_vec();
    let at = at % forged.len();
    if forged[at] != by {
        forged[at] = by;
        assert_eq!(sealer.open(&forged), None);
    }
}
