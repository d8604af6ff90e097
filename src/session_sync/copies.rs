//! Owns: the task that keeps a pool's session copies in a store: connecting, commands, probes, comparisons.
//! Invariant: each wait has a time limit; after an outage the store gets what this process knows of sessions in use.
//! Must not know: requests, what is in a copy, how it is stored.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::connection::{Connection, Error, Servers};
use super::copies_in_redis::CopiesInRedis;
use super::format::PREFIX;
use super::marker::Markers;
use super::outage::Outage;
use crate::clock;
use crate::copies::{SharedCommand, SharedStoreSync};
use crate::events::{Event, Events};

/// The longest time for a command. A client's request waits for it.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);
/// The longest time for a probe of a cluster, which waits for its slowest node.
const CLUSTER_PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest time for the comparison of one session.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// The time between two health probes of the store.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The most commands in flight. Above that, commands are not carried out.
const MAX_IN_FLIGHT: usize = 1024;
/// Sessions that are compared at once, each with a copy of `max` bytes at most.
const COMPARE_BATCH: usize = 32;

/// Carries out the commands of one pool's copies, and publishes outages of their store. Never returns.
pub(super) async fn run(mut sync: SharedStoreSync, events: &Events) {
    let pool = sync.pool.clone();
    let mut outage = Outage::default();
    let publish = |error: Option<&Error>| {
        let reason = error.and_then(|error| Event::reason(error));
        events.publish(Event::Store { pool: pool.to_string(), of: "copies", ok: error.is_none(), reason });
    };
    loop {
        match Store::connect(&sync).await {
            Ok(store) => {
                tracing::info!(pool = &*pool, "connected to the store of session copies");
                publish(None);
                sync.is_responsive.store(true, Ordering::Relaxed);
                let since = clock::now();
                let error = store.serve(&mut sync).await;
                outage.connection_ended(clock::now().saturating_duration_since(since));
                if outage.is_first_failure() {
                    publish(Some(&error));
                    tracing::warn!(
                        pool = &*pool,
                        %error,
                        "lost the store of session copies; this Linchpin uses its own copies alone and keeps trying to \
                         reconnect; check that Redis is running"
                    );
                }
            }
            Err(error) if outage.is_first_failure() => {
                publish(Some(&error));
                tracing::warn!(
                    pool = &*pool,
                    %error,
                    "cannot connect to the store of session copies; this Linchpin uses its own copies alone and keeps \
                     trying; check `store` in [pools.copies] and that Redis is running"
                );
            }
            Err(_) => {}
        }
        sync.is_responsive.store(false, Ordering::Relaxed);
        let mut end = std::pin::pin!(tokio::time::sleep(outage.next_pause()));
        loop {
            tokio::select! {
                () = &mut end => break,
                // Its sender learns by the dropped reply that it is not carried out.
                Some(command) = sync.commands.recv() => drop(command),
            }
        }
    }
}

/// An open connection to the store of one pool's copies. Clones share it.
#[derive(Clone)]
struct Store {
    connection: Connection,
    copies: Arc<CopiesInRedis>,
    markers: Arc<Markers>,
    pool: Arc<str>,
}

impl Store {
    async fn connect(sync: &SharedStoreSync) -> Result<Store, Error> {
        let connection = Servers::find(&sync.address).await?.connect().await?;
        let prefix = format!("{PREFIX}{}:copy", sync.pool);
        let markers = Arc::new(Markers::new(&prefix, connection.is_cluster()));
        let copies = Arc::new(CopiesInRedis::new(&prefix, sync.lifetime, &sync.copies, &sync.servers));
        let store = Store { connection, copies, markers, pool: Arc::clone(&sync.pool) };
        store.probe().await?;
        Ok(store)
    }

    /// Carries out commands until the connection ends.
    async fn serve(self, sync: &mut SharedStoreSync) -> Error {
        let (mut in_flight, mut checks, mut refill) = (JoinSet::new(), JoinSet::new(), JoinSet::new());
        let mut probes = tokio::time::interval(PROBE_INTERVAL);
        probes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was not stored before is stored now.
        sync.needs_refill.store(true, Ordering::Relaxed);
        loop {
            tokio::select! {
                command = sync.commands.recv() => match command {
                    None => return Error::Stopped,
                    Some(command) if in_flight.len() >= MAX_IN_FLIGHT => {
                        sync.needs_refill.store(true, Ordering::Relaxed);
                        drop(command);
                    }
                    Some(command) => drop(in_flight.spawn(self.carry_out(command))),
                },
                Some(done) = in_flight.join_next() => match done {
                    // One session's key must not cost the others their store. The request learns by the dropped reply.
                    Ok(Err(error)) if error.is_of_value() => {}
                    Ok(Err(error)) if self.connection.is_cluster() => self.note_failure(&error),
                    Ok(Err(error)) => return error,
                    _ => {}
                },
                Some(done) = checks.join_next() => match done {
                    Ok(Err(error)) => return error,
                    Ok(Ok(has_changed)) if has_changed => sync.needs_refill.store(true, Ordering::Relaxed),
                    _ => {}
                },
                Some(done) = refill.join_next() => match done {
                    Ok(Err(error)) if self.connection.is_cluster() => self.note_failure(&error),
                    Ok(Err(error)) => return error,
                    _ => {}
                },
                _ = probes.tick() => {
                    if checks.is_empty() {
                        let store = self.clone();
                        checks.spawn(async move { store.probe().await });
                    }
                    // One comparison at a time.
                    if refill.is_empty() && sync.needs_refill.swap(false, Ordering::Relaxed) {
                        refill.spawn(self.clone().refill());
                    }
                }
            }
        }
    }

    fn carry_out(&self, command: SharedCommand) -> impl Future<Output = Result<(), Error>> + use<> {
        let (copies, mut connection) = (Arc::clone(&self.copies), self.connection.clone());
        async move { within(COMMAND_TIMEOUT, copies.carry_out(&mut connection, command)).await }
    }

    /// Reads the markers of the store. Returns whether one has changed.
    async fn probe(&self) -> Result<bool, Error> {
        let limit = if self.connection.is_cluster() { CLUSTER_PROBE_TIMEOUT } else { COMMAND_TIMEOUT };
        Ok(within(limit, self.markers.probe(&self.connection, &|| {})).await?.has_changed)
    }

    /// Notes that one node of a cluster has failed. Its sessions are compared when all nodes work.
    fn note_failure(&self, error: &Error) {
        tracing::debug!(pool = &*self.pool, %error, "a node of the store of session copies has failed");
        self.markers.note_failure();
    }

    /// Stores what this process knows of each session, if that is newer than what the store knows.
    async fn refill(self) -> Result<(), Error> {
        let (mut stored, mut failure) = (0_usize, None);
        for sessions in self.copies.sessions() {
            for batch in sessions.chunks(COMPARE_BATCH) {
                let compared = batch.iter().map(|session| async {
                    let mut connection = self.connection.clone();
                    within(COMPARE_TIMEOUT, self.copies.compare(&mut connection, *session)).await
                });
                for done in join_all(compared).await {
                    match done {
                        Ok(is_newer) => stored += usize::from(is_newer),
                        Err(error) if error.is_of_value() => {}
                        // The other nodes get what is theirs.
                        Err(error) if self.connection.is_cluster() => failure = Some(error),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        if stored > 0 {
            tracing::info!(
                pool = &*self.pool,
                sessions = stored,
                "stored session copies again that the store did not have"
            );
        }
        failure.map_or(Ok(()), Err)
    }
}

async fn within<T>(limit: Duration, done: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(limit, done).await.map_err(|_| Error::Timeout)?
}
