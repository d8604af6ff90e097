//! Owns: the carrier for clients without cookies: a sealed pin in a field of requests and responses.
//! Invariant: a client's field never reaches a backend, and a backend's field of this name never reaches a client.
//! Must not know: cookies, or whether a pin holds.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::caching::keep_private;
use super::lookup::PinLookup;
use super::pin_cache::{PinCache, PinCodec};
use super::seal::{KeyRing, Pin};

/// `header = { … }` of `[pools.persistence]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the field, in requests and responses.
    pub name: HeaderName,
}

/// The pin field of one pool.
#[derive(Debug)]
pub(super) struct HeaderCarrier {
    name: HeaderName,
    codec: PinCodec,
}

impl HeaderCarrier {
    pub(super) fn new(pool: &str, settings: &Settings, ring: &Arc<KeyRing>) -> HeaderCarrier {
        HeaderCarrier { name: settings.name.clone(), codec: PinCodec::new(pool, settings.name.as_str(), ring) }
    }

    /// Removes all fields of this name from the request and reads the first token that opens.
    pub(super) fn extract(&self, headers: &mut HeaderMap, cache: &mut PinCache) -> PinLookup {
        let tokens = headers.get_all(&self.name).iter().map(|value| value.as_bytes().trim_ascii());
        let (lookup, count) = self.codec.first(tokens.filter(|token| !token.is_empty()), cache);
        if count > 0 || headers.contains_key(&self.name) {
            headers.remove(&self.name);
        }
        lookup
    }

    /// Sets the field to the token for `pin`. Without a pin, only removes what a backend may have sent under this name.
    pub(super) fn set(&self, headers: &mut HeaderMap, pin: Option<&Pin>) {
        headers.remove(&self.name);
        let Some(pin) = pin else { return };
        let mut token = String::with_capacity(super::seal::MAX_TOKEN);
        if self.codec.seal(pin, &mut token).is_none() {
            return;
        }
        if let Ok(token) = HeaderValue::from_maybe_shared(bytes::Bytes::from(token)) {
            headers.insert(self.name.clone(), token);
            keep_private(headers);
        }
    }

    /// The codec of the pool's tokens.
    pub(super) fn codec(&self) -> &PinCodec {
        &self.codec
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::SealingKey;
    use super::*;
    use http::header::CACHE_CONTROL;

    #[test]
    fn the_field_carries_the_pin_in_both_directions_and_reaches_no_backend() {
        let ring = Arc::new(KeyRing::new(SealingKey::new("k", &[1; 32]).unwrap(), Vec::new()));
        let settings = Settings { name: HeaderName::from_static("x-pin") };
        let header = HeaderCarrier::new("app", &settings, &ring);
        let (backend, replica) = ("a".into(), Some("b".into()));
        let pin = Pin { session: 1, backend, incarnation: 2, issued: 100, last_seen: 100, term: 3, replica };

        let mut response = HeaderMap::from_iter([(settings.name.clone(), HeaderValue::from_static("a backend's"))]);
        header.set(&mut response, Some(&pin));
        assert_eq!(response.get_all("x-pin").iter().count(), 1);
        assert_eq!(response[CACHE_CONTROL], "private");

        let mut cache = PinCache::default();
        let mut request = HeaderMap::new();
        for value in ["", "garbage", response["x-pin"].to_str().unwrap()] {
            request.append("x-pin", HeaderValue::from_str(value).unwrap());
        }
        assert_eq!(header.extract(&mut request, &mut cache), PinLookup::Pinned(Arc::new(pin)));
        assert!(request.is_empty());
        assert_eq!(header.extract(&mut request, &mut cache), PinLookup::Absent);

        header.set(&mut response, None);
        assert!(!response.contains_key("x-pin"));
    }
}
