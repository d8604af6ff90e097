//! Owns: the carrier in which the application's session id ends with the backend's name, as in Tomcat and mod_jk.
//! Invariant: this file only reads: the id belongs to the application and passes byte for byte.
//! Must not know: whether a backend can serve.

use std::time::Duration;

use http::HeaderMap;
use http::header::COOKIE;

use super::cookie;
use super::issued::IssuedId;
use super::learned::record::SessionKey;
use super::lookup::{MAX_NAMED_BACKENDS, PinLookup, RoutedId};
use crate::clock::{self, LogLimiter};
use crate::pool::Pool;
use crate::pool::hash::stable_hash;

/// `route = { … }` of `[pools.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The application's session cookie.
    pub cookie: String,
    /// The path parameter that carries the id if the client keeps no cookies.
    pub path_parameter: String,
    /// The character between the id and the backend's name, and between two names.
    pub separator: char,
}

impl Settings {
    /// The settings for the session cookie named `cookie`, as in servlet containers: the path parameter has the
    /// cookie's name in lower case (Servlet 6.0 §7.1.3).
    pub fn for_cookie(cookie: &str) -> Settings {
        Settings { cookie: cookie.into(), path_parameter: cookie.to_ascii_lowercase(), separator: '.' }
    }
}

/// How many ids of one request are read.
const MAX_IDS: usize = 4;
/// The longest name of an unknown backend that a warning shows, in bytes.
const MAX_SHOWN: usize = 24;
/// The shortest time between two warnings about unknown backends: any client can cause one.
const WARN_INTERVAL: Duration = Duration::from_secs(600);

/// Reads the application's session ids for one pool.
#[derive(Debug)]
pub(super) struct RouteCarrier {
    settings: Settings,
    /// Limits the warnings about ids that name unknown backends.
    unknown_route_warnings: LogLimiter,
}

impl RouteCarrier {
    pub(super) fn new(settings: &Settings) -> RouteCarrier {
        RouteCarrier { settings: settings.clone(), unknown_route_warnings: LogLimiter::default() }
    }

    /// Reads the ids of a request: those in its cookies before the one in its path, as Tomcat does. An id that names a
    /// backend of the pool comes before all others, since a browser may send a stale one as well.
    pub(super) fn read(&self, headers: &HeaderMap, path: &str, pool: &Pool) -> PinLookup {
        let ids = self.ids(headers, path);
        let mut unknown = None;
        for (id, routed) in ids.filter_map(|id| Some((id, self.routed(id, pool)?))) {
            if routed.backends[0].is_some() {
                return PinLookup::Routed(routed);
            }
            unknown = unknown.or(Some((id, routed)));
        }
        let Some((id, routed)) = unknown else { return PinLookup::Absent };
        self.warn_of_unknown_route(id, pool);
        PinLookup::Routed(routed)
    }

