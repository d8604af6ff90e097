//! Properties of any Cookie fields: the routing cookie is removed, and everything else stays.

use std::sync::{Arc, LazyLock};

use http::header::{COOKIE, HOST, HeaderMap, HeaderValue};
use linchpin::affinity::seal::SealingKey;
use linchpin::affinity::{Affinity, KeyRing, Pin, PinCache, PinLookup, Sealer, SessionTables, Settings};
use linchpin::pool::reconcile::Reconciler;
use linchpin::pool::{self, Pool, backend, health_state};

const NAME: &str = "linchpin-app";

static AFFINITY: LazyLock<(Affinity, Arc<Pool>, String)> = LazyLock::new(|| {
    let ring = Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).expect("a key of 32 bytes"), Vec::new()));
    let mut token = String::new();
    Sealer::new(&ring, "app", NAME).seal(&pin(), &mut token).expect("randomness");
    let affinity = Affinity::new("app", &Settings::for_pool("app"), &ring, &mut SessionTables::default());
    let backends = vec![backend::Settings::new("a", ([127, 0, 0, 1], 1).into())];
    let settings = pool::Settings {
        name: "app".into(),
        backends,
        health_state: health_state::Settings::default(),
        ..pool::Settings::default()
    };
    (affinity, Reconciler::new(1).pools(&[settings]).remove(0), token)
});

fn pin() -> Pin {
    Pin { session: 1, backend: "a".into(), incarnation: 2, issued: 3, last_seen: 4, term: 5, replica: Some("b".into()) }
}

/// Each line of `data` is a Cookie field, in which `@` stands for the routing cookie's name and `$` for a good token.
pub fn holds(data: &[u8]) {
    let (affinity, pool, token) = &*AFFINITY;
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_static("example.com"));
    let mut before = Vec::new();
    for line in data.split(|byte| *byte == b'\n') {
        let field: Vec<u8> = line.iter().flat_map(|byte| spelt_out(byte, token)).copied().collect();
        let Ok(value) = HeaderValue::from_bytes(&field) else { return };
        headers.append(COOKIE, value);
        before.push(field);
    }

    let mut cache = PinCache::default();
    let mut first = headers.clone();
    let lookup = affinity.extract(&mut first, "/", pool, &mut cache).lookup;
    let mut again = headers.clone();
    assert_eq!(
        affinity.extract(&mut again, "/", pool, &mut cache).lookup,
        lookup,
        "the same fields, on the same connection"
    );
    assert_eq!(first, again);

    let routing = before.iter().flat_map(|field| pairs(field)).filter(|pair| is_routing(pair)).count();
    match &lookup {
        PinLookup::Absent => assert_eq!(routing, 0),
        PinLookup::Unreadable | PinLookup::UnknownKey => assert!(routing > 0),
        PinLookup::Pinned(read) => {
            assert!(routing > 0);
            assert_eq!(**read, pin(), "no other pin can be read");
        }
        other => panic!("no cookie reads as {other:?}"),
    }
    if routing == 0 {
        assert_eq!(first, headers, "fields without a routing cookie stay as they are");
    }
    let after: Vec<_> = first.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    assert!(!after.iter().flat_map(|field| pairs(field)).any(is_routing));
    assert_eq!(others(after.iter().copied()), others(before.iter().map(Vec::as_slice)));
    assert_eq!(first.get(HOST), headers.get(HOST));
}

fn spelt_out<'a>(byte: &'a u8, token: &'a str) -> &'a [u8] {
    match byte {
        b'@' => NAME.as_bytes(),
        b'$' => token.as_bytes(),
        other => std::slice::from_ref(other),
    }
}

fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    field.split(|byte| *byte == b';')
}

/// By RFC 6265 §5.2: blanks around a name don't count, case does.
fn is_routing(pair: &[u8]) -> bool {
    let equals = pair.iter().position(|byte| *byte == b'=');
    equals.is_some_and(|at| pair[..at].trim_ascii() == NAME.as_bytes())
}

/// All pairs of other names. The blanks before a pair belong to the pair before it, and go with that one.
fn others<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    let pairs = fields.flat_map(pairs).filter(|pair| !is_routing(pair)).map(<[u8]>::trim_ascii_start);
    pairs.filter(|pair| !pair.is_empty()).collect()
}
