//! Keys that proxies share, and pins of any age, so that no test waits for one to expire.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use linchpin::affinity::seal::SealingKey;
use linchpin::affinity::{KeyRing, Pin, Sealer};

use super::{Proxy, Response};

/// A key ring, in files and in memory.
pub struct Keys {
    files: Vec<PathBuf>,
    ids: Vec<u8>,
}

impl Keys {
    /// The keys with these ids; the first seals.
    pub fn new(ids: &[u8]) -> Keys {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let file = |id: &u8| {
            let name = format!("key-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::write(&file, STANDARD.encode([*id; 32])).unwrap();
            file
        };
        Keys { files: ids.iter().map(file).collect(), ids: ids.into() }
    }

    /// Returns the `[[keys]]` tables of the keys.
    pub fn tables(&self) -> String {
        let tables = self.ids.iter().zip(&self.files);
        tables.map(|(id, file)| format!("[[keys]]\nid = \"{id}\"\nfile = {:?}\n", file.to_str().unwrap())).collect()
    }

    fn sealer(&self, pool: &str, cookie: &str) -> Sealer {
        let mut keys = self.ids.iter().map(|id| SealingKey::new(&id.to_string(), &[*id; 32]).unwrap());
        Sealer::new(&Arc::new(KeyRing::new(keys.next().unwrap(), keys.collect())), pool, cookie)
    }

    /// Returns the routing cookie that holds `pin`.
    pub fn cookie(&self, pin: &Pin) -> String {
        self.foreign_cookie("app", "linchpin-app", pin)
    }

    /// The same, but sealed for another pool or under another name.
    pub fn foreign_cookie(&self, pool: &str, name: &str, pin: &Pin) -> String {
        let mut cookie = "linchpin-app=".to_owned();
        self.sealer(pool, name).seal(pin, &mut cookie).unwrap();
        cookie
    }

    /// Returns the pin that a response issues, if it issues one.
    pub fn issued(&self, response: &Response) -> Option<Pin> {
        let cookie = response.pin()?;
        let token = cookie.strip_prefix("linchpin-app=").unwrap();
        Some(self.sealer("app", "linchpin-app").open(token.as_bytes()).expect("a pin that these keys open"))
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
}

/// Returns a pin to a backend as `proxy` would issue it now. A name without a backend gets incarnation 0.
pub fn pin(proxy: &Proxy, backend: &str, session: u64) -> Pin {
    let index = proxy.pool().position(backend);
    let incarnation = index.map_or(0, |index| proxy.pool().backend(index).incarnation());
    Pin { session, backend: backend.into(), incarnation, issued: now(), last_seen: now(), term: 0, replica: None }
}

/// Returns the wall clock's time in Unix seconds.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
