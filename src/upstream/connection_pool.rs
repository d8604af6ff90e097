//! Owns: one thread's connections to backends: idle HTTP/1.1 connections and shared HTTP/2 connections.
//! Invariant: number and idle time are bounded; no request uses a connection of another incarnation or other settings.
//! Must not know: HTTP messages.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::Body;

use super::connect::{NewConnection, connect};
use super::connection::PooledConnection;
use super::failure::{Fact, Failure};
use super::http1::Http1Connection;
use super::http2::{Http2Connection, StreamPermit};
use super::settings::{Access, Settings};
use super::single_flight::{self, PendingConnect, SharedConnect, SharedConnectFuture};
use crate::clock;
use crate::http2::PacedBody;
use crate::pool::Backend;

/// One thread's connections, by backend.
pub struct ConnectionPool<B: Body + 'static> {
    /// Indexed by [`crate::pool::Live::id`], which stays the same across reloads.
    backends: Rc<RefCell<Vec<BackendConnections<B>>>>,
}

/// The connections to one backend.
struct BackendConnections<B: Body + 'static> {
    idle: Vec<IdleConnection<B>>,
    active_http2: Vec<ActiveHttp2>,
    /// The last attempt to make an HTTP/2 connection, which requests wait for.
    pending: Option<PendingConnect<B>>,
    /// The incarnation that was offered HTTP/2 and chose HTTP/1.1.
    http1_only: Option<u64>,
}

/// An HTTP/1.1 connection that carries no request.
struct IdleConnection<B: Body + 'static> {
    connection: Box<Http1Connection<B>>,
    incarnation: u64,
    /// The client that its PROXY header names. It carries no other client's requests.
    client: Option<IpAddr>,
    until: Instant,
}

/// An HTTP/2 connection, which requests share.
struct ActiveHttp2 {
    connection: Http2Connection,
    incarnation: u64,
    idle_timeout: Duration,
}

/// What a request requires of a connection.
#[derive(Debug, Clone, Copy)]
pub struct PoolKey {
    /// The client of the request, if it is known.
    pub client: Option<IpAddr>,
    /// Whether it requires HTTP/1.1, since it asks for an upgrade to another protocol.
    pub http1: bool,
}

impl PoolKey {
    /// Returns the client that the connection's PROXY header names, if it has one.
    fn proxied_client(self, settings: &Settings) -> Option<IpAddr> {
        settings.proxy_protocol.and(self.client)
    }
}

impl<B: Body + 'static> Default for ConnectionPool<B> {
    fn default() -> Self {
        ConnectionPool { backends: Rc::default() }
    }
}

impl<B: Body + 'static> BackendConnections<B> {
    /// Takes a permit of the first HTTP/2 connection with this incarnation that has a free stream.
    fn try_acquire(&self, incarnation: u64) -> Option<StreamPermit> {
        let current = |active: &&ActiveHttp2| active.incarnation == incarnation;
        self.active_http2.iter().filter(current).find_map(|active| active.connection.try_acquire())
    }

    /// Adds an HTTP/2 connection, so that other requests find it.
    fn register(&mut self, connection: Http2Connection, incarnation: u64, access: &Access) {
        self.http1_only = None;
        self.active_http2.push(ActiveHttp2 { connection, incarnation, idle_timeout: access.settings.idle_timeout });
    }
}

impl<B: Body + 'static> Default for BackendConnections<B> {
    fn default() -> Self {
        BackendConnections { idle: Vec::new(), active_http2: Vec::new(), pending: None, http1_only: None }
    }
}

