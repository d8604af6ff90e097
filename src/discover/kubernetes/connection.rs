//! Owns: one connection to the API server: TCP, TLS, and the task that drives HTTP/1.1 on it.
//! Invariant: a server that has silently gone is noticed within half a minute; the connection ends with its owner.
//! Must not know: what is asked for.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::credentials::Credentials;
use crate::reason::Reason;

/// When a server that says nothing is asked whether it is still there, and how often: a watch may be silent for long.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);

/// The task that drives a connection. Dropping this closes the connection.
pub(super) struct ConnectionTask(AbortHandle);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects to the API server. The caller limits the time.
///
/// # Errors
/// If nobody listens, or the server's certificate fails verification.
pub(super) async fn connect(
    credentials: &Credentials,
) -> Result<(http1::SendRequest<Empty<Bytes>>, ConnectionTask), Reason> {
    let Credentials { server, connector, .. } = credentials;
    let connected = async {
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
        SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
        connector.connect(connector.name_of(&server.host)?, stream, false).await
    };
    let (stream, _) = connected.await.map_err(|error: std::io::Error| Reason::of(&error))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| Reason::of(&error))?;
    let task = tokio::spawn(async move {
        // Its end shows in the response.
        let _ = connection.await;
    });
    Ok((sender, ConnectionTask(task.abort_handle())))
}
