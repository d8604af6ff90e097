//! Owns: connecting to a store, its connections, and what an error of it may say.
//! Invariant: each wait has a time limit; no password and nothing unprintable gets into a message.
//! Must not know: what is kept in the store.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection, PubSubSink, PubSubStream};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, Value};

use super::address::Address;

/// The longest time for a command. After that the connection counts as lost.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest time until Sentinels have named a master that says it is one: one of them may hang.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(4);
/// How often the client repeats a command of a cluster, which has another node for it meanwhile, and the longest pause
/// before that, in milliseconds.
const CLUSTER_RETRIES: u32 = 3;
const CLUSTER_RETRY_PAUSE: (u64, u64) = (5, 20);
/// The most characters of an error that a log line shows.
const MAX_SHOWN: usize = 200;

/// Why the connection to a store failed or ended.
#[derive(Debug)]
pub(super) enum Error {
    Redis(RedisError),
    Timeout,
    /// The address is not valid; the configuration has been checked for that.
    Address,
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
            Error::Address => f.write_str("the address is not valid"),
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
            Error::Timeout | Error::Address | Error::Unsubscribed | Error::Stopped => false,
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

/// The servers of a store.
pub(super) enum Servers {
    /// One Redis: the only one, or the master that Sentinels have named.
    One(Box<Client>),
    /// A cluster, and those of its nodes that are known.
    Cluster(Box<ClusterClient>, Vec<Client>),
}

impl Servers {
    /// Finds the servers of a store. Asks the Sentinels, if there are any.
    ///
    /// # Errors
    /// Returns an error if no Sentinel knows a master in time.
    pub(super) async fn find(address: &str) -> Result<Servers, Error> {
        let address = Address::parse(address).map_err(|_| Error::Address)?;
        if address.is_secure() {
            // The client takes the provider of the process. There may be one already: then it stays.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        }
        if let Some(sentinels) = address.sentinels() {
            let mut sentinels = sentinels?;
            let master = tokio::time::timeout(SENTINEL_TIMEOUT, sentinels.async_get_client());
            return Ok(Servers::One(Box::new(master.await.map_err(|_| Error::Timeout)??)));
        }
        match address {
            Address::Cluster(nodes) => {
                let cluster = ClusterClient::builder(nodes.clone())
                    .connection_timeout(CONNECT_TIMEOUT)
                    .response_timeout(COMMAND_TIMEOUT)
                    .overall_response_timeout(Some(COMMAND_TIMEOUT))
                    .retries(CLUSTER_RETRIES)
                    .min_retry_wait(CLUSTER_RETRY_PAUSE.0)
                    .max_retry_wait(CLUSTER_RETRY_PAUSE.1)
                    .build()?;
                let nodes = nodes.into_iter().map(Client::open).collect::<Result<_, _>>()?;
                Ok(Servers::Cluster(Box::new(cluster), nodes))
            }
            Address::One(server) => Ok(Servers::One(Box::new(Client::open(server)?))),
            Address::Sentinel { .. } => Err(Error::Address),
        }
    }

    /// Returns the number of the database. A cluster has one alone.
    pub(super) fn database(&self) -> i64 {
        match self {
            Servers::One(client) => client.get_connection_info().redis_settings().db(),
            Servers::Cluster(..) => 0,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn connect(&self) -> Result<Connection, Error> {
        match self {
            Servers::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_TIMEOUT))
                    .set_response_timeout(Some(COMMAND_TIMEOUT));
                Ok(Connection::One(client.get_multiplexed_async_connection_with_config(&config).await?))
            }
            Servers::Cluster(cluster, _) => {
                let connect = tokio::time::timeout(SENTINEL_TIMEOUT, cluster.get_async_connection());
                Ok(Connection::Cluster(connect.await.map_err(|_| Error::Timeout)??))
            }
        }
    }

    /// Subscribes to a channel, on a connection of its own. Each node of a cluster has all messages.
    ///
    /// # Errors
    /// Returns an error if Redis refuses or does not reply in time.
    pub(super) async fn subscribe(&self, channel: &str) -> Result<Subscription, Error> {
        let nodes = match self {
            Servers::One(client) => std::slice::from_ref(&**client),
            Servers::Cluster(_, nodes) => nodes,
        };
        let mut last = Error::Address;
        for node in nodes {
            let subscribe = async {
                let mut subscription = node.get_async_pubsub().await?;
                subscription.subscribe(channel).await?;
                Ok::<_, RedisError>(subscription.split())
            };
            match tokio::time::timeout(CONNECT_TIMEOUT, subscribe).await {
                Ok(Ok((sink, messages))) => return Ok(Subscription { sink, messages }),
                Ok(Err(error)) => last = error.into(),
                Err(_) => last = Error::Timeout,
            }
        }
        Err(last)
    }
}

/// A subscription to a channel.
pub(super) struct Subscription {
    sink: PubSubSink,
    /// The messages that arrive.
    pub(super) messages: PubSubStream,
}

impl Subscription {
    /// Returns a check that its connection works: one that hangs would miss messages for ever.
    pub(super) fn check(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        let mut sink = self.sink.clone();
        async move {
            let reply = tokio::time::timeout(COMMAND_TIMEOUT, sink.ping::<Value>()).await;
            reply.map_err(|_| Error::Timeout)??;
            Ok(())
        }
    }
}

/// A connection for commands. Clones share it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Returns whether the store has several servers, each with a part of the keys. Then a command that fails says
    /// nothing about the others, and the client finds out by itself who has a key meanwhile.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Connection::One(connection) => connection.req_packed_command(cmd),
            Connection::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Connection::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Connection::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Connection::One(connection) => connection.get_db(),
            Connection::Cluster(connection) => connection.get_db(),
        }
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
}
