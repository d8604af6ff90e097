//! Owns: what a takeover does to the running configuration: sharing its sockets, leaving them, accepting at them.
//! Invariant: a step that can fail fails before anything has changed.
//! Must not know: the order of the steps, or how messages travel.

use std::io;
use std::time::Duration;

use super::admin_server::BoundAdmin;
use super::demands::Demand;
use super::running::Running;
use super::takeover_parts::{BoundWaiting, Paused, Pending, PendingAdmin, PendingWaiting};
use crate::admin::{self, Phase};
use crate::clock;
use crate::net::Address;
use crate::runtime::inherited::SharedSockets;
use crate::takeover::{
    AdminSocket, Frame, ListenerSockets, MAX_DESCRIPTORS, Offer, Part, Prepared, RuntimeState, SessionCounts,
    SnapshotEnd, VERSION, WaitingSocket, hex, millis,
};

impl Running {
    /// Carries out what a task of a takeover demands.
    pub(super) async fn carry_out(&mut self, demand: Demand) {
        // The task that demands it may have ended.
        match demand {
            Demand::Offer(reply) => drop(reply.send(self.offer())),
            Demand::Pause(prepared, reply) => {
                self.pause(prepared).await;
                let _ = reply.send(());
            }
            Demand::Resume(reply) => {
                self.resume().await;
                let _ = reply.send(());
            }
            Demand::Leave(next, reply) => {
                self.leave(next).await;
                self.certificates.end().await;
                let _ = reply.send(());
            }
            Demand::GiveBack(reply) => {
                self.give_back().await;
                let _ = reply.send(());
            }
            Demand::Accept(reply) => drop(reply.send(self.accept())),
        }
    }

    /// Waits for a successor where the configuration says so now; `bound` is the socket, if it is another one.
    pub(super) fn replace_waiting(&mut self, bound: Option<BoundWaiting>) {
        let path = self.composer.plan().server.handover.as_ref();
        if let Some(before) = self.waiting.take_if(|waiting| Some(&waiting.path) != path) {
            before.end();
        }
        if let Some(bound) = bound {
            self.wait_for_successor(bound);
        }
    }

    /// Waits for a successor at this socket.
    pub(super) fn wait_for_successor(&mut self, bound: BoundWaiting) {
        match bound.begin(&self.life, &self.facts) {
            Ok(waiting) => self.waiting = Some(waiting),
            Err(error) => {
                tracing::error!(%error, "cannot wait for a successor at [server] handover; restart this process")
            }
        }
    }

    /// Returns the messages with all sockets and what a successor needs to begin.
    fn offer(&self) -> io::Result<Vec<Frame>> {
        let random_key = self.composer.random_key().map(|key| hex(key.secret()));
        let started = millis(self.facts.started);
        let mut frames = vec![Offer { version: VERSION, pid: std::process::id(), random_key, started }.frame()?];
        for SharedSockets { address, sockets, is_shared } in self.listeners.sockets() {
            let message = ListenerSockets { address: address.to_string(), is_shared };
            for sockets in sockets.chunks(MAX_DESCRIPTORS) {
                let descriptors = sockets.iter().map(|socket| socket.try_clone()).collect::<io::Result<_>>()?;
                frames.push(Frame { descriptors, ..message.frame()? });
            }
        }
        if let Some((admin, socket)) = self.admin.as_ref().and_then(|admin| Some((admin, admin.socket()?))) {
            let message = AdminSocket { address: admin.settings().address.to_string() };
            frames.push(Frame { descriptors: vec![socket], ..message.frame()? });
        }
        if let Some(waiting) = &self.waiting {
            let message = WaitingSocket { path: waiting.path.display().to_string() };
            frames.push(Frame { descriptors: vec![waiting.socket.try_clone()?], ..message.frame()? });
        }
        let now = clock::now();
        let pools = self.facts.pools.load().iter().map(|entry| entry.pool.state(now)).collect();
        frames.push(RuntimeState { pools }.frame()?);
        frames.push(SnapshotEnd {}.frame()?);
        let now = u64::try_from(clock::unix().as_millis()).unwrap_or(u64::MAX);
        for entry in self.facts.pools.load().iter() {
            let lifetime = entry.affinity.session_lifetime();
            for backend in entry.pool.backends() {
                let state = backend.live().sessions().state(now, lifetime);
                let (pool, backend) = (entry.pool.name().to_string(), backend.name().to_string());
                frames.push(SessionCounts { pool, backend, state }.frame()?);
            }
        }
        Ok(frames)
    }

