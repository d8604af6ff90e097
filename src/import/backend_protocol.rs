//! Owns: the protocol between Linchpin and the backends of a pool: HTTP/1.1 or HTTP/2, TLS, PROXY header.
//! Invariant: a connection with TLS never loses it.
//! Must not know: the formats of sources; backends.

use rustls::pki_types::ServerName;

use super::toml::{Table, Value};

/// The protocol of all backends of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct BackendProtocol {
    pub(super) http2: bool,
    /// The version of the PROXY header.
    pub(super) proxy: Option<&'static str>,
    pub(super) tls: Option<BackendTls>,
}

/// The TLS settings for backends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BackendTls {
    pub(super) ca: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) cert: Option<String>,
    pub(super) key: Option<String>,
    pub(super) verify: bool,
}

impl Default for BackendTls {
    fn default() -> BackendTls {
        BackendTls { ca: None, server_name: None, cert: None, key: None, verify: true }
    }
}

impl BackendTls {
    /// Returns the keys that are texts.
    fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let ca = self.ca.as_ref().filter(|_| self.verify);
        let texts = [
            ("ca", ca),
            ("server_name", self.server_name.as_ref()),
            ("cert", self.cert.as_ref()),
            ("key", self.key.as_ref()),
        ];
        texts.into_iter().filter_map(|(key, text)| Some((key, text?)))
    }

    /// Returns it as the value of a key.
    pub(super) fn value(&self) -> Value {
        if *self == BackendTls::default() {
            return Value::flag(true);
        }
        let verify = (!self.verify).then(|| ("verify", Value::flag(false)));
        Value::inline(self.texts().map(|(key, text)| (key, Value::text(text))).chain(verify))
    }
}

impl BackendProtocol {
    /// Writes the protocol into `[pools.upstream]` and `[pools.upstream.tls]`.
    pub(super) fn write(&self, upstream: &mut Table, tls: &mut Table) {
        // A PROXY header names one client, but clients share an HTTP/2 connection.
        if self.http2 && self.proxy.is_none() {
            upstream.set("http2", Value::flag(true));
        }
        if let Some(version) = self.proxy {
            upstream.set("proxy_protocol", Value::text(version));
        }
        let Some(wanted) = &self.tls else { return };
        if *wanted == BackendTls::default() {
            upstream.set("tls", Value::flag(true));
            return;
        }
        for (key, text) in wanted.texts() {
            tls.set(key, Value::text(text));
        }
        if !wanted.verify {
            tls.set("verify", Value::flag(false));
        }
    }
}

/// Returns a name that a certificate can be for: a host name whose last label is no number, or an IP address.
pub(super) fn server_name(text: &str) -> Option<String> {
    let name = text.to_ascii_lowercase();
    ServerName::try_from(name.as_str()).is_ok().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_can_be_for_a_host_or_an_address() {
        for (text, name) in [
            ("App.Example", Some("app.example")),
            ("10.0.0.1", Some("10.0.0.1")),
            ("::1", Some("::1")),
            ("9999999999", None),
            ("app.1", None),
            ("*.example", None),
            ("app.example:443", None),
            ("", None),
        ] {
            assert_eq!(server_name(text).as_deref(), name, "{text}");
        }
    }
}
