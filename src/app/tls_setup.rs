//! Owns: building the TLS acceptors and connectors from the plan.
//! Invariant: every file was read and is valid before anything listens.
//! Must not know: handshakes, or when files are reloaded.

use std::sync::Arc;

use crate::config::{Plan, PoolPlan};
use crate::runtime::ListenerSettings;
use crate::tls::reload::Reload;
use crate::tls::{self, Acceptor, Connector};
use crate::upstream::Access;

/// All TLS acceptors and connectors.
#[derive(Clone, Default)]
pub(super) struct TlsSetup {
    /// By position of the listener.
    pub(super) acceptors: Vec<Option<Arc<Acceptor>>>,
    /// How to connect to the backends of each pool.
    pub(super) accesses: Vec<Access>,
}

impl TlsSetup {
    /// Opens everything in `plan`.
    pub(super) fn open(plan: &Plan) -> Result<TlsSetup, tls::Error> {
        TlsSetup::default().next(&[], &[], &plan.listeners, &plan.pools)
    }

    /// Opens what these listeners and pools need, and keeps what those of before have with the same name and settings:
    /// the tickets of its clients stay valid.
    pub(super) fn next(
        &self,
        known_listeners: &[ListenerSettings],
        known_pools: &[PoolPlan],
        listeners: &[ListenerSettings],
        pools: &[PoolPlan],
    ) -> Result<TlsSetup, tls::Error> {
        let acceptor = |listener: &ListenerSettings| {
            let Some(settings) = &listener.tls else { return Ok(None) };
            let is_same = |known: &&ListenerSettings| known.name == listener.name && known.tls == listener.tls;
            let known = known_listeners.iter().position(|known| is_same(&known));
            match known.and_then(|at| self.acceptors.get(at)?.clone()) {
                Some(acceptor) => Ok(Some(acceptor)),
                None => Acceptor::open(&listener.name, settings).map(|acceptor| Some(Arc::new(acceptor))),
            }
        };
        let access = |pool: &PoolPlan| -> Result<Access, tls::Error> {
            let settings = pool.upstream.clone();
            let Some(tls) = &settings.tls else { return Ok(Access { settings, tls: None }) };
            let is_same = |known: &PoolPlan| known.pool.name == pool.pool.name && known.upstream.tls == settings.tls;
            let known = known_pools.iter().position(is_same).and_then(|at| self.accesses.get(at)?.tls.clone());
            let connector = match known {
                Some(connector) => connector,
                None => Arc::new(Connector::open(&pool.pool.name, tls)?),
            };
            Ok(Access { tls: Some(connector), settings })
        };
        Ok(TlsSetup {
            acceptors: listeners.iter().map(acceptor).collect::<Result<_, _>>()?,
            accesses: pools.iter().map(access).collect::<Result<_, _>>()?,
        })
    }

    /// Lists the components whose files are watched.
    pub(super) fn watched(&self) -> Vec<Arc<dyn Reload>> {
        let of_clients = self.acceptors.iter().flatten().map(|acceptor| Arc::clone(acceptor) as Arc<dyn Reload>);
        let of_backends = self.accesses.iter().filter_map(|access| access.tls.as_ref());
        let of_backends = of_backends.map(|connector| Arc::clone(connector) as Arc<dyn Reload>);
        of_clients.chain(of_backends).collect()
    }
}
