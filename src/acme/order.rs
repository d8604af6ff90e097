//! Owns: one order of a certificate: authorizations, challenges, the signing request, the download.
//! Invariant: its key is stored before it is used, so that a process which ends costs no second order; each wait is limited.
//! Must not know: when a certificate is due; who else shares the storage.

use std::time::Duration;

use instant_acme::{
    AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::Der;

use super::account::Session;
use super::challenges::Challenges;
use super::failure::{Failure, kind, problem_text};
use super::plan::{self, StoredCertificate};
use super::settings::{ChallengeKind, Settings};
use super::storage::{Lock, Storage, StoredChallenge, StoredOrder};
use crate::clock;

/// How long the other Linchpins that share the storage may take to notice a challenge: each looks once a second.
const SPREAD: Duration = Duration::from_secs(2);
/// How long the ACME server may take to validate a name, and then to issue the certificate.
const POLLS: RetryPolicy =
    RetryPolicy::new().initial_delay(Duration::from_millis(500)).backoff(1.5).timeout(Duration::from_secs(120));
/// How long a challenge is answered at most, in seconds: longer than any order takes.
const CHALLENGE_LIFETIME: u64 = 15 * 60;

/// What an order needs.
pub(super) struct OrderContext<'a> {
    pub(super) settings: &'a Settings,
    pub(super) storage: &'a Storage,
    pub(super) lock: &'a Lock,
    pub(super) challenges: &'a Challenges,
    pub(super) session: &'a Session,
}

/// What is ordered.
pub(super) struct OrderRequest<'a> {
    pub(super) name: &'a str,
    /// The failures since the last success.
    pub(super) failures: u32,
    /// The certificate that it replaces, if the ACME server gives renewal information.
    pub(super) replaces: Option<&'a str>,
}

