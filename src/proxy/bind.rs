//! Owns: the step that pins a client to the backend that has served it.
//! Invariant: no pin goes out with a preflight, a prefetch, or a response of 502 to 504.
//! Must not know: where a pin travels.

use http::header::HeaderMap;
use http::{Method, StatusCode, request};

use super::client::ClientIdentity;
use super::snapshot::Service;
use crate::affinity::{BindContext, Decision, SessionEffect, SessionKey};
use crate::clock;

/// The facts of a request that decide whether its response may carry a pin.
pub(super) struct BindFacts {
    is_sessionless: bool,
    deletes: bool,
    tls: bool,
    key: Option<SessionKey>,
}

impl BindFacts {
    pub(super) fn of(head: &request::Parts, identity: ClientIdentity, key: Option<SessionKey>) -> BindFacts {
        BindFacts {
            is_sessionless: is_sessionless(&head.method, &head.headers),
            deletes: head.method == Method::DELETE,
            tls: identity.is_secure,
            key,
        }
    }

    /// Returns the key of the application's session id, if the request has one.
    pub(super) fn key(&self) -> Option<SessionKey> {
        self.key
    }

    /// Returns whether the request says nothing about its client's session.
    pub(super) fn is_sessionless(&self) -> bool {
        self.is_sessionless
    }
}

/// Issues, renews or learns the pin that follows from the response of the backend at `index`. Returns what the response
/// means for the session.
pub(super) fn bind(
    service: &Service,
    request: &BindFacts,
    decision: &Decision,
    index: usize,
    status: StatusCode,
    headers: &mut HeaderMap,
) -> SessionEffect {
    if !service.affinity.is_on() {
        return SessionEffect::default();
    }
    let now = clock::unix().as_secs();
    let is_working = !matches!(status.as_u16(), 502..=504);
    let context = BindContext {
        decision,
        pool: &service.pool,
        served_by: index,
        is_working,
        is_sessionless: request.is_sessionless,
        ended: request.deletes && status.is_success(),
        tls: request.tls,
        now,
    };
    let effect = service.affinity.session_effect(headers, context);
    service.affinity.bind(headers, request.key, context);
    effect
}

/// Returns whether a request is a CORS preflight (Fetch standard), which browsers send without cookies, or a prefetch
/// (Sec-Purpose of the Fetch standard, and its predecessors), whose page the user may never open.
fn is_sessionless(method: &Method, headers: &HeaderMap) -> bool {
    if *method == Method::OPTIONS {
        return headers.contains_key("access-control-request-method");
    }
    // One pass over all names: a lookup of each of the three would cost a hash each.
    headers.iter().any(|(name, value)| {
        let words = || value.as_bytes().split(|byte| !byte.is_ascii_alphanumeric());
        matches!(name.as_str(), "sec-purpose" | "purpose" | "x-moz")
            && words()
                .any(|word| [&b"prefetch"[..], b"prerender"].iter().any(|purpose| word.eq_ignore_ascii_case(purpose)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn preflights_and_prefetches_are_sessionless() {
        for (method, name, value, expected) in [
            (Method::OPTIONS, "access-control-request-method", "PUT", true),
            (Method::OPTIONS, "origin", "http://a", false),
            (Method::GET, "access-control-request-method", "PUT", false),
            (Method::GET, "sec-purpose", "prefetch;prerender", true),
            (Method::GET, "purpose", "Prefetch", true),
            (Method::GET, "x-moz", "prefetch", true),
            (Method::GET, "sec-purpose", "prefetched", false),
        ] {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]);
            assert_eq!(is_sessionless(&method, &headers), expected, "{method} {name}: {value}");
        }
    }
}
