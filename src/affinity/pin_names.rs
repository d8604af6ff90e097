//! Owns: the cookie and field names of all pools' pins, and what happens when a backend issues pins under one of them.
//! Invariant: no backend sees a pin of this Linchpin; a backend gets its own cookie back under the name that it gave.
//! Must not know: what a pin contains, or whether it holds.

use http::header::{COOKIE, Entry, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use super::cookie;
use super::cookie::PairEdit;
use super::seal::looks_sealed;
use super::settings::{Carrier, Settings};

/// The prefix of the default names of routing cookies, which the documentation reserves: a cookie of a configured name
/// with this prefix is a pin whatever its value.
const DEFAULT_PREFIX: &[u8] = b"linchpin-";

/// The suffix for the name of a routing cookie that a backend sets under the name of a pool's own. Such a backend is a
/// Linchpin, too, and of two cookies with one name a client keeps only one. Each Linchpin in a chain appends one suffix
/// to the cookie in responses and removes one in requests. No configured name ends with it.
pub const CHAIN_SUFFIX: u8 = b'~';

/// The names of all pools' pins. A request may carry the pins of other pools than its own, since browsers send a cookie
/// to all pools of a site.
#[derive(Debug, Default)]
pub struct PinNames {
    /// Sorted.
    cookies: Box<[Box<[u8]>]>,
    fields: Box<[HeaderName]>,
}

/// A backend's response carries a pin under the name of a pool's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PinNameConflict {
    /// The pin is in a cookie, which has been renamed.
    Cookie,
    /// The pin is in a field, which can't be renamed: clients send back the field that is documented.
    Field,
}

impl PinNameConflict {
    pub(super) fn warn(self, pool: &str, backend: &str) {
        match self {
            PinNameConflict::Cookie => tracing::warn!(
                pool,
                backend,
                "this backend sets a routing cookie with this pool's cookie name, so it is a Linchpin, too: clients get its \
                 cookie with `~` appended to the name, so that both cookies work; to avoid this, write another \
                 [pools.persistence.cookie] name in one of the two"
            ),
            PinNameConflict::Field => tracing::warn!(
                pool,
                backend,
                "this backend sends its pins in the same field as this Linchpin, so it is a Linchpin, too, and its pins \
                 never reach it again: it can't keep its clients; write another [pools.persistence.header] name in one \
                 of the two"
            ),
        }
    }
}

impl PinNames {
    /// Collects the names of these pools' pins.
    pub fn new<'s>(pools: impl Iterator<Item = &'s Settings>) -> PinNames {
        let (mut cookies, mut fields) = (Vec::new(), Vec::new());
        for settings in pools {
            match &settings.carrier {
                Carrier::Cookie(cookie) => cookies.push(Box::from(cookie.name.as_bytes())),
                Carrier::Header(header) => fields.push(header.name.clone()),
                Carrier::None | Carrier::Route(_) | Carrier::Learned(_) => {}
            }
        }
        cookies.sort_unstable();
        cookies.dedup();
        fields.sort_unstable_by(|one: &HeaderName, other| one.as_str().cmp(other.as_str()));
        fields.dedup();
        PinNames { cookies: cookies.into(), fields: fields.into() }
    }

    /// Removes the pins of all pools from a request, after its own pool has read its pin. Gives a cookie that a backend
    /// has set under the name of a pool's own its original name.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.fields {
            if is_pinned(headers, name) {
                headers.remove(name);
            }
        }
        let edit_of = |pair: &[u8]| self.edit_of(pair);
        let mut fields = headers.get_all(COOKIE).iter();
        if fields.any(|field| cookie::pairs(field.as_bytes()).any(|pair| edit_of(pair) != PairEdit::Keep)) {
            cookie::edit(headers, edit_of);
        }
    }

    /// Renames the cookies of a backend's response that are pins under the name of a pool's own.
    pub fn rename_conflicting(&self, headers: &mut HeaderMap) -> Option<PinNameConflict> {
        let mut conflict = self.fields.iter().any(|name| is_pinned(headers, name)).then_some(PinNameConflict::Field);
        let Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) else { return conflict };
        for cookie in cookies.iter_mut() {
            if let Some(renamed) = self.renamed(cookie.as_bytes()) {
                (*cookie, conflict) = (renamed, Some(PinNameConflict::Cookie));
            }
        }
        conflict
    }

    fn edit_of(&self, pair: &[u8]) -> PairEdit {
        let Some((name, value)) = cookie::parts(pair) else { return PairEdit::Keep };
        let own = without_suffix(name);
        match self.is_pin(own, value) {
            false => PairEdit::Keep,
            true if own.len() < name.len() => PairEdit::DropSuffix,
            true => PairEdit::Remove,
        }
    }

    /// Returns the Set-Cookie field with another name, if it sets a pin under the name of a pool's own.
    fn renamed(&self, set_cookie: &[u8]) -> Option<HeaderValue> {
        let pair = memchr::memchr(b';', set_cookie).map_or(set_cookie, |at| &set_cookie[..at]);
        let (name, value) = cookie::parts(pair)?;
        if !self.is_pin(without_suffix(name), value) {
            return None;
        }
        let end = set_cookie.trim_ascii_start().get(name.len()..)?;
        HeaderValue::try_from([name, &[CHAIN_SUFFIX], end].concat()).ok()
    }

    /// A configured name may also be the name of an application's cookie: there the value decides.
    fn is_pin(&self, name: &[u8], value: &[u8]) -> bool {
        let is_named = self.cookies.binary_search_by(|known| (**known).cmp(name)).is_ok();
        is_named && (name.starts_with(DEFAULT_PREFIX) || looks_sealed(value))
    }
}

