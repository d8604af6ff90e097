//! Owns: the worker threads, from their start to the end of their last connection.
//! Invariant: a worker thread shares with others only what it was given at its start.
//! Must not know: signals; what the handler does with a request.

use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::commands::Inbox;
use super::conn_timeouts::ShutdownGrace;
use super::listen::Accepting;
use super::polling::wait_until;
use super::socket_files::SocketFiles;
use super::thread_listeners::ThreadListeners;
use crate::clock;
use crate::handler::Handler;
use crate::net;

/// The running worker threads.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: StopHandle,
}

/// Tells the threads to end.
#[derive(Debug, Clone)]
pub struct StopHandle {
    stop: Arc<watch::Sender<StopCommand>>,
    files: SocketFiles,
}

/// What the threads shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopCommand {
    /// Serve clients.
    Run,
    /// Serve clients, and tell them to close their connections.
    Announce,
    /// Accept no connection, since another process has the sockets, and end once those that are open have ended.
    Leave,
    /// Let requests in flight end within this time, and accept no new connections. The threads may not have seen yet that
    /// they left the sockets to another process, which then goes on at them.
    Drain { grace: Duration, has_left: bool },
    /// Close all connections now.
    Abort,
}

/// What the application gets to build its part of a worker thread.
pub struct WorkerContext {
    /// The thread's number, from 0.
    pub index: usize,
    /// The thread's timers.
    pub deadlines: clock::Deadlines,
}

impl Workers {
    /// Starts one thread for each inbox. `make` runs on each thread; it returns the thread's handler, and a future that
    /// runs there for as long as the thread serves. A thread that ends before it is stopped calls `on_failure` with its
    /// number.
    ///
    /// # Errors
    /// A thread or its event loop can't be created.
    pub fn start<H, F, B>(
        inboxes: Vec<Inbox<H::Listener>>,
        stop: StopHandle,
        make: F,
        on_failure: impl Fn(usize) + Send + Clone + 'static,
    ) -> io::Result<Workers>
    where
        H: Handler,
        B: Future<Output = ()> + 'static,
        F: Fn(WorkerContext) -> (Rc<H>, B) + Send + Clone + 'static,
    {
        let mut workers = Workers { threads: Vec::new(), stop };
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let runtime = move || {
                let mut builder = Builder::new_current_thread();
                builder.enable_all().on_thread_unpark(clock::start_iteration).build_local(LocalOptions::default())
            };
            let (make, stop, on_failure) = (make.clone(), workers.stop.stop.subscribe(), on_failure.clone());
            let (report_start, started) = mpsc::sync_channel(1);
            let run = move || {
                let runtime = match runtime() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(report_start.send(Err(error))),
                };
                // `start` waits for this.
                let _ = report_start.send(Ok(()));
                // After a panic nothing of the thread is used again; returning from here closes its sockets.
                let work = AssertUnwindSafe(move || runtime.block_on(run_worker(index, inbox, make, stop)));
                if catch_unwind(work).is_ok_and(|exit| exit == ThreadExit::Stopped) {
                    return;
                }
                tracing::error!(
                    worker = index,
                    "a worker thread failed and its connections are closed; restart this process, or have another one take over"
                );
                on_failure(index);
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
            started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it served")))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Returns what tells the threads to end.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Waits until all threads have ended. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            // The panic hook has reported a panic already.
            let _ = thread.join();
        }
    }
}

impl StopHandle {
    /// Makes the handle of threads that are to start. `files` are removed when they begin to stop.
    pub fn new(files: SocketFiles) -> StopHandle {
        StopHandle { stop: Arc::new(watch::Sender::new(StopCommand::Run)), files }
    }

    /// Tells clients to close their connections: each response says so. Clients can still connect, and no connection is
    /// closed for that.
    pub fn announce(&self) {
        self.stop.send_replace(StopCommand::Announce);
    }

    /// No longer tells clients to close their connections.
    pub fn withdraw(&self) {
        self.stop.send_replace(StopCommand::Run);
    }

    /// Leaves the sockets to another process, which has them by now: accepts no more connections, and touches no accept
    /// queue and no file of a Unix socket. The threads end with their last connection; each response asks its client to
    /// connect again.
    pub fn leave(&self) {
        self.files.release();
        self.stop.send_replace(StopCommand::Leave);
    }

