//! Owns: the threads of the data path, from their start to the end of their last connection.
//! Invariant: a thread shares nothing with another but what it was handed.
//! Must not know: signals; what is served.

use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use super::conn::{Common, Handler};
use super::guests::Guests;
use super::listen::{self, House, Listeners};
use super::{Limits, Settings};
use crate::clock;
use crate::net::turn;
use crate::net::unix::SocketFile;

/// The running threads.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<watch::Sender<Stop>>,
    /// Of Unix sockets: they go with the last thread.
    _files: Vec<SocketFile>,
}

/// What the threads are told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// Serve.
    No,
    /// Accept nothing more, finish what is under way within this time.
    Within(Duration),
    /// End now.
    Now,
}

/// What a thread's part of the application is made with.
pub struct Thread {
    /// Its number, from 0.
    pub index: usize,
    /// Where its time limits run.
    pub limits: clock::Limits,
}

impl Workers {
    /// Starts one thread for each set of sockets. `make` runs on each thread and makes its handler
    /// and what else is to run there for as long as it serves.
    ///
    /// # Errors
    /// A thread or its runtime can't be had.
    pub fn start<H, F, B>(listeners: Listeners, settings: &Settings, make: F) -> io::Result<Workers>
    where
        H: Handler,
        B: Future<Output = ()> + 'static,
        F: Fn(Thread) -> (Rc<H>, B) + Send + Clone + 'static,
    {
        let stop = Arc::new(watch::Sender::new(Stop::No));
        let (sockets, files) = listeners.into_threads();
        // SO_REUSEPORT spreads connections evenly by chance, so each thread gets its share.
        let most = settings.max_connections.div_ceil(sockets.len()).max(1);
        let guests = settings.limits.connections_per_client;
        let guests = guests.map(|most| Guests::new(most, settings.max_connections));
        let mut workers = Workers { threads: Vec::new(), stop, _files: files };
        for (index, bound) in sockets.into_iter().enumerate() {
            let runtime = move || {
                let mut builder = Builder::new_current_thread();
                builder.enable_all().on_thread_unpark(clock::turn).build_local(LocalOptions::default())
            };
            let (make, limits, stop) = (make.clone(), settings.limits.clone(), workers.stop.subscribe());
            let house = (most, guests.clone());
            let thread =
                std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || match runtime() {
                    Ok(runtime) => runtime.block_on(work(index, bound, house, limits, make, stop)),
                    Err(error) => tracing::error!(%error, "a worker thread has no event loop and serves nothing"),
                })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Accepts nothing more and lets requests in flight end within `grace`.
    pub fn drain(&self, grace: Duration) {
        self.stop.send_replace(Stop::Within(grace));
    }

    /// Ends all connections now.
    pub fn stop(&self) {
        self.stop.send_replace(Stop::Now);
    }

    /// Waits until all threads have ended. Blocks.
    pub fn join(self) {
        for thread in self.threads {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

async fn work<H, F, B>(
    index: usize,
    bound: Vec<listen::Bound>,
    (most, guests): (usize, Option<Arc<Guests>>),
    limits: Limits,
    make: F,
    mut stop: watch::Receiver<Stop>,
) where
    H: Handler,
    B: Future<Output = ()> + 'static,
    F: Fn(Thread) -> (Rc<H>, B),
{
    clock::turn();
    let clock = clock::Limits::new();
    let (handler, beside) = make(Thread { index, limits: clock.clone() });
    tokio::task::spawn_local(clock.clone().run());
    tokio::task::spawn_local(turn::carry());
    tokio::task::spawn_local(beside);
    let common = Rc::new(Common::new(handler, limits, guests, clock.clone()));
    let house = Rc::new(House::new(most));
    let accepting: Vec<_> = bound
        .into_iter()
        .map(|bound| {
            let (common, house) = (Rc::clone(&common), Rc::clone(&house));
            tokio::task::spawn_local(async move {
                let Err(error) = listen::accept(bound, index, common, house).await;
                tracing::error!(%error, "a listener has ended");
            })
        })
        .collect();

    // An error means that the sender is gone, and with it whoever wanted this to run.
    let told = stop.wait_for(|stop| *stop != Stop::No).await.map_or(Stop::Now, |stop| *stop);
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    common.draining.set(true);
    clock.wake_all();
    if let Stop::Within(grace) = told {
        let empty = poll_until(|| house.open.get() == 0);
        let now = async { drop(stop.wait_for(|stop| *stop == Stop::Now).await) };
        tokio::select! {
            () = empty => {}
            () = now => {}
            () = tokio::time::sleep(grace) => {
                tracing::warn!(connections = house.open.get(), "the grace period is over; closing what is left");
            }
        }
    }
}

/// Looks again every few milliseconds: this is for the end of a thread, not for its life.
async fn poll_until(condition: impl Fn() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    poll_fn(|cx| {
        while !condition() {
            std::task::ready!(interval.poll_tick(cx));
        }
        Poll::Ready(())
    })
    .await;
}
