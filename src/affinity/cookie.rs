//! Owns: the carrier for browsers: the routing cookie in the fields of requests and responses.
//! Invariant: the routing cookie never reaches a backend; every other cookie passes byte for byte.
//! Must not know: cryptography, or whether a pin holds.

use std::sync::Arc;

use http::header::{COOKIE, Entry, HeaderMap, HeaderValue, SET_COOKIE};

use super::caching::keep_private;
use super::lookup::PinLookup;
use super::pin_cache::{PinCache, PinCodec};
use super::policy::Lifetimes;
use super::seal::{KeyRing, Pin};

/// `cookie = { … }` of `[pools.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The cookie's name, a token of RFC 6265.
    pub name: String,
    /// `Path`.
    pub path: String,
    /// `Domain`, if set.
    pub domain: Option<String>,
    /// `Secure`; `None` sets it for clients that speak TLS.
    pub secure: Option<bool>,
    /// `HttpOnly`.
    pub http_only: bool,
    /// `SameSite`.
    pub same_site: SameSite,
    /// `Partitioned` (CHIPS).
    pub partitioned: bool,
    /// Whether the browser keeps the cookie when it closes.
    pub lifetime: LifetimeType,
}

impl Settings {
    /// The default settings of the pool named `pool`.
    pub fn for_pool(pool: &str) -> Settings {
        Settings {
            name: format!("linchpin-{pool}"),
            path: "/".into(),
            domain: None,
            secure: None,
            http_only: true,
            same_site: SameSite::default(),
            partitioned: false,
            lifetime: LifetimeType::default(),
        }
    }
}

/// The `SameSite` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SameSite {
    /// Browsers send the cookie on same-site requests alone.
    Strict,
    /// Browsers send it on links from other sites, too.
    #[default]
    Lax,
    /// Browsers always send it; needs `Secure`.
    None,
}

impl SameSite {
    /// All values.
    pub const ALL: [SameSite; 3] = [SameSite::Strict, SameSite::Lax, SameSite::None];

    /// The attribute's value.
    pub fn as_str(self) -> &'static str {
        match self {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        }
    }
}

/// `lifetime_type` of GEP-1619.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LifetimeType {
    /// A session cookie: neither Expires nor Max-Age.
    #[default]
    Session,
    /// A cookie with the rest of the absolute timeout as Max-Age.
    Permanent,
}

impl LifetimeType {
    /// All values.
    pub const ALL: [LifetimeType; 2] = [LifetimeType::Session, LifetimeType::Permanent];

    /// The configuration's word for this type.
    pub fn as_str(self) -> &'static str {
        match self {
            LifetimeType::Session => "session",
            LifetimeType::Permanent => "permanent",
        }
    }
}

/// The routing cookie of one pool.
#[derive(Debug)]
pub(super) struct CookieCarrier {
    name: Box<str>,
    /// The attributes for clients without TLS, and with it.
    attributes: [String; 2],
    permanent: bool,
    codec: PinCodec,
}

impl CookieCarrier {
    pub(super) fn new(pool: &str, settings: &Settings, ring: &Arc<KeyRing>) -> CookieCarrier {
        CookieCarrier {
            name: settings.name.as_str().into(),
            attributes: [false, true].map(|tls| attributes(settings, settings.secure.unwrap_or(tls))),
            permanent: settings.lifetime == LifetimeType::Permanent,
            codec: PinCodec::new(pool, &settings.name, ring),
        }
    }

    /// Removes all routing cookies from the request and reads the first token that opens.
    pub(super) fn extract(&self, headers: &mut HeaderMap, cache: &mut PinCache) -> PinLookup {
        let fields = headers.get_all(COOKIE).iter();
        let tokens = fields.flat_map(|field| values(field.as_bytes(), self.name.as_bytes()));
        let (lookup, count) = self.codec.first(tokens, cache);
        if count > 0 {
            edit(headers, |pair| match value_of(pair, self.name.as_bytes()) {
                Some(_) => PairEdit::Remove,
                None => PairEdit::Keep,
            });
        }
        lookup
    }

    /// The codec of the pool's tokens.
    pub(super) fn codec(&self) -> &PinCodec {
        &self.codec
    }

    /// Adds the Set-Cookie field for `pin`. Adds nothing if the system's random source fails: the client then keeps the
    /// cookie that it has.
    pub(super) fn issue(&self, headers: &mut HeaderMap, pin: &Pin, lifetimes: &Lifetimes, tls: bool, now: u64) {
        let attributes = &self.attributes[usize::from(tls)];
        let mut field = String::with_capacity(self.name.len() + super::seal::MAX_TOKEN + attributes.len() + 32);
        field.push_str(&self.name);
        field.push('=');
        if self.codec.seal(pin, &mut field).is_none() {
            return;
        }
        field.push_str(attributes);
        if let (true, Some(absolute)) = (self.permanent, lifetimes.absolute) {
            let left = (pin.issued + absolute).saturating_sub(now);
            field.push_str("; Max-Age=");
            field.push_str(&left.to_string());
        }
        if let Ok(field) = HeaderValue::from_maybe_shared(bytes::Bytes::from(field)) {
            headers.append(SET_COOKIE, field);
            keep_private(headers);
        }
    }
}