impl<B> ConnectionPool<B>
where
    B: PacedBody<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Takes a connection for a request: a stream on the first HTTP/2 connection that has one free, or the HTTP/1.1
    /// connection that was used last. Both let surplus connections become idle. The backend may have closed the
    /// connection meanwhile: sending on it then fails without a byte sent.
    pub fn checkout(
        &self,
        backend: &Backend,
        settings: &Settings,
        key: PoolKey,
        now: Instant,
    ) -> Option<PooledConnection<B>> {
        let mut backends = self.backends.borrow_mut();
        let connections = backends.get_mut(backend.live().id())?;
        let wants_http2 = settings.http2 && !key.http1;
        if wants_http2 && let Some(permit) = connections.try_acquire(backend.connection_key()) {
            return Some(PooledConnection::Http2(permit));
        }
        let client = key.proxied_client(settings);
        let serves = |idle: &IdleConnection<B>| {
            idle.client == client && (!wants_http2 || idle.connection.alpn_fell_back_to_h1())
        };
        while let Some(last) = connections.idle.iter().rposition(serves) {
            let idle = connections.idle.remove(last);
            if idle.incarnation == backend.connection_key() && idle.until > now {
                return Some(PooledConnection::Http1(idle.connection));
            }
        }
        None
    }

    /// Makes a new connection for a request. Requests that need an HTTP/2 connection at the same time wait for the same
    /// one: otherwise a burst of first requests would open one each, and use all but one for a single request. It polls
    /// `watch` meanwhile, which can end the attempt with a fact.
    ///
    /// # Errors
    /// Why there is no connection. Nothing was sent.
    pub async fn connect(
        &self,
        backend: &Backend,
        access: &Access,
        key: PoolKey,
        mut watch: impl FnMut(&mut Context<'_>) -> Poll<Fact>,
    ) -> Result<PooledConnection<B>, Failure> {
        let unsent = |fact| Failure::new(fact, false);
        while access.settings.http2 && !key.http1 && !self.is_http1_only(backend) {
            let mut connecting = self.join_connect(backend, access, key);
            let connected = std::future::poll_fn(|cx| match Pin::new(&mut connecting).poll(cx) {
                Poll::Ready(connected) => Poll::Ready(connected),
                Poll::Pending => watch(cx).map(|fact| Err(unsent(fact))),
            });
            match connected.await? {
                SharedConnect::Http2(connection) => match connection.try_acquire() {
                    Some(permit) => return Ok(PooledConnection::Http2(permit)),
                    // Other requests have taken all of its streams. Meanwhile other connections may have free ones: another
                    // attempt, or responses that have ended.
                    None if connection.is_full() => {
                        if let Some(permit) = self.try_acquire(backend) {
                            return Ok(PooledConnection::Http2(permit));
                        }
                    }
                    None => return Err(unsent(Fact::Closed)),
                },
                // The first of the waiting requests takes it. The others know now that each needs its own.
                SharedConnect::Http1(connection) => {
                    if let Some(connection) = connection.take() {
                        return Ok(PooledConnection::Http1(connection));
                    }
                }
            }
        }
        match connect(backend.address(), access, key.client, key.http1, watch).await? {
            NewConnection::Http1(connection) => Ok(PooledConnection::Http1(connection)),
            NewConnection::Http2(connection) => {
                let permit = connection.try_acquire().ok_or(unsent(Fact::Closed))?;
                self.with_connections(backend, |connections| {
                    connections.register(connection, backend.connection_key(), access)
                });
                Ok(PooledConnection::Http2(permit))
            }
        }
    }

    fn try_acquire(&self, backend: &Backend) -> Option<StreamPermit> {
        self.backends.borrow().get(backend.live().id())?.try_acquire(backend.connection_key())
    }

    fn is_http1_only(&self, backend: &Backend) -> bool {
        let backends = self.backends.borrow();
        backends
            .get(backend.live().id())
            .is_some_and(|connections| connections.http1_only == Some(backend.connection_key()))
    }

    /// Joins the attempt to make an HTTP/2 connection to the backend, and starts one if there is none.
    fn join_connect(&self, backend: &Backend, access: &Access, key: PoolKey) -> SharedConnectFuture<B> {
        let (id, incarnation, since) = (backend.live().id(), backend.connection_key(), clock::now());
        let pending = self
            .backends
            .borrow()
            .get(id)
            .and_then(|connections| connections.pending.as_ref()?.join(incarnation, since));
        if let Some(connecting) = pending {
            return connecting;
        }
        let (backends, address, access) = (Rc::clone(&self.backends), backend.address().clone(), access.clone());
        let connecting = single_flight::start(async move {
            // It needs no time limit: each waiting request has its own, and the attempt ends when none is left.
            let connected =
                connect(&address, &access, key.client, key.http1, |_| Poll::Pending).await.map(SharedConnect::from);
            if let Some(connections) = backends.borrow_mut().get_mut(id) {
                connections.pending.take_if(|pending| pending.is(incarnation, since));
                match &connected {
                    Ok(SharedConnect::Http2(connection)) => {
                        connections.register(connection.clone(), incarnation, &access)
                    }
                    Ok(SharedConnect::Http1(_)) => connections.http1_only = Some(incarnation),
                    Err(_) => {}
                }
            }
            connected
        });
        self.with_connections(backend, |connections| {
            connections.pending = PendingConnect::of(&connecting, incarnation, since)
        });
        connecting
    }

    /// Keeps a connection for the next request, unless the backend has `max_idle_per_thread` idle ones already.
    pub fn release(
        &self,
        backend: &Backend,
        connection: Box<Http1Connection<B>>,
        settings: &Settings,
        key: PoolKey,
        now: Instant,
    ) {
        let until = now + settings.idle_timeout.min(Duration::from_secs(24 * 3600));
        let client = key.proxied_client(settings);
        self.with_connections(backend, |connections| {
            if connections.idle.len() < settings.max_idle_per_thread {
                connections.idle.push(IdleConnection {
                    connection,
                    incarnation: backend.connection_key(),
                    client,
                    until,
                });
            }
        });
    }

    fn with_connections(&self, backend: &Backend, update: impl FnOnce(&mut BackendConnections<B>)) {
        let mut backends = self.backends.borrow_mut();
        let id = backend.live().id();
        if backends.len() <= id {
            backends.resize_with(id + 1, BackendConnections::default);
        }
        if let Some(connections) = backends.get_mut(id) {
            update(connections);
        }
    }

    /// Closes connections that were idle for too long, and connections that the backend has closed. Nothing polls an
    /// idle connection, so nothing else would free its descriptor.
    pub fn sweep(&self, now: Instant) {
        let cx = &mut Context::from_waker(Waker::noop());
        for connections in self.backends.borrow_mut().iter_mut() {
            connections.idle.retain_mut(|idle| idle.until > now && idle.connection.is_ready(cx));
            connections.active_http2.retain(|active| active.connection.is_worth_keeping(active.idle_timeout, now));
        }
    }

    /// Closes the connections to the backends whose live id `is_current` rejects. HTTP/2 connections end with their last
    /// stream.
    pub fn retain(&self, is_current: impl Fn(usize) -> bool) {
        for (id, connections) in self.backends.borrow_mut().iter_mut().enumerate() {
            if !is_current(id) {
                *connections = BackendConnections::default();
            }
        }
    }

    /// Closes all idle HTTP/1.1 connections to free their descriptors. Returns whether there were any.
    pub fn close_idle(&self) -> bool {
        let mut backends = self.backends.borrow_mut();
        let closed = backends.iter_mut().map(|connections| connections.idle.drain(..).count());
        closed.sum::<usize>() > 0
    }

    /// Returns how many connections the pool holds.
    pub fn len(&self) -> usize {
        self.backends.borrow().iter().map(|connections| connections.idle.len() + connections.active_http2.len()).sum()
    }

    /// Whether the pool holds no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
