//! Owns: endpoints to test a proxy with: a health check, slow responses, large bodies in both directions.
//! Invariant: each is bounded in time or in size, and none holds a whole body in memory.
//! Must not know: sessions, nor the client.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Json, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Limited;
use serde::Deserialize;
use serde_json::json;

use super::server::Server;

const MAX_SLOW: Duration = Duration::from_secs(30);
const MAX_BYTES: u64 = 1 << 30;
const MAX_ECHO: usize = 1 << 30;

static FILLING: [u8; 64 * 1024] = [b'.'; 64 * 1024];

pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

#[derive(Deserialize)]
pub(super) struct SlowQuery {
    #[serde(default)]
    ms: u64,
}

/// Responds after `ms` milliseconds, or after `MAX_SLOW` if that is less.
pub(super) async fn slow(State(server): State<Arc<Server>>, Query(query): Query<SlowQuery>) -> Response {
    let wait = Duration::from_millis(query.ms).min(MAX_SLOW);
    tokio::time::sleep(wait).await;
    Json(json!({ "server": server.settings.name, "waited_ms": wait.as_millis() })).into_response()
}

#[derive(Deserialize)]
pub(super) struct BytesQuery {
    #[serde(default)]
    n: u64,
}

/// Responds with `n` bytes.
pub(super) async fn bytes(Query(query): Query<BytesQuery>) -> Response {
    if query.n > MAX_BYTES {
        return (StatusCode::BAD_REQUEST, format!("n is at most {MAX_BYTES}\n")).into_response();
    }
    ([(CONTENT_TYPE, "application/octet-stream")], Body::new(FillerBody { left: query.n })).into_response()
}

/// Sends the request's body back while it is still arriving.
pub(super) async fn echo(request: Request) -> Response {
    let (head, body) = request.into_parts();
    if http_body::Body::size_hint(&body).lower() > MAX_ECHO as u64 {
        return (StatusCode::PAYLOAD_TOO_LARGE, format!("a body is at most {MAX_ECHO} bytes\n")).into_response();
    }
    let mut headers = HeaderMap::new();
    if let Some(kind) = head.headers.get(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, kind.clone());
    }
    (headers, Body::new(Limited::new(body, MAX_ECHO))).into_response()
}

/// A body of `left` bytes, all from one static block.
struct FillerBody {
    left: u64,
}

impl http_body::Body for FillerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let block = Bytes::from_static(&FILLING);
        let size = usize::try_from(self.left).map_or(block.len(), |left| left.min(block.len()));
        self.left -= size as u64;
        Poll::Ready(Some(Ok(Frame::data(block.slice(..size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_filler_has_exactly_the_size_it_announces() {
        for n in [0, 1, 65_536, 65_537, 200_000] {
            let body = FillerBody { left: n };
            assert_eq!(http_body::Body::size_hint(&body).exact(), Some(n));
            assert_eq!(body.collect().await.unwrap().to_bytes().len() as u64, n);
        }
    }
}
