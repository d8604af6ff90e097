//! Owns: what shakes hands, with clients and with backends, where TLS is spoken.
//! Invariant: every file that it needs is read, and good, before anything listens.
//! Must not know: handshakes; when files are looked at again.

use std::sync::Arc;

use crate::config::{Plan, PoolPlan};
use crate::runtime::ListenerSettings;
use crate::tls::reload::{Reload, WatchedCertificates};
use crate::tls::{self, Acceptor, Connector};
use crate::upstream::Access;

/// All that shakes hands.
pub(super) struct TlsSetup {
    /// By listener.
    pub(super) acceptors: Vec<Option<Arc<Acceptor>>>,
    /// How the backends of each pool are spoken to.
    pub(super) accesses: Vec<Access>,
    /// Whose files are looked after.
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
