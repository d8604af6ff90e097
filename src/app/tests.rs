//! Owns: what the parts do together that none of them does alone.
//! Invariant: real sockets and files, and a handler that panics where no request can make the real one do so.
//! Must not know: how the parts do it.

use std::path::Path;

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::config;
use crate::events::Events;
use crate::handler::{Abandoned, Handler, HeadFault, IncomingBody, Interim, Peer, Reply};
use crate::proxy::client::{Client, ListenerInfo};
use crate::proxy::relay::ResponseBody;
use crate::telemetry;
use crate::tls::ChallengeCertificates;

/// The proxy, but for a path at which it panics.
struct Panics(Rc<Proxy>);

impl Handler for Panics {
    type Body = ResponseBody;
    type Client = Client;
    type Listener = ListenerInfo;

    fn begin_connection(&self, listener: &Arc<ListenerInfo>, peer: Peer) -> Client {
        self.0.begin_connection(listener, peer)
    }

    fn park_connection(&self, client: &Client) {
        self.0.park_connection(client);
    }

    async fn handle(
        self: Rc<Self>,
        client: Rc<Client>,
        request: Request<IncomingBody>,
        interim: Option<Interim>,
    ) -> Reply<ResponseBody> {
        assert_ne!(request.uri().path(), "/panic", "a panic");
        Rc::clone(&self.0).handle(client, request, interim).await
    }

    fn abandoned(self: &Rc<Self>, client: &Rc<Client>, why: Abandoned) -> Response<ResponseBody> {
        self.0.abandoned(client, why)
    }

    fn reject_head(self: &Rc<Self>, client: &Rc<Client>, fault: HeadFault) -> Bytes {
        self.0.reject_head(client, fault)
    }

    fn count_limit(&self, limit: telemetry::Limit) {
        self.0.count_limit(limit);
    }
}

/// Running worker threads with this handler, for HTTP/2 clients.
struct RunningThreads {
    address: SocketAddr,
    workers: Workers,
    log: AccessLog,
    /// The sides that notify the threads of changes.
    _tells: (Composer, Published, Listeners<ListenerInfo>),
}

/// Starts it with this access log before a backend at this address.
fn start(log: &Path, backend: SocketAddr) -> RunningThreads {
    let text = format!(
        "[log]\naccess = {log:?}\n[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n[[pools]]\nname = \"app\"\n\
         [[pools.backends]]\nname = \"a\"\naddress = \"{backend}\"\n"
    );
    let (plan, _) = config::parse(&text, Path::new("test.toml")).unwrap();
    let log = AccessLog::open(&plan.log.access, &plan.log.layout).unwrap();
    let metrics = Arc::new(Metrics::new(1, LABELS, Arc::clone(log.dropped())));
    let tls = TlsSetup::open(&plan, &ChallengeCertificates::default()).unwrap();
    let (mut listeners, inboxes) = Listeners::new(&plan.server, 1);
    let acquired = listeners.acquire(&plan.listeners, Acquisition::Start).unwrap();
    acquired.listen().unwrap();
    let info = listener_info(acquired.ids()[0], &plan.listeners[0]);
    let transport = Arc::new(ListenerTransport::new(&plan.listeners[0], None, info, &metrics));
    let mut composer = Composer::new(plan, tls.accesses, acquired.ids(), 1, metrics, &Events::default());
    drop(listeners.install(acquired, vec![transport], Duration::ZERO));
    let address = listeners.addresses().first().and_then(Address::tcp).unwrap();
    let snapshot = composer.compose();
    let published = Published::new(snapshot, &[], log.handle(), 1 << 20, 1);
    let (backend_down, subscription) = (composer.backend_down(), published.subscribe());
    let make = move |thread: WorkerContext| {
        let mut subscription = subscription.clone();
        let current = subscription.current();
        let (snapshot, deadlines) = (Arc::clone(&current.snapshot), thread.deadlines.clone());
        let memory = replay::ReplayMemory::new(current.replay_memory);
        let log = current.log.thread_log();
        let proxy = Rc::new(Proxy::new(thread.index, snapshot, deadlines, log, Arc::default(), memory));
        let housekeeping = housekeeping(Rc::clone(&proxy), thread, backend_down.subscribe(), subscription);
        (Rc::new(Panics(proxy)), housekeeping)
    };
    let workers = Workers::start(inboxes, StopHandle::new(listeners.files()), make, |_| {}).unwrap();
    RunningThreads { address, workers, log, _tells: (composer, published, listeners) }
}

#[tokio::test]
async fn a_panic_is_held_against_no_other_request_of_its_connection() {
    let path = std::env::temp_dir().join(format!("linchpin-panic-{}.log", std::process::id()));
    let backend = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let RunningThreads { address, workers, log, _tells } = start(&path, backend.local_addr().unwrap());
    let (mut client, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = Request::get(format!("http://a{path}")).body(()).unwrap();
        client.send_request(request, true).unwrap().0
    };
    let waits = ask("/waits");
    let (mut served, _) = backend.accept().await.unwrap();
    assert!(served.read(&mut [0; 1024]).await.unwrap() > 0);
    assert_eq!(ask("/panic").await.unwrap().status(), 502);
    // The client leaves before the other response, so the record attributes the end to the client.
    drop(waits);
    connection.abort();
    while served.read(&mut [0; 1024]).await.unwrap() > 0 {}
    workers.stop_handle().drain(Duration::from_secs(20));
    tokio::task::spawn_blocking(move || workers.join()).await.unwrap();
    log.close();
    let records = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let record = records.lines().find(|line| line.contains("/waits")).unwrap_or_else(|| panic!("{records}"));
    assert!(record.contains("status=499"), "{record}");
}
