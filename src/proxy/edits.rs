//! Owns: a route's changes to requests and responses.
//! Invariant: the client is pinned after its response was edited, so persistence has the last word on caching.
//! Must not know: which fields and paths a route changes.

use http::request;

use super::error::ProxyError;
use super::fields::Fields;
use super::route::RouteEntry;

/// A route's changes to header fields.
pub(super) struct Edits {
    pub(super) request: Fields,
    pub(super) response: Fields,
}

impl Edits {
    /// Copies the changes for one thread, if there are any.
    pub(super) fn of(route: &RouteEntry) -> Option<Edits> {
        let has = !route.request.is_empty() || !route.response.is_empty();
        has.then(|| Edits { request: route.request.deep_clone(), response: route.response.deep_clone() })
    }
}

/// Changes the head of a request as its route says.
///
/// # Errors
/// [`ProxyError::TargetTooLong`] if the new target would exceed the limit of the type.
pub(super) fn edit_request(
    route: &RouteEntry,
    edits: Option<&Edits>,
    head: &mut request::Parts,
) -> Result<(), ProxyError> {
    if let Some(rewrite) = &route.rewrite {
        head.uri = rewrite.apply(std::mem::take(&mut head.uri)).ok_or(ProxyError::TargetTooLong)?;
    }
    if let Some(edits) = edits {
        edits.request.apply(&mut head.headers);
    }
    Ok(())
}