impl OrderContext<'_> {
    /// Obtains a certificate and stores it.
    pub(super) async fn obtain(&self, request: &OrderRequest<'_>) -> Result<StoredCertificate, Failure> {
        let OrderRequest { name, .. } = *request;
        let (mut order, key) = self.begin(request).await?;
        let mut answered = Vec::new();
        let validated = self.validate(&mut order, request, &mut answered).await;
        for challenge in &answered {
            self.storage.remove_challenge(self.lock, &challenge.token);
        }
        self.refresh_challenges();
        if let Err(failure) = validated {
            // One that failed can't be completed. A server that was away may have validated the name meanwhile.
            if !failure.is_of_server {
                self.storage.remove_order(self.lock, name);
            }
            return Err(failure);
        }
        let issued = self.finalize(&mut order, name, &key).await;
        if issued.as_ref().is_err_and(|failure| !failure.is_of_server) || issued.is_ok() {
            self.storage.remove_order(self.lock, name);
        }
        issued
    }

    /// Goes on with the order that a process has left, or begins one.
    async fn begin(&self, request: &OrderRequest<'_>) -> Result<(Order, KeyPair), Failure> {
        let OrderRequest { name, replaces, .. } = *request;
        if let Some(StoredOrder { url, key }) = self.storage.order(name)
            && let Ok(key) = KeyPair::from_pem(&key)
            && let Ok(mut order) = self.session.account.order(url).await
            && order.state().status != OrderStatus::Invalid
        {
            return Ok((order, key));
        }
        let identifiers = [Identifier::Dns(name.to_owned())];
        let new = || {
            let new = NewOrder::new(&identifiers);
            match &self.settings.profile {
                Some(profile) => new.profile(profile),
                None => new,
            }
        };
        let mut ordered = match replaces.and_then(identifier) {
            Some(replaced) => self.session.account.new_order(&new().replaces(replaced)).await,
            None => self.session.account.new_order(&new()).await,
        };
        // An order for it may have been made before, or the server changed its mind about what it supports.
        let is_about_replacement = |error: &Error| match error {
            Error::Api(problem) => matches!(kind(problem), Some("alreadyReplaced" | "malformed")),
            Error::Unsupported(_) => true,
            _ => false,
        };
        if replaces.is_some() && ordered.as_ref().is_err_and(is_about_replacement) {
            ordered = self.session.account.new_order(&new()).await;
        }
        let order = match ordered {
            Err(Error::Api(problem)) if kind(&problem) == Some("accountDoesNotExist") => {
                // The next attempt registers one.
                self.storage.remove_account(self.lock);
                return Err(Failure::new(problem_text(&problem), "Linchpin registers a new account by itself"));
            }
            ordered => ordered.map_err(|error| self.session.failed(error))?,
        };
        let key = KeyPair::generate().map_err(Failure::of_storage)?;
        let stored = StoredOrder { url: order.url().into(), key: key.serialize_pem() };
        self.storage.save_order(self.lock, name, &stored).map_err(Failure::of_storage)?;
        Ok((order, key))
    }

    /// Proves control of the name, unless the ACME server knows from before.
    async fn validate(
        &self,
        order: &mut Order,
        request: &OrderRequest<'_>,
        answered: &mut Vec<StoredChallenge>,
    ) -> Result<(), Failure> {
        if order.state().status != OrderStatus::Pending {
            return Ok(());
        }
        let failed = |error| self.session.failed(error);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(failed)?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let is_offered = |kind| authorization.challenges.iter().any(|offered| offered.r#type == wire(kind));
            let Some(kind) = plan::challenge(&self.settings.challenges, is_offered, request.failures) else {
                let fact = "the ACME server offers none of the challenges that are configured for the name";
                return Err(Failure::new(fact, "allow others in `challenges`, or use another ACME server"));
            };
            let Some(mut challenge) = authorization.challenge(wire(kind)) else { continue };
            let stored = StoredChallenge {
                kind,
                name: request.name.into(),
                token: challenge.token.clone(),
                key_authorization: challenge.key_authorization().as_str().into(),
                until: clock::unix().as_secs() + CHALLENGE_LIFETIME,
            };
            self.storage.save_challenge(self.lock, &stored).map_err(Failure::of_storage)?;
            answered.push(stored);
            self.refresh_challenges();
            tokio::time::sleep(SPREAD).await;
            challenge.set_ready().await.map_err(failed)?;
        }
        match order.poll_ready(&POLLS).await {
            Ok(OrderStatus::Ready) => Ok(()),
            Ok(_) => Err(self.reason(order, None).await),
            Err(error @ Error::Api(_)) => Err(self.reason(order, Some(failed(error))).await),
            Err(error) => Err(failed(error)),
        }
    }

    /// Finds out why the ACME server did not accept a name: the challenge says more than the order.
    async fn reason(&self, order: &Order, known: Option<Failure>) -> Failure {
        let retry_after = known.as_ref().and_then(|failure| failure.retry_after);
        let url = order.url().to_owned();
        if let Ok(mut order) = self.session.account.order(url).await {
            let mut authorizations = order.authorizations();
            while let Some(Ok(authorization)) = authorizations.next().await {
                for challenge in &authorization.challenges {
                    if let Some(problem) = challenge.error.clone() {
                        let name = challenge_name(&challenge.r#type);
                        let failure = Failure::of_server(Error::Api(problem), retry_after);
                        return Failure { fact: format!("{name} failed: {}", failure.fact), ..failure };
                    }
                }
            }
        }
        known.unwrap_or_else(Failure::not_accepted)
    }

    /// Requests the certificate, waits for it, and stores it.
    async fn finalize(&self, order: &mut Order, name: &str, key: &KeyPair) -> Result<StoredCertificate, Failure> {
        let failed = |error| self.session.failed(error);
        if matches!(order.state().status, OrderStatus::Pending | OrderStatus::Ready) {
            let request = CertificateParams::new([name.to_owned()]).and_then(|mut params| {
                params.distinguished_name = DistinguishedName::new();
                params.serialize_request(key)
            });
            let request = request.map_err(|error| {
                Failure::new(format!("cannot request a certificate: {error}"), "remove the name from `names`")
            })?;
            order.finalize_csr(request.der()).await.map_err(failed)?;
        }
        let chain = order.poll_certificate(&POLLS).await.map_err(failed)?;
        let pem = format!("{}{chain}", key.serialize_pem());
        self.storage.save_certificate(self.lock, name, &pem, clock::unix().as_secs()).map_err(|why| {
            let remedy = "check this machine's clock, and ask the authority";
            Failure::new(format!("the ACME server's certificate can't be used: {why}"), remedy)
        })
    }

    fn refresh_challenges(&self) {
        let found = Storage::challenges(&self.settings.storage, clock::unix().as_secs());
        self.challenges.set(&self.settings.storage, found);
    }
}

/// The type of a challenge, as ACME servers name it.
fn wire(kind: ChallengeKind) -> ChallengeType {
    match kind {
        ChallengeKind::Http01 => ChallengeType::Http01,
        ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

fn challenge_name(challenge: &ChallengeType) -> &'static str {
    match challenge {
        ChallengeType::Http01 => ChallengeKind::Http01.as_str(),
        ChallengeType::TlsAlpn01 => ChallengeKind::TlsAlpn01.as_str(),
        _ => "a challenge",
    }
}

/// Reads a stored id: the issuer's key and the serial number.
pub(super) fn identifier(id: &str) -> Option<CertificateIdentifier<'static>> {
    let (issuer, serial) = id.split_once('.')?;
    let decode = |part| base64::Engine::decode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, part).ok();
    let (issuer, serial) = (decode(issuer)?, decode(serial)?);
    Some(CertificateIdentifier::new(Der::from_slice(&issuer), Der::from_slice(&serial)).into_owned())
}
