//! Owns: the address of a Redis, connecting to it, and what an error of it may say.
//! Invariant: each wait has a time limit; no password and nothing unprintable gets into a message.
//! Must not know: what is kept in the Redis.

use std::fmt;
use std::time::Duration;

use redis::aio::{MultiplexedConnection, PubSubStream};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisError};

/// The longest time for a command. After that the connection counts as lost.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The most characters of an error that a log line shows.
const MAX_SHOWN: usize = 200;

/// The schemes of an address. The parser knows more, under other names.
const SCHEMES: [&str; 3] = ["redis://", "rediss://", "redis+unix://"];

/// Why the connection to a Redis failed or ended.
#[derive(Debug)]
pub(super) enum Error {
    Redis(RedisError),
    Timeout,
    /// Redis ended the subscription.
    Unsubscribed,
    /// The process stops: no sender of commands is left.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // It can quote what Redis replied.
            Error::Redis(error) => f.write_str(&printable(&error.to_string())),
            Error::Timeout => f.write_str("no reply in time"),
            Error::Unsubscribed => f.write_str("Redis closed the connection"),
            Error::Stopped => f.write_str("this Linchpin is stopping"),
        }
    }
}

impl Error {
    /// Returns whether it says something about the value of one key only: the connection works.
    pub(super) fn is_of_value(&self) -> bool {
        match self {
            Error::Redis(error) => error.kind() == ErrorKind::UnexpectedReturnType || error.code() == Some("WRONGTYPE"),
            Error::Timeout | Error::Unsubscribed | Error::Stopped => false,
        }
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Error {
        Error::Redis(error)
    }
}

/// Returns the beginning of a text from the network as a part of a log line: printable ASCII, and all else escaped.
fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        ' '..='~' => vec![c],
        c => c.escape_default().collect(),
    };
    text.chars().take(MAX_SHOWN).flat_map(shown).collect()
}

/// Checks the syntax of a store's address.
pub(super) fn check_address(address: &str) -> Result<(), &'static str> {
    if !SCHEMES.iter().any(|scheme| address.starts_with(scheme)) {
        return Err("must begin with redis://, rediss:// or redis+unix://");
    }
    let info = address.into_connection_info().map_err(|_| "must be like redis://:password@127.0.0.1:6379/0")?;
    match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            Err("must not end with #insecure, since the certificate is always verified")
        }
        _ => Ok(()),
    }
}

/// A Redis that is to be connected to.
pub(super) struct RedisServer(Client);

impl RedisServer {
    /// # Errors
    /// Returns an error if the address is not valid.
    pub(super) fn new(address: &str) -> Result<RedisServer, Error> {
        let client = Client::open(address)?;
        if matches!(client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. }) {
            // The client takes the provider of the process. There may be one already: then it stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        Ok(RedisServer(client))
    }

    /// Returns the number of the database.
    pub(super) fn database(&self) -> i64 {
        self.0.get_connection_info().redis_settings().db()
    }

    /// Connects.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(COMMAND_TIMEOUT));
        Ok(self.0.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Subscribes to a channel, on a connection of its own.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<PubSubStream, Error> {
        let subscribe = async {
            let mut subscription = self.0.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok::<_, RedisError>(subscription.into_on_message())
        };
        Ok(tokio::time::timeout(CONNECT_TIMEOUT, subscribe).await.map_err(|_| Error::Timeout)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_replies_makes_no_log_line_of_its_own_and_no_long_one() {
        let text = |reply: &[u8]| {
            let reply = redis::parse_redis_value(reply).unwrap();
            Error::from(reply.extract_error().unwrap_err()).to_string()
        };
        assert_eq!(text(b"-NOPERM no \xc3\xa4\nERROR forged\r\n"), "NoPerm: no \\u{e4}\\nERROR forged");
        let long = [b"-ERR ".as_slice(), &[b'a'; 100_000], b"\r\n"].concat();
        assert_eq!(text(&long).len(), MAX_SHOWN);
    }

    #[test]
    fn addresses_are_checked() {
        for good in [
            "redis://127.0.0.1",
            "redis://:secret@localhost:6380/2",
            "rediss://user:secret@redis.test:6380",
            "redis+unix:///run/redis.sock",
        ] {
            assert_eq!(check_address(good), Ok(()), "{good}");
        }
        for bad in [
            "127.0.0.1:6379",
            "rediss://localhost/#insecure",
            "valkey://localhost",
            "http://localhost",
            "redis://localhost:99999",
            "redis://",
        ] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
