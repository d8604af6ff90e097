//! Owns: one connection to a collector: TCP, TLS where the URL says so, and the task that drives HTTP/1.1 on it.
//! Invariant: the connection ends with its owner; a collector that fails verification gets no byte of a batch.
//! Must not know: what is sent; when it is sent again.

use std::io;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::settings::Settings;
use crate::reason::Reason;
use crate::tls::{Connector, client};

/// A connection to a collector. Dropping it closes it.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Connects. The caller limits the time.
    ///
    /// # Errors
    /// Nobody listens there, the certificate fails verification, or the authorities can't be read.
    pub(super) async fn open(settings: &Settings) -> Result<Connection, String> {
        let endpoint = &settings.endpoint;
        let reason = |error: io::Error| Reason::of(&error).to_string();
        let stream = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await.map_err(reason)?;
        if !endpoint.is_secure {
            return Connection::over(stream).await;
        }
        // For each connection anew, so that new authorities need no reload. Reading them blocks.
        let authorities = settings.authorities.clone();
        let opening = tokio::task::spawn_blocking(move || {
            Connector::open("tracing", &client::Settings { authorities, ..client::Settings::default() })
        });
        let connector = match opening.await {
            Ok(connector) => connector.map_err(|error| format!("the authorities of the collector: {error}"))?,
            Err(_) => return Err("the authorities of the collector can't be read".into()),
        };
        let name = connector.name_of(&endpoint.host).map_err(reason)?;
        let (stream, _) = connector.connect(name, stream, false).await.map_err(reason)?;
        Connection::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection, String> {
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| Reason::of(&error).to_string())?;
        let driver = tokio::spawn(async move {
            // Its end shows in the response.
            let _ = connection.await;
        });
        Ok(Connection { sender, driver: driver.abort_handle() })
    }

    /// Returns whether it can take another request.
    pub(super) fn is_open(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request. The caller limits the time.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Reason> {
        self.sender.send_request(request).await.map_err(|error| Reason::of(&error))
    }
}
