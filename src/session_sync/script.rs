//! Owns: running a script on one key of a store.
//! Invariant: a server that does not have the script gets it with the command; other servers need not be there for that.
//! Must not know: what a script does.

use redis::{ErrorKind, FromRedisValue, Script, ServerErrorKind, ToRedisArgs};

use super::connection::{Connection, Error};

/// A script in Lua. It uses one key, so that it runs on one node of a cluster.
pub(super) struct StoreScript {
    text: &'static str,
    hash: String,
}

impl StoreScript {
    pub(super) fn new(text: &'static str) -> StoreScript {
        StoreScript { text, hash: Script::new(text).get_hash().into() }
    }

    /// Runs it.
    ///
    /// # Errors
    /// Returns what the store or the connection to it reports.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        connection: &mut Connection,
        key: &str,
        arguments: impl ToRedisArgs,
    ) -> Result<T, Error> {
        let call = |command: &str, script: &str| {
            let mut call = redis::cmd(command);
            call.arg(script).arg(1).arg(key).arg(&arguments);
            call
        };
        match call("EVALSHA", &self.hash).query_async(connection).await {
            // The library would load it on all nodes of a cluster, which fails while one of them is down.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(call("EVAL", self.text).query_async(connection).await?)
            }
            done => Ok(done?),
        }
    }
}
