//! Owns: the short texts that say why a connection, request, probe or lookup failed.
//! Invariant: log, status, access log and dashboard use these texts; there are few, and none contains what a peer sent.
//! Must not know: what follows from a failure.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use hickory_resolver::net::{DnsError, NetError};
use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

/// Why a connection, request or probe failed. It is small and `Copy`: only `Display` makes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An I/O error of the system: `connection refused`.
    Io(io::ErrorKind),
    /// Linchpin does not accept the backend's certificate: `certificate: unknown issuer`.
    Certificate(&'static str),
    /// TLS failed for another reason.
    Tls(&'static str),
    /// The peer ended TLS with an alert (RFC 8446 §6) of this number.
    Alert(u8),
    /// HTTP/2 failed with this error code (RFC 9113 §7); `None` if the peer does not speak it.
    Http2(Option<u32>),
    /// The response is missing or unusable.
    Response(&'static str),
    /// Linchpin or its machine is at fault.
    Local(&'static str),
    /// No connection within this time.
    ConnectTimedOut(Duration),
    /// No response within this time.
    ResponseTimedOut(Duration),
    /// A probe got no result within this time.
    TimedOut(Duration),
    /// The status is not one of the expected.
    Status(u16),
}

impl Reason {
    /// The connection ended before a response began.
    pub const CLOSED: Reason = Reason::Response("connection closed before the response");
    /// The response is not HTTP, or its end is ambiguous.
    pub const MALFORMED: Reason = Reason::Response("malformed response head");
    /// The header section of the response is larger than the limit.
    pub const TOO_LARGE: Reason = Reason::Response("response head too large");
    /// The response broke off before its end.
    pub const TRUNCATED: Reason = Reason::Response("response broke off");
    /// This machine has run out of descriptors, ports or memory.
    pub const SHORTAGE: Reason = Reason::Local("short of descriptors, ports or memory here");
    /// The body of the request ended early.
    pub const REQUEST_BODY: Reason = Reason::Local("request body broke off");
    /// The probes took the backend down while a request waited for it.
    pub const BACKEND_DOWN: Reason = Reason::Response("backend went down while it was waited for");
    /// The session of a request was handed over while the request ran.
    pub const SESSION_MOVED: Reason = Reason::Response("session moved to another backend meanwhile");

    /// Returns the reason of an error, however often it is wrapped.
    pub fn of(error: &(dyn Error + 'static)) -> Reason {
        let mut next = Some(error);
        let mut outermost = None;
        while let Some(error) = next {
            if let Some(reason) = Reason::known(error) {
                return reason;
            }
            if let Some(error) = error.downcast_ref::<io::Error>() {
                // `source` of an `io::Error` skips the error that it wraps.
                if let Some(wrapped) = error.get_ref() {
                    outermost = outermost.or(Some(Reason::Io(error.kind())));
                    next = Some(wrapped);
                    continue;
                }
                return outermost.unwrap_or(Reason::Io(error.kind()));
            }
            next = error.source();
        }
        outermost.unwrap_or(Reason::CLOSED)
    }

    /// Returns the reason of this one error, if it has a specific one.
    fn known(error: &(dyn Error + 'static)) -> Option<Reason> {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(of_tls(error));
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            return of_http(error);
        }
        let error = error.downcast_ref::<h2::Error>()?;
        match (error.get_io(), error.reason()) {
            (Some(error), _) => Some(Reason::of(error)),
            (None, reason) => Some(Reason::Http2(reason.map(u32::from))),
        }
    }
}

/// Returns `None` if the error's source says more.
fn of_http(error: &hyper::Error) -> Option<Reason> {
    if error.is_parse_too_large() {
        Some(Reason::TOO_LARGE)
    } else if error.is_parse() {
        Some(Reason::MALFORMED)
    } else if error.is_user() {
        Some(Reason::REQUEST_BODY)
    } else if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        Some(Reason::CLOSED)
    } else {
        None
    }
}

fn of_tls(error: &rustls::Error) -> Reason {
    match error {
        rustls::Error::InvalidCertificate(error) => Reason::Certificate(of_certificate(error)),
        rustls::Error::NoCertificatesPresented => Reason::Certificate("none presented"),
        rustls::Error::AlertReceived(alert) => Reason::Alert(u8::from(*alert)),
        // Usually the port speaks HTTP without TLS.
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Reason::Tls("not spoken"),
        rustls::Error::NoApplicationProtocol => Reason::Tls("no protocol in common"),
        rustls::Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13) => {
            Reason::Tls("neither version 1.2 nor 1.3 spoken")
        }
        rustls::Error::PeerIncompatible(_) => Reason::Tls("nothing in common"),
        rustls::Error::InvalidMessage(_) | rustls::Error::PeerMisbehaved(_) => Reason::Tls("malformed handshake"),
        _ => Reason::Tls("handshake failed"),
    }
}

fn of_certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::UnknownIssuer => "unknown issuer",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not valid yet",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => "not valid for name",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => "not for a server",
        CertificateError::Revoked => "revoked",
        CertificateError::BadEncoding => "bad encoding",
        CertificateError::BadSignature => "bad signature",
        CertificateError::UnhandledCriticalExtension => "unknown critical extension",
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "unsupported signature algorithm"
        }
        // The verifier's error. By default `openssl req -x509` makes the certificate of an authority.
        CertificateError::Other(error) if format!("{error:?}").contains("CaUsedAsEndEntity") => {
            "an authority's, not a server's"
        }
        _ => "not accepted",
    }
}

