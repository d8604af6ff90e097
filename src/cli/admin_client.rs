//! Owns: requests of commands to the admin listener of a running Linchpin.
//! Invariant: each request has a time limit, and each failure says where nothing answered and what to do.
//! Must not know: what a command does with the response.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::config_file::{ConfigArgs, find};
use crate::config;
use crate::net::Address;

/// The longest response.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// The longest line of a stream.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// The longest message with which a process refuses a request.
const MAX_MESSAGE_BYTES: usize = 4096;
/// How long the head of a stream may take, and the time between two of its pieces: three comments of the server.
const STREAM_TIMEOUT: Duration = Duration::from_secs(35);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The options that say where the running process is.
#[derive(Debug, clap::Args)]
pub struct AdminArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The address of the admin listener, IP:PORT or unix:PATH, instead of that in the configuration file
    #[arg(long, value_name = "ADDR")]
    admin: Option<Address>,
}

impl AdminArgs {
    /// Finds the admin listener and the token that it requires.
    ///
    /// # Errors
    /// The configuration can't be read, or has no usable `[admin]`.
    pub(super) fn client(&self) -> Result<AdminClient, Error> {
        let Some(address) = &self.admin else { return AdminClient::of(&self.file()?) };
        // The token is that of the file, if there is one.
        let token = match self.file().map(|file| AdminClient::of(&file)) {
            Ok(Ok(client)) => client.token,
            Ok(Err(error @ Error::Unusable(_))) => return Err(error),
            Ok(Err(_)) | Err(_) => None,
        };
        Ok(AdminClient { file: None, address: address.clone(), token })
    }

    /// Finds the admin listener, for paths that require no token.
    ///
    /// # Errors
    /// The configuration can't be read, or has no usable `[admin]`.
    pub(super) fn client_without_token(&self) -> Result<AdminClient, Error> {
        match &self.admin {
            Some(address) => Ok(AdminClient { file: None, address: address.clone(), token: None }),
            None => AdminClient::without_token(&self.file()?),
        }
    }

    /// Finds the configuration file.
    ///
    /// # Errors
    /// None is named, and none of the default files exists.
    pub(super) fn file(&self) -> Result<PathBuf, Error> {
        let message = |error| format!("{error}, or the admin listener with --admin ADDR");
        find(self.config.path()).map_err(|error| Error::File(message(error)))
    }
}

/// The admin listener of a running process.
#[derive(Debug)]
pub(super) struct AdminClient {
    /// The configuration file that names it.
    file: Option<PathBuf>,
    address: Address,
    token: Option<String>,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Error {
    /// The configuration can't be read.
    File(String),
    /// The file has no usable `[admin]`.
    NoAdmin(PathBuf),
    /// What `[admin]` says can't be used: its findings.
    Unusable(String),
    /// Nothing answers at the address.
    Unreachable { file: Option<PathBuf>, address: Address, error: String },
    /// There was no usable response in time.
    Broken(Address, String),
    /// The process refuses the request: its reason, and what to do.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::File(text) | Error::Unusable(text) | Error::Refused(text) => f.write_str(text.trim_end()),
            Error::NoAdmin(file) => write!(
                f,
                "{} has no [admin] with an address that can be used, so there is nothing to ask; write [admin] with \
                 address = \"127.0.0.1:9090\" and restart Linchpin, or reload it with: systemctl kill -s HUP linchpin",
                file.display()
            ),
            Error::Unreachable { file: Some(file), address, error } => write!(
                f,
                "nothing answers at {address}, the address of [admin] in {}: {error}; check that Linchpin runs, and \
                 with this file. If the file has a new [admin] address, the process still has the former one: send it \
                 SIGHUP",
                file.display()
            ),
            Error::Unreachable { file: None, address, error } => {
                write!(f, "nothing answers at {address}: {error}; check that Linchpin runs, and its [admin] address")
            }
            Error::Broken(address, error) => {
                write!(f, "no usable response from {address}: {error}; look at the log of the process there")
            }
        }
    }
}

impl AdminClient {
    /// Finds the admin listener of a configuration file. With a token for reading alone, such as that of a user who may
    /// not read `token_file`, the process answers what only reads.
    pub(super) fn of(file: &Path) -> Result<AdminClient, Error> {
        let (settings, report) = config::admin(file).map_err(|report| Error::File(report.to_string()))?;
        let may_read = settings.as_ref().is_some_and(|settings| settings.read_token.is_some());
        if report.errors() > 0 && !may_read {
            return Err(Error::Unusable(report.to_string()));
        }
        let settings = settings.ok_or_else(|| Error::NoAdmin(file.into()))?;
        let token = settings.token.or(settings.read_token);
        Ok(AdminClient { file: Some(file.into()), address: settings.address, token })
    }

    fn without_token(file: &Path) -> Result<AdminClient, Error> {
        let (settings, _) = config::admin(file).map_err(|report| Error::File(report.to_string()))?;
        let settings = settings.ok_or_else(|| Error::NoAdmin(file.into()))?;
        Ok(AdminClient { file: Some(file.into()), address: settings.address, token: None })
    }

