//! Owns: the formats of bodies: a form or JSON in requests, HTML or JSON in responses.
//! Invariant: handlers see fields and one boolean, never a media type.
//! Must not know: what the fields mean.

use std::convert::Infallible;

use axum::extract::{Form, FromRequest, FromRequestParts, Json, Request};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use serde::de::DeserializeOwned;

/// The fields of a request's body, read as JSON if its `Content-Type` says so, else as a form.
pub(super) struct Fields<T>(pub(super) T);

impl<S, T> FromRequest<S> for Fields<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
{
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        if mentions_json(request.headers(), &CONTENT_TYPE) {
            let fields = Json::from_request(request, state).await;
            fields.map(|Json(fields)| Self(fields)).map_err(IntoResponse::into_response)
        } else {
            let fields = Form::from_request(request, state).await;
            fields.map(|Form(fields)| Self(fields)).map_err(IntoResponse::into_response)
        }
    }
}

/// Whether the client asks for JSON. A browser never does; `curl` does with `-H 'accept: application/json'`.
#[derive(Clone, Copy)]
pub(super) struct WantsJson(pub(super) bool);

impl<S: Sync> FromRequestParts<S> for WantsJson {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self(mentions_json(&parts.headers, &ACCEPT)))
    }
}

fn mentions_json(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.to_ascii_lowercase().contains("application/json"))
}
