//! Owns: where the API server is, and the files that open it: its authorities, and the token of the service account.
//! Invariant: both files are read for each connection, since Kubernetes replaces them while we run.
//! Must not know: what is asked of the server.

use std::env;
use std::path::{Path, PathBuf};

use http::HeaderValue;

use super::super::settings::{ApiServer, Kubernetes};
use crate::files;
use crate::tls::{Connector, client};

/// Where each pod finds the files of its service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The largest token, in bytes.
const MAX_TOKEN: u64 = 64 << 10;

/// What a connection needs.
pub(super) struct Credentials {
    pub(super) server: ApiServer,
    pub(super) connector: Connector,
    /// The value of the field Authorization.
    pub(super) authorization: HeaderValue,
}

impl Credentials {
    /// Reads the environment and the files. Blocks.
    ///
    /// # Errors
    /// What is missing or unusable, and what to do.
    pub(super) fn read(settings: &Kubernetes) -> Result<Credentials, String> {
        let server = settings.api_server.clone().or_else(in_cluster).ok_or(
            "KUBERNETES_SERVICE_HOST is not set, as it is in a pod; outside of the cluster write `api_server`",
        )?;
        let file = |configured: &Option<PathBuf>, name: &str| {
            configured.clone().unwrap_or_else(|| Path::new(SERVICE_ACCOUNT).join(name))
        };
        let authorities = Some(file(&settings.authorities, "ca.crt"));
        let connector = Connector::open("kubernetes", &client::Settings { authorities, ..client::Settings::default() })
            .map_err(|error| format!("the authorities of the API server: {error}"))?;
        let authorization = authorization(&file(&settings.token_file, "token"))?;
        Ok(Credentials { server, connector, authorization })
    }
}

/// Returns the API server of the cluster in which this process runs.
fn in_cluster() -> Option<ApiServer> {
    let host = env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
    let port = env::var("KUBERNETES_SERVICE_PORT").ok().and_then(|port| port.parse().ok());
    Some(ApiServer { host, port: port.unwrap_or(443) })
}

fn authorization(file: &Path) -> Result<HeaderValue, String> {
    let token = files::read_text(file, MAX_TOKEN)
        .map_err(|error| format!("cannot read the token in {}: {error}", file.display()))?;
    if token.trim().is_empty() {
        return Err(format!("{} is empty: it must hold the token", file.display()));
    }
    let value = HeaderValue::try_from(format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| format!("the content of {} is no token", file.display()))?;
    value.set_sensitive(true);
    Ok(value)
}