    /// Accepts no more connections at the sockets that a successor has, and keeps them in case it fails.
    async fn pause(&mut self, prepared: Prepared) {
        // One that hands over has proven itself.
        self.life.settling.require().await;
        *self.commit.lock().await = true;
        self.listeners.pause(addresses(&prepared));
        self.life.stop.announce();
        // Not as when it stops: the processes before this one live on, too.
        let phase = self.life.phase.send_replace(Phase::Leaving);
        let admin = self.admin.take_if(|_| prepared.has_admin).and_then(|admin| {
            let kept = admin.socket().map(|socket| (admin.settings().clone(), socket, admin.connections()));
            admin.leave();
            kept
        });
        self.paused = Some(Paused { prepared, admin, phase });
    }

    /// Accepts connections again: the successor has failed.
    async fn resume(&mut self) {
        let Some(Paused { admin, phase, .. }) = self.paused.take() else { return };
        // A thread may have failed meanwhile.
        let phase = if self.published.heartbeats().has_ended() { Phase::Broken } else { phase };
        self.listeners.resume();
        self.life.stop.withdraw();
        if let Some((settings, socket, connections)) = admin {
            let bound = admin::Bound::adopt(&settings, socket)
                // It has removed the file of the socket.
                .or_else(|_| admin::bind(&settings, false));
            match bound {
                Ok(bound) => {
                    self.admin = Some(BoundAdmin { settings, bound }.serve(&self.facts, connections));
                }
                Err(error) => tracing::error!(%error, "cannot use the admin listener again; restart this process"),
            }
        }
        self.life.phase.send_if_modified(|now| {
            let is_paused = *now == Phase::Leaving;
            *now = if is_paused { phase } else { *now };
            is_paused
        });
        *self.commit.lock().await = false;
        self.update_addresses();
    }

    /// Leaves the sockets to the successor, and closes all others as a reload would. `next` is where that waits for older
    /// processes.
    async fn leave(&mut self, next: Option<String>) {
        let Some(Paused { prepared, .. }) = self.paused.take() else { return };
        self.listeners.close_others(addresses(&prepared), self.composer.plan().server.shutdown_grace);
        self.life.stop.leave();
        if let Some(admin) = self.admin.take() {
            admin.replace();
        }
        if let Some(waiting) = &self.waiting {
            waiting.file.release();
        }
        self.life.older.supersede(next).await;
    }

    /// Leaves everything to the predecessor, which still has the sockets.
    async fn give_back(&mut self) {
        *self.commit.lock().await = true;
        self.life.stop.leave();
        if let Some(admin) = self.admin.take() {
            admin.leave();
        }
        if let Some(waiting) = self.waiting.take() {
            waiting.file.release();
            waiting.end();
        }
    }

    /// Accepts connections at the sockets that were handed over.
    fn accept(&mut self) -> Result<(), String> {
        let Some(Pending { listeners, transports, admin, waiting }) = self.pending.take() else { return Ok(()) };
        listeners.listen().map_err(|error| error.to_string())?;
        let admin = match admin {
            Some(PendingAdmin::Bound(bound, connections)) => Some((bound, connections)),
            Some(PendingAdmin::Inherited(settings, socket, connections)) => {
                let bound = admin::Bound::adopt(&settings, socket)
                    .map_err(|error| format!("cannot use the socket of the admin listener: {error}"))?;
                Some((BoundAdmin { settings, bound }, connections))
            }
            None => None,
        };
        let waiting = match waiting {
            Some(PendingWaiting::Bound(bound)) => Some(bound),
            Some(PendingWaiting::Inherited(path, socket)) => {
                let adopted = BoundWaiting::adopt(path, socket);
                Some(adopted.map_err(|error| format!("cannot use the socket of [server] handover: {error}"))?)
            }
            None => None,
        };
        drop(self.listeners.install(listeners, transports, Duration::ZERO));
        self.admin = admin.map(|(bound, connections)| bound.serve(&self.facts, connections));
        if let Some(bound) = waiting {
            self.wait_for_successor(bound);
        }
        self.update_addresses();
        self.begin_drains();
        Ok(())
    }
}

/// Returns the listeners whose sockets a successor uses.
fn addresses(prepared: &Prepared) -> Vec<Address> {
    prepared.listeners.iter().filter_map(|address| address.parse().ok()).collect()
}

/// Returns the sockets of `pending` that were inherited, as the old process knows them.
pub(super) fn prepared(inherited: Vec<Address>, left: &[Address], has_admin: bool) -> Prepared {
    let mut left = left.to_vec();
    let is_taken = |address: &Address| match left.iter().position(|each| each == address) {
        Some(at) => {
            left.swap_remove(at);
            false
        }
        None => true,
    };
    let listeners = inherited.into_iter().filter(is_taken).map(|address| address.to_string()).collect();
    Prepared { listeners, has_admin }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_process_learns_which_of_its_sockets_are_in_use() {
        let address = |port: u16| Address::from(([127, 0, 0, 1], port));
        let prepared = prepared(vec![address(1), address(0), address(0), address(2)], &[address(0), address(2)], true);
        assert_eq!(prepared.listeners, ["127.0.0.1:1", "127.0.0.1:0"]);
    }
}