/// Returns the text for an error of the system, as in its manual.
fn of_kind(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::ConnectionAborted => "connection aborted",
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof | io::ErrorKind::NotConnected => "connection closed",
        io::ErrorKind::HostUnreachable => "no route to host",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::NetworkDown => "network down",
        io::ErrorKind::TimedOut => "timed out",
        io::ErrorKind::NotFound => "no such socket",
        io::ErrorKind::PermissionDenied => "permission denied",
        _ => return None,
    })
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |time: Duration| humantime::format_duration(rounded(time));
        match *self {
            Reason::Io(kind) => match of_kind(kind) {
                Some(word) => f.write_str(word),
                None => kind.fmt(f),
            },
            Reason::Certificate(word) => write!(f, "certificate: {word}"),
            Reason::Tls(word) => write!(f, "TLS: {word}"),
            Reason::Alert(number) => {
                f.write_str("TLS: alert received:")?;
                match AlertDescription::from(number).as_str() {
                    Some(name) => spaced(f, name),
                    None => write!(f, " {number}"),
                }
            }
            Reason::Http2(Some(code)) => write!(f, "HTTP/2: {}", h2::Reason::from(code).description()),
            Reason::Http2(None) => f.write_str("HTTP/2: not spoken"),
            Reason::Response(word) | Reason::Local(word) => f.write_str(word),
            Reason::ConnectTimedOut(time) => write!(f, "connection timed out after {}", after(time)),
            Reason::ResponseTimedOut(time) => write!(f, "response timed out after {}", after(time)),
            Reason::TimedOut(time) => write!(f, "timed out after {}", after(time)),
            Reason::Status(status) => write!(f, "unexpected status {status}"),
        }
    }
}

/// Rounds to milliseconds below a minute, and to seconds beyond.
fn rounded(time: Duration) -> Duration {
    match time.as_secs() {
        0..60 => Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        seconds => Duration::from_secs(seconds),
    }
}

/// ` handshake failure` for `HandshakeFailure`, ` unknown psk identity` for `UnknownPSKIdentity`.
fn spaced(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let is_small = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase());
    let mut before = None;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_ascii_uppercase() && (before.is_none() || is_small(before) || is_small(chars.peek().copied())) {
            f.write_str(" ")?;
        }
        write!(f, "{}", c.to_ascii_lowercase())?;
        before = Some(c);
    }
    Ok(())
}

/// Says that a DNS query took too long.
pub const DNS_TIMED_OUT: &str = "the DNS server did not answer in time";