fn attributes(settings: &Settings, secure: bool) -> String {
    let mut text = format!("; Path={}", settings.path);
    if let Some(domain) = &settings.domain {
        text.push_str("; Domain=");
        text.push_str(domain);
    }
    for (flag, word) in [(secure, "; Secure"), (settings.http_only, "; HttpOnly")] {
        if flag {
            text.push_str(word);
        }
    }
    text.push_str("; SameSite=");
    text.push_str(settings.same_site.as_str());
    if settings.partitioned {
        text.push_str("; Partitioned");
    }
    text
}

/// Iterates over the values of the cookies named `name` in one Cookie field, without the quotes that some clients put
/// around them.
pub fn values<'a, 'n>(field: &'a [u8], name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
    pairs(field).filter_map(move |pair| value_of(pair, name))
}

/// Iterates over the pairs of a Cookie field, including their spaces. Searches with memchr, since applications' cookies
/// can be long.
pub(super) fn pairs(field: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let field = rest?;
        let end = memchr::memchr(b';', field);
        rest = end.and_then(|end| field.get(end + 1..));
        Some(end.map_or(field, |end| &field[..end]))
    })
}

/// Returns the value of one `name=value` pair if it has this name. Cookie names are case-sensitive (RFC 6265 §4.1.1);
/// spaces around name and value don't count (§5.2).
fn value_of<'a>(pair: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = pair.trim_ascii_start().strip_prefix(name)?;
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    Some(unquoted.unwrap_or(value))
}

/// Splits one pair into name and value, without the spaces and quotes around them.
pub(super) fn parts(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'=', pair)?;
    let name = pair[..at].trim_ascii();
    Some((name, value_of(pair, name)?))
}

/// What to do with one pair of a Cookie field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PairEdit {
    Keep,
    Remove,
    /// Removes the last character of the name.
    DropSuffix,
}

/// Applies `edit_of` to every pair of all Cookie fields. A field whose pairs all stay keeps its bytes; a field whose
/// pairs are all removed is removed.
pub(super) fn edit(headers: &mut HeaderMap, edit_of: impl Fn(&[u8]) -> PairEdit) {
    let Entry::Occupied(mut entry) = headers.entry(COOKIE) else { return };
    let mut fields = entry.iter();
    if let (Some(only), None) = (fields.next(), fields.next()) {
        match edited(only.as_bytes(), &edit_of) {
            None => drop(entry.remove()),
            Some(rest) => *entry.get_mut() = rest,
        }
        return;
    }
    let (_, fields) = entry.remove_entry_mult();
    let kept: Vec<_> = fields.filter_map(|field| edited(field.as_bytes(), &edit_of)).collect();
    for field in kept {
        headers.append(COOKIE, field);
    }
}

/// Returns an edited Cookie field, in which the remaining pairs keep all their spaces and quotes, or `None` if no pair
/// remains.
fn edited(field: &[u8], edit_of: impl Fn(&[u8]) -> PairEdit) -> Option<HeaderValue> {
    let mut rest = Vec::new();
    for pair in pairs(field) {
        let edit = edit_of(pair);
        if edit == PairEdit::Remove {
            continue;
        }
        let mut pair = pair;
        if rest.is_empty() {
            // Not earlier: most clients send no other cookie than the routing cookie.
            rest.reserve_exact(field.len());
            // The space before the first remaining pair separated it from a removed one.
            pair = pair.trim_ascii_start();
        } else {
            rest.push(b';');
        }
        let name = memchr::memchr(b'=', pair).map_or(pair, |at| &pair[..at]);
        match name.trim_ascii_end().split_last().filter(|_| edit == PairEdit::DropSuffix) {
            Some((_, shortened)) => {
                rest.extend_from_slice(shortened);
                rest.extend_from_slice(&pair[shortened.len() + 1..]);
            }
            None => rest.extend_from_slice(pair),
        }
    }
    if rest.is_empty() {
        return None;
    }
    // Parts of a valid field value form a valid field value.
    HeaderValue::from_maybe_shared(bytes::Bytes::from(rest)).ok()
}

#[cfg(test)]
mod tests {
    use super::super::seal::SealingKey;
    use super::*;
    use proptest::prelude::*;

    fn settings() -> Settings {
        Settings {
            name: "lp".into(),
            path: "/".into(),
            domain: None,
            secure: None,
            http_only: true,
            same_site: SameSite::Lax,
            partitioned: false,
            lifetime: LifetimeType::Session,
        }
    }

