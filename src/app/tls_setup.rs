//! Owns: building the TLS acceptors and connectors from the plan.
//! Invariant: every file was read and is valid before anything listens.
//! Must not know: handshakes, or when files are reloaded.

use std::sync::Arc;

use crate::config::{Plan, PoolPlan};
use crate::runtime::ListenerSettings;
use crate::tls::reload::{Reload, WatchedCertificates};
use crate::tls::{self, Acceptor, Connector};
use crate::upstream::Access;

/// All TLS acceptors and connectors.
pub(super) struct TlsSetup {
    /// By position of the listener.
    pub(super) acceptors: Vec<Option<Arc<Acceptor>>>,
    /// How to connect to the backends of each pool.
    pub(super) accesses: Vec<Access>,
    /// The components whose files are watched.
    pub(super) watched: WatchedCertificates,
}

impl TlsSetup {
    pub(super) fn open(plan: &Plan) -> Result<TlsSetup, tls::Error> {
        let acceptor = |listener: &ListenerSettings| {
            listener.tls.as_ref().map(|tls| Acceptor::open(&listener.name, tls).map(Arc::new)).transpose()
        };
        let access = |pool: &PoolPlan| -> Result<Access, tls::Error> {
            let tls = pool.upstream.tls.as_ref();
            let tls = tls.map(|tls| Connector::open(&pool.pool.name, tls).map(Arc::new)).transpose()?;
            Ok(Access { settings: pool.upstream.clone(), tls })
        };
        let acceptors: Vec<Option<Arc<Acceptor>>> = plan.listeners.iter().map(acceptor).collect::<Result<_, _>>()?;
        let accesses: Vec<Access> = plan.pools.iter().map(access).collect::<Result<_, _>>()?;
        let of_clients = acceptors.iter().flatten().map(|acceptor| Arc::clone(acceptor) as Arc<dyn Reload>);
        let of_backends = accesses.iter().filter_map(|access| access.tls.as_ref());
        let of_backends = of_backends.map(|connector| Arc::clone(connector) as Arc<dyn Reload>);
        let watched = WatchedCertificates::new(of_clients.chain(of_backends));
        Ok(TlsSetup { acceptors, accesses, watched })
    }
}
