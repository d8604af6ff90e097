//! Owns: keeping a table of learned sessions in touch with a store that other Linchpins share.
//! Invariant: a store that is slow or gone costs no client anything; what was learned meanwhile is there when it is back.
//! Must not know: requests; how a table is kept.

mod format;
mod redis;
mod skew;

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::affinity::learned::{StoreCommand, StoreSync};
use crate::clock;

/// Between two attempts to connect, at first and at most.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(2);

/// Says what is wrong with the address of a store.
///
/// # Errors
/// What it is not, and what to write instead.
pub fn check_address(address: &str) -> Result<(), &'static str> {
    redis::check_address(address)
}

/// Keeps a table and its store in touch, for ever.
pub async fn run(mut store: StoreSync) {
    let pool = store.pool.clone();
    let (mut pause, mut is_known_gone) = (RETRY, false);
    loop {
        match redis::StoreConnection::open(&store).await {
            Ok(session) => {
                tracing::info!(pool = &*pool, "the store of learned sessions answers");
                let since = clock::now();
                let error = session.run(&mut store).await;
                // One that takes connections and refuses commands is as good as gone.
                if clock::now().saturating_duration_since(since) >= RETRY_MOST {
                    (pause, is_known_gone) = (RETRY, false);
                }
                if !std::mem::replace(&mut is_known_gone, true) {
                    tracing::warn!(pool = &*pool, %error, "lost the store of learned sessions; the table here goes on alone until it is back");
                }
            }
            // Said once, not at every attempt.
            Err(error) if !std::mem::replace(&mut is_known_gone, true) => {
                tracing::warn!(pool = &*pool, %error, "cannot reach the store of learned sessions; the table here goes on alone until it is there");
            }
            Err(_) => {}
        }
        store.state.is_responsive.store(false, Ordering::Relaxed);
        alone(&mut store, pause).await;
        pause = (pause * 2).min(RETRY_MOST);
    }
}

/// For `time`, answers what is asked as far as one can without a store. What there is to tell is in
/// the table, and is compared with the store as soon as that is back.
async fn alone(store: &mut StoreSync, time: Duration) {
    let mut over = std::pin::pin!(tokio::time::sleep(time));
    loop {
        tokio::select! {
            () = &mut over => return,
            Some(command) = store.commands.recv() => if let StoreCommand::Query(_, answer) = command {
                // Whoever asked may have gone.
                let _ = answer.send(None);
            },
        }
    }
}
