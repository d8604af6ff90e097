//! Owns: a request as a connection gets it: borrowed for HTTP/1.1, which writes it at once, and copied for HTTP/2.
//! Invariant: the fields stay with their owner, so that a further attempt has them, whatever the connection does.
//! Must not know: connections.

use std::cell::Ref;

use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

/// The header section of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'r> {
    /// The method.
    pub method: &'r Method,
    /// The path and query.
    pub target: &'r Uri,
    /// The fields.
    pub fields: &'r HeaderMap,
    /// A field beside them.
    pub added: Option<(&'r HeaderName, &'r HeaderValue)>,
}

/// A request as one attempt sends it. Its header section stays where it is, for another attempt.
pub struct OutgoingRequest<'r, B> {
    /// The method.
    pub method: &'r Method,
    /// The path and query.
    pub target: &'r Uri,
    /// The fields.
    pub fields: Ref<'r, HeaderMap>,
    /// What this attempt alone says. Beside the fields: to put it among them for HTTP/1.1 costs more than to write it.
    pub added: Option<(&'r HeaderName, Ref<'r, HeaderValue>)>,
    /// The scheme that HTTP/2 names.
    pub scheme: Scheme,
    /// The body.
    pub body: B,
}

impl<B> OutgoingRequest<'_, B> {
    /// Copies it to a request of HTTP/2.
    pub(super) fn into_http2(self) -> Request<B> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.fields.clone();
        if let Some((name, value)) = self.added {
            request.headers_mut().insert(name.clone(), value.clone());
        }
        to_http2(&mut request, self.scheme);
        request
    }
}

/// Converts a request to HTTP/2: moves Host into the target, and removes Connection (RFC 9113 §8.2.2, §8.3.1).
pub fn to_http2<B>(request: &mut Request<B>, scheme: Scheme) {
    let host = request.headers_mut().remove(HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority.unwrap_or(Authority::from_static("localhost")));
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request.headers_mut().remove(CONNECTION);
    *request.version_mut() = Version::HTTP_2;
}
