//! Owns: what a route changes of a request on its way in, and of an answer on its way out.
//! Invariant: a client is bound after its answer was edited, so that what persistence says of caching is said last.
//! Must not know: which fields and paths those are.

use http::request;

use super::error::ProxyError;
use super::fields::Fields;
use super::route::RouteEntry;

/// What a route does to fields.
pub(super) struct Edits {
    pub(super) request: Fields,
    pub(super) response: Fields,
}

impl Edits {
    /// A copy for one thread, if there is anything to be done.
    pub(super) fn of(route: &RouteEntry) -> Option<Edits> {
        let has = !route.request.is_empty() || !route.response.is_empty();
        has.then(|| Edits { request: route.request.deep_clone(), response: route.response.deep_clone() })
    }
}

/// Makes the head of a request what its backend is to see.
///
/// # Errors
/// The target would be longer than a target can be.
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