/// Returns why a DNS query failed.
pub fn of_dns(error: &NetError) -> String {
    match error {
        error if error.is_nx_domain() => "the name does not exist".into(),
        NetError::Dns(DnsError::NoRecordsFound(none)) => format!("the DNS server answered: {}", none.response_code),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the DNS server answered: {code}"),
        NetError::Timeout => DNS_TIMED_OUT.into(),
        NetError::Io(error) => Reason::of(&**error).to_string(),
        NetError::Busy | NetError::NoConnections => error.to_string(),
        // The texts of the others quote the answer.
        _ => "the DNS server's answer is malformed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(error: impl Error + 'static) -> String {
        Reason::of(&error).to_string()
    }

    #[test]
    fn system_errors_have_the_names_of_the_manual() {
        use rustix::io::Errno;
        for (errno, text) in [
            (Errno::CONNREFUSED, "connection refused"),
            (Errno::CONNRESET, "connection reset"),
            (Errno::HOSTUNREACH, "no route to host"),
            (Errno::NETUNREACH, "network unreachable"),
            (Errno::TIMEDOUT, "timed out"),
            (Errno::NOENT, "no such socket"),
            (Errno::ACCESS, "permission denied"),
        ] {
            assert_eq!(words(io::Error::from(errno)), text);
        }
        assert_eq!(words(io::Error::from(io::ErrorKind::UnexpectedEof)), "connection closed");
        assert_eq!(words(io::Error::other("x")), "other error");
    }

    #[test]
    fn tls_fails_by_name_however_it_was_wrapped() {
        let text = |error: rustls::Error| words(io::Error::new(io::ErrorKind::InvalidData, error));
        let certificate = |error: CertificateError| text(rustls::Error::InvalidCertificate(error));
        assert_eq!(certificate(CertificateError::UnknownIssuer), "certificate: unknown issuer");
        assert_eq!(certificate(CertificateError::Expired), "certificate: expired");
        assert_eq!(certificate(CertificateError::NotValidYet), "certificate: not valid yet");
        assert_eq!(certificate(CertificateError::NotValidForName), "certificate: not valid for name");
        assert_eq!(certificate(CertificateError::ApplicationVerificationFailure), "certificate: not accepted");
        let alert = |alert| text(rustls::Error::AlertReceived(alert));
        assert_eq!(alert(AlertDescription::HandshakeFailure), "TLS: alert received: handshake failure");
        assert_eq!(alert(AlertDescription::UnknownCA), "TLS: alert received: unknown ca");
        assert_eq!(alert(AlertDescription::UnknownPSKIdentity), "TLS: alert received: unknown psk identity");
        assert_eq!(alert(AlertDescription::Unknown(200)), "TLS: alert received: 200");
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(text(plain), "TLS: not spoken");
        assert_eq!(words(io::Error::other(io::Error::other(rustls::Error::DecryptError))), "TLS: handshake failed");
    }

    #[test]
    fn why_a_dns_query_failed_quotes_nothing_of_the_answer() {
        use hickory_resolver::proto::rr::{DNSClass, Name, RecordType};
        let foreign = NetError::ForeignClassRecord {
            record_name: Name::from_ascii("from.the.answer.").unwrap(),
            record_class: DNSClass::CH,
            record_type: RecordType::A,
        };
        let truncated = NetError::from(hickory_resolver::proto::serialize::binary::DecodeError::InsufficientBytes);
        for error in [foreign, truncated, NetError::QueryCaseMismatch] {
            assert_eq!(of_dns(&error), "the DNS server's answer is malformed", "{error}");
        }
        assert_eq!(of_dns(&NetError::NoConnections), "no connections available");
    }

    #[test]
    fn times_are_as_short_as_they_can_be_read() {
        for (millis, text) in [
            (2000, "timed out after 2s"),
            (250, "timed out after 250ms"),
            (1999, "timed out after 1s 999ms"),
            (90_400, "timed out after 1m 30s"),
        ] {
            assert_eq!(Reason::TimedOut(Duration::from_millis(millis)).to_string(), text);
        }
        assert_eq!(Reason::Status(404).to_string(), "unexpected status 404");
    }
}
