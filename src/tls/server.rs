//! Owns: TLS towards clients: which certificates, which versions, who has to show one, and the handshake.
//! Invariant: a change of files is for new connections; a ticket is worth nothing where its certificate would not be believed.
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
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
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
    /// At least one; the first is for clients that ask for a name that none is for.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: Version,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
    /// Whether clients are asked for certificates.
    pub clients: Option<ClientVerification>,
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// 1.2, with forward secrecy and authenticated encryption only.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

/// Whose certificates are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientVerification {
    /// The file of the authorities that vouch for clients.
    pub authorities: PathBuf,
    /// Whether a client without a certificate is refused.
    pub is_required: bool,
}

/// What takes the connections of one listener, on all threads: its tickets are good on each.
pub struct Acceptor {
    name: String,
    settings: Settings,
    current: ArcSwap<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    certificates: Vec<Certificate>,
    /// What the files held, to tell whether they hold something else.
    chains: Vec<Vec<CertificateDer<'static>>>,
    authorities: Vec<CertificateDer<'static>>,
}

/// What a handshake has settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeInfo {
    /// Whether the client wants HTTP/2.
    pub is_http2: bool,
    /// The name that it asked for, in lower case.
    pub server_name: Option<String>,
    /// The holder of the certificate that it has shown and that was verified: the value of [`subject::SUBJECT_FIELD`].
    pub subject: Option<HeaderValue>,
}

impl Acceptor {
    /// Reads the files. Messages and metrics call it `name`.
    ///
    /// # Errors
    /// The first file that can't be used.
    pub fn open(name: &str, settings: &Settings) -> Result<Acceptor, Error> {
        let material = Material::read(settings)?;
        let current = ArcSwap::from_pointee(material.build(settings, tickets()?)?);
        Ok(Acceptor { name: name.into(), settings: settings.clone(), current })
    }

    /// What a new connection is to be served with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Shakes hands. It takes as long as the client likes: the caller sets a limit.
    ///
    /// # Errors
    /// If the client goes, or wants what is not offered, or shows a certificate that is not believed.
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
    /// What was settled on `connection`; `now` is since 1970.
    pub(super) fn of(connection: &ServerConnection, now: Duration) -> io::Result<HandshakeInfo> {
        let shown = connection.peer_certificates().and_then(<[_]>::first);
        let refused = |why| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let subject = match shown {
            None => None,
            Some(der) => {
                // A resumed session shows what it was begun with, which may be over meanwhile.
                let is_over = |read: Certificate| matches!(read.validity(now), Validity::Expired(_));
                if Certificate::read(der).is_none_or(is_over) {
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
        })
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
        // A ticket stands for a certificate that was believed: with other authorities it may not be.
        let tickets = if is_same_trust { Arc::clone(&current.config.ticketer) } else { tickets()? };
        self.current.store(Arc::new(material.build(&self.settings, tickets)?));
        Ok(true)
    }

    fn certificates(&self) -> Vec<Certificate> {
        self.load().certificates.clone()
    }
}

/// The content of the files.
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
        // Tickets alone: what is kept in a table would be locked by every thread. Early data stays
        // off, as it is by default: it could be sent twice.
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

/// Keys for tickets that change every six hours. Each listener has its own: what it asks of clients is its own, too.
fn tickets() -> Result<Arc<dyn ProducesTickets>, Error> {
    rustls::crypto::aws_lc_rs::Ticketer::new().map_err(pem::setup_error)
}