    /// Lets requests in flight end within `grace`. Clients that have begun to connect, or have sent a request, are
    /// still served; after that, none can connect.
    pub fn drain(&self, grace: Duration) {
        // Removes the files of Unix sockets: clients no longer find them, and a successor may use their paths.
        self.files.clear();
        self.stop.send_modify(|command| {
            let has_left = matches!(command, StopCommand::Leave | StopCommand::Drain { has_left: true, .. });
            *command = StopCommand::Drain { grace, has_left };
        });
    }

    /// Closes all connections now.
    pub fn abort(&self) {
        self.stop.send_replace(StopCommand::Abort);
    }
}

/// Why a worker thread ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThreadExit {
    /// It was stopped.
    Stopped,
    /// A task that it needs to serve has ended.
    Failed,
}

async fn run_worker<H, F, B>(
    index: usize,
    inbox: Inbox<H::Listener>,
    make: F,
    mut stop: watch::Receiver<StopCommand>,
) -> ThreadExit
where
    H: Handler,
    B: Future<Output = ()> + 'static,
    F: Fn(WorkerContext) -> (Rc<H>, B),
{
    clock::start_iteration();
    let clock = clock::Deadlines::new();
    let (handler, housekeeping) = make(WorkerContext { index, deadlines: clock.clone() });
    let mut essential = JoinSet::new();
    essential.spawn_local(clock.clone().run());
    essential.spawn_local(net::run_batcher());
    essential.spawn_local(housekeeping);
    let Inbox { mut commands, connections, limits } = inbox;
    let mut listeners = ThreadListeners::new(index, handler, clock, limits, connections);

    let mut command = loop {
        tokio::select! {
            // An error means that the sender is dropped, and with it the owner of this thread.
            changed = stop.changed() => match changed.map_or(StopCommand::Abort, |()| *stop.borrow_and_update()) {
                StopCommand::Run => listeners.announce_stop(false),
                StopCommand::Announce => listeners.announce_stop(true),
                command => break command,
            },
            // These never end by themselves.
            _ = essential.join_next() => return ThreadExit::Failed,
            () = listeners.failed() => return ThreadExit::Failed,
            Some(next) = commands.recv() => listeners.carry_out(next.command),
        }
    };
    // A reload that came first is carried out: what is in the queues of its listeners is served.
    while let Ok(next) = commands.try_recv() {
        listeners.carry_out(next.command);
    }
    let open = listeners.connection_counter();
    if command == StopCommand::Leave {
        listeners.announce_stop(true);
        listeners.stop_accepting(Accepting::Leave);
        tokio::select! {
            () = listeners.all_closed(&open) => return ThreadExit::Stopped,
            () = drive(&mut essential) => return ThreadExit::Failed,
            later = stop.wait_for(|stop| matches!(stop, StopCommand::Drain { .. } | StopCommand::Abort)) => {
                command = later.map_or(StopCommand::Abort, |stop| *stop);
            }
        }
    }
    let StopCommand::Drain { grace, has_left } = command else {
        listeners.abort();
        respond_to_abandoned(&listeners).await;
        return ThreadExit::Stopped;
    };
    // Closing sockets filters who connects, at all descriptors of them.
    listeners.stop_accepting(if has_left { Accepting::Leave } else { Accepting::Close(ShutdownGrace::within(grace)) });
    listeners.drain(ShutdownGrace::within(grace).idle);
    let all_closed = listeners.all_closed(&open);
    let aborted = async { drop(stop.wait_for(|stop| *stop == StopCommand::Abort).await) };
    tokio::select! {
        () = all_closed => {}
        () = aborted => {}
        () = tokio::time::sleep(grace) => {
            tracing::warn!(connections = open.open.get(), "the grace period is over; closing the remaining connections");
        }
    }
    respond_to_abandoned(&listeners).await;
    ThreadExit::Stopped
}

/// Sends responses to requests that have none yet, and waits a little while until they are written.
async fn respond_to_abandoned<H: Handler>(listeners: &ThreadListeners<H>) {
    const TIME_TO_SEND: Duration = Duration::from_millis(500);
    listeners.abandon_requests();
    let _ = tokio::time::timeout(TIME_TO_SEND, wait_until(|| listeners.connections() == 0)).await;
}

