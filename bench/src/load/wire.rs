//! Owns: a client's non-blocking connection, in clear text or TLS 1.3.
//! Invariant: each handshake is of the kind that the run measures, with the same cipher and group for every proxy.
//! Must not know: what the bytes mean.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, recv};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};

use crate::certificate::HOST;

/// How a client speaks TLS: one value a client, since tickets are its own.
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    /// The next handshake can be a resumed one, and has to be.
    has_ticket: bool,
    resumes: bool,
}

impl Tls {
    /// A client that trusts `authority` alone, and speaks `protocol`. What is negotiated is what all proxies of the
    /// comparison have: X25519 and AES-128-GCM.
    pub(super) fn new(authority: &Path, protocol: &[u8], resumes: bool) -> Result<Self, Box<dyn Error>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(authority)?)?)?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13])?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Self { config: Arc::new(config), has_ticket: false, resumes })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Whether a handshake was what it had to be.
    fn check(&mut self, kind: Option<HandshakeKind>) -> Result<(), Box<dyn Error>> {
        let expected = if self.has_ticket { HandshakeKind::Resumed } else { HandshakeKind::Full };
        if kind != Some(expected) {
            return Err(format!("a handshake was {kind:?}, not {expected:?}").into());
        }
        self.has_ticket = self.resumes;
        Ok(())
    }
}

/// A connection.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<Secured>),
}

/// A connection in TLS.
pub(super) struct Secured {
    socket: TcpStream,
    session: ClientConnection,
    is_checked: bool,
}

impl Wire {
    pub(super) fn connect(
        target: SocketAddr,
        tls: Option<&Tls>,
        registry: &Registry,
        token: Token,
    ) -> Result<Self, Box<dyn Error>> {
        let mut socket = TcpStream::connect(target)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let Some(tls) = tls else { return Ok(Wire::Plain(socket)) };
        let session = ClientConnection::new(tls.config(), ServerName::try_from(HOST)?)?;
        Ok(Wire::Tls(Box::new(Secured { socket, session, is_checked: false })))
    }

    /// Looks at the handshake of a new connection, once something was received on it.
    pub(super) fn check(&mut self, tls: Option<&mut Tls>) -> Result<(), Box<dyn Error>> {
        match (self, tls) {
            (Wire::Tls(secured), Some(tls)) if !secured.is_checked => {
                secured.is_checked = true;
                tls.check(secured.session.handshake_kind())
            }
            _ => Ok(()),
        }
    }

    /// Whether a read of `count` bytes into a buffer of `asked` has emptied the connection.
    pub(super) fn is_empty_after(&self, count: usize, asked: usize) -> bool {
        // A short read shows that the socket is empty (epoll(7)), but not that all records in the buffer are read.
        matches!(self, Wire::Plain(_)) && count < asked
    }

    /// Reads; in clear text only to count, and to let the kernel throw away.
    pub(super) fn skip(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => Ok(recv(&*socket, buffer, RecvFlags::TRUNC)?.1),
            Wire::Tls(secured) => secured.read(buffer),
        }
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.read(buffer),
            Wire::Tls(secured) => secured.read(buffer),
        }
    }
}

impl Write for Wire {
    /// What is written before a handshake is over goes out with its last word.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(socket) => socket.write(bytes),
            Wire::Tls(secured) => {
                let count = secured.session.writer().write(bytes)?;
                secured.send()?;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(_) => Ok(()),
            Wire::Tls(secured) => secured.send(),
        }
    }
}

impl Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // A close_notify is not compared, and the length shows whether the response is complete.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                read => return read,
            }
            self.session.read_tls(&mut self.socket)?;
            self.session.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            self.send()?;
        }
    }

    /// Writes what the socket takes; the rest goes when it takes more.
    fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_handshake_of_a_client_that_resumes_may_be_a_full_one() {
        let folder = std::env::temp_dir().join(format!("linchpin-bench-wire-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        crate::certificate::write(&folder.join("app.pem")).unwrap();
        let tls = |resumes| Tls::new(&folder.join("app.pem"), b"http/1.1", resumes).unwrap();
        let (mut resumes, mut starts_over) = (tls(true), tls(false));
        fs::remove_dir_all(&folder).unwrap();
        assert!(resumes.check(Some(HandshakeKind::Full)).is_ok());
        assert!(resumes.check(Some(HandshakeKind::Full)).is_err());
        assert!(resumes.check(Some(HandshakeKind::Resumed)).is_ok());
        assert!(starts_over.check(Some(HandshakeKind::Full)).is_ok());
        assert!(starts_over.check(Some(HandshakeKind::Full)).is_ok());
        assert!(starts_over.check(Some(HandshakeKind::FullWithHelloRetryRequest)).is_err());
    }
}
