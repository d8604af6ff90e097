//! Owns: who may ask.
//! Invariant: with a token, nobody reads a fact without it; without one, no web page reads one through its visitor.
//! Must not know: what is asked for, beyond its path and method.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{Method, StatusCode, Version};

use super::Settings;
use crate::net::Address;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"linchpin\"");

/// What needs no token: the page holds no fact, and a prober holds no secret.
const OPEN: [&str; 3] = ["/", "/livez", "/readyz"];

/// The rules of one listener.
#[derive(Debug)]
pub(super) struct Guard {
    token: Option<Box<[u8]>>,
    /// Whether web pages can reach it: no browser opens a Unix socket.
    browsers: bool,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// No token, or not this one.
    Token,
    /// Not exactly one Host, or one that is none.
    Malformed,
    /// A name that anybody can point here.
    Rebound,
    /// A change, asked for by another site's page.
    CrossOrigin,
}

/// The layer that holds every request to the rules.
pub(super) async fn screen(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

impl Guard {
    pub(super) fn new(settings: &Settings) -> Guard {
        Guard {
            token: settings.token.as_ref().map(|token| token.as_bytes().into()),
            browsers: matches!(settings.address, Address::Tcp(_)),
        }
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<(), Refusal> {
        let host = host(request)?;
        match &self.token {
            Some(token) => {
                if !OPEN.contains(&request.uri().path()) && !bears(request.headers(), token) {
                    return Err(Refusal::Token);
                }
            }
            // A page of evil.example may have its own name point to 127.0.0.1 once it is loaded, and
            // would then read us as its own origin. It can't do so under an address, or as localhost.
            None => {
                if self.browsers && host.as_ref().is_some_and(|host| !is_ours(host)) {
                    return Err(Refusal::Rebound);
                }
            }
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) || !is_foreign(request.headers(), host.as_ref()) {
            return Ok(());
        }
        Err(Refusal::CrossOrigin)
    }
}

/// Whom the request is meant for. Only HTTP/1.0, which no browser speaks, may leave it out.
fn host<B>(request: &http::Request<B>) -> Result<Option<Authority>, Refusal> {
    let mut fields = request.headers().get_all(HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (Some(field), None) => field,
        (None, _) if request.version() == Version::HTTP_10 => return Ok(None),
        _ => return Err(Refusal::Malformed),
    };
    let host = Authority::try_from(field.as_bytes()).map_err(|_| Refusal::Malformed)?;
    if host.as_str().contains('@') {
        return Err(Refusal::Malformed);
    }
    // RFC 9112 §3.2.2: absolute-form beats Host.
    Ok(Some(request.uri().authority().cloned().unwrap_or(host)))
}

fn is_ours(host: &Authority) -> bool {
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

fn bears(headers: &HeaderMap, token: &[u8]) -> bool {
    let Some(field) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, sent)) = field.split_at_checked("Bearer ".len()) else { return false };
    scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty() && verify_slices_are_equal(sent, token).is_ok()
}

/// Whether a browser says that another site's page is behind this. What sends neither field is no browser.
fn is_foreign(headers: &HeaderMap, host: Option<&Authority>) -> bool {
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

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Refusal::Token => {
                let why = "This needs the header Authorization: Bearer TOKEN, with the content of token_file.\n";
                (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, CHALLENGE)], why).into_response()
            }
            Refusal::Malformed => (StatusCode::BAD_REQUEST, "A request needs one valid Host.\n").into_response(),
            Refusal::Rebound => {
                let why = "Call this by an IP address or as localhost, or set token_file: any web page could have \
                           another name point here.\n";
                (StatusCode::FORBIDDEN, why).into_response()
            }
            Refusal::CrossOrigin => {
                (StatusCode::FORBIDDEN, "Another site's page may change nothing here.\n").into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(token: Option<&str>, method: &str, uri: &str, fields: &[(&str, &str)]) -> Result<(), Refusal> {
        let address = Address::Tcp(([127, 0, 0, 1], 9090).into());
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Guard::new(&Settings { address, token: token.map(Into::into) }).admit(&request.body(()).unwrap())
    }

    #[test]
    fn without_a_token_only_names_that_nobody_else_can_point_here_are_answered() {
        let table = [
            ("127.0.0.1:9090", Ok(())),
            ("[::1]:9090", Ok(())),
            ("localhost", Ok(())),
            ("LocalHost:9090", Ok(())),
            ("evil.example:9090", Err(Refusal::Rebound)),
            ("localhost.evil.example", Err(Refusal::Rebound)),
            ("127.0.0.1.evil.example", Err(Refusal::Rebound)),
            ("localhost@evil.example", Err(Refusal::Malformed)),
            ("", Err(Refusal::Malformed)),
        ];
        for (host, expected) in table {
            assert_eq!(admit(None, "GET", "/api/v1/status", &[("host", host)]), expected, "{host}");
        }
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(admit(None, "GET", "/metrics", &twice), Err(Refusal::Malformed));
        assert_eq!(admit(None, "GET", "/metrics", &[]), Err(Refusal::Malformed));
        let absolute = "http://evil.example/metrics";
        assert_eq!(admit(None, "GET", absolute, &[("host", "localhost")]), Err(Refusal::Rebound));
        // Whoever has the token may call it what they like.
        let fields = [("host", "linchpin.example"), ("authorization", "Bearer secret")];
        assert_eq!(admit(Some("secret"), "GET", "/metrics", &fields), Ok(()));
    }

    #[test]
    fn no_browser_opens_a_unix_socket_so_any_name_will_do() {
        let settings = Settings { address: Address::Unix("/run/linchpin.sock".into()), token: None };
        let request = http::Request::builder().uri("/metrics").header("host", "linchpin").body(()).unwrap();
        assert_eq!(Guard::new(&settings).admit(&request), Ok(()));
    }

    #[test]
    fn facts_need_the_token_and_the_open_paths_do_not() {
        for (sent, expected) in [
            ("Bearer secret", Ok(())),
            ("bearer secret", Ok(())),
            ("Bearer secret2", Err(Refusal::Token)),
            ("Bearer secre", Err(Refusal::Token)),
            ("Bearer ", Err(Refusal::Token)),
            ("Basic secret", Err(Refusal::Token)),
            ("secret", Err(Refusal::Token)),
        ] {
            let fields = [("host", "localhost"), ("authorization", sent)];
            assert_eq!(admit(Some("secret"), "GET", "/metrics", &fields), expected, "{sent}");
        }
        for (path, expected) in [("/", Ok(())), ("/livez", Ok(())), ("/readyz", Ok(())), ("//", Err(Refusal::Token))] {
            assert_eq!(admit(Some("secret"), "GET", path, &[("host", "a.example")]), expected, "{path}");
        }
        let fields = [("host", "localhost"), ("authorization", "Bearer ")];
        assert_eq!(admit(Some(""), "GET", "/metrics", &fields), Err(Refusal::Token));
    }

    #[test]
    fn another_sites_page_changes_nothing() {
        let table: [(&[(&str, &str)], _); 8] = [
            (&[], Ok(())),
            (&[("origin", "http://localhost:9090")], Ok(())),
            (&[("origin", "http://localhost:8080")], Err(Refusal::CrossOrigin)),
            (&[("origin", "https://evil.example")], Err(Refusal::CrossOrigin)),
            (&[("origin", "null")], Err(Refusal::CrossOrigin)),
            (&[("sec-fetch-site", "same-origin")], Ok(())),
            (&[("sec-fetch-site", "same-site")], Err(Refusal::CrossOrigin)),
            (&[("sec-fetch-site", "cross-site")], Err(Refusal::CrossOrigin)),
        ];
        for (fields, expected) in table {
            let fields: Vec<_> = fields.iter().copied().chain([("host", "localhost:9090")]).collect();
            assert_eq!(admit(None, "POST", "/api/v1/reload", &fields), expected, "{fields:?}");
            assert_eq!(admit(None, "GET", "/api/v1/status", &fields), Ok(()), "{fields:?}");
        }
    }
}
