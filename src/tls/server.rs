//! Owns: TLS with clients: certificates, versions, verification of client certificates, and the handshake.
//! Invariant: new files affect new connections only; no ticket outlives the authorities that verified its client.
//! Must not know: listeners, HTTP.

use std::collections::HashMap;
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
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::certificate::{Certificate, Validity};
use super::challenge::ChallengeCertificates;
use super::parameters::{BUFFER, HTTP2, protocols, provider};
use super::pem::{CertificateFiles, Error};
use super::reload::Reload;
use super::sni::CertificateResolver;
use super::{pem, subject};
use crate::clock;

/// `[listeners.tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Clients that ask for any other name get the first; at least one, unless certificates are issued.
    pub certificates: Vec<CertificateFiles>,
    /// Files of certificates with their keys that are obtained while Linchpin runs; they may not exist yet. Clients get
    /// the first if there is no other, and until one is there no handshake succeeds.
    pub issued: Vec<PathBuf>,
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
    /// The names that are being validated, if certificates are issued.
    challenges: Option<ChallengeCertificates>,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    /// The issued ones that were readable once.
    issued: HashMap<PathBuf, Pair>,
    /// The certificates that the files contained, to notice when they contain others.
    chains: Vec<Vec<CertificateDer<'static>>>,
    authorities: Vec<CertificateDer<'static>>,
}

/// A certificate, and its chain with the key.
type Pair = (Certificate, Arc<CertifiedKey>);

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
        let material = Material::read(settings, &HashMap::new())?;
        let current = ArcSwap::from_pointee(material.build(settings, tickets()?)?);
        Ok(Acceptor { name: name.into(), settings: settings.clone(), challenges: None, current })
    }

    /// Answers an ACME server that validates a name, if certificates are issued for this listener.
    #[must_use]
    pub fn with_challenges(self, challenges: &ChallengeCertificates) -> Acceptor {
        let challenges = (!self.settings.issued.is_empty()).then(|| challenges.clone());
        Acceptor { challenges, ..self }
    }

    /// Returns the configuration for a new connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Performs the handshake. The caller limits the time: the client decides how long it takes.
    ///
    /// # Errors
    /// If the connection breaks, the client supports nothing that is offered, or its certificate fails verification; and
    /// if the client is an ACME server, which wants no more than the handshake.
    pub async fn accept<S>(&self, stream: S) -> io::Result<(TlsStream<S>, HandshakeInfo)>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = match self.challenges.as_ref().filter(|challenges| challenges.is_pending()) {
            None => TlsAcceptor::from(self.config()).accept_with(stream, limit_buffer).await?,
            // Boxed, or each connection that has not sent its first record would have room for it.
            Some(challenges) => Box::pin(self.accept_or_validate(challenges, stream)).await?,
        };
        let handshake = HandshakeInfo::of(stream.get_ref().1, clock::unix())?;
        Ok((stream, handshake))
    }

    /// Performs the handshake while names are to be validated: with the client, or with the ACME server, for which that is
    /// all.
    async fn accept_or_validate<S>(&self, challenges: &ChallengeCertificates, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let validating = challenges.config_for(&start.client_hello());
        let Some(config) = validating else { return start.into_stream_with(self.config(), limit_buffer).await };
        start.into_stream_with(config, limit_buffer).await?.shutdown().await?;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "an ACME server validated a name"))
    }

    fn load(&self) -> Guard<Arc<Current>> {
        self.current.load()
    }
}

fn limit_buffer(connection: &mut ServerConnection) {
    connection.set_buffer_limit(Some(BUFFER));
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
        let issued = self.settings.issued.iter().cloned();
        self.settings.certificates.iter().flat_map(CertificateFiles::paths).chain(issued).chain(authorities).collect()
    }

    fn reload(&self) -> Result<bool, Error> {
        let current = self.load();
        let material = Material::read(&self.settings, &current.issued)?;
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
    pairs: Vec<Pair>,
    issued: HashMap<PathBuf, Pair>,
    roots: Option<Arc<RootCertStore>>,
    authorities: Vec<CertificateDer<'static>>,
}

impl Material {
    /// Reads all files. An issued certificate whose file is damaged or gone stays as in `known`: whatever obtains it
    /// notices, and obtains another one.
    fn read(settings: &Settings, known: &HashMap<PathBuf, Pair>) -> Result<Material, Error> {
        let mut pairs = settings.certificates.iter().map(pem::pair).collect::<Result<Vec<_>, _>>()?;
        let mut issued = HashMap::new();
        for file in &settings.issued {
            let read = pem::pair(&CertificateFiles { certificate: file.clone(), key: file.clone() }).ok();
            if let Some(pair) = read.or_else(|| known.get(file).cloned()) {
                pairs.push(pair.clone());
                issued.insert(file.clone(), pair);
            }
        }
        let (roots, authorities) = match &settings.clients {
            None => (None, Vec::new()),
            Some(clients) => {
                let (roots, authorities) = pem::authorities(&clients.authorities)?;
                (Some(Arc::new(roots)), authorities)
            }
        };
        Ok(Material { pairs, issued, roots, authorities })
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
        Ok(Current {
            config: Arc::new(config),
            certificates,
            issued: self.issued,
            chains,
            authorities: self.authorities,
        })
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
