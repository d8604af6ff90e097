//! Owns: which requests the admin API accepts.
//! Invariant: no request without the token reads data; without a token, no web page reads data through a browser.
//! Must not know: what is requested, beyond its path and method.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{Method, StatusCode, Version};
use tokio::sync::watch;

use super::actor::{Actor, AdminPeer};
use super::dashboard;
use super::settings::Settings;
use crate::net::Address;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a client has shown: the token, or nothing, where none is required.
const TOKEN: &str = "token";
pub(super) const READ_TOKEN: &str = "read token";
const ANYBODY: &str = "anybody";
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"linchpin\"");

/// Paths that need no token: the page itself has no data, and a health checker has no secret.
const OPEN_PATHS: [&str; 3] = ["/", "/livez", "/readyz"];

/// Returns whether a path needs no token.
fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with(dashboard::FILES_PREFIX)
}

/// The rules of the admin listener, which a reload may replace while it listens. Clones share them.
#[derive(Debug, Clone)]
pub struct AccessRules(Arc<watch::Sender<Guard>>);

impl AccessRules {
    /// Makes the rules of `[admin]`.
    pub fn new(settings: &Settings) -> AccessRules {
        AccessRules(Arc::new(watch::Sender::new(Guard::new(settings))))
    }

    /// Applies the rules of other settings to the requests that follow, and ends the event streams of those before.
    pub fn replace(&self, settings: &Settings) {
        let next = Guard::new(settings);
        self.0.send_if_modified(|rules| {
            let is_new = *rules != next;
            *rules = next;
            is_new
        });
    }

    /// Waits until other rules apply.
    pub(super) async fn changed(&self) {
        // The sender lives as long as these rules.
        let _ = self.0.subscribe().changed().await;
    }
}

/// The rules of one listener.
#[derive(PartialEq, Eq)]
pub(super) struct Guard {
    token: Option<Box<[u8]>>,
    /// With it, a client may only read.
    read_token: Option<Box<[u8]>>,
    /// Whether web pages can reach it: no browser opens a Unix socket.
    is_browser_reachable: bool,
}

/// Hides the token.
impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("is_browser_reachable", &self.is_browser_reachable).finish_non_exhaustive()
    }
}

/// Why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessDenied {
    /// The token is missing or wrong.
    Token,
    /// The token is the one for reading, and the request is none that only reads.
    ReadOnly,
    /// It has not exactly one Host field, or an invalid one.
    Malformed,
    /// Its Host is a DNS name: anybody's name can resolve to this address (DNS rebinding).
    Rebound,
    /// It changes something, and another site's page sent it.
    CrossOrigin,
}

/// Rejects requests that the rules don't allow. Tells the others who sends them.
pub(super) async fn authorize(State(rules): State<AccessRules>, mut request: Request, next: Next) -> Response {
    let admitted = rules.0.borrow().admit(&request);
    match admitted {
        Ok(who) => {
            let from = request.extensions().get::<AdminPeer>().map(ToString::to_string).unwrap_or_default();
            request.extensions_mut().insert(Actor::Client { who, from });
            next.run(request).await
        }
        Err(denied) => denied.into_response(),
    }
}

impl Guard {
    pub(super) fn new(settings: &Settings) -> Guard {
        Guard {
            token: settings.token.as_ref().map(|token| token.as_bytes().into()),
            read_token: settings.read_token.as_ref().map(|token| token.as_bytes().into()),
            is_browser_reachable: matches!(settings.address, Address::Tcp(_)),
        }
    }

    /// Decides whether to accept a request. Returns what its client has shown.
    fn admit<B>(&self, request: &http::Request<B>) -> Result<&'static str, AccessDenied> {
        let host = host(request)?;
        let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
        let who = match &self.token {
            Some(token) if has_token(request.headers(), token) => TOKEN,
            Some(_) if self.read_token.as_ref().is_some_and(|token| has_token(request.headers(), token)) => {
                // Explaining a token reveals whether it is a session's, and so is no request of a GET.
                if is_reading { READ_TOKEN } else { return Err(AccessDenied::ReadOnly) }
            }
            Some(_) if is_open(request.uri().path()) => ANYBODY,
            Some(_) => return Err(AccessDenied::Token),
            // DNS rebinding: a page of evil.example has its own name resolve to 127.0.0.1 once it is loaded,
            // and then reads from here as from its own origin. Under an IP address or as localhost it can't.
            None if self.is_browser_reachable && host.as_ref().is_some_and(|host| !is_local_name(host)) => {
                return Err(AccessDenied::Rebound);
            }
            None => ANYBODY,
        };
        let is_cross_origin = || is_cross_origin(request.headers(), host.as_ref());
        if is_reading || !is_cross_origin() { Ok(who) } else { Err(AccessDenied::CrossOrigin) }
    }
}