    fn ring() -> Arc<KeyRing> {
        Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).unwrap(), Vec::new()))
    }

    fn pin() -> Pin {
        let (term, replica) = (0, None);
        Pin { session: 1, backend: "a".into(), incarnation: 2, issued: 100, last_seen: 100, term, replica }
    }

    fn set_cookie(settings: &Settings, lifetimes: Lifetimes, now: u64) -> String {
        let mut headers = HeaderMap::new();
        CookieCarrier::new("app", settings, &ring()).issue(&mut headers, &pin(), &lifetimes, false, now);
        headers[SET_COOKIE].to_str().unwrap().to_owned()
    }

    fn request(fields: &[&[u8]]) -> HeaderMap {
        fields.iter().map(|field| (COOKIE, HeaderValue::from_bytes(field).unwrap())).collect()
    }

    fn left(headers: &HeaderMap) -> Vec<&[u8]> {
        headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect()
    }

    #[test]
    fn a_cookie_is_secure_where_the_client_speaks_tls_unless_configured_otherwise() {
        for (configured, tls, is_secure) in
            [(None, false, false), (None, true, true), (Some(true), false, true), (Some(false), true, false)]
        {
            let settings = Settings { secure: configured, ..settings() };
            let mut headers = HeaderMap::new();
            CookieCarrier::new("app", &settings, &ring()).issue(&mut headers, &pin(), &Lifetimes::default(), tls, 100);
            assert_eq!(headers[SET_COOKIE].to_str().unwrap().contains("; Secure"), is_secure, "{configured:?} {tls}");
        }
    }

    #[test]
    fn attributes_are_as_configured() {
        let session = set_cookie(&settings(), Lifetimes { absolute: Some(60), idle: None }, 100);
        assert!(session.starts_with("lp=") && session.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{session}");
        let all = Settings {
            path: "/app".into(),
            domain: Some("example.com".into()),
            secure: Some(true),
            http_only: false,
            same_site: SameSite::None,
            partitioned: true,
            lifetime: LifetimeType::Permanent,
            ..settings()
        };
        let permanent = set_cookie(&all, Lifetimes { absolute: Some(60), idle: None }, 110);
        assert!(
            permanent.ends_with("; Path=/app; Domain=example.com; Secure; SameSite=None; Partitioned; Max-Age=50"),
            "{permanent}"
        );
    }

    #[test]
    fn the_routing_cookie_is_removed_and_every_other_byte_stays() {
        let cookie = CookieCarrier::new("app", &settings(), &ring());
        for (before, after) in [
            (&[&b"lp=x"[..]][..], &[][..]),
            (&[b"a=1; lp=x; b=2"], &[&b"a=1; b=2"[..]]),
            (&[b"lp=x; b=2"], &[b"b=2"]),
            (&[b"b=2; lp=x"], &[b"b=2"]),
            (&[b"b=2;lp=x;c=\"3; \""], &[b"b=2;c=\"3; \""]),
            (&[b"b=2", b"lp=x", b"c=3;  d"], &[b"b=2", b"c=3;  d"]),
            (&[b"lp=x; a=1; lp=y"], &[b"a=1"]),
            (&[b"LP=x; lpx=1; xlp=2; a=lp=3"], &[b"LP=x; lpx=1; xlp=2; a=lp=3"]),
            (&[b" odd ; =; ;;\xff=\"\\"], &[b" odd ; =; ;;\xff=\"\\"]),
            (&[b"a=1; lp = \"x\" ; b=2"], &[b"a=1; b=2"]),
        ] {
            let mut headers = request(before);
            cookie.extract(&mut headers, &mut PinCache::default());
            assert_eq!(left(&headers), after, "{before:?}");
        }
    }

    proptest! {
        #[test]
        fn stripping_leaves_every_pair_of_another_name(
            pairs in prop::collection::vec("[a-c l=p\"]{0,6}", 0..6)
        ) {
            let field = pairs.join(";");
            let mut headers = request(&[field.as_bytes()]);
            CookieCarrier::new("app", &settings(), &ring()).extract(&mut headers, &mut PinCache::default());
            let rest = left(&headers).first().map(|field| field.to_vec()).unwrap_or_default();
            prop_assert_eq!(values(&rest, b"lp").count(), 0);
            let others = |field: &[u8]| -> Vec<Vec<u8>> {
                let pairs = field.split(|byte| *byte == b';').filter(|pair| value_of(pair, b"lp").is_none());
                pairs.map(|pair| pair.trim_ascii_start().to_vec()).filter(|pair| !pair.is_empty()).collect()
            };
            prop_assert_eq!(others(&rest), others(field.as_bytes()));
        }

        #[test]
        fn no_cookie_field_panics(field in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&field) {
                let mut headers = HeaderMap::new();
                headers.insert(COOKIE, value);
                CookieCarrier::new("app", &settings(), &ring()).extract(&mut headers, &mut PinCache::default());
            }
        }
    }
}
