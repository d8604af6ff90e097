//! Owns: requests to an ACME server: one connection each, over TLS alone.
//! Invariant: each request has a time limit, what is read of a response is bounded, and errors quote no response.
//! Must not know: what the requests and responses mean.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::uri::{Scheme, Uri};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;

use super::plan::LONGEST_RETRY_AFTER;
use crate::clock;
use crate::reason::Reason;
use crate::tls::Connector;

/// How long a request may take, from connecting to the last byte of the response.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response, in bytes. A chain of certificates has a few KiB.
const MAX_BYTES: usize = 1024 * 1024;

/// Sends requests to an ACME server.
#[derive(Clone)]
pub(super) struct HttpsClient {
    connector: Arc<Connector>,
}

/// Sends requests by another client, and remembers when the server wants to be asked again: the library forgets the
/// fields of an error. Clones share it.
#[derive(Clone)]
pub(super) struct RetryAfterClient {
    client: Arc<dyn HttpClient>,
    /// In seconds, of the last response; 0 for none.
    retry_after: Arc<AtomicU64>,
}

/// The server can't be reached, or gives no usable response. Other orders meet the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreachable(pub(super) String);

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Unreachable {}

impl HttpsClient {
    pub(super) fn new(connector: Connector) -> HttpsClient {
        HttpsClient { connector: Arc::new(connector) }
    }

    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Full<Bytes>>, Unreachable> {
        let (mut parts, body) = request.into_parts();
        let Some((host, port)) = server_of(&parts.uri) else {
            return Err(Unreachable(format!("its URL {:?} is not one with https", origin_of(&parts.uri))));
        };
        let failed = |reason: Reason| Unreachable(format!("{reason} ({host}:{port})"));
        parts.headers.insert(HOST, authority(&host, port).ok_or_else(|| failed(Reason::MALFORMED))?);
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(concat!("linchpin/", env!("CARGO_PKG_VERSION"))));
        // The server is named by Host alone (RFC 9112 §3.2.1).
        parts.uri = parts.uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));

        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        // The system's resolver has no words for it that are a `Reason`.
        let addresses: Vec<_> =
            addresses.map_err(|_| Unreachable(format!("its name {host:?} can't be resolved")))?.collect();
        let connected = async {
            let stream = TcpStream::connect(&*addresses).await?;
            self.connector.connect(self.connector.name_of(&host)?, stream, false).await
        };
        let (stream, _) = connected.await.map_err(|error| failed(Reason::of(&error)))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(Reason::of(&error)))?;
        let exchange = async {
            let response = sender.send_request(Request::from_parts(parts, body)).await;
            let (parts, body) = response.map_err(|error| failed(Reason::of(&error)))?.into_parts();
            let body = Limited::new(body, MAX_BYTES).collect().await;
            let body = body.map_err(|error| failed(Reason::of(&*error)))?.to_bytes();
            Ok(Response::from_parts(parts, Full::new(body)))
        };
        tokio::pin!(exchange, connection);
        let mut is_closed = false;
        loop {
            tokio::select! {
                biased;
                response = &mut exchange => return response,
                // Its end shows in the response.
                _ = &mut connection, if !is_closed => is_closed = true,
            }
        }
    }
}

impl HttpClient for HttpsClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let sent = tokio::time::timeout(TIMEOUT, client.send(request)).await;
            let sent = sent.unwrap_or_else(|_| Err(Unreachable(format!("no response within {TIMEOUT:?} ({host})"))));
            Ok(sent.map_err(|error| Error::Other(Box::new(error)))?.into())
        })
    }
}

impl RetryAfterClient {
    pub(super) fn new(client: Arc<dyn HttpClient>) -> RetryAfterClient {
        RetryAfterClient { client, retry_after: Arc::default() }
    }

    /// Returns the seconds after which the server wants to be asked again, if its last response was an error and said so.
    pub(super) fn retry_after(&self) -> Option<u64> {
        Some(self.retry_after.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0)
    }
}