/// Returns the name that a cookie had where it was set.
fn without_suffix(name: &[u8]) -> &[u8] {
    let end = name.iter().rposition(|byte| *byte != CHAIN_SUFFIX).map_or(0, |last| last + 1);
    &name[..end]
}

fn is_pinned(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().any(|value| looks_sealed(value.as_bytes().trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::super::seal::{KeyRing, Pin, Sealer, SealingKey};
    use super::super::{cookie, header};
    use super::*;
    use http::HeaderValue;
    use std::sync::Arc;

    /// A token of the version of a pin with this replica.
    fn token(replica: Option<&str>) -> String {
        let ring = Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).unwrap(), Vec::new()));
        let (backend, replica) = ("a".into(), replica.map(Box::from));
        let pin = Pin { session: 1, backend, incarnation: 2, issued: 3, last_seen: 4, term: 0, replica };
        let mut token = String::new();
        Sealer::new(&ring, "other", "SID").seal(&pin, &mut token).unwrap();
        token
    }

    fn pin_names() -> PinNames {
        let cookie =
            |name: &str| Carrier::Cookie(cookie::Settings { name: name.into(), ..cookie::Settings::for_pool("") });
        let field = Carrier::Header(header::Settings { name: HeaderName::from_static("x-pin") });
        let carriers = [cookie("linchpin-shop"), cookie("SID"), field, cookie("linchpin-app")];
        let pools = carriers.map(|carrier| Settings { carrier, ..Settings::none() });
        PinNames::new(pools.iter())
    }

    #[test]
    fn the_pins_of_all_pools_are_removed_and_an_applications_cookie_of_the_same_name_stays() {
        let tokens = [token(None), token(Some("b"))];
        for (before, after) in [
            ("linchpin-shop=x; a=1", Some("a=1")),
            ("a=1; linchpin-app = \"$\" ;b=2", Some("a=1;b=2")),
            ("SID=$", None),
            ("SID=my-session; linchpin-shop=$", Some("SID=my-session")),
            ("linchpin-other=$; LINCHPIN-SHOP=$", Some("linchpin-other=$; LINCHPIN-SHOP=$")),
            (" odd ; =; ;;\"", Some(" odd ; =; ;;\"")),
            // Set by a Linchpin behind this one, and by one behind that.
            ("linchpin-app=$; a=1; linchpin-app~=x", Some("a=1; linchpin-app=x")),
            ("linchpin-app~~ =x;b=2; SID~=$", Some("linchpin-app~ =x;b=2; SID=$")),
            ("SID~=x; other~=$; ~=x", Some("SID~=x; other~=$; ~=x")),
        ] {
            for token in &tokens {
                let text = before.replace('$', token);
                let mut headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&text).unwrap())]);
                pin_names().strip(&mut headers);
                let left = headers.get(COOKIE).map(|value| value.to_str().unwrap().to_owned());
                assert_eq!(left, after.map(|after| after.replace('$', token)), "{before}");
            }
        }
    }

    #[test]
    fn a_pin_that_a_backend_sets_under_a_name_of_ours_is_renamed_and_comes_back_under_its_own() {
        let token = token(Some("b"));
        for (set, expected, conflict) in [
            ("linchpin-app=$; Path=/; HttpOnly", "linchpin-app~=$; Path=/; HttpOnly", Some(PinNameConflict::Cookie)),
            (" linchpin-app~ = $", "linchpin-app~~ = $", Some(PinNameConflict::Cookie)),
            ("SID=$", "SID~=$", Some(PinNameConflict::Cookie)),
            ("SID=my-session; Path=/", "SID=my-session; Path=/", None),
            ("linchpin-other=$", "linchpin-other=$", None),
            ("linchpin-app", "linchpin-app", None),
        ] {
            let (set, expected) = (set.replace('$', &token), expected.replace('$', &token));
            let mut headers = HeaderMap::from_iter([(SET_COOKIE, HeaderValue::from_str(&set).unwrap())]);
            assert_eq!(pin_names().rename_conflicting(&mut headers), conflict, "{set}");
            assert_eq!(headers[SET_COOKIE], expected);
            let cookie = |set: &str| set.split(';').next().unwrap().trim().to_owned();
            let mut back = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&cookie(&expected)).unwrap())]);
            pin_names().strip(&mut back);
            assert_eq!(back[COOKIE], cookie(&set));
        }
        let field = HeaderMap::from_iter([(HeaderName::from_static("x-pin"), HeaderValue::from_str(&token).unwrap())]);
        assert_eq!(pin_names().rename_conflicting(&mut field.clone()), Some(PinNameConflict::Field));
    }

    #[test]
    fn a_field_is_removed_if_it_holds_a_pin() {
        let name = HeaderName::from_static("x-pin");
        for (value, stays) in [(token(None), false), ("an application's".into(), true)] {
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(&value).unwrap())]);
            pin_names().strip(&mut headers);
            assert_eq!(headers.contains_key(&name), stays, "{value}");
        }
    }
}
