//! Owns: the redirects of routes and listeners, and their Location.
//! Invariant: Location names the configured host or the request's own host; no path of a request can name another one.
//! Must not know: routes, backends.

use http::header::{HeaderValue, LOCATION};
use http::{Response, StatusCode, Uri};

use super::rewrite::strip_path_prefix;

/// `[routes.redirect]`. Parts of the URL that are not configured stay as in the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<&'static str>,
    /// A host, or a host and a port.
    pub host: Option<String>,
    /// The port with the host of the request, if it is not the default port of the scheme.
    pub port: Option<u16>,
    /// What happens to the path.
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// What a redirect does with the path. The query always stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPath {
    /// Keeps the path.
    Keep,
    /// Replaces the whole path.
    ReplaceFull(String),
    /// Replaces the route's prefix.
    ReplacePrefix(String),
}

impl Redirect {
    /// Redirects to the same URL with `https` at this port. Clients keep the method and body (308).
    pub fn to_https(port: u16) -> Redirect {
        let port = Some(port).filter(|port| *port != 443);
        Redirect {
            scheme: Some("https"),
            host: None,
            port,
            path: RedirectPath::Keep,
            status: StatusCode::PERMANENT_REDIRECT,
        }
    }

    /// Whether Location would be the URL of the request itself.
    pub fn is_noop(&self) -> bool {
        self.scheme.is_none() && self.host.is_none() && self.path == RedirectPath::Keep
    }

    /// Makes the response to a request for `uri` at `host`, received with or without TLS; `prefix` is the route's.
    /// `None` if Location needs a host and the request names none.
    pub fn response(&self, host: &str, is_secure: bool, uri: &Uri, prefix: &str) -> Option<Response<()>> {
        // Parts of valid URIs make a valid field value.
        let location = HeaderValue::try_from(self.location(host, is_secure, uri, prefix)?).ok()?;
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        response.headers_mut().insert(LOCATION, location);
        Some(response)
    }

    /// The value of Location. Without a configured scheme or host it is only a path (RFC 9110 §10.2.2), so that it does
    /// not repeat the request's Host, which a client can forge.
    pub fn location(&self, host: &str, is_secure: bool, uri: &Uri, prefix: &str) -> Option<String> {
        let path = self.path(uri.path(), prefix.trim_end_matches('/'));
        let (mark, query) = uri.query().map_or(("", ""), |query| ("?", query));
        if self.scheme.is_none() && self.host.is_none() {
            // `//evil.example` and, for browsers, `/\evil.example` name another host.
            let path = path.trim_start_matches(['/', '\\']);
            return Some(format!("/{path}{mark}{query}"));
        }
        let scheme = self.scheme.unwrap_or(if is_secure { "https" } else { "http" });
        let host = match &self.host {
            Some(host) => host,
            // The port in Host belongs to the other scheme.
            None => super::host::without_port(host),
        };
        let port = self.port.map_or(String::new(), |port| format!(":{port}"));
        let slash = if path.starts_with('/') { "" } else { "/" };
        (!host.is_empty()).then(|| format!("{scheme}://{host}{port}{slash}{path}{mark}{query}"))
    }

    fn path(&self, path: &str, prefix: &str) -> String {
        match &self.path {
            // `OPTIONS *` has no path.
            RedirectPath::Keep if path == "*" => String::new(),
            RedirectPath::Keep => path.into(),
            RedirectPath::ReplaceFull(whole) => whole.clone(),
            RedirectPath::ReplacePrefix(other) => {
                format!("{}{}", other.trim_end_matches('/'), strip_path_prefix(prefix, path).unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redirect(scheme: Option<&'static str>, host: Option<&str>, path: RedirectPath) -> Redirect {
        Redirect { scheme, host: host.map(str::to_owned), port: None, path, status: StatusCode::FOUND }
    }

    fn location(redirect: &Redirect, target: &str) -> String {
        redirect.location("a.example:8080", false, &target.parse().unwrap(), "/old").unwrap()
    }

    #[test]
    fn parts_that_are_not_configured_stay_as_in_the_request() {
        let whole = || RedirectPath::ReplaceFull("/new".into());
        let prefix = || RedirectPath::ReplacePrefix("/new".into());
        for (redirect, target, expected) in [
            (redirect(Some("https"), None, RedirectPath::Keep), "/x%2Fy?z=1", "https://a.example/x%2Fy?z=1"),
            (redirect(Some("https"), Some("b:8443"), RedirectPath::Keep), "/?", "https://b:8443/?"),
            (redirect(None, Some("b"), RedirectPath::Keep), "*", "http://b/"),
            (redirect(None, Some("b"), RedirectPath::Keep), "//c/d", "http://b//c/d"),
            (redirect(None, None, whole()), "/old/x?y", "/new?y"),
            (redirect(None, None, prefix()), "/old", "/new"),
            (redirect(None, None, prefix()), "/old/x;s=1?y", "/new/x;s=1?y"),
            (redirect(None, None, RedirectPath::ReplacePrefix("/".into())), "/old//evil.example/", "/evil.example/"),
            (redirect(None, None, RedirectPath::ReplacePrefix("/".into())), "/old/\\evil.example/", "/evil.example/"),
            (redirect(None, None, RedirectPath::ReplacePrefix("/".into())), "/old", "/"),
        ] {
            assert_eq!(location(&redirect, target), expected);
        }
    }

    #[test]
    fn a_request_without_a_host_gets_no_location_that_needs_one() {
        let response_to = |redirect: Redirect| redirect.response("", true, &"/x".parse().unwrap(), "/");
        assert!(response_to(redirect(Some("https"), None, RedirectPath::Keep)).is_none());
        let response = response_to(redirect(None, Some("b"), RedirectPath::Keep)).unwrap();
        assert_eq!(
            (response.status(), &response.headers()[LOCATION]),
            (StatusCode::FOUND, &"https://b/x".parse().unwrap())
        );
    }

    proptest! {
        #[test]
        fn no_path_redirects_to_another_host(path in r"(/|\\|\.|evil|@|:|;|%2f){0,8}", query in r"[a-z/\\]{0,4}") {
            let Ok(uri) = format!("/old{path}?{query}").parse::<Uri>() else { return Ok(()) };
            let stays = redirect(None, None, RedirectPath::ReplacePrefix("/".into())).location("a", false, &uri, "/old").unwrap();
            prop_assert!(stays.starts_with('/') && !stays[1..].starts_with(['/', '\\']), "{}", stays);
            let goes = redirect(None, Some("b"), RedirectPath::Keep).location("a", false, &uri, "/old").unwrap();
            prop_assert!(goes.starts_with("http://b/"), "{}", goes);
        }
    }
}
