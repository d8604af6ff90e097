//! Owns: TLS with backends: the trusted authorities, the expected name, our own certificate, and the handshake.
//! Invariant: a backend that fails verification gets not one byte of a request, unless `verify = false` is configured.
//! Must not know: pools, HTTP.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Certificate;
use super::insecure::NoServerVerification;
use super::parameters::{BUFFER, HTTP2, protocols, provider};
use super::pem;
use super::pem::{CertificateFiles, Error};
use super::reload::Reload;

/// `[pools.upstream.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file of the authorities that issue backends' certificates; the system's authorities if not set.
    pub authorities: Option<PathBuf>,
    /// The name that is sent as SNI and that a backend's certificate must have; the backend's address if not set.
    pub server_name: Option<String>,
    /// The certificate for backends that request one.
    pub certificate: Option<CertificateFiles>,
    /// Whether to verify the certificates of backends.
    pub verify: bool,
}

/// The settings of `tls = true`.
impl Default for Settings {
    fn default() -> Self {
        Settings { authorities: None, server_name: None, certificate: None, verify: true }
    }
}

/// The TLS connector for the backends of one pool, shared by all threads.
pub struct Connector {
    name: String,
    settings: Settings,
    server_name: Option<ServerName<'static>>,
    current: ArcSwap<Current>,
}

struct Current {
    /// Offers HTTP/2 and HTTP/1.1.
    http2: Arc<ClientConfig>,
    /// Offers HTTP/1.1 only.
    http1: Arc<ClientConfig>,
    certificate: Option<Certificate>,
    /// The certificates that the files contained, to notice when they contain others.
    chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Connector {
    /// Reads the files. Messages and metrics call the connector `name`.
    ///
    /// # Errors
    /// The first file that can't be used, or an invalid `server_name`.
    pub fn open(name: &str, settings: &Settings) -> Result<Connector, Error> {
        let server_name = settings.server_name.as_deref().map(server_name).transpose().map_err(pem::setup_error)?;
        let current = ArcSwap::from_pointee(Material::read(settings)?.build(settings)?);
        Ok(Connector { name: name.into(), settings: settings.clone(), server_name, current })
    }

    /// Returns the name that the certificate of the backend at `host`, an IP address or a host name, must have.
    /// Apart from [`Connector::connect`], so that it is worked out once per backend and not for each connection.
    ///
    /// # Errors
    /// If `host` is neither, and no `server_name` is configured.
    pub fn name_of(&self, host: &str) -> io::Result<ServerName<'static>> {
        match &self.server_name {
            Some(name) => Ok(name.clone()),
            None => server_name(host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error)),
        }
    }

    /// Performs the handshake with the backend that must prove to be `name`. Offers HTTP/2 if `http2` is set, and
    /// returns whether the backend chose it. The caller limits the time: the backend decides how long it takes.
    ///
    /// # Errors
    /// If the connection breaks, or the backend's certificate fails verification.
    pub async fn connect<S>(
        &self,
        name: ServerName<'static>,
        stream: S,
        http2: bool,
    ) -> io::Result<(TlsStream<S>, bool)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = {
            let current = self.load();
            Arc::clone(if http2 { &current.http2 } else { &current.http1 })
        };
        let limited = |connection: &mut ClientConnection| connection.set_buffer_limit(Some(BUFFER));
        let stream = TlsConnector::from(config).connect_with(name, stream, limited).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
        Ok((stream, is_http2))
    }

    fn load(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }
}

impl Reload for Connector {
    fn label(&self) -> (&'static str, &str) {
        ("pool", &self.name)
    }

    fn files(&self) -> Vec<PathBuf> {
        let pair = self.settings.certificate.iter().flat_map(CertificateFiles::paths);
        pair.chain(self.settings.authorities.clone()).collect()
    }

    fn reload(&self) -> Result<bool, Error> {
        let material = Material::read(&self.settings)?;
        let current = self.load();
        if material.authorities == current.authorities && material.chain() == current.chain {
            return Ok(false);
        }
        self.current.store(Arc::new(material.build(&self.settings)?));
        Ok(true)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.load().certificate.iter().cloned().collect()
    }
}

/// Checks that `text` can be the name of a server: a host name or an IP address.
pub fn is_server_name(text: &str) -> bool {
    server_name(text).is_ok()
}

fn server_name(text: &str) -> Result<ServerName<'static>, InvalidDnsNameError> {
    ServerName::try_from(text.to_ascii_lowercase())
}

/// The content of all files.
struct Material {
    /// `None` if certificates are not verified.
    roots: Option<RootCertStore>,
    authorities: Vec<CertificateDer<'static>>,
    pair: Option<(Certificate, Arc<CertifiedKey>)>,
}

impl Material {
    fn read(settings: &Settings) -> Result<Material, Error> {
        let pair = settings.certificate.as_ref().map(pem::pair).transpose()?;
        let (roots, authorities) = match settings.verify {
            true => roots(settings).map(|(roots, files)| (Some(roots), files))?,
            false => (None, Vec::new()),
        };
        Ok(Material { roots, authorities, pair })
    }

    fn chain(&self) -> &[CertificateDer<'static>] {
        self.pair.as_ref().map_or(&[], |(_, key)| &key.cert)
    }

    fn build(self, settings: &Settings) -> Result<Current, Error> {
        let chain = self.chain().to_vec();
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_safe_default_protocol_versions().map_err(pem::setup_error)?;
        let builder = match self.roots {
            Some(roots) if settings.verify => builder.with_root_certificates(roots),
            _ => builder.dangerous().with_custom_certificate_verifier(Arc::new(NoServerVerification(provider()))),
        };
        let (certificate, key) = self.pair.unzip();
        let mut config = match key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols(true);
        // The clone shares the cache of sessions to resume.
        let mut http1 = config.clone();
        http1.alpn_protocols = protocols(false);
        Ok(Current {
            http2: Arc::new(config),
            http1: Arc::new(http1),
            certificate,
            chain,
            authorities: self.authorities,
        })
    }
}

/// Reads the trusted authorities, and the certificates of their file if there is one.
fn roots(settings: &Settings) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), Error> {
    match &settings.authorities {
        Some(file) => pem::authorities(file),
        None => Ok((pem::system_authorities()?, Vec::new())),
    }
}
