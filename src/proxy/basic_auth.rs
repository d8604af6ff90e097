//! Owns: basic authentication (RFC 7617) of a route: the credentials of a request, and what its backend gets instead.
//! Invariant: no password is logged, kept or sent to a backend that should not have it.
//! Must not know: status codes; how passwords are hashed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::error::ProxyError;
use super::password_checks::PasswordChecks;
use super::users::{MAX_NAME, MAX_PASSWORD, Users};
use crate::clock::Deadline;
use crate::telemetry::Denial;

/// The field that names the user to backends.
const USER: HeaderName = HeaderName::from_static("linchpin-user");

/// The most bytes of the decoded credentials.
const MAX_DECODED: usize = MAX_NAME + 1 + MAX_PASSWORD;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `[routes.basic_auth]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The htpasswd file.
    pub file: PathBuf,
    /// Its users.
    pub users: Arc<Users>,
    /// What browsers show when they ask for the password: visible ASCII and spaces, without `"` and `\`.
    pub realm: String,
    /// Whether backends receive Authorization.
    pub forward_authorization: bool,
}

/// Basic authentication, as requests need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicAuth {
    users: Arc<Users>,
    /// The value of WWW-Authenticate.
    challenge: HeaderValue,
    forwards_authorization: bool,
}

/// The user of a request.
#[derive(Debug, Clone)]
pub(super) struct AuthenticatedUser {
    pub(super) name: Arc<str>,
    forwards_authorization: bool,
}

/// Who sent a request.
pub(super) enum Identified {
    /// A user whose password was verified before.
    User(AuthenticatedUser),
    /// A client that claims to be this user.
    Unverified { name: Box<str>, password: Box<[u8]> },
}

impl BasicAuth {
    /// Prepares these settings.
    pub fn new(settings: &Settings) -> BasicAuth {
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", settings.realm);
        BasicAuth {
            users: Arc::clone(&settings.users),
            // The configuration's check has refused other characters.
            challenge: HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Basic")),
            forwards_authorization: settings.forward_authorization,
        }
    }

    /// The value of WWW-Authenticate that asks for credentials.
    pub(super) fn challenge(&self) -> &HeaderValue {
        &self.challenge
    }

    /// Finds out which user sent a request with these fields, as far as it takes a microsecond: a password that was not
    /// verified before needs more.
    ///
    /// # Errors
    /// There are no credentials, or they are not even in the right form.
    pub(super) fn identify(&self, checks: &PasswordChecks, headers: &HeaderMap) -> Result<Identified, Denial> {
        let mut decoded = [0; MAX_DECODED];
        let (name, password) = credentials(headers, &mut decoded)?;
        Ok(match self.users.recognize(checks.key(), name, password) {
            Some(name) => Identified::User(self.user(Arc::clone(name))),
            None => Identified::Unverified { name: name.into(), password: password.into() },
        })
    }

    /// Verifies a password of the client at `address`, on a thread that serves no requests. `limit` is the deadline of
    /// the wait for that.
    ///
    /// # Errors
    /// It is wrong, the client has sent too many wrong ones, or too many requests wait.
    pub(super) async fn verify(
        &self,
        checks: &PasswordChecks,
        name: Box<str>,
        password: Box<[u8]>,
        address: IpAddr,
        limit: &Deadline,
    ) -> Result<AuthenticatedUser, ProxyError> {
        let name = checks.verify(Arc::clone(&self.users), name, password, address, limit).await?;
        Ok(self.user(name))
    }

    fn user(&self, name: Arc<str>) -> AuthenticatedUser {
        AuthenticatedUser { name, forwards_authorization: self.forwards_authorization }
    }
}

impl AuthenticatedUser {
    /// Tells the backend who the user is, and not the password, unless it should have it.
    pub(super) fn name_to_backend(&self, headers: &mut HeaderMap) {
        if !self.forwards_authorization {
            headers.remove(AUTHORIZATION);
        }
        // Names have no control characters.
        if let Ok(name) = HeaderValue::from_bytes(self.name.as_bytes()) {
            headers.insert(USER, name);
        }
    }
}

/// Decodes the credentials of a request with these fields into `decoded`.
fn credentials<'d>(headers: &HeaderMap, decoded: &'d mut [u8; MAX_DECODED]) -> Result<(&'d str, &'d [u8]), Denial> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let field = fields.next().ok_or(Denial::NoCredentials)?;
    if fields.next().is_some() {
        return Err(Denial::WrongCredentials);
    }
    let (scheme, encoded) = field.as_bytes().split_at_checked(6).ok_or(Denial::NoCredentials)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return Err(Denial::NoCredentials);
    }
    let length = BASE64.decode_slice(encoded.trim_ascii(), decoded).map_err(|_| Denial::WrongCredentials)?;
    let decoded = decoded.get(..length).unwrap_or_default();
    let colon = memchr::memchr(b':', decoded).ok_or(Denial::WrongCredentials)?;
    let (name, password) = decoded.split_at_checked(colon).ok_or(Denial::WrongCredentials)?;
    let (name, password) = (std::str::from_utf8(name).ok(), password.get(1..));
    let pair = name.zip(password).filter(|(name, password)| name.len() <= MAX_NAME && password.len() <= MAX_PASSWORD);
    pair.ok_or(Denial::WrongCredentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_as_rfc_7617_writes_them_and_nothing_else_is() {
        let long = format!("Basic {}", BASE64.encode("a".repeat(MAX_DECODED + 1)));
        let longer = format!("Basic {}", BASE64.encode(format!("a:{}", "b".repeat(MAX_PASSWORD + 1))));
        for (fields, expected) in [
            (&["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="][..], Ok(("Aladdin", "open sesame"))),
            (&["basic QWxhZGRpbjpvcGVuIHNlc2FtZQ"], Ok(("Aladdin", "open sesame"))),
            (&["BASIC   YTpiOmM="], Ok(("a", "b:c"))),
            (&["Basic Og=="], Ok(("", ""))),
            (&[], Err(Denial::NoCredentials)),
            (&["Bearer abc"], Err(Denial::NoCredentials)),
            (&["Basic"], Err(Denial::NoCredentials)),
            (&["Basic !"], Err(Denial::WrongCredentials)),
            (&["Basic YQ=="], Err(Denial::WrongCredentials)),
            (&["Basic /zo="], Err(Denial::WrongCredentials)),
            (&["Basic YTpi", "Basic YTpi"], Err(Denial::WrongCredentials)),
            (&[&long], Err(Denial::WrongCredentials)),
            (&[&longer], Err(Denial::WrongCredentials)),
        ] {
            let headers = fields
                .iter()
                .map(|value| (AUTHORIZATION, HeaderValue::from_str(value).unwrap()))
                .collect::<HeaderMap>();
            let mut decoded = [0; MAX_DECODED];
            let found = credentials(&headers, &mut decoded);
            let expected = expected.map(|(name, password): (&str, &str)| (name, password.as_bytes()));
            assert_eq!(found, expected, "{fields:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_field_panics(value: Vec<u8>) {
            let field = [b"Basic ", &value[..]].concat();
            for bytes in [field, [b"Basic ", BASE64.encode(&value).as_bytes()].concat()] {
                let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
                let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
                let _ = credentials(&headers, &mut [0; MAX_DECODED]);
            }
        }
    }
}
