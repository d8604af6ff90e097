//! Owns: the URL of a collector.
//! Invariant: an endpoint has a host, a port and the path that takes traces.
//! Must not know: connections.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

/// The path for traces below a base URL (OTLP §OTLP/HTTP Request).
const PATH: &str = "/v1/traces";

/// Where a collector takes traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it is reached by https.
    pub is_secure: bool,
    /// The host, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The path and the query.
    pub(super) path: String,
}

/// Why a URL names no collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointError {
    /// It is not an http or https URL with a host.
    Malformed,
    /// It has user information.
    Password,
}

impl Endpoint {
    /// Reads `http[s]://HOST[:PORT][/PATH]`. A URL without a path is that of a collector, to which the path for traces is
    /// added, as for the variable `OTEL_EXPORTER_OTLP_ENDPOINT`. Without a port it is that of the scheme, as in any URL.
    ///
    /// # Errors
    /// The URL is something else.
    pub fn parse(text: &str) -> Result<Endpoint, EndpointError> {
        let url: Uri = text.parse().map_err(|_| EndpointError::Malformed)?;
        let is_secure = match url.scheme() {
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            _ => return Err(EndpointError::Malformed),
        };
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(EndpointError::Password);
        }
        let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(EndpointError::Malformed);
        }
        let path = match url.path_and_query().map(PathAndQuery::as_str) {
            None | Some("/" | "") => PATH.into(),
            Some(path) => path.to_owned(),
        };
        let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
        Ok(Endpoint { is_secure, host: host.into(), port, path })
    }

    /// Whether it is on this machine.
    pub fn is_local(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Returns the value of Host.
    pub(super) fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    /// Writes the URL without its query, which may hold a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, path) = (if self.is_secure { "https" } else { "http" }, self.path.split('?').next());
        write!(f, "{scheme}://{}{}", self.authority(), path.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_gets_that_of_traces() {
        for (url, shown, path) in [
            ("http://collector:4318", "http://collector:4318/v1/traces", "/v1/traces"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces", "/v1/traces"),
            ("http://[::1]:9/x?y=1", "http://[::1]:9/x", "/x?y=1"),
            ("https://a/otlp/v1/traces", "https://a:443/otlp/v1/traces", "/otlp/v1/traces"),
            ("http://collector", "http://collector:80/v1/traces", "/v1/traces"),
        ] {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((endpoint.to_string().as_str(), endpoint.path.as_str()), (shown, path));
        }
        for (url, error) in [
            ("http://u:p@collector", EndpointError::Password),
            ("collector:4318", EndpointError::Malformed),
            ("grpc://collector", EndpointError::Malformed),
            ("", EndpointError::Malformed),
            ("http://", EndpointError::Malformed),
            ("/v1/traces", EndpointError::Malformed),
        ] {
            assert_eq!(Endpoint::parse(url), Err(error), "{url}");
        }
    }
}