    /// Returns the ids of a request: those in its cookies before the one in its path.
    fn ids<'h>(&'h self, headers: &'h HeaderMap, path: &'h str) -> impl Iterator<Item = &'h [u8]> {
        let fields = headers.get_all(COOKIE).iter();
        let cookies = fields.flat_map(|field| cookie::values(field.as_bytes(), self.settings.cookie.as_bytes()));
        cookies.chain(self.in_path(path)).take(MAX_IDS)
    }

    /// Returns the key of the session that a request's id names: a hash of the id without the backends' names.
    pub(super) fn key(&self, headers: &HeaderMap, path: &str, pool: &Pool) -> Option<SessionKey> {
        let ids = || self.ids(headers, path);
        let known = |id: &&[u8]| self.routed(id, pool).is_some_and(|routed| routed.backends[0].is_some());
        let id = ids().find(known).or_else(|| ids().find(|id| self.routed(id, pool).is_some()))?;
        Some(self.key_of_id(id, pool))
    }

    /// Returns the key of the session with this id.
    pub(super) fn key_of_id(&self, id: &[u8], pool: &Pool) -> SessionKey {
        SessionKey::of(pool.name(), self.without_route(id))
    }

    /// Returns the key of the session whose id a response issues.
    pub(super) fn issued_key(&self, headers: &HeaderMap, pool: &Pool, now: u64) -> Option<SessionKey> {
        Some(self.key_of_id(self.issued(headers, now).id?, pool))
    }

    /// Returns the ids that a response issues or removes.
    pub(super) fn issued<'h>(&self, headers: &'h HeaderMap, now: u64) -> IssuedId<'h> {
        IssuedId::in_cookie(headers, &self.settings.cookie, now)
    }

    /// Returns the session of an id, as in [`RoutedId::session`].
    pub(super) fn session_of_id(&self, id: &[u8]) -> u64 {
        stable_hash(self.without_route(id))
    }

    /// Returns an id without the backends' names.
    fn without_route<'i>(&self, id: &'i [u8]) -> &'i [u8] {
        let mut separator = [0; 4];
        let separator = self.settings.separator.encode_utf8(&mut separator).as_bytes();
        memchr::memmem::find(id, separator).map_or(id, |end| &id[..end])
    }

    /// Warns, at most once an interval, of ids whose name is the `route` of no backend.
    fn warn_of_unknown_route(&self, id: &[u8], pool: &Pool) {
        if let Some(unsaid) = self.unknown_route_warnings.take(clock::unix(), WARN_INTERVAL, 1) {
            tracing::warn!(
                pool = &**pool.name(),
                route = self.showable_route(id),
                unsaid,
                "session ids name a server that is the `route` of no backend in the pool, so their sessions move: write \
                 `route` into its [[pools.backends]], with the name that the application uses (Tomcat: jvmRoute)"
            );
        }
    }

    /// Returns the backend's name in an id, if it looks like a name. The text after a separator can also be a part of a
    /// token, which must not get into a log.
    fn showable_route<'i>(&self, id: &'i [u8]) -> Option<&'i str> {
        let name = std::str::from_utf8(id).ok()?.split(self.settings.separator).nth(1)?;
        let is_name = |name: &&str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        Some(name).filter(is_name).filter(|name| (1..=MAX_SHOWN).contains(&name.len()))
    }

    /// Reads one id, for `explain`.
    pub(super) fn read_id(&self, id: &[u8], pool: &Pool) -> PinLookup {
        self.routed(id, pool).map_or(PinLookup::Absent, PinLookup::Routed)
    }

    /// Returns the value of the path parameter (RFC 3986 §3.3).
    fn in_path<'p>(&self, path: &'p str) -> Option<&'p [u8]> {
        let parameters = path.split('/').flat_map(|segment| segment.split(';').skip(1));
        let mut values = parameters
            .filter_map(|parameter| parameter.strip_prefix(self.settings.path_parameter.as_str())?.strip_prefix('='));
        values.next().map(str::as_bytes)
    }

    /// Returns the backends that an id names, or `None` if it names none.
    fn routed(&self, id: &[u8], pool: &Pool) -> Option<RoutedId> {
        let id = std::str::from_utf8(id).ok()?;
        let mut parts = id.split(self.settings.separator);
        let session = stable_hash(parts.next()?.as_bytes());
        let mut parts = parts.peekable();
        parts.peek()?;
        let mut backends = [None; MAX_NAMED_BACKENDS];
        for (slot, index) in
            backends.iter_mut().zip(parts.take(MAX_NAMED_BACKENDS).filter_map(|name| pool.routed(name)))
        {
            *slot = Some(index);
        }
        Some(RoutedId { session, backends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{backend, reconcile};
    use http::HeaderValue;
    use std::sync::Arc;

    fn pool() -> Arc<Pool> {
        let backends = ["a", "b"].map(|name| backend::Settings {
            route: Some(format!("node-{name}")),
            ..backend::Settings::new(name, "127.0.0.1:1".parse().unwrap())
        });
        reconcile::pool_of("app", backends)
    }

    fn read(route: &RouteCarrier, cookies: &[&str], path: &str) -> Option<[Option<usize>; 3]> {
        let headers = cookies.iter().map(|cookie| (COOKIE, HeaderValue::from_str(cookie).unwrap())).collect();
        match route.read(&headers, path, &pool()) {
            PinLookup::Routed(routed) => Some(routed.backends),
            PinLookup::Absent => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_name_after_the_separator_is_the_backend_in_cookie_or_path() {
        let route = RouteCarrier::new(&Settings::for_cookie("JSESSIONID"));
        for (cookies, path, backends) in [
            (&["JSESSIONID=0A.node-b"][..], "/", Some([Some(1), None, None])),
            (&["x=1; JSESSIONID=\"0A.node-a\"; y=2"], "/", Some([Some(0), None, None])),
            (&["x=1", "JSESSIONID=0A.node-a"], "/", Some([Some(0), None, None])),
            (&[], "/shop;jsessionid=0A.node-b", Some([Some(1), None, None])),
            (&[], "/shop;v=1;jsessionid=0A.node-b/cart", Some([Some(1), None, None])),
            (&["JSESSIONID=0A.node-a"], "/;jsessionid=0B.node-b", Some([Some(0), None, None])),
            (&["JSESSIONID=0A.gone; JSESSIONID=0B.node-b"], "/", Some([Some(1), None, None])),
            (&["JSESSIONID=0A.gone"], "/;jsessionid=0B.node-b", Some([Some(1), None, None])),
            (&["JSESSIONID=0A.gone"], "/", Some([None, None, None])),
            (&["JSESSIONID=0A.gone.node-b"], "/", Some([Some(1), None, None])),
            (&["JSESSIONID=0A.node-b.node-a"], "/", Some([Some(1), Some(0), None])),
            (&["JSESSIONID=0A."], "/", Some([None, None, None])),
            (&["JSESSIONID=0A"], "/", None),
            (&["JSESSIONID="], "/", None),
            (&["jsessionid=0A.node-a"], "/jsessionid=0A.node-a", None),
            (&[], "/shop;jsessionidx=0A.node-b", None),
        ] {
            assert_eq!(read(&route, cookies, path), backends, "{cookies:?} {path}");
        }
    }

    #[test]
    fn the_session_is_the_id_without_its_backends_and_separators_are_configured() {
        let route = RouteCarrier::new(&Settings { separator: '!', ..Settings::for_cookie("JSESSIONID") });
        let session = |id: &[u8]| match route.read_id(id, &pool()) {
            PinLookup::Routed(routed) => Some(routed.session),
            _ => None,
        };
        assert_eq!(session(b"0A.x!node-a!node-b"), session(b"0A.x!node-b"));
        assert_ne!(session(b"0A!node-a"), session(b"0B!node-a"));
        assert_eq!(session(b"\xff!node-a"), None);
        assert_eq!(session(b"0A.node-a"), None);
    }

    #[test]
    fn an_unknown_server_is_named_and_what_may_be_a_secret_is_not() {
        let carrier = RouteCarrier::new(&Settings::for_cookie("JSESSIONID"));
        for (id, shown) in [
            ("0A.node-9", Some("node-9")),
            ("0A.node-9.node-8", Some("node-9")),
            ("0A.", None),
            ("0A.two words", None),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl", None),
        ] {
            assert_eq!(carrier.showable_route(id.as_bytes()), shown, "{id}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_id_and_no_path_panics(id: Vec<u8>, path: String) {
            let route = RouteCarrier::new(&Settings::for_cookie("JSESSIONID"));
            route.read_id(&id, &pool());
            if let Ok(value) = HeaderValue::from_bytes(&[b"JSESSIONID=", &id[..]].concat()) {
                route.read(&HeaderMap::from_iter([(COOKIE, value)]), &path, &pool());
            }
        }
    }
}
