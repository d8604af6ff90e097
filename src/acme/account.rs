//! Owns: the account with the ACME server: the stored one, or a new one, with its contacts.
//! Invariant: an account is stored before it is used; without the operator's consent there is none.
//! Must not know: orders.

use std::sync::Arc;

use instant_acme::{Account, ExternalAccountKey, HttpClient, NewAccount};

use super::failure::Failure;
use super::https_client::{HttpsClient, RetryAfterClient};
use super::settings::Settings;
use super::storage::{Lock, Storage, StoredAccount};
use crate::tls::{Connector, client};

/// A session with an ACME server.
pub(super) struct Session {
    pub(super) account: Account,
    client: RetryAfterClient,
}

/// Makes the client for an ACME server. Only tests need another one than [`connect`].
pub(super) type Connect = dyn Fn(&Settings) -> Result<Arc<dyn HttpClient>, Failure> + Send + Sync;

/// Makes a client that trusts the configured authorities, whose file it reads.
pub(super) fn connect(settings: &Settings) -> Result<Arc<dyn HttpClient>, Failure> {
    let authorities = settings.authorities.clone();
    let tls = client::Settings { authorities, ..client::Settings::default() };
    let connector = Connector::open("acme", &tls).map_err(|error| {
        let fact = format!("cannot verify the ACME server: {error}");
        Failure::new(fact, "name the file of its authority in `ca`")
    })?;
    Ok(Arc::new(HttpsClient::new(connector)))
}

impl Session {
    /// Reads the account, or registers one.
    pub(super) async fn open(
        settings: &Settings,
        storage: &Storage,
        lock: &Lock,
        client: Arc<dyn HttpClient>,
    ) -> Result<Session, Failure> {
        let client = RetryAfterClient::new(client);
        let builder = Account::builder_with_http(Box::new(client.clone()));
        let failed = |error| Failure::of_server(error, client.retry_after());
        let external = settings.external_account.as_ref();
        let contacts: Vec<_> = settings.contacts.iter().map(String::as_str).collect();

        if let Some(stored) = storage.account(external.map(|external| external.key_id.as_str())) {
            let credentials = serde_json::to_value(&stored.credentials).map_err(Failure::of_storage)?;
            let account = builder.from_credentials(stored.credentials).await.map_err(failed)?;
            if stored.contacts != settings.contacts {
                account.update_contacts(&contacts).await.map_err(failed)?;
                let credentials = serde_json::from_value(credentials).map_err(Failure::of_storage)?;
                let stored = StoredAccount { credentials, contacts: settings.contacts.clone(), ..stored };
                storage.save_account(lock, &stored).map_err(Failure::of_storage)?;
            }
            return Ok(Session { account, client });
        }
        // The configuration is refused without `agree_to_terms`.
        let new = NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let key = external.map(|external| ExternalAccountKey::new(external.key_id.clone(), &external.key));
        let created = builder.create(&new, settings.directory.clone(), key.as_ref()).await;
        let (account, credentials) = created.map_err(failed)?;
        let stored = StoredAccount {
            credentials,
            contacts: settings.contacts.clone(),
            directory: settings.directory.clone(),
            external: external.map(|external| external.key_id.clone()),
        };
        storage.save_account(lock, &stored).map_err(Failure::of_storage)?;
        tracing::info!(listener = settings.listener, directory = settings.directory, "registered an ACME account");
        Ok(Session { account, client })
    }

    /// Makes the failure of a request.
    pub(super) fn failed(&self, error: instant_acme::Error) -> Failure {
        Failure::of_server(error, self.client.retry_after())
    }
}
