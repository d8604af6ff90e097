//! Owns: the load over HTTP/2 and TLS: clients that each have one connection with many concurrent requests.
//! Invariant: a client has one cookie, as a browser has, and each of its responses is checked.
//! Must not know: which proxy it loads, or what the proxy costs.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use h2::client::{self, SendRequest};
use http::header::{CONTENT_LENGTH, COOKIE, HeaderValue, SET_COOKIE, USER_AGENT};
use http::{HeaderName, Request, Response};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::{JoinSet, LocalSet};
use tokio_rustls::TlsConnector;

use super::wire::Tls;
use super::{Args, GRACE, Report, Tally, print_line};
use crate::certificate::HOST;

/// Larger than a client's responses in flight together, so that no proxy waits for a window update.
const WINDOW: u32 = 8 * 1024 * 1024;
const ORIGIN: HeaderName = HeaderName::from_static("x-origin");

/// As `load::run`.
pub(super) fn run(args: &Args, streams: usize, authority: &Path) -> Result<(), Box<dyn Error>> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_io_events_per_tick(args.batch).build()?;
    let local = LocalSet::new();
    let open = async {
        let mut clients = Vec::with_capacity(args.clients);
        for _ in 0..args.clients {
            clients.push(Rc::new(Client::open(args, authority).await?));
        }
        Ok::<_, Box<dyn Error>>(clients)
    };
    let clients = local.block_on(&runtime, open)?;
    drive(&runtime, &local, &clients, streams, args.warm_up);
    print_line("ready")?;
    let mut lines = io::stdin().lines();
    lines.next().transpose()?;
    print_line(&serde_json::to_string(&drive(&runtime, &local, &clients, streams, args.seconds))?)?;
    for line in lines {
        line?;
    }
    local.block_on(&runtime, tokio::task::yield_now());
    print_line(&clients.iter().filter(|client| client.is_open.get()).count().to_string())?;
    Ok(())
}

/// Keeps every stream busy for a time, and waits for the last responses.
fn drive(runtime: &Runtime, local: &LocalSet, clients: &[Rc<Client>], streams: usize, seconds: f64) -> Report {
    let started = Instant::now();
    let deadline = started + Duration::from_secs_f64(seconds);
    let tally = Rc::new(RefCell::new(Tally::default()));
    let mut running = JoinSet::new();
    for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, streams)) {
        let (client, tally) = (Rc::clone(client), Rc::clone(&tally));
        running.spawn_local_on(async move { client.ask_until(deadline, &tally).await }, local);
    }
    let all = async { while running.join_next().await.is_some() {} };
    let in_time = local.block_on(runtime, async { tokio::time::timeout_at((deadline + GRACE).into(), all).await });
    if in_time.is_err() {
        tally.borrow_mut().fail(&*Box::<dyn Error>::from("a response did not come in time"));
    }
    let elapsed = started.elapsed();
    tally.take().report(elapsed)
}

/// One connection, and who is at its end.
struct Client {
    send: SendRequest<&'static [u8]>,
    request: Request<()>,
    body: usize,
    origin: Option<HeaderValue>,
    is_open: Rc<Cell<bool>>,
}

impl Client {
    /// Connects, and gets its cookie with a first request.
    async fn open(args: &Args, authority: &Path) -> Result<Self, Box<dyn Error>> {
        let socket = TcpStream::connect(args.target).await?;
        socket.set_nodelay(true)?;
        let tls = Tls::new(authority, b"h2", true)?;
        let stream = TlsConnector::from(tls.config()).connect(ServerName::try_from(HOST)?, socket).await?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (send, connection) = builder.handshake(stream).await?;
        let is_open = Rc::new(Cell::new(true));
        let watched = Rc::clone(&is_open);
        tokio::task::spawn_local(async move {
            // Whatever ends it ends its requests, which are counted.
            let _ = connection.await;
            watched.set(false);
        });
        let mut request = Request::get(format!("https://{HOST}{}", args.path)).body(())?;
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("linchpin-bench"));
        let mut client = Self { send, request, body: args.body, origin: None, is_open };
        let first = client.ask().await?;
        if args.sticky {
            let cookie = first.headers().get(SET_COOKIE).ok_or("a client got no cookie")?.to_str()?;
            let pair = cookie.split(';').next().unwrap_or_default();
            client.request.headers_mut().insert(COOKIE, HeaderValue::from_str(pair)?);
            client.origin = Some(first.headers().get(ORIGIN).ok_or("no origin named")?.clone());
        }
        Ok(client)
    }

    async fn ask_until(&self, deadline: Instant, tally: &RefCell<Tally>) {
        while Instant::now() < deadline {
            let started = Instant::now();
            match self.ask().await {
                Ok(_) => tally.borrow_mut().took.push(started.elapsed()),
                Err(error) => {
                    tally.borrow_mut().fail(&*error);
                    // A connection that is over fails at once, for ever.
                    return;
                }
            }
        }
    }

    /// One request, and all of its response.
    async fn ask(&self) -> Result<Response<()>, Box<dyn Error>> {
        let mut send = self.send.clone().ready().await?;
        let (response, _) = send.send_request(self.request.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut length = 0;
        while let Some(piece) = body.data().await {
            let piece = piece?;
            length += piece.len();
            body.flow_control().release_capacity(piece.len())?;
        }
        let announced = head.headers.get(CONTENT_LENGTH).map(|value| value.to_str()).transpose()?;
        if head.status != 200 || length != self.body || announced != Some(&*self.body.to_string()) {
            return Err(format!("status {}, body of {length} bytes", head.status).into());
        }
        if self.origin.is_some() && head.headers.get(ORIGIN) != self.origin.as_ref() {
            return Err(
                format!("a client of {:?} got a response from {:?}", self.origin, head.headers.get(ORIGIN)).into()
            );
        }
        Ok(Response::from_parts(head, ()))
    }
}
