//! Owns: the tasks that keep learned sessions, and session copies, in sync with a store that several Linchpins share.
//! Invariant: no client waits for a store that is slow or down; a store that returns gets what was learned meanwhile.
//! Must not know: requests, or how a table works inside.

mod address;
mod connection;
mod copies;
mod copies_in_redis;
mod format;
mod marker;
mod outage;
mod redis;
mod script;
mod skew;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::affinity::learned::{StoreCommand, StoreSync};
use crate::clock;
use crate::copies::SharedStoreSync;
use crate::events::{Event, Events};
pub use address::InvalidAddress;
use outage::Outage;

/// Checks the syntax of a store's address.
///
/// # Errors
/// Returns what a valid address looks like.
pub fn check_address(address: &str) -> Result<(), InvalidAddress> {
    address::Address::parse(address).map(drop)
}

/// Keeps a table and its store in sync, and publishes its outages. Never returns.
pub async fn run(mut sync: StoreSync, events: Events) {
    let pool = sync.pool.clone();
    let mut outage = Outage::default();
    let publish = |error: Option<&connection::Error>| {
        let reason = error.and_then(|error| Event::reason(error));
        events.publish(Event::Store { pool: pool.to_string(), of: "sessions", ok: error.is_none(), reason });
    };
    loop {
        match redis::StoreConnection::open(&sync).await {
            Ok(connection) => {
                tracing::info!(pool = &*pool, "connected to the store of learned sessions");
                publish(None);
                let since = clock::now();
                let error = connection.run(&mut sync).await;
                outage.connection_ended(clock::now().saturating_duration_since(since));
                if outage.is_first_failure() {
                    publish(Some(&error));
                    tracing::warn!(
                        pool = &*pool,
                        %error,
                        "lost the connection to the store of learned sessions; this Linchpin uses its own table alone \
                         and keeps trying to reconnect; check that Redis is running"
                    );
                }
            }
            Err(error) if outage.is_first_failure() => {
                publish(Some(&error));
                tracing::warn!(
                    pool = &*pool,
                    %error,
                    "cannot connect to the store of learned sessions; this Linchpin uses its own table alone and keeps \
                     trying; check `store` in [pools.persistence.learned] and that Redis is running"
                );
            }
            Err(_) => {}
        }
        sync.state.is_responsive.store(false, Ordering::Relaxed);
        pause_without_store(&mut sync, outage.next_pause()).await;
    }
}

/// Keeps the copies of a pool in a store that several Linchpins share, and publishes its outages. Never returns.
pub async fn run_copies(sync: SharedStoreSync, events: Events) {
    copies::run(sync, &events).await;
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
