//! Owns: requests of commands to the admin listener of a running Linchpin.
//! Invariant: each request has a time limit, and each failure says where nothing answered and what to do.
//! Must not know: what a command does with the response.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::net::Address;
use crate::{admin, config};

/// The longest response.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The admin listener that a configuration file names.
pub(super) struct AdminClient {
    file: PathBuf,
    settings: admin::Settings,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Error {
    /// The configuration can't be read.
    File(String),
    /// The file has no usable `[admin]`.
    NoAdmin(PathBuf),
    /// Nothing answers at the address.
    Unreachable { file: PathBuf, address: Address, error: String },
    /// There was no whole response in time.
    Broken(Address, String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File(report) => f.write_str(report.trim_end()),
            Error::NoAdmin(file) => write!(
                f,
                "{} has no [admin] with an address that can be used, so there is nothing to ask; write [admin] with \
                 address = \"127.0.0.1:9090\" and restart Linchpin, or reload it with: systemctl kill -s HUP linchpin",
                file.display()
            ),
            Error::Unreachable { file, address, error } => write!(
                f,
                "nothing answers at {address}, the address of [admin] in {}: {error}; check that Linchpin runs, and \
                 with this file. If the file has a new [admin] address, the process still has the former one: send it \
                 SIGHUP",
                file.display()
            ),
            Error::Broken(address, error) => write!(f, "no whole response from {address}: {error}; look at its log"),
        }
    }
}

/// Describes a response that is not the one that was asked for.
pub(super) fn unexpected(status: StatusCode, body: &[u8]) -> String {
    match status {
        StatusCode::UNAUTHORIZED => {
            "the running process has another token than `token_file` of this file; if the file changed, send SIGHUP"
                .into()
        }
        _ => format!(
            "the admin listener answered {status}: {}; does another program listen there?",
            String::from_utf8_lossy(body).trim_end()
        ),
    }
}

impl AdminClient {
    /// Finds the admin listener of a configuration file.
    pub(super) fn of(file: &Path) -> Result<AdminClient, Error> {
        let settings = config::admin(file).map_err(|report| Error::File(report.to_string()))?;
        let settings = settings.ok_or_else(|| Error::NoAdmin(file.into()))?;
        Ok(AdminClient { file: file.into(), settings })
    }

    /// Sends a request, perhaps with a body of JSON, and returns status and body of the response. Blocks for at most
    /// `limit`.
    pub(super) fn send(
        &self,
        method: &Method,
        path: &str,
        json: Option<&Value>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Error> {
        let broken = |error: &dyn fmt::Display| Error::Broken(self.settings.address.clone(), error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| broken(&error))?;
        let response = runtime.block_on(async { tokio::time::timeout(limit, self.exchange(method, path, json)).await });
        response.unwrap_or_else(|_| Err(broken(&format_args!("waited for {} s", limit.as_secs()))))
    }

    async fn exchange(&self, method: &Method, path: &str, json: Option<&Value>) -> Result<(StatusCode, Bytes), Error> {
        let unreachable = |error: std::io::Error| Error::Unreachable {
            file: self.file.clone(),
            address: self.settings.address.clone(),
            error: error.to_string(),
        };
        match &self.settings.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(unreachable)?;
                self.exchange_on(stream, method, path, json).await
            }
            Address::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                self.exchange_on(stream, method, path, json).await
            }
        }
    }

    async fn exchange_on<S>(
        &self,
        stream: S,
        method: &Method,
        path: &str,
        json: Option<&Value>,
    ) -> Result<(StatusCode, Bytes), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: &dyn fmt::Display| Error::Broken(self.settings.address.clone(), error.to_string());
        let host = match &self.settings.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".into(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.settings.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = json.map_or_else(Bytes::new, |json| json.to_string().into());
        let request = request.body(Full::new(body)).map_err(|error| broken(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let response = async {
            let (head, body) = sender.send_request(request).await.map_err(|error| broken(&error))?.into_parts();
            let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| broken(&error))?;
            Ok((head.status, body.to_bytes()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut response = std::pin::pin!(response);
        tokio::select! {
            response = &mut response => response,
            // It may end together with the last bytes of the response.
            _ = &mut connection => response.await,
        }
    }
}