    /// Says why the process refuses a request: what it says itself, if it says something.
    pub(super) fn refusal(&self, status: StatusCode, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => "the running process requires a token, and commands take it from \
                                                 `token_file` in [admin]; name its configuration file with -c FILE"
                .into(),
            (StatusCode::UNAUTHORIZED, Some(_)) => {
                let file =
                    self.file.as_ref().map_or("the configuration file".into(), |file| file.display().to_string());
                format!(
                    "the running process has another token than `token_file` in [admin] of {file}; if that token has \
                     changed since the process read it, send it SIGHUP"
                )
            }
            _ if is_message(text.trim_end()) => text.trim_end().into(),
            _ => format!("{} answered {status}; does another program listen there?", self.address),
        }
    }

    /// Makes the error of a response that can't be understood.
    pub(super) fn unexpected(&self, error: &dyn fmt::Display) -> Error {
        Error::Broken(self.address.clone(), format!("this version does not understand it: {error}"))
    }

    /// Sends a request, and returns the body of the response if it has this status.
    ///
    /// # Errors
    /// Those of [`AdminClient::send`], and the reason of the process if it answers another status.
    pub(super) fn expect(
        &self,
        method: &Method,
        path: &str,
        json: Option<&Value>,
        limit: Duration,
        expected: StatusCode,
    ) -> Result<Bytes, Error> {
        let (status, body) = self.send(method, path, json, limit)?;
        if status == expected { Ok(body) } else { Err(Error::Refused(self.refusal(status, &body))) }
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
        let exchange = async {
            let response = self.respond(method, path, json, None).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
            Ok((status, body.map_err(|error| self.broken(&error))?.to_bytes()))
        };
        let waited = || self.broken(&format_args!("waited for {} s", limit.as_secs()));
        self.block_on(async { timeout(limit, exchange).await.unwrap_or_else(|_| Err(waited())) })
    }

    /// Reads the lines of a stream until it ends, or nothing has come for half a minute.
    ///
    /// # Errors
    /// There is no stream, or it breaks off.
    pub(super) fn stream(&self, path: &str, last_id: Option<&str>, on_line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let silent = || self.broken(&format_args!("nothing came for {} s", STREAM_TIMEOUT.as_secs()));
        let read = async {
            let response = timeout(STREAM_TIMEOUT, self.respond(&Method::GET, path, None, last_id));
            let response = response.await.map_err(|_| silent())??;
            let (status, mut body) = (response.status(), response.into_body());
            if status != StatusCode::OK {
                let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(|error| self.broken(&error))?;
                return Err(Error::Refused(self.refusal(status, &body.to_bytes())));
            }
            let mut text = Vec::new();
            while let Some(frame) = timeout(STREAM_TIMEOUT, body.frame()).await.map_err(|_| silent())? {
                let Ok(piece) = frame.map_err(|error| self.broken(&error))?.into_data() else { continue };
                text.extend_from_slice(&piece);
                while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                    on_line(String::from_utf8_lossy(text.get(..end).unwrap_or_default()).trim_end_matches('\r'));
                    text.drain(..=end);
                }
                if text.len() > MAX_LINE_BYTES {
                    return Err(self.broken(&"a line has no end"));
                }
            }
            Ok(())
        };
        self.block_on(read)
    }

    fn block_on<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| self.broken(&error))?.block_on(future)
    }

    fn broken(&self, error: &dyn fmt::Display) -> Error {
        Error::Broken(self.address.clone(), error.to_string())
    }

    /// Sends a request, and returns the response with its body unread.
    async fn respond(
        &self,
        method: &Method,
        path: &str,
        json: Option<&Value>,
        last_id: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let stream = self.connect().await.map_err(|error| Error::Unreachable {
            file: self.file.clone(),
            address: self.address.clone(),
            error: error.to_string(),
        })?;
        let host = match &self.address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".into(),
        };
        let mut request = Request::builder().method(method).uri(path).header(HOST, host);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if json.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(id) = last_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let body = json.map_or_else(Bytes::new, |json| json.to_string().into());
        let request = request.body(Full::new(body)).map_err(|error| self.broken(&error))?;
        let (mut sender, connection) = http1::handshake(stream).await.map_err(|error| self.broken(&error))?;
        // It ends with the runtime. An error of it is that of the request, too.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(|error| self.broken(&error))
    }

    async fn connect(&self) -> std::io::Result<TokioIo<Box<dyn Connection>>> {
        Ok(TokioIo::new(match &self.address {
            Address::Tcp(address) => Box::new(TcpStream::connect(address).await?),
            Address::Unix(socket) => Box::new(UnixStream::connect(socket).await?),
        }))
    }
}

/// A connection over TCP or a Unix socket.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Returns whether a body is a message of Linchpin's API, and not the page of another program.
fn is_message(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.starts_with('<') && !text.contains('\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_process_says_or_what_to_do() {
        let mut client =
            AdminClient { file: Some("a.toml".into()), address: "127.0.0.1:1".parse().unwrap(), token: None };
        let refusal = |client: &AdminClient, status, body: &str| client.refusal(status, body.as_bytes());
        assert_eq!(refusal(&client, StatusCode::FORBIDDEN, "This token only reads.\n"), "This token only reads.");
        let page = refusal(&client, StatusCode::NOT_FOUND, "<html>\nno such page\n</html>");
        assert!(page.contains("127.0.0.1:1 answered 404") && !page.contains("html"), "{page}");
        assert!(refusal(&client, StatusCode::UNAUTHORIZED, "").contains("requires a token"));
        client.token = Some("secret".into());
        let other = refusal(&client, StatusCode::UNAUTHORIZED, "");
        assert!(other.contains("another token than `token_file` in [admin] of a.toml"), "{other}");
    }
}
