//! What must hold of any ids of an application's: requests teach nothing, and what a response gives out is followed.

use std::sync::{Arc, LazyLock};

use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use linchpin::affinity::seal::SealingKey;
use linchpin::affinity::{
    Affinity, BindContext, Carrier, KeyRing, PinCache, PinLookup, SessionTables, Settings, decide, learned,
};
use linchpin::pool::reconcile::Reconciler;
use linchpin::pool::{self, Pool, backend, health_state};

const NOW: u64 = 1_700_000_000;
const CAPACITY: usize = 4;

static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| {
    let backends = ["a", "b"].map(|name| backend::Settings::new(name, ([127, 0, 0, 1], 1).into())).into();
    let settings = pool::Settings {
        name: "app".into(),
        backends,
        health_state: health_state::Settings::default(),
        ..pool::Settings::default()
    };
    Reconciler::new(1).pools(&[settings]).remove(0)
});

fn affinity() -> Affinity {
    let ring = Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).expect("a key of 32 bytes"), Vec::new()));
    let source = learned::SessionIdSource::Cookie("SID".into());
    let learned = learned::Settings { source, capacity: CAPACITY, store: None };
    let settings = Settings { carrier: Carrier::Learned(learned), ..Settings::none() };
    Affinity::new("app", &settings, &ring, &mut SessionTables::default())
}

/// Each line of `data` is a Cookie field behind `c`, or a Set-Cookie field of a response to the request before it.
pub fn holds(data: &[u8]) {
    let affinity = affinity();
    let table = affinity.table().expect("a table").clone();
    let (mut cache, mut request) = (PinCache::default(), HeaderMap::new());
    for line in data.split(|byte| *byte == b'\n').take(64) {
        let Some((kind, text)) = line.split_first() else { continue };
        let Ok(value) = HeaderValue::from_bytes(text) else { continue };
        if *kind == b'c' {
            request.insert(COOKIE, value);
            let (before, sent) = (table.len(), request.clone());
            let extracted = affinity.extract(&mut request, "/", &POOL, &mut cache);
            assert_eq!((table.len(), &request), (before, &sent), "no request teaches anything, or loses a field");
            let again = affinity.extract(&mut request, "/", &POOL, &mut PinCache::default());
            assert_eq!(again.lookup, extracted.lookup, "with or without a cache");
            continue;
        }
        let extracted = affinity.extract(&mut request.clone(), "/", &POOL, &mut cache);
        let key = extracted.key();
        let decision = decide::decide(extracted.lookup, &POOL, affinity.session_policy(), NOW, 1);
        let by = usize::from(*kind == b'b');
        let context = BindContext {
            decision: &decision,
            pool: &POOL,
            served_by: by,
            is_working: true,
            is_sessionless: false,
            ended: false,
            tls: false,
            now: NOW,
        };
        let mut response = HeaderMap::new();
        response.insert(SET_COOKIE, value);
        let (before, unchanged) = (table.len(), response.clone());
        affinity.bind(&mut response, key, context);
        assert_eq!(response, unchanged, "the response stays unchanged");
        assert!(table.len() <= CAPACITY && table.len() <= before + 2, "one session, and that of the request");
        // An id without anything that could be read otherwise is followed from now on.
        let id = text.strip_prefix(b"SID=").filter(|id| !id.is_empty() && id.iter().all(u8::is_ascii_alphanumeric));
        if let Some(id) = id {
            let cookie = HeaderValue::from_bytes(&[b"SID=", id].concat()).expect("letters");
            let mut next = HeaderMap::from_iter([(COOKIE, cookie)]);
            match affinity.extract(&mut next, "/", &POOL, &mut cache).lookup {
                PinLookup::Pinned(pin) => assert_eq!(&*pin.backend, ["a", "b"][by]),
                other => panic!("{other:?} of an id that was just given out"),
            }
        }
    }
}
