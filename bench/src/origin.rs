//! Owns: the origins: several names, each with its own address, in one thread, so that three cost no more than one.
//! Invariant: a request costs one read and one write; every response that is the same each time is rendered
//! before the first request.
//! Must not know: routing cookies.

mod connection;
mod sessions;
pub(crate) mod websocket;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Registry, Token};

use self::connection::{Connection, Next};
use self::sessions::{Change, Outcome, Sessions};

/// The bodies on offer: path and size.
const BODIES: [(&str, usize); 3] = [("/66", 66), ("/16k", 16 * 1024), ("/1m", 1024 * 1024)];

/// Which origins to be.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `NAME=ADDRESS` of an origin; repeat for more.
    #[arg(long = "listen", required = true)]
    listen: Vec<Listen>,
    /// How many sockets to serve between two looks at which of them are ready.
    #[arg(long, default_value_t = 1024)]
    batch: usize,
}

#[derive(Clone)]
struct Listen {
    name: String,
    address: SocketAddr,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, address) = text.split_once('=').ok_or("expected NAME=ADDRESS")?;
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        Ok(Self { name: name.to_owned(), address })
    }
}

/// Serves until the process is ended.
pub(crate) fn run(args: &Args) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut origins = Vec::with_capacity(args.listen.len());
    for (index, listen) in args.listen.iter().enumerate() {
        let mut listener = TcpListener::bind(listen.address)?;
        poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
        origins.push(Origin { listener, responses: Rc::new(Responses::render(&listen.name)) });
    }
    let mut connections = HashMap::new();
    let mut tokens = (origins.len()..).map(Token);
    let mut events = Events::with_capacity(args.batch);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        for event in &events {
            if let Some(origin) = origins.get(event.token().0) {
                origin.accept(poll.registry(), &mut tokens, &mut connections)?;
            } else if let Some(connection) = connections.get_mut(&event.token())
                && !matches!(connection.on_event(event), Ok(Next::KeepOpen))
            {
                connections.remove(&event.token());
            }
        }
    }
}

struct Origin {
    listener: TcpListener,
    responses: Rc<Responses>,
}

impl Origin {
    fn accept(
        &self,
        registry: &Registry,
        tokens: &mut impl Iterator<Item = Token>,
        connections: &mut HashMap<Token, Connection>,
    ) -> io::Result<()> {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let Some(token) = tokens.next() else { break };
            stream.set_nodelay(true)?;
            registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            connections.insert(token, Connection::new(stream, Rc::clone(&self.responses)));
        }
        Ok(())
    }
}

/// The path of an application that gives a session id of its own to each client without a cookie.
const APPLICATION: &str = "/app";
/// The paths of an application with session copies: one that leaves its session as it is, and one that changes it.
const UNCHANGED: &str = "/session";
const CHANGED: &str = "/session/change";
/// Where Linchpin gives copies.
const COPIES: &str = "/.well-known/linchpin/session";
/// What the origin counted, for the driver.
const COUNTS: &str = "/counts";

/// What an origin reads of a request.
#[derive(Clone, Copy, Default)]
struct Request<'r> {
    method: &'r str,
    path: &'r str,
    has_cookie: bool,
    /// The value of `Linchpin-Session`.
    session: Option<&'r str>,
    body: &'r [u8],
}

/// Every response of one origin, head and body, ready to be written.
struct Responses {
    name: String,
    /// How many session ids it gave out.
    given: Cell<u64>,
    sessions: RefCell<Sessions>,
    by_path: [(&'static str, Rc<[u8]>); BODIES.len()],
    not_found: Rc<[u8]>,
    upgraded: Rc<[u8]>,
}

impl Responses {
    fn render(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            given: Cell::new(0),
            sessions: RefCell::default(),
            by_path: BODIES.map(|(path, size)| (path, response("200 OK", name, "", size))),
            not_found: response("404 Not Found", name, "", 0),
            upgraded: format!(
                "HTTP/1.1 101 Switching Protocols\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nX-Origin: {name}\r\n\
                 Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                websocket::ACCEPT
            )
            .into_bytes()
            .into(),
        }
    }

    fn to(&self, request: &Request<'_>) -> Rc<[u8]> {
        let ok = |fields: &str| response("200 OK", &self.name, fields, 66);
        match (request.path, request.session) {
            (APPLICATION, _) if !request.has_cookie => {
                let session = self.given.replace(self.given.get() + 1);
                ok(&format!("Set-Cookie: SID={session:016x}{0}.{0}; Path=/; HttpOnly\r\n", self.name))
            }
            (UNCHANGED | CHANGED, Some(session)) => {
                let change = if request.path == CHANGED { Change::Everything } else { Change::Nothing };
                match self.sessions.borrow_mut().serve(session, change) {
                    Some(Outcome::Serve) => self.rendered("/66"),
                    Some(Outcome::Save(field)) => ok(&field),
                    Some(Outcome::Want) => response("409 Conflict", &self.name, "Linchpin-Session-Want: ?1\r\n", 0),
                    None => response("400 Bad Request", &self.name, "", 0),
                }
            }
            (COPIES, Some(session)) => {
                let body = (request.method == "PUT").then_some(request.body);
                match self.sessions.borrow_mut().put(session, body) {
                    Some(Ok(())) => b"HTTP/1.1 204 No Content\r\n\r\n".as_slice().into(),
                    Some(Err(newer)) => response("409 Conflict", &self.name, &newer, 0),
                    None => response("400 Bad Request", &self.name, "", 0),
                }
            }
            (COUNTS, _) => {
                let counts = self.sessions.borrow().counts();
                let length = counts.len();
                format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{counts}").into_bytes().into()
            }
            (APPLICATION | UNCHANGED | CHANGED, _) => self.rendered("/66"),
            (path, _) => self.rendered(path),
        }
    }

    fn rendered(&self, path: &str) -> Rc<[u8]> {
        let found = self.by_path.iter().find(|(known, _)| *known == path);
        Rc::clone(found.map_or(&self.not_found, |(_, bytes)| bytes))
    }
}

fn response(status: &str, name: &str, fields: &str, size: usize) -> Rc<[u8]> {
    // A date, because applications send one; its value does not matter here.
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\n\
         X-Origin: {name}\r\n{fields}Content-Length: {size}\r\n\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + size, b'x');
    bytes.into()
}