impl HttpClient for RetryAfterClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (sent, known) = (self.client.request(request), Arc::clone(&self.retry_after));
        Box::pin(async move {
            known.store(0, Ordering::Relaxed);
            let mut response = sent.await?;
            let headers = &mut response.parts.headers;
            let seconds = retry_after(headers).map(|seconds| seconds.min(LONGEST_RETRY_AFTER));
            // The library adds any number to the time, which panics if that has no such time. Of both forms, and of any
            // text, it gets seconds that it can add, or nothing.
            match seconds {
                Some(seconds) => drop(headers.insert(RETRY_AFTER, HeaderValue::from(seconds))),
                None => drop(headers.remove(RETRY_AFTER)),
            }
            if !response.parts.status.is_success() {
                known.store(seconds.unwrap_or(0), Ordering::Relaxed);
            }
            Ok(response)
        })
    }
}

/// Returns the host and port of a URL with `https`.
fn server_of(uri: &Uri) -> Option<(String, u16)> {
    let host = uri.host().filter(|_| uri.scheme() == Some(&Scheme::HTTPS))?;
    // An IPv6 address is in brackets there only.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    Some((host.into(), uri.port_u16().unwrap_or(443)))
}

/// Returns the scheme and host of a URL, which may be shown. What else is in it may be a secret of the server's.
fn origin_of(uri: &Uri) -> String {
    let (scheme, host) = (uri.scheme_str(), uri.host().unwrap_or_default());
    scheme.map_or_else(|| host.to_owned(), |scheme| format!("{scheme}://{host}"))
}

fn authority(host: &str, port: u16) -> Option<HeaderValue> {
    let host = if host.contains(':') { format!("[{host}]") } else { host.into() };
    HeaderValue::try_from(if port == 443 { host } else { format!("{host}:{port}") }).ok()
}

/// Reads Retry-After: seconds, or a time (RFC 9110 §10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(value.parse().unwrap_or(u64::MAX));
    }
    let at = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(at.saturating_sub(clock::unix()).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Folder;
    use crate::tls::tests::authority::Authority;

    #[test]
    fn only_urls_with_https_name_a_server() {
        for (url, server) in [
            ("https://acme.example/directory", Some(("acme.example", 443))),
            ("https://acme.example:14000/x?y", Some(("acme.example", 14000))),
            ("https://[::1]:1/", Some(("::1", 1))),
            ("http://acme.example/", None),
            ("/directory", None),
        ] {
            let found = server_of(&Uri::from_static(url));
            assert_eq!(found.as_ref().map(|(host, port)| (host.as_str(), *port)), server, "{url}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_is_given_up_and_one_without_tls_gets_no_request() {
        use super::super::account::connect;
        use super::super::settings::Settings;

        let (folder, authority) = (Folder::new(), Authority::new("root"));
        let settings = Settings {
            listener: "web".into(),
            names: Vec::new(),
            directory: String::new(),
            authorities: Some(folder.write("ca.pem", &authority.pem())),
            contacts: Vec::new(),
            storage: folder.0.clone(),
            profile: None,
            challenges: Vec::new(),
            external_account: None,
        };
        let client = connect(&settings).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ask = async |scheme: &str| {
            let url = format!("{scheme}://{}/directory", listener.local_addr().unwrap());
            match client.request(Request::get(url).body(BodyWrapper::default()).unwrap()).await {
                Err(Error::Other(error)) => error.downcast_ref::<Unreachable>().unwrap().0.clone(),
                _ => panic!("a response"),
            }
        };
        assert_eq!(ask("https").await, "no response within 30s (127.0.0.1)");
        let insecure = ask("http").await;
        assert_eq!(insecure, "its URL \"http://127.0.0.1\" is not one with https");
    }

    #[test]
    fn retry_after_is_seconds_or_a_time() {
        let read =
            |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::try_from(text).unwrap())]));
        assert_eq!(read("120"), Some(120));
        assert_eq!(["soon", "", "-1", "+1", "1.5"].map(read), [None; 5]);
        assert_eq!(read("99999999999999999999"), Some(u64::MAX));
        assert_eq!(read("Fri, 31 Dec 1999 23:59:59 GMT"), Some(0));
        let later = std::time::SystemTime::now() + Duration::from_secs(100);
        assert!((90..=101).contains(&read(&httpdate::fmt_http_date(later)).unwrap()));
    }
}