/// Waits until one of the tasks ends that the thread needs to serve.
async fn drive(essential: &mut JoinSet<()>) {
    let _ = essential.join_next().await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::{Body, Frame};

    use super::super::listener::ListenerTransport;
    use super::super::listeners::{Acquisition, Listeners};
    use super::super::settings::{ListenerSettings, Settings};
    use super::*;
    use crate::handler::{Abandoned, HeadFault, IncomingBody, Interim, Peer, Reply, ResponseContent};
    use crate::http2::PacedBody;
    use crate::telemetry::Limit;
    use crate::telemetry::metrics::{Labels, Metrics};

    struct Empty;

    struct Nothing;

    impl Body for Nothing {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            Poll::Ready(None)
        }
    }

    impl PacedBody for Nothing {}

    impl ResponseContent for Nothing {
        fn has_read_request(&self) -> bool {
            true
        }

        fn abort(&mut self, _: u64) {}
    }

    impl Handler for Empty {
        type Body = Nothing;
        type Client = ();
        type Listener = ();

        fn begin_connection(&self, _: &Arc<()>, _: Peer) {}

        async fn handle(self: Rc<Self>, _: Rc<()>, _: Request<IncomingBody>, _: Option<Interim>) -> Reply<Nothing> {
            Reply { response: Response::new(Nothing), tunnel: None, is_stream: false }
        }

        fn abandoned(self: &Rc<Self>, _: &Rc<()>, _: Abandoned) -> Response<Nothing> {
            Response::new(Nothing)
        }

        fn reject_head(self: &Rc<Self>, _: &Rc<()>, _: HeadFault) -> Bytes {
            Bytes::new()
        }

        fn count_limit(&self, _: Limit) {}
    }

    fn listeners() -> (Listeners<()>, Vec<Inbox<()>>, SocketAddr) {
        let labels = Labels { verdicts: &["none"], causes: &[], outcomes: &["ok"], refusals: &[], rejected_pins: &[] };
        let metrics = Metrics::new(1, labels, Arc::default());
        let settings = ListenerSettings::new(([127, 0, 0, 1], 0).into());
        let (mut listeners, inboxes) = Listeners::new(&Settings::default(), 1);
        let acquired = listeners.acquire(std::slice::from_ref(&settings), Acquisition::Start).unwrap();
        acquired.listen().unwrap();
        let transport = Arc::new(ListenerTransport::new(&settings, None, (), &metrics));
        drop(listeners.install(acquired, vec![transport], Duration::ZERO));
        let address = listeners.addresses().first().and_then(|address| address.tcp()).unwrap();
        (listeners, inboxes, address)
    }

    /// Returns whether a thread with this `housekeeping` reports its failure.
    fn reports_its_failure<B: Future<Output = ()> + 'static>(housekeeping: fn() -> B) -> bool {
        let (listeners, inboxes, address) = listeners();
        let (report, reports) = mpsc::channel();
        let on_failure = move |_| report.send(()).unwrap();
        let make = move |_| (Rc::new(Empty), housekeeping());
        let workers = Workers::start(inboxes, StopHandle::new(listeners.files()), make, on_failure).unwrap();
        let reports_its_failure = reports.recv_timeout(Duration::from_secs(2)).is_ok();
        // The kernel gives its clients to other threads: it assigns no connection to a closed socket.
        assert_eq!(std::net::TcpStream::connect(address).is_err(), reports_its_failure);
        workers.stop_handle().abort();
        workers.join();
        reports_its_failure
    }

    #[test]
    fn a_thread_that_ends_before_it_is_stopped_reports_its_failure() {
        assert!(reports_its_failure(|| async { assert!(std::hint::black_box(false), "a panic") }));
        assert!(reports_its_failure(|| async {}));
        assert!(!reports_its_failure(std::future::pending::<()>));
    }

    #[test]
    fn threads_that_stop_right_after_they_have_left_leave_the_sockets_as_they_are() {
        let (listeners, inboxes, address) = listeners();
        let of_successor = listeners.sockets();
        let make = |_| (Rc::new(Empty), std::future::pending::<()>());
        let workers = Workers::start(inboxes, StopHandle::new(listeners.files()), make, |_| {}).unwrap();
        let stop = workers.stop_handle();
        stop.leave();
        stop.drain(Duration::from_secs(1));
        workers.join();
        let connected = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(5));
        assert!(connected.is_ok(), "{connected:?}");
        drop(of_successor);
    }

    #[test]
    fn a_thread_that_panics_at_its_start_reports_its_failure() {
        let (listeners, inboxes, _) = listeners();
        let (report, reports) = mpsc::channel();
        let make = |context: WorkerContext| {
            assert!(context.index > 0, "a panic");
            (Rc::new(Empty), std::future::pending::<()>())
        };
        let on_failure = move |_| report.send(()).unwrap();
        let _workers = Workers::start(inboxes, StopHandle::new(listeners.files()), make, on_failure).unwrap();
        reports.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}
