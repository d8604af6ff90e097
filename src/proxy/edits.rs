//! Owns: what a route changes of a request on its way in, and of an answer on its way out.
//! Invariant: a client is bound after its answer was edited, so that what persistence says of caching is said last.
//! Must not know: which fields and paths those are.

use http::header::{HeaderMap, HeaderValue};
use http::{Response, request};

use super::error::ProxyError;
use super::exchange::Exchange;
use super::fields::Fields;
use super::redirect::Redirect;
use super::route::Way;

/// What a route does to fields.
pub(super) struct Edits {
    pub(super) request: Fields,
    pub(super) response: Fields,
}

impl Edits {
    /// A copy for one thread, if there is anything to be done.
    pub(super) fn of(way: &Way) -> Option<Edits> {
        let has = !way.request.is_empty() || !way.response.is_empty();
        has.then(|| Edits { request: way.request.apart(), response: way.response.apart() })
    }
}

impl Exchange {
    /// Makes the head of a request what its backend is to see.
    ///
    /// # Errors
    /// The target would be longer than a target can be.
    pub(super) fn edit_request(&self, way: &Way, head: &mut request::Parts) -> Result<(), ProxyError> {
        if let Some(rewrite) = &way.rewrite {
            head.uri = rewrite.apply(std::mem::take(&mut head.uri)).ok_or(ProxyError::TargetTooLong)?;
        }
        if let Some(edits) = self.edits() {
            edits.request.apply(&mut head.headers);
        }
        Ok(())
    }

    /// Does what the route says to the fields of a backend's answer.
    pub(super) fn edit_response(&self, headers: &mut HeaderMap) {
        if let Some(edits) = self.edits() {
            edits.response.apply(headers);
        }
    }

    /// The same, to an answer of our own, whose own fields stay.
    pub(super) fn dress(&self, headers: &mut HeaderMap) {
        if let Some(edits) = self.edits() {
            edits.response.dress(headers);
        }
    }

    /// The answer of a listener, or of a route with this prefix, that leads elsewhere.
    pub(super) fn send_away(
        &self,
        redirect: &Redirect,
        prefix: &str,
        host: Option<&HeaderValue>,
        head: &request::Parts,
    ) -> Result<Response<()>, ProxyError> {
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        let answer = redirect.answer(host, self.origin().is_secure, &head.uri, prefix);
        answer.ok_or(ProxyError::Malformed("The request has no Host field."))
    }
}