/// Returns the request's host. Only HTTP/1.0, which no browser speaks, may leave it out.
fn host<B>(request: &http::Request<B>) -> Result<Option<Authority>, AccessDenied> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => field,
        (None, _) if request.version() == Version::HTTP_10 => return Ok(None),
        _ => return Err(AccessDenied::Malformed),
    };
    let host = Authority::try_from(field.as_bytes()).map_err(|_| AccessDenied::Malformed)?;
    if host.as_str().contains('@') {
        return Err(AccessDenied::Malformed);
    }
    // RFC 9112 §3.2.2: an absolute-form target overrides Host.
    Ok(Some(request.uri().authority().cloned().unwrap_or(host)))
}

fn is_local_name(host: &Authority) -> bool {
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn has_token(headers: &HeaderMap, token: &[u8]) -> bool {
    let Some(field) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, sent)) = field.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() && verify_slices_are_equal(sent, token).is_ok()
}

/// Returns whether a browser sent this for another site's page. A client that sends neither field is no browser.
fn is_cross_origin(headers: &HeaderMap, host: Option<&Authority>) -> bool {
    if let Some(site) = headers.get(SEC_FETCH_SITE) {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    match (authority, host) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host.as_str()),
        _ => true,
    }
}

impl IntoResponse for AccessDenied {
    fn into_response(self) -> Response {
        match self {
            AccessDenied::Token => {
                let why = "Send the header Authorization: Bearer TOKEN, where TOKEN is the content of token_file.\n";
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, CHALLENGE)], why).into_response()
            }
            AccessDenied::ReadOnly => {
                let why = "This token only reads: send the content of token_file to change or explain something.\n";
                (StatusCode::FORBIDDEN, why).into_response()
            }
            AccessDenied::Malformed => {
                (StatusCode::BAD_REQUEST, "Send exactly one valid Host header.\n").into_response()
            }
            AccessDenied::Rebound => {
                let why = "Use an IP address or localhost, or set token_file: a web page could make any other name \
                           point here.\n";
                (StatusCode::FORBIDDEN, why).into_response()
            }
            AccessDenied::CrossOrigin => {
                (StatusCode::FORBIDDEN, "A page of another site may not change anything here.\n").into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(token: Option<&str>, method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<(), AccessDenied> {
        let address = Address::Tcp(([127, 0, 0, 1], 9090).into());
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Guard::new(&Settings::new(address, token.map(Into::into))).admit(&request.body(()).unwrap()).map(drop)
    }

    #[test]
    fn without_a_token_only_names_that_nobody_else_can_point_here_are_answered() {
        let table = [
            ("127.0.0.1:9090", Ok(())),
            ("[::1]:9090", Ok(())),
            ("localhost", Ok(())),
            ("LocalHost:9090", Ok(())),
            ("evil.example:9090", Err(AccessDenied::Rebound)),
            ("localhost.evil.example", Err(AccessDenied::Rebound)),
            ("127.0.0.1.evil.example", Err(AccessDenied::Rebound)),
            ("localhost@evil.example", Err(AccessDenied::Malformed)),
            ("", Err(AccessDenied::Malformed)),
        ];
        for (host, expected) in table {
            assert_eq!(admit(None, "GET", "/api/v1/status", &[("host", host)]), expected, "{host}");
        }
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(admit(None, "GET", "/metrics", &twice), Err(AccessDenied::Malformed));
        assert_eq!(admit(None, "GET", "/metrics", &[]), Err(AccessDenied::Malformed));
        let absolute = "http://evil.example/metrics";
        assert_eq!(admit(None, "GET", absolute, &[("host", "localhost")]), Err(AccessDenied::Rebound));
        // With the token, any name will do.
        let fields = [("host", "linchpin.example"), ("authorization", "Bearer secret")];
        assert_eq!(admit(Some("secret"), "GET", "/metrics", &fields), Ok(()));
    }

    #[test]
    fn no_browser_opens_a_unix_socket_so_any_name_will_do() {
        let settings = Settings::new(Address::Unix("/run/linchpin.sock".into()), None);
        let request = http::Request::builder().uri("/metrics").header("host", "linchpin").body(()).unwrap();
        assert_eq!(Guard::new(&settings).admit(&request), Ok(ANYBODY));
    }

    #[test]
    fn facts_need_the_token_and_the_open_paths_do_not() {
        for (sent, expected) in [
            ("Bearer secret", Ok(())),
            ("bearer secret", Ok(())),
            ("Bearer secret2", Err(AccessDenied::Token)),
            ("Bearer secre", Err(AccessDenied::Token)),
            ("Bearer ", Err(AccessDenied::Token)),
            ("Basic secret", Err(AccessDenied::Token)),
            ("secret", Err(AccessDenied::Token)),
        ] {
            let fields = [("host", "localhost"), ("authorization", sent)];
            assert_eq!(admit(Some("secret"), "GET", "/metrics", &fields), expected, "{sent}");
        }
        for (path, expected) in [
            ("/", Ok(())),
            ("/livez", Ok(())),
            ("/readyz", Ok(())),
            ("/dashboard/main.js", Ok(())),
            ("/dashboard", Err(AccessDenied::Token)),
            ("//", Err(AccessDenied::Token)),
        ] {
            assert_eq!(admit(Some("secret"), "GET", path, &[("host", "a.example")]), expected, "{path}");
        }
        let fields = [("host", "localhost"), ("authorization", "Bearer ")];
        assert_eq!(admit(Some(""), "GET", "/metrics", &fields), Err(AccessDenied::Token));
    }

    #[test]
    fn the_token_for_reading_reads_and_does_nothing_else() {
        let address = Address::Tcp(([127, 0, 0, 1], 9090).into());
        let guard = Guard::new(&Settings {
            read_token: Some("reader".into()),
            ..Settings::new(address, Some("writer".into()))
        });
        let admit = |method: &str, path: &str, token: &str| {
            let request = http::Request::builder().method(method).uri(path).header("host", "localhost");
            guard.admit(&request.header("authorization", format!("Bearer {token}")).body(()).unwrap())
        };
        for path in ["/api/v1/status", "/metrics", "/api/v1/events", "/", "/readyz"] {
            assert_eq!(admit("GET", path, "reader"), Ok(READ_TOKEN), "{path}");
            assert_eq!(admit("GET", path, "writer"), Ok(TOKEN), "{path}");
        }
        for (method, path) in
            [("POST", "/api/v1/explain"), ("POST", "/api/v1/reload"), ("DELETE", "/api/v1/x"), ("PUT", "/")]
        {
            assert_eq!(admit(method, path, "reader"), Err(AccessDenied::ReadOnly), "{method} {path}");
            assert_eq!(admit(method, path, "writer"), Ok(TOKEN), "{method} {path}");
        }
        assert_eq!(admit("GET", "/metrics", "reade"), Err(AccessDenied::Token));
        assert_eq!(admit("GET", "/livez", "other"), Ok(ANYBODY));
    }

    #[test]
    fn another_sites_page_changes_nothing() {
        let table: [(&[(&str, &str)], _); 8] = [
            (&[], Ok(())),
            (&[("origin", "http://localhost:9090")], Ok(())),
            (&[("origin", "http://localhost:8080")], Err(AccessDenied::CrossOrigin)),
            (&[("origin", "https://evil.example")], Err(AccessDenied::CrossOrigin)),
            (&[("origin", "null")], Err(AccessDenied::CrossOrigin)),
            (&[("sec-fetch-site", "same-origin")], Ok(())),
            (&[("sec-fetch-site", "same-site")], Err(AccessDenied::CrossOrigin)),
            (&[("sec-fetch-site", "cross-site")], Err(AccessDenied::CrossOrigin)),
        ];
        for (fields, expected) in table {
            let fields: Vec<_> = fields.iter().copied().chain([("host", "localhost:9090")]).collect();
            assert_eq!(admit(None, "POST", "/api/v1/reload", &fields), expected, "{fields:?}");
            assert_eq!(admit(None, "GET", "/api/v1/status", &fields), Ok(()), "{fields:?}");
        }
    }
}
