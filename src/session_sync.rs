//! Owns: the task that keeps a table of learned sessions in sync with a store that several Linchpins share.
//! Invariant: no client waits for a store that is slow or down; a store that returns gets what was learned meanwhile.
//! Must not know: requests, or how a table works inside.

mod connection;
mod format;
mod redis;
mod skew;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::affinity::learned::{StoreCommand, StoreSync};
use crate::clock;

/// The first pause between two attempts to connect.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause: each one is twice as long as the one before.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Checks the syntax of a store's address.
///
/// # Errors
/// Returns what a valid address looks like.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    connection::check_address(address)
}

/// Keeps a table and its store in sync. Never returns.
pub async fn run(mut sync: StoreSync) {
    let pool = sync.pool.clone();
    let (mut pause, mut has_logged_loss) = (MIN_RETRY_PAUSE, false);
    loop {
        match redis::StoreConnection::open(&sync).await {
            Ok(connection) => {
                tracing::info!(pool = &*pool, "connected to the store of learned sessions");
                let since = clock::now();
                let error = connection.run(&mut sync).await;
                // A store that accepts connections but refuses commands is as good as down: after a short connection
                // the pause keeps growing, and the loss is not logged again.
                if clock::now().saturating_duration_since(since) >= MAX_RETRY_PAUSE {
                    (pause, has_logged_loss) = (MIN_RETRY_PAUSE, false);
                }
                if !std::mem::replace(&mut has_logged_loss, true) {
                    tracing::warn!(
                        pool = &*pool,
                        %error,
                        "lost the connection to the store of learned sessions; this Linchpin uses its own table alone \
                         and keeps trying to reconnect; check that Redis is running"
                    );
                }
            }
            // Logged once, not at every attempt.
            Err(error) if !std::mem::replace(&mut has_logged_loss, true) => {
                tracing::warn!(
                    pool = &*pool,
                    %error,
                    "cannot connect to the store of learned sessions; this Linchpin uses its own table alone and keeps \
                     trying; check `store` in [pools.persistence] and that Redis is running"
                );
            }
            Err(_) => {}
        }
        sync.state.is_responsive.store(false, Ordering::Relaxed);
        pause_without_store(&mut sync, pause).await;
        pause = (pause * 2).min(MAX_RETRY_PAUSE);
    }
}

/// Waits for `time`, and meanwhile replies to queries that nothing is known. Drops other commands: the table has what
/// they say, and is compared with the store once that is back.
async fn pause_without_store(sync: &mut StoreSync, time: Duration) {
    let mut end = std::pin::pin!(tokio::time::sleep(time));
    loop {
        tokio::select! {
            () = &mut end => return,
            Some(command) = sync.commands.recv() => if let StoreCommand::Query(_, reply) = command {
                // The request may have ended meanwhile.
                let _ = reply.send(None);
            },
        }
    }
}
