//! Owns: what carries the pins of all pools of a configuration, and taking them out of requests to whichever pool.
//! Invariant: no backend sees a pin, of its own pool or of another one; what an application calls alike stays.
//! Must not know: what a pin says, or whether it holds.

use http::header::{COOKIE, HeaderMap, HeaderName};

use super::seal::looks_sealed;
use super::{Carrier, Settings, cookie};

/// What the names of routing cookies begin with where nothing else is configured. An application that has
/// such a cookie of its own has read no documentation.
const OWN: &[u8] = b"linchpin-";

/// The names under which pins travel. Browsers send the cookie of one pool to all pools of a site.
#[derive(Debug, Default)]
pub struct Pins {
    /// In order.
    cookies: Box<[Box<[u8]>]>,
    fields: Box<[HeaderName]>,
}

impl Pins {
    /// Those of these pools. A pool alone has nothing to do here: it takes its own pins out as it reads them.
    pub fn new<'s>(pools: impl ExactSizeIterator<Item = &'s Settings>) -> Pins {
        if pools.len() < 2 {
            return Pins::default();
        }
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
        Pins { cookies: cookies.into(), fields: fields.into() }
    }

    /// Takes them out of a request, whose own pool has read its pin.
    pub fn strip(&self, headers: &mut HeaderMap) {
        for name in &self.fields {
            if headers.get_all(name).iter().any(|value| looks_sealed(value.as_bytes().trim_ascii())) {
                headers.remove(name);
            }
        }
        let is_out = |pair: &[u8]| cookie::parts(pair).is_some_and(|(name, value)| self.is_pin(name, value));
        let has = |headers: &HeaderMap| {
            headers.get_all(COOKIE).iter().any(|field| cookie::pairs(field.as_bytes()).any(is_out))
        };
        if !self.cookies.is_empty() && has(headers) {
            cookie::strip(headers, is_out);
        }
    }

    /// A name that was chosen may be that of another application's cookie, which the value tells apart.
    fn is_pin(&self, name: &[u8], value: &[u8]) -> bool {
        let is_named = self.cookies.binary_search_by(|known| (**known).cmp(name)).is_ok();
        is_named && (name.starts_with(OWN) || looks_sealed(value))
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::{Key, KeyRing, Pin, Sealer};
    use super::super::{cookie, header};
    use super::*;
    use http::HeaderValue;
    use std::sync::Arc;

    fn token() -> String {
        let ring = Arc::new(KeyRing::new(Key::new("k", &[1; 32]).unwrap(), Vec::new()));
        let pin = Pin { session: 1, backend: "a".into(), incarnation: 2, issued: 3, last_seen: 4 };
        let mut token = String::new();
        Sealer::new(&ring, "other", "SID").seal(&pin, &mut token).unwrap();
        token
    }

    fn pins() -> Pins {
        let cookie =
            |name: &str| Carrier::Cookie(cookie::Settings { name: name.into(), ..cookie::Settings::for_pool("") });
        let field = Carrier::Header(header::Settings { name: HeaderName::from_static("x-pin") });
        let carriers = [cookie("linchpin-shop"), cookie("SID"), field, cookie("linchpin-app")];
        let pools = carriers.map(|carrier| Settings { carrier, ..Settings::none() });
        Pins::new(pools.iter())
    }

    #[test]
    fn the_pins_of_all_pools_go_and_what_applications_call_alike_stays() {
        let token = token();
        for (before, after) in [
            ("linchpin-shop=x; a=1", Some("a=1")),
            ("a=1; linchpin-app = \"$\" ;b=2", Some("a=1;b=2")),
            ("SID=$", None),
            ("SID=my-session; linchpin-shop=$", Some("SID=my-session")),
            ("linchpin-other=$; LINCHPIN-SHOP=$", Some("linchpin-other=$; LINCHPIN-SHOP=$")),
            (" odd ; =; ;;\"", Some(" odd ; =; ;;\"")),
        ] {
            let text = before.replace('$', &token);
            let mut headers = HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&text).unwrap())]);
            pins().strip(&mut headers);
            let left = headers.get(COOKIE).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(left, after.map(|after| after.replace('$', &token)), "{before}");
        }
    }

    #[test]
    fn a_field_goes_where_it_holds_a_pin() {
        let name = HeaderName::from_static("x-pin");
        for (value, stays) in [(token(), false), ("an application's".into(), true)] {
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_str(&value).unwrap())]);
            pins().strip(&mut headers);
            assert_eq!(headers.contains_key(&name), stays, "{value}");
        }
    }
}
