//! Owns: the ETag of what can be set of a backend, and the precondition If-Match of requests that set it.
//! Invariant: a request whose precondition fails changes nothing; nothing else runs between the check and the change.
//! Must not know: what a request changes.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{ETAG, HeaderValue, IF_MATCH};
use http::{HeaderMap, StatusCode};

use super::change::Target;
use super::sources::StatusSources;
use crate::pool::Backend;
use crate::pool::drain::Drain;
use crate::pool::hash::stable_hash;

/// The longest body, as for all paths.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Checks the precondition of a request below a backend, and adds the backend's ETag to a response that succeeds.
pub(super) async fn check(
    State(facts): State<Arc<StatusSources>>,
    Path((pool, backend)): Path<(String, String)>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    // Now, since the handler must not wait for it: another request could change the backend meanwhile.
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return (StatusCode::PAYLOAD_TOO_LARGE, "Send a body of 64 KiB at most.\n").into_response();
    };
    if let Some(current) = etag(&facts, &pool, &backend)
        && !holds(&parts.headers, &current)
    {
        let why = format!(
            "Somebody has changed {pool}/{backend} since you looked: its ETag is {} now. Look again, then decide.\n",
            String::from_utf8_lossy(current.as_bytes())
        );
        return (StatusCode::PRECONDITION_FAILED, [(ETAG, current)], why).into_response();
    }
    let mut response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if response.status().is_success()
        && let Some(current) = etag(&facts, &pool, &backend)
    {
        response.headers_mut().insert(ETAG, current);
    }
    response
}

fn etag(facts: &StatusSources, pool: &str, backend: &str) -> Option<HeaderValue> {
    let entries = facts.pools.load();
    Target::find(&entries, pool, backend).ok().and_then(|target| etag_of(target.backend()))
}

/// Makes the ETag of what can be set of a backend: its counts change with every request, and would make each stale.
fn etag_of(backend: &Backend) -> Option<HeaderValue> {
    let live = backend.live();
    let drain = live.draining().current().filter(Drain::is_running);
    let state = live.wanted().as_str();
    let settable = format!("{} {} {state} {} {drain:?}", live.id(), backend.address(), live.weight());
    HeaderValue::try_from(format!("\"{:016x}\"", stable_hash(settable.as_bytes()))).ok()
}

/// Evaluates If-Match by strong comparison (RFC 9110 §13.1.1). Without the field, it holds.
fn holds(headers: &HeaderMap, current: &HeaderValue) -> bool {
    let mut fields = headers.get_all(IF_MATCH).iter().peekable();
    let is_current = |tag: &[u8]| tag == b"*" || tag == current.as_bytes();
    fields.peek().is_none()
        || fields.any(|field| field.as_bytes().split(|byte| *byte == b',').any(|tag| is_current(tag.trim_ascii())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_precondition_holds_for_the_current_tag_alone() {
        let current = HeaderValue::from_static("\"5\"");
        let holds = |values: &[&'static str]| {
            let fields = values.iter().map(|value| (IF_MATCH, HeaderValue::from_static(value)));
            holds(&fields.collect(), &current)
        };
        for good in [&[][..], &["\"5\""], &["*"], &["\"4\", \"5\""], &["\"4\"", "\"5\""]] {
            assert!(holds(good), "{good:?}");
        }
        for bad in [&["\"4\""][..], &["W/\"5\""], &["5"], &[""]] {
            assert!(!holds(bad), "{bad:?}");
        }
    }
}
