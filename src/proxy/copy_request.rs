//! Owns: the request that gives a session's copy to a backend, or tells it that the session has ended.
//! Invariant: it says nothing of the client but the Host of its request.
//! Must not know: connections, why the copy is given.

use std::cell::{Ref, RefCell};
use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{Method, Uri};

use super::body::RequestBody;
use crate::copies::fields::{self, PATH};
use crate::pool::Backend;
use crate::upstream::OutgoingRequest;

/// What a backend is for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The session's requests go there next.
    Primary,
    /// It keeps the copy of a session of another backend.
    Secondary,
}

impl Role {
    fn value(self) -> HeaderValue {
        match self {
            Role::Primary => HeaderValue::from_static("primary"),
            Role::Secondary => HeaderValue::from_static("secondary"),
        }
    }
}

/// A copy, and what the request that carries it says.
#[derive(Clone, Copy)]
pub(super) struct CopyRequest<'a> {
    /// The session and the version, as a `Linchpin-Session`.
    pub(super) field: Option<&'a HeaderValue>,
    pub(super) role: Role,
    /// `None` if the session has ended at this version.
    pub(super) bytes: Option<&'a Bytes>,
    /// The Host of the session's request.
    pub(super) host: Option<&'a HeaderValue>,
}

impl CopyRequest<'_> {
    /// Makes the request to this backend.
    pub(super) fn request<'f>(
        &self,
        fields: &'f CopyFields,
        backend: &Backend,
        scheme: Scheme,
    ) -> OutgoingRequest<'f, RequestBody> {
        OutgoingRequest {
            method: if self.bytes.is_some() { &PUT } else { &DELETE },
            target: &COPIES_URI,
            fields: fields.of(self, backend),
            added: None,
            scheme,
            body: RequestBody::Bytes(self.bytes.cloned()),
        }
    }
}

/// Where a server takes copies: parsed once.
static COPIES_URI: LazyLock<Uri> = LazyLock::new(|| Uri::from_static(PATH));
static PUT: Method = Method::PUT;
static DELETE: Method = Method::DELETE;

/// The fields of the requests that give and drop copies, with the values of the last one. They are made once a thread: a
/// connection writes them at once, and only their values differ.
pub(super) struct CopyFields {
    gives: RefCell<HeaderMap>,
    drops: RefCell<HeaderMap>,
}

impl Default for CopyFields {
    fn default() -> CopyFields {
        let later = HeaderValue::from_static("");
        let drops = HeaderMap::from_iter([(HOST, later.clone()), (fields::SESSION.clone(), later.clone())]);
        let mut gives = drops.clone();
        gives.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        gives.insert(fields::ROLE, later);
        CopyFields { gives: RefCell::new(gives), drops: RefCell::new(drops) }
    }
}

impl CopyFields {
    /// Returns the fields of a request to this backend.
    fn of(&self, copy: &CopyRequest<'_>, backend: &Backend) -> Ref<'_, HeaderMap> {
        let map = if copy.bytes.is_some() { &self.gives } else { &self.drops };
        // As in the session's request, which may have none.
        let own = || backend.address().tcp().and_then(|address| HeaderValue::try_from(address.to_string()).ok());
        for (name, value) in &mut *map.borrow_mut() {
            if *name == HOST {
                *value = copy.host.cloned().or_else(own).unwrap_or(HeaderValue::from_static("localhost"));
            } else if *name == fields::SESSION {
                *value = copy.field.cloned().unwrap_or(HeaderValue::from_static(""));
            } else if *name == fields::ROLE {
                *value = copy.role.value();
            }
        }
        map.borrow()
    }
}
