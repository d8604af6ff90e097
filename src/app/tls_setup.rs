//! Owns: building the TLS acceptors and connectors from the plan.
//! Invariant: every file was read and is valid before anything listens.
//! Must not know: handshakes, or when files are reloaded.

use std::sync::Arc;

use crate::config::{Plan, PoolPlan};
use crate::copies::fields::SAVE;
use crate::runtime::ListenerSettings;
use crate::tls::reload::Reload;
use crate::tls::{self, Acceptor, ChallengeCertificates, Connector};
use crate::upstream::{self, Access};

/// All TLS acceptors and connectors.
#[derive(Clone, Default)]
pub(super) struct TlsSetup {
    /// By position of the listener.
    pub(super) acceptors: Vec<Option<Arc<Acceptor>>>,
    /// How to connect to the backends of each pool.
    pub(super) accesses: Vec<Access>,
}

impl TlsSetup {
    /// Opens everything in `plan`. ACME servers are answered by `challenges`.
    pub(super) fn open(plan: &Plan, challenges: &ChallengeCertificates) -> Result<TlsSetup, tls::Error> {
        TlsSetup::default().next(&[], &[], &plan.listeners, &plan.pools, challenges)
    }

    /// Opens what these listeners and pools need, and keeps what those of before have with the same name and settings:
    /// the tickets of its clients stay valid.
    pub(super) fn next(
        &self,
        known_listeners: &[ListenerSettings],
        known_pools: &[PoolPlan],
        listeners: &[ListenerSettings],
        pools: &[PoolPlan],
        challenges: &ChallengeCertificates,
    ) -> Result<TlsSetup, tls::Error> {
        let acceptor = |listener: &ListenerSettings| {
            let Some(settings) = &listener.tls else { return Ok(None) };
            let is_same = |known: &&ListenerSettings| known.name == listener.name && known.tls == listener.tls;
            let known = known_listeners.iter().position(|known| is_same(&known));
            match known.and_then(|at| self.acceptors.get(at)?.clone()) {
                Some(acceptor) => Ok(Some(acceptor)),
                None => {
                    let opened = Acceptor::open(&listener.name, settings)?;
                    Ok(Some(Arc::new(opened.with_challenges(challenges))))
                }
            }
        };
        let connector = |pool: &PoolPlan, settings: &upstream::Settings| -> Result<_, tls::Error> {
            let Some(tls) = &settings.tls else { return Ok(None) };
            let same_pool = known_pools.iter().position(|known| known.pool.name == pool.pool.name);
            let accesses = same_pool.and_then(|at| self.accesses.get(at));
            let known = accesses.into_iter().flat_map(|access| [access, access.for_probes()]);
            let same = known.into_iter().find(|known| known.settings.tls.as_ref() == Some(tls));
            match same.and_then(|known| known.tls.clone()) {
                Some(connector) => Ok(Some(connector)),
                None => Connector::open(&pool.pool.name, tls).map(|connector| Some(Arc::new(connector))),
            }
        };
        let access = |pool: &PoolPlan| -> Result<Access, tls::Error> {
            let settings = pool.upstream.clone();
            let own = |settings: &upstream::Settings| {
                let tls = connector(pool, settings)?;
                Ok(Arc::new(Access { tls, settings: settings.clone(), kept_apart: None, probes: None }))
            };
            let probes = pool.health.upstream.as_ref().map(own).transpose()?;
            let kept_apart = pool.copies.is_some().then_some(&SAVE);
            Ok(Access { tls: connector(pool, &settings)?, settings, kept_apart, probes })
        };
        Ok(TlsSetup {
            acceptors: listeners.iter().map(acceptor).collect::<Result<_, _>>()?,
            accesses: pools.iter().map(access).collect::<Result<_, _>>()?,
        })
    }

    /// Lists the components whose files are watched.
    pub(super) fn watched(&self) -> Vec<Arc<dyn Reload>> {
        let of_clients = self.acceptors.iter().flatten().map(|acceptor| Arc::clone(acceptor) as Arc<dyn Reload>);
        let of_probes = self.accesses.iter().filter_map(|access| access.probes.as_deref());
        let of_backends = self.accesses.iter().chain(of_probes).filter_map(|access| access.tls.as_ref());
        let of_backends = of_backends.map(|connector| Arc::clone(connector) as Arc<dyn Reload>);
        of_clients.chain(of_backends).collect()
    }
}
