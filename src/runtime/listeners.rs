//! Owns: the listeners of the process: which are open, and opening and closing them on all threads.
//! Invariant: a listener whose address stays keeps its sockets; whatever can fail fails before anything changes.
//! Must not know: how connections are accepted; the configuration as a whole.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::bind_listener::{self, BindError, BoundFile, BoundListener, Conflicts};
use super::commands::{Acknowledged, CommandSender, Inbox, ThreadCommand, ThreadLimits, command_channel};
use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::ConnectionLimit;
use super::inherited::{InheritedSockets, SharedSockets};
use super::listen::ThreadListener;
use super::listener::ListenerTransport;
use super::per_client_limit::PerClientLimit;
use super::settings::{Limits, ListenerSettings, Settings};
use super::socket_files::{ListenerId, SocketFiles};
use crate::clock;
use crate::net::unix::SocketFile;
use crate::net::{Address, local_addresses};

/// How long the sockets of a closed listener may still have its address: longer than its last connections take.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// All open listeners. `L` is what the handler has to know of each.
pub struct Listeners<L> {
    open: Vec<OpenListener<L>>,
    next_id: ListenerId,
    /// The addresses of listeners that were closed a moment ago.
    closing: Vec<(Address, Instant)>,
    threads: Vec<CommandSender<L>>,
    files: SocketFiles,
    connections: Arc<ConnectionLimit>,
    limits: ThreadLimits,
    max_connections: usize,
    /// Sockets that this process was started with and that no listener has yet.
    inherited: Vec<InheritedSockets>,
}

struct OpenListener<L> {
    id: ListenerId,
    /// Its sockets, for as long as its threads accept there.
    descriptors: Vec<Weak<OwnedFd>>,
    is_shared: bool,
    /// Its address in the configuration, which identifies it.
    configured: Address,
    /// Its address with the port that the system chose if it was 0.
    bound: Address,
    transport: Arc<ArcSwap<ListenerTransport<L>>>,
}

/// What opening listeners has to consider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquisition {
    /// The process starts: wait a moment for a predecessor to release an address.
    Start,
    /// The process runs.
    Reload,
    /// Only find out whether it is possible.
    DryRun,
}

/// The sockets of the next configuration's listeners. Dropping it closes those that are new.
pub struct AcquiredListeners {
    /// By position in the configuration.
    all: Vec<AcquiredListener>,
}

struct AcquiredListener {
    id: ListenerId,
    configured: Address,
    /// The sockets of a new listener; `None` for one that is open already.
    sockets: Option<BoundListener>,
}

