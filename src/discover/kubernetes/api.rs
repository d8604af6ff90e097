//! Owns: requests to the API server: one list or one watch of a Service's EndpointSlices, each on its own connection.
//! Invariant: connecting and each response have a time limit, and what is read of one is bounded; errors quote no response.
//! Must not know: what is done with what the server says.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::super::settings::{ApiServer, Kubernetes};
use super::connection::{ConnectionTask, connect};
use super::credentials::Credentials;
use super::endpoint_slice::EndpointSliceList;
use super::watch_stream::WatchStream;
use crate::reason::Reason;

/// How long it may take to connect, the handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to begin a response, and to send one page of a list.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest page, in bytes: more than fifty slices of a thousand endpoints take.
const MAX_PAGE: usize = 64 << 20;

/// Why a request has failed.
#[derive(Debug)]
pub(super) enum RequestError {
    /// The server no longer knows the version, or the page, that was asked for: 410.
    Gone,
    /// The server can't be reached or has too much to do: this says nothing about the version that was asked for. It may
    /// have said after which time to ask again.
    Unavailable { why: String, retry_after: Option<Duration> },
    /// Something else, in words.
    Failed(String),
}

impl RequestError {
    /// Returns the error that a status other than 200 means.
    pub(super) fn of_status(status: u16, retry_after: Option<Duration>) -> RequestError {
        let hint = match status {
            410 => return RequestError::Gone,
            401 => ": it does not accept the token",
            403 => ": the service account may not get, list and watch endpointslices in this namespace",
            404 => ": it does not know discovery.k8s.io/v1",
            429 => ": too many requests",
            _ => "",
        };
        let why = format!("the API server answered {status}{hint}");
        match status {
            429 | 502 | 503 => RequestError::Unavailable { why, retry_after },
            _ => RequestError::Failed(why),
        }
    }

    fn unavailable(why: String) -> RequestError {
        RequestError::Unavailable { why, retry_after: None }
    }

    /// Returns after which time to ask again, if the server has said so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            RequestError::Unavailable { retry_after, .. } => *retry_after,
            RequestError::Gone | RequestError::Failed(_) => None,
        }
    }
}

/// Asks for the EndpointSlices of one Service.
pub(super) struct ApiClient<'a> {
    settings: &'a Kubernetes,
    /// The reading of the token and the authorities, while it goes on: a file system that hangs blocks one thread.
    reading: Option<JoinHandle<Result<Credentials, String>>>,
}

impl<'a> ApiClient<'a> {
    pub(super) fn new(settings: &'a Kubernetes) -> ApiClient<'a> {
        ApiClient { settings, reading: None }
    }

    /// Lists up to `limit` slices, from the page on that `next` names.
    pub(super) async fn list(&mut self, limit: usize, next: Option<&str>) -> Result<EndpointSliceList, RequestError> {
        let next = next.map(|next| format!("&continue={}", escaped(next))).unwrap_or_default();
        let (response, _connection) = self.get(&format!("limit={limit}{next}")).await?;
        let body = timeout(RESPONSE_TIMEOUT, Limited::new(response.into_body(), MAX_PAGE).collect()).await;
        let body = match body {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) => return Err(broken(Reason::of(&*error))),
            Err(_) => return Err(RequestError::unavailable("the API server did not answer in time".into())),
        };
        let malformed = |_| RequestError::Failed("the API server's list is malformed".into());
        serde_json::from_slice(&body).map_err(malformed)
    }

    /// Watches the slices from `version` on, for so many seconds. With an empty one the watch begins with all slices.
    pub(super) async fn watch(&mut self, version: &str, seconds: u64) -> Result<WatchStream, RequestError> {
        let version = if version.is_empty() { String::new() } else { format!("&resourceVersion={}", escaped(version)) };
        let query = format!("watch=true&allowWatchBookmarks=true{version}&timeoutSeconds={seconds}");
        let (response, connection) = self.get(&query).await?;
        Ok(WatchStream::new(response.into_body(), connection, Duration::from_secs(seconds)))
    }

    async fn get(&mut self, query: &str) -> Result<(Response<Incoming>, ConnectionTask), RequestError> {
        let credentials = self.credentials().await.map_err(RequestError::unavailable)?;
        let ApiServer { host, port } = &credentials.server;
        let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let failed = |what: &str| RequestError::unavailable(format!("{what} (API server {server})"));
        let connecting = timeout(CONNECT_TIMEOUT, connect(&credentials)).await;
        let (mut sender, connection) = match connecting {
            Ok(connected) => connected.map_err(|reason| failed(&reason.to_string()))?,
            Err(_) => return Err(failed("connecting timed out")),
        };
        let Kubernetes { namespace, service, .. } = self.settings;
        let request = Request::get(format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}&{query}"
        ))
        .header(HOST, &server)
        .header(USER_AGENT, HeaderValue::from_static(concat!("linchpin/", env!("CARGO_PKG_VERSION"))))
        .header(ACCEPT, HeaderValue::from_static("application/json"))
        .header(AUTHORIZATION, credentials.authorization)
        .body(Empty::<Bytes>::new())
        .map_err(|_| failed("the request cannot be written"))?;
        match timeout(RESPONSE_TIMEOUT, sender.send_request(request)).await {
            Ok(Ok(response)) if response.status() == StatusCode::OK => Ok((response, connection)),
            Ok(Ok(response)) => Err(RequestError::of_status(response.status().as_u16(), retry_after(&response))),
            Ok(Err(error)) => Err(failed(&Reason::of(&error).to_string())),
            Err(_) => Err(failed("no response in time")),
        }
    }

    async fn credentials(&mut self) -> Result<Credentials, String> {
        let settings = self.settings;
        let reading = self.reading.get_or_insert_with(|| {
            let settings = settings.clone();
            tokio::task::spawn_blocking(move || Credentials::read(&settings))
        });
        let read = timeout(CONNECT_TIMEOUT, reading).await;
        let read = read.map_err(|_| "the token could not be read in time: its file system does not respond")?;
        self.reading = None;
        read.map_err(|_| "the token could not be read")?
    }
}

/// Returns the seconds of a Retry-After. API servers write no dates.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Returns the error of a response that broke off.
fn broken(reason: Reason) -> RequestError {
    RequestError::unavailable(format!("the API server's response broke off: {reason}"))
}

/// Writes a value into a query (RFC 3986 §3.4).
fn escaped(value: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(byte).collect()
}
