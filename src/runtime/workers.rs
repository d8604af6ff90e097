//! Owns: the threads of the data path, from their start to the end of their last connection.
//! Invariant: a thread shares nothing with another but what it was handed.
//! Must not know: signals; what is served.

use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::conn_context::ConnContext;
use super::conn_timeouts::ShutdownGrace;
use super::connection_limit::ConnectionLimit;
use super::listen::{self, Listeners, ThreadConnections};
use super::per_client_limit::PerClientLimit;
use super::settings::{Limits, Settings};
use crate::clock;
use crate::handler::Handler;
use crate::net::turn;
use crate::net::unix::SocketFile;

/// The running threads.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<watch::Sender<StopCommand>>,
    /// Of Unix sockets.
    files: Vec<SocketFile>,
}

/// What the threads are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StopCommand {
    /// Serve.
    Run,
    /// Finish what is under way within this time, and begin nothing new.
    Drain(Duration),
    /// End now.
    Abort,
}

/// What a thread's part of the application is made with.
pub struct WorkerContext {
    /// Its number, from 0.
    pub index: usize,
    /// Where its deadlines run.
    pub deadlines: clock::Deadlines,
}

impl Workers {
    /// Starts one thread for each set of sockets. `make` runs on each thread and makes its handler
    /// and what else is to run there for as long as it serves. `on_failure` is called when a thread has ended and
    /// was not told to.
    ///
    /// # Errors
    /// A thread or its runtime can't be had.
    pub fn start<H, F, B>(
        listeners: Listeners,
        settings: &Settings,
        make: F,
        on_failure: impl Fn() + Send + Clone + 'static,
    ) -> io::Result<Workers>
    where
        H: Handler,
        B: Future<Output = ()> + 'static,
        F: Fn(WorkerContext) -> (Rc<H>, B) + Send + Clone + 'static,
    {
        let stop = Arc::new(watch::Sender::new(StopCommand::Run));
        let (sockets, files) = listeners.into_threads();
        let limit = ConnectionLimit::new(settings.max_connections);
        let clients = settings.limits.connections_per_client;
        let clients = clients.map(|max| PerClientLimit::new(max, settings.max_connections));
        let mut workers = Workers { threads: Vec::new(), stop, files };
        for (index, bound) in sockets.into_iter().enumerate() {
            let runtime = move || {
                let mut builder = Builder::new_current_thread();
                builder.enable_all().on_thread_unpark(clock::start_iteration).build_local(LocalOptions::default())
            };
            let (make, limits, stop) = (make.clone(), settings.limits.clone(), workers.stop.subscribe());
            let (connections, on_failure) = ((Arc::clone(&limit), clients.clone()), on_failure.clone());
            let (report_start, started) = mpsc::sync_channel(1);
            let run = move || {
                let runtime = match runtime() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(report_start.send(Err(error))),
                };
                // Whoever started this waits for it.
                let _ = report_start.send(Ok(()));
                // Nothing of a thread is used once it has panicked; its sockets are closed when this is over.
                let work = AssertUnwindSafe(move || {
                    runtime.block_on(run_worker(index, bound, connections, limits, make, stop))
                });
                if catch_unwind(work).is_ok_and(|exit| exit == ThreadExit::Stopped) {
                    return;
                }
                tracing::error!(
                    worker = index,
                    "a worker thread has ended, and with it its connections; restart this process"
                );
                on_failure();
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
            started.recv().unwrap_or_else(|_| Err(io::Error::other("the thread has ended at once")))?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Lets requests in flight end within `grace`. Whoever has begun to connect, or has sent a request on a
    /// connection by now, is still served; then nobody can connect.
    pub fn drain(&mut self, grace: Duration) {
        // Nobody finds the Unix sockets any more, and a successor can have their paths.
        self.files.clear();
        self.stop.send_replace(StopCommand::Drain(grace));
    }

    /// Ends all connections now.
    pub fn stop(&self) {
        self.stop.send_replace(StopCommand::Abort);
    }

    /// Waits until all threads have ended. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Why a thread has no more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ThreadExit {
    /// It was told to end.
    Stopped,
    /// A task without which it can't serve has ended.
    Failed,
}

async fn run_worker<H, F, B>(
    index: usize,
    bound: Vec<listen::ThreadListener>,
    (limit, clients): (Arc<ConnectionLimit>, Option<Arc<PerClientLimit>>),
    limits: Limits,
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
    essential.spawn_local(turn::carry());
    essential.spawn_local(housekeeping);
    let context = Rc::new(ConnContext::new(handler, limits, clients, clock.clone()));
    let connections = Rc::new(ThreadConnections::new(limit));
    let mut accepting = JoinSet::new();
    for bound in bound {
        let (context, connections, stop) = (Rc::clone(&context), Rc::clone(&connections), stop.clone());
        accepting.spawn_local(async move {
            if let Err(error) = listen::accept(bound, index, context, connections, shutdown_grace(stop)).await {
                tracing::error!(%error, "a listener has ended");
            }
        });
    }

    let command = tokio::select! {
        // An error means that the sender is gone, and with it whoever wanted this to run.
        command = stop.wait_for(|stop| *stop != StopCommand::Run) => command.map_or(StopCommand::Abort, |stop| *stop),
        // They never end by themselves.
        _ = essential.join_next() => return ThreadExit::Failed,
        Some(_) = accepting.join_next() => return ThreadExit::Failed,
    };
    let StopCommand::Drain(grace) = command else {
        accepting.abort_all();
        respond_to_abandoned(&context, &connections).await;
        return ThreadExit::Stopped;
    };
    context.drain(ShutdownGrace::within(grace).idle);
    clock.wake_all();
    let all_closed = async {
        while accepting.join_next().await.is_some() {}
        wait_until(|| connections.open.get() == 0).await;
    };
    let aborted = async { drop(stop.wait_for(|stop| *stop == StopCommand::Abort).await) };
    tokio::select! {
        () = all_closed => {}
        () = aborted => {}
        () = tokio::time::sleep(grace) => {
            tracing::warn!(connections = connections.open.get(), "the grace period is over; closing what is left");
        }
    }
    respond_to_abandoned(&context, &connections).await;
    ThreadExit::Stopped
}

/// Has requests answered that were not until now, and gives that the time that it takes to be sent.
async fn respond_to_abandoned<H>(context: &ConnContext<H>, connections: &ThreadConnections) {
    const TIME_TO_SEND: Duration = Duration::from_millis(500);
    context.abandon_requests();
    let _ = tokio::time::timeout(TIME_TO_SEND, wait_until(|| connections.open.get() == 0)).await;
}

/// Waits until the thread is told to stop: what listeners have to do then. One that is to end at once is dropped.
async fn shutdown_grace(mut stop: watch::Receiver<StopCommand>) -> ShutdownGrace {
    let grace = match stop.wait_for(|stop| *stop != StopCommand::Run).await.map(|stop| *stop) {
        Ok(StopCommand::Drain(grace)) => grace,
        _ => Duration::ZERO,
    };
    ShutdownGrace::within(grace)
}

/// Looks again every few milliseconds: this is for the end of a thread, not for its life.
async fn wait_until(condition: impl Fn() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    poll_fn(|cx| {
        while !condition() {
            std::task::ready!(interval.poll_tick(cx));
        }
        Poll::Ready(())
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::Context;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use hyper::body::Incoming;

    use super::super::settings::ListenerSettings;
    use super::*;
    use crate::handler::{Abandoned, HeadFault, Peer, Reply, ResponseContent};
    use crate::net::interim::InterimQueue;
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

    impl ResponseContent for Nothing {
        fn has_read_request(&self) -> bool {
            true
        }

        fn abort(&mut self, _: u64) {}
    }

    impl Handler for Empty {
        type Body = Nothing;
        type Client = ();

        fn begin_connection(&self, _: usize, _: Peer) {}

        async fn handle(
            self: Rc<Self>,
            _: Rc<()>,
            _: Request<Incoming>,
            _: Option<Arc<InterimQueue>>,
        ) -> Reply<Nothing> {
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

    fn listeners() -> (Listeners, SocketAddr) {
        let labels = Labels { verdicts: &["none"], causes: &[], outcomes: &["ok"], refusals: &[] };
        let metrics = Metrics::new(1, labels, Arc::default());
        let settings = ListenerSettings::new(([127, 0, 0, 1], 0).into());
        let listeners = Listeners::bind(&[settings], &[None], 1, &metrics).unwrap();
        let address = listeners.addresses().first().and_then(|address| address.tcp()).unwrap();
        (listeners, address)
    }

    /// Whether a thread whose work housekeeping its requests is `housekeeping` is told to be lost.
    fn reports_its_failure<B: Future<Output = ()> + 'static>(housekeeping: fn() -> B) -> bool {
        let (listeners, address) = listeners();
        let (report, reports) = mpsc::channel();
        let on_failure = move || report.send(()).unwrap();
        let workers =
            Workers::start(listeners, &Settings::default(), move |_| (Rc::new(Empty), housekeeping()), on_failure)
                .unwrap();
        let reports_its_failure = reports.recv_timeout(Duration::from_secs(2)).is_ok();
        // The other threads get its clients: the kernel sends nobody to a socket that is closed.
        assert_eq!(std::net::TcpStream::connect(address).is_err(), reports_its_failure);
        workers.stop();
        workers.join();
        reports_its_failure
    }

    #[test]
    fn a_thread_that_ends_before_it_is_told_to_is_noticed() {
        assert!(reports_its_failure(|| async { assert!(std::hint::black_box(false), "a panic") }));
        assert!(reports_its_failure(|| async {}));
        assert!(!reports_its_failure(std::future::pending::<()>));
    }

    #[test]
    fn a_thread_that_panics_as_it_begins_is_noticed() {
        let (listeners, _) = listeners();
        let (report, reports) = mpsc::channel();
        let make = |context: WorkerContext| {
            assert!(context.index > 0, "a panic");
            (Rc::new(Empty), std::future::pending::<()>())
        };
        let on_failure = move || report.send(()).unwrap();
        let _workers = Workers::start(listeners, &Settings::default(), make, on_failure).unwrap();
        reports.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}