impl<L> Listeners<L> {
    /// Makes the listeners of a process with `threads` threads, none of which is open yet, and what each thread
    /// receives.
    pub fn new(settings: &Settings, threads: usize) -> (Listeners<L>, Vec<Inbox<L>>) {
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..threads.max(1)).map(|_| command_channel()).unzip();
        let max = settings.max_connections;
        let clients = settings.limits.connections_per_client.map(|most| PerClientLimit::new(most, max));
        let connections = ConnectionLimit::new(max);
        let limits = ThreadLimits { limits: settings.limits.clone(), per_client: clients };
        let inboxes = inboxes.into_iter().map(|commands| Inbox::new(commands, &connections, &limits)).collect();
        let listeners = Listeners {
            open: Vec::new(),
            next_id: 0,
            closing: Vec::new(),
            threads: senders,
            files: SocketFiles::default(),
            connections,
            limits,
            max_connections: max,
            inherited: Vec::new(),
        };
        (listeners, inboxes)
    }

    /// Has the listeners that are acquired next take these sockets, if they have their address or name.
    pub fn inherit(&mut self, sockets: Vec<InheritedSockets>) {
        self.inherited = sockets;
    }

    /// Closes the inherited sockets that no listener has taken, and returns their addresses.
    pub fn drop_inherited(&mut self) -> Vec<Address> {
        self.inherited.drain(..).map(|inherited| inherited.address).collect()
    }

    /// Returns the sockets of all open listeners, for another process.
    pub fn sockets(&self) -> Vec<SharedSockets> {
        let of = |listener: &OpenListener<L>| SharedSockets {
            address: listener.configured.clone(),
            sockets: listener.descriptors.iter().filter_map(Weak::upgrade).collect(),
            is_shared: listener.is_shared,
        };
        self.open.iter().map(of).collect()
    }

    /// Accepts no more connections at the listeners whose sockets another process uses: `taken` has an entry for each.
    /// Their sockets stay open here, so that [`Listeners::resume`] loses no client, whatever becomes of that process.
    pub fn pause(&self, mut taken: Vec<Address>) {
        for listener in &self.open {
            if let Some(at) = taken.iter().position(|address| *address == listener.configured) {
                taken.swap_remove(at);
                self.send_to_all(|| ThreadCommand::Pause(listener.id));
            }
        }
    }

    /// Accepts connections again at all listeners.
    pub fn resume(&self) {
        for listener in &self.open {
            self.send_to_all(|| ThreadCommand::Resume(listener.id));
        }
    }

    /// Returns the addresses of the open listeners as the configuration writes them.
    pub fn configured(&self) -> Vec<Address> {
        self.open.iter().map(|listener| listener.configured.clone()).collect()
    }

    fn send_to_all(&self, command: impl Fn() -> ThreadCommand<L>) {
        let (acknowledge, _) = mpsc::channel(1);
        self.threads.iter().for_each(|thread| thread.send(command(), &acknowledge));
    }

    /// Closes the listeners that another process has not taken, as a reload would. `taken` has an entry for each one that
    /// it has.
    pub fn close_others(&mut self, mut taken: Vec<Address>, grace: Duration) {
        let (acknowledge, _) = mpsc::channel(1);
        for closed in std::mem::take(&mut self.open) {
            match taken.iter().position(|address| *address == closed.configured) {
                Some(at) => {
                    taken.swap_remove(at);
                    self.open.push(closed);
                }
                None => self.close(closed, grace, &acknowledge),
            }
        }
    }

    /// Returns the files of Unix sockets.
    pub fn files(&self) -> SocketFiles {
        self.files.clone()
    }

    /// Returns the addresses of the open listeners, in the order of the configuration.
    pub fn addresses(&self) -> Vec<Address> {
        self.open.iter().map(|listener| listener.bound.clone()).collect()
    }

    /// Binds the sockets of those listeners in `settings` that are not open yet. Blocks at [`Acquisition::Start`].
    ///
    /// # Errors
    /// The first address that can't be bound. Nothing has changed then.
    pub fn acquire(
        &mut self,
        settings: &[ListenerSettings],
        acquisition: Acquisition,
    ) -> Result<AcquiredListeners, BindError> {
        let mut free: Vec<_> = self.open.iter().map(|listener| (listener.id, listener.configured.clone())).collect();
        self.closing.retain(|(_, since)| clock::now().saturating_duration_since(*since) < CLOSING_TIME);
        let mut all = Vec::new();
        for each in settings {
            let configured = each.address.clone();
            let kept = free.iter().position(|(_, address)| *address == configured);
            let (id, sockets) = match kept.map(|at| free.remove(at)) {
                Some((id, _)) => (id, None),
                None => {
                    self.next_id += 1;
                    let own = self.open.iter().map(|listener| &listener.configured);
                    let mut own = own.chain(self.closing.iter().map(|(address, _)| address));
                    let conflicts = match acquisition {
                        Acquisition::Start => Conflicts::Await,
                        _ if own.any(|own| local_addresses::overlap(own, &configured)) => Conflicts::Own,
                        _ => Conflicts::Refuse,
                    };
                    let is_meant = |inherited: &InheritedSockets| match &inherited.name {
                        Some(name) if *name == each.name => true,
                        _ => inherited.address == configured,
                    };
                    let threads = self.threads.len();
                    let bound = match self.inherited.iter().position(is_meant) {
                        Some(at) => bind_listener::adopt(&configured, self.inherited.remove(at), threads)?,
                        None => {
                            let all: Vec<_> = settings.iter().map(|settings| &settings.address).collect();
                            let is_dry_run = acquisition == Acquisition::DryRun;
                            bind_listener::bind(&configured, &all, threads, conflicts, is_dry_run)?
                        }
                    };
                    (self.next_id, Some(bound))
                }
            };
            all.push(AcquiredListener { id, configured, sockets });
        }
        Ok(AcquiredListeners { all })
    }

    /// Has the connections that begin from now on use these values: those of the acquired listeners, by position.
    /// Opens no socket and closes none.
    pub fn replace_transports(&self, acquired: &AcquiredListeners, transports: &[Arc<ListenerTransport<L>>]) {
        for (next, transport) in acquired.all.iter().zip(transports) {
            if let Some(open) = self.open.iter().find(|open| open.id == next.id) {
                open.transport.store(Arc::clone(transport));
            }
        }
    }

    /// Opens the acquired listeners on all threads, with these values by position, and closes all others: their accept
    /// queues are served, and their connections end within `grace` as when the process stops, but no request is cut
    /// off. Returns what completes once every thread has done so.
    pub fn install(
        &mut self,
        acquired: AcquiredListeners,
        transports: Vec<Arc<ListenerTransport<L>>>,
        grace: Duration,
    ) -> Acknowledged {
        let (acknowledge, acknowledged) = mpsc::channel(1);
        let mut before = std::mem::take(&mut self.open);
        for (next, transport) in acquired.all.into_iter().zip(transports) {
            if let Some(at) = before.iter().position(|open| open.id == next.id) {
                self.open.push(before.swap_remove(at));
            } else if let Some(sockets) = next.sockets {
                let transport = Arc::new(ArcSwap::new(transport));
                let file = match sockets.file {
                    BoundFile::None => None,
                    BoundFile::Own(file) => Some(file),
                    // Without the file no client finds the socket, and there is nothing to remove.
                    BoundFile::Inherited(path) => SocketFile::new(&path).ok(),
                };
                if let Some(file) = file {
                    self.files.add(next.id, file);
                }
                for (thread, of_thread) in self.threads.iter().zip(sockets.by_thread) {
                    let listener = ThreadListener { transport: Arc::clone(&transport), sockets: of_thread };
                    thread.send(ThreadCommand::Open(next.id, listener), &acknowledge);
                }
                let (id, configured, is_shared) = (next.id, next.configured, sockets.is_shared);
                let descriptors = sockets.descriptors.iter().map(Arc::downgrade).collect();
                let bound = sockets.address;
                self.open.push(OpenListener { id, descriptors, is_shared, configured, bound, transport });
            }
        }
        for closed in before {
            self.close(closed, grace, &acknowledge);
        }
        Acknowledged::new(acknowledged)
    }

    fn close(&mut self, closed: OpenListener<L>, grace: Duration, acknowledge: &mpsc::Sender<()>) {
        // Clients no longer find the file, and a successor may use its path.
        self.files.remove(closed.id);
        self.closing.push((closed.configured, clock::now()));
        for thread in &self.threads {
            thread.send(ThreadCommand::Close(closed.id, ShutdownGrace::within(grace)), acknowledge);
        }
    }

    /// Changes the limits of connections: the number of all for those that are accepted from now on, the others for
    /// those that begin from now on. Returns what completes once every thread has done so.
    pub fn set_limits(&mut self, limits: &Limits, max_connections: usize) -> Acknowledged {
        let (acknowledge, acknowledged) = mpsc::channel(1);
        self.connections.set_max(max_connections);
        if self.limits.limits != *limits || self.max_connections != max_connections {
            let per_client = limits.connections_per_client.map(|most| match &self.limits.per_client {
                // Its size is made for that number of connections; in another size, it counts from here on.
                Some(known) if self.max_connections == max_connections => {
                    known.set_max(most);
                    Arc::clone(known)
                }
                _ => PerClientLimit::new(most, max_connections),
            });
            self.max_connections = max_connections;
            self.limits = ThreadLimits { limits: limits.clone(), per_client };
            for thread in &self.threads {
                thread.send(ThreadCommand::Limits(self.limits.clone()), &acknowledge);
            }
        }
        Acknowledged::new(acknowledged)
    }
}

impl AcquiredListeners {
    /// Returns the id of each listener, by position in the configuration.
    pub fn ids(&self) -> Vec<ListenerId> {
        self.all.iter().map(|listener| listener.id).collect()
    }

    /// Lets clients connect to the new sockets. Until they are installed, connections wait in the kernel's queue.
    ///
    /// # Errors
    /// The first address at which the system refuses to listen.
    pub fn listen(&self) -> Result<(), BindError> {
        self.all.iter().filter_map(|listener| listener.sockets.as_ref()).try_for_each(BoundListener::listen)
    }
}
