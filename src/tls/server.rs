//! Owns: TLS with clients: certificates, versions, verification of client certificates, and the handshake.
//! Invariant: new files affect new connections only; no ticket outlives the authorities that verified its client.
//! Must not know: listeners, HTTP.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use rustls::pki_types::CertificateDer;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ServerConnection, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::{Certificate, Validity};
use super::parameters::{BUFFER, HTTP2, protocols, provider};
use super::pem::{CertificateFiles, Error};
use super::reload::Reload;
use super::sni::CertificateResolver;
use super::{pem, subject};
use crate::clock;

/// `[listeners.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// At least one; clients that ask for any other name get the first.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version to accept.
    pub min_version: Version,
    /// Whether to offer HTTP/2.
    pub http2: bool,
    /// How to verify clients by certificate; `None` requests no certificates.
    pub clients: Option<ClientVerification>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// TLS 1.2, with forward secrecy and authenticated encryption only.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The verification of client certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientVerification {
    /// The file of the authorities that issue clients' certificates.
    pub authorities: PathBuf,
    /// Whether to reject a client without a certificate.
    pub is_required: bool,
}

/// The TLS acceptor of one listener, shared by all threads: a ticket from one thread is valid on every other.
pub struct Acceptor {
    name: String,
    settings: Settings,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    /// The certificates that the files contained, to notice when they contain others.
    chains: Vec<Vec<CertificateDer<'static>>>,
    authorities: Vec<CertificateDer<'static>>,
}

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeInfo {
    /// Whether HTTP/2 was negotiated.
    pub is_http2: bool,
    /// The SNI name that the client sent, in lower case.
    pub server_name: Option<String>,
    /// The subject of the verified client certificate: the value of [`subject::SUBJECT_FIELD`].
    pub subject: Option<HeaderValue>,
    /// The version of TLS.
    pub version: Option<&'static str>,
}

impl Acceptor {
    /// Reads the files. Messages and metrics call the acceptor `name`.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub fn open(name: &str, settings: &Settings) -> Result<Acceptor, Error> {
        let material = Material::read(settings)?;
        let current = ArcSwap::from_pointee(material.build(settings, tickets()?)?);
        Ok(Acceptor { name: name.into(), settings: settings.clone(), current })
    }

    /// Returns the configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Performs the handshake. The caller limits the time: the client decides how long it takes.
    ///
    /// # Errors
    /// If the connection breaks, the client supports nothing that is offered, or its certificate fails verification.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, HandshakeInfo)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limited = |connection: &mut ServerConnection| connection.set_buffer_limit(Some(BUFFER));
        let stream = TlsAcceptor::from(self.config()).accept_with(stream, limited).await?;
        let handshake = HandshakeInfo::of(stream.get_ref().1, clock::unix())?;
        Ok((stream, handshake))
    }

    fn load(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }
}

impl HandshakeInfo {
    /// Reads the outcome of the handshake on `connection`; `now` is since 1970.
    pub(super) fn of(connection: &ServerConnection, now: Duration) -> io::Result<HandshakeInfo> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let refused = |why| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let subject = match shown {
            None => None,
            Some(der) => {
                // A resumed session has the certificate of the full handshake, which may have expired since.
                let is_expired = |read: Certificate| matches!(read.validity(now), Validity::Expired(_));
                if Certificate::read(der).is_none_or(is_expired) {
                    return Err(refused("the client's certificate has expired"));
                }
                Some(
                    subject::field_value(der)
                        .ok_or_else(|| refused("the client's certificate has no subject to pass on"))?,
                )
            }
        };
        Ok(HandshakeInfo {
            is_http2: connection.alpn_protocol() == Some(HTTP2),
            server_name: connection.server_name().map(str::to_ascii_lowercase),
            subject,
            version: connection.protocol_version().and_then(version),
        })
    }
}

/// Returns the name of a version of TLS that Linchpin speaks, as OpenSSL, nginx and Envoy write it.
fn version(version: ProtocolVersion) -> Option<&'static str> {
    match version {
        ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
        ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
        _ => None,
    }
}

impl Reload for Acceptor {
    fn label(&self) -> (&'static str, &str) {
        ("listener", &self.name)
    }

    fn files(&self) -> Vec<PathBuf> {
        let authorities = self.settings.clients.iter().map(|clients| clients.authorities.clone());
        self.settings.certificates.iter().flat_map(CertificateFiles::paths).chain(authorities).collect()
    }

    fn reload(&self) -> Result<bool, Error> {
        let material = Material::read(&self.settings)?;
        let current = self.load();
        let is_same_trust = material.authorities == current.authorities;
        if is_same_trust && material.chains().eq(current.chains.iter().map(Vec::as_slice)) {
            return Ok(false);
        }
        // A ticket stands for a client that was verified: the new authorities may not trust its certificate.
        let tickets = if is_same_trust { Arc::clone(&current.config.ticketer) } else { tickets()? };
        self.current.store(Arc::new(material.build(&self.settings, tickets)?));
        Ok(true)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.load().certificates.clone()
    }
}

/// The content of all files.
struct Material {
    pairs: Vec<(Certificate, Arc<CertifiedKey>)>,
    roots: Option<Arc<RootCertStore>>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Material {
    fn read(settings: &Settings) -> Result<Material, Error> {
        let pairs = settings.certificates.iter().map(pem::pair).collect::<Result<_, _>>()?;
        let (roots, authorities) = match &settings.clients {
            None => (None, Vec::new()),
            Some(clients) => {
                let (roots, authorities) = pem::authorities(&clients.authorities)?;
                (Some(Arc::new(roots)), authorities)
            }
        };
        Ok(Material { pairs, roots, authorities })
    }

    fn chains(&self) -> impl Iterator<Item = &[CertificateDer<'static>]> {
        self.pairs.iter().map(|(_, key)| key.cert.as_slice())
    }

    fn build(self, settings: &Settings, ticketer: Arc<dyn ProducesTickets>) -> Result<Current, Error> {
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(versions(settings.min_version)).map_err(pem::setup_error)?;
        let builder = match (&settings.clients, &self.roots) {
            (Some(clients), Some(roots)) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
                let verifier = if clients.is_required { verifier } else { verifier.allow_unauthenticated() };
                builder.with_client_cert_verifier(verifier.build().map_err(pem::setup_error)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(CertificateResolver::new(&self.pairs)));
        config.alpn_protocols = protocols(settings.http2);
        // Tickets, and no cache of sessions: every thread would lock that. Early data stays off, as it is
        // by default: it can be replayed.
        config.ticketer = ticketer;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ignore_client_order = true;
        let chains = self.chains().map(<[_]>::to_vec).collect();
        let certificates = self.pairs.into_iter().map(|(certificate, _)| certificate).collect();
        Ok(Current { config: Arc::new(config), certificates, chains, authorities: self.authorities })
    }
}

fn versions(least: Version) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
    match least {
        Version::Tls12 => &ALL,
        Version::Tls13 => &ALL[..1],
    }
}

/// Makes the keys of session tickets, which rotate every six hours. Each listener has its own keys, since each verifies
/// clients in its own way.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(pem::setup_error)
}
