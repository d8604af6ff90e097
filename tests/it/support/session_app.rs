//! An application with sessions in its memory that speaks the protocol of docs/session-copies.md: a counter per session.
//!
//! `POST /add` adds one and begins a session if there is none; `GET /` says the count, or `none`; `POST /logout` ends the
//! session; `POST /renew` gives it another id. `GET /visit` adds one as well, and `POST /become?ID` begins a session of 100
//! with a certain id. The session's id is in a cookie, the copy is `sealed:id:count`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::watch;

use super::backend::{Backend, Reply, Seen};

/// How a server answers a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    Rightly,
    /// With this instead of what it should say.
    Wrongly(WrongReply),
}

/// A reply that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongReply {
    Bytes(String),
    Close,
    /// The connection is closed, and the next copy is taken rightly.
    CloseOnce,
    Never,
}

/// What one server remembers, and how it misbehaves.
#[derive(Debug)]
pub struct Memory {
    name: String,
    /// By ref.
    states: HashMap<String, State>,
    /// How many requests ran a handler.
    pub ran: usize,
    next_id: usize,
    pub takes: Takes,
    /// Holds its answers to copies back, after it has taken them.
    pub held_takes: Option<watch::Receiver<bool>>,
    /// Replaces each `Linchpin-Session-Save` or `-Drop`.
    pub instead_of_save: Option<String>,
    /// Holds responses back, after the handler has run.
    pub held: Option<watch::Receiver<bool>>,
    /// Closes the connection of each GET that has a session, instead of a response.
    pub closes_gets: bool,
    /// Wants the copy again, whatever it has.
    pub always_wants: bool,
    pub ttl: u64,
    /// Closes the connection when it gets a request for this path.
    pub closes: Option<&'static str>,
    /// Fails the probes of `/health`.
    pub is_sick: bool,
    /// The session cookie.
    pub cookie: &'static str,
    /// Whether the id in the cookie ends with the server's name, as with Tomcat's jvmRoute.
    pub is_routed: bool,
}

#[derive(Debug, Clone, Default)]
struct State {
    version: (u64, u64),
    is_dropped: bool,
    session: Option<(String, u64)>,
}

/// A server of the application.
pub struct SessionApp {
    pub backend: Backend,
    pub memory: Arc<Mutex<Memory>>,
}

impl SessionApp {
    pub async fn start(name: &str) -> SessionApp {
        SessionApp::start_at(name, "127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts a server with empty memory, at an address that another one may have used before.
    pub async fn start_at(name: &str, address: SocketAddr) -> SessionApp {
        let memory = Memory {
            name: name.into(),
            states: HashMap::new(),
            ran: 0,
            next_id: 0,
            takes: Takes::Rightly,
            held_takes: None,
            instead_of_save: None,
            held: None,
            closes_gets: false,
            always_wants: false,
            ttl: 1800,
            closes: None,
            is_sick: false,
            cookie: "SID",
            is_routed: false,
        };
        let memory = Arc::new(Mutex::new(memory));
        let program = {
            let memory = Arc::clone(&memory);
            move |seen: &Seen| memory.lock().unwrap().reply(seen)
        };
        SessionApp { backend: Backend::start_at(name, address, program).await, memory }
    }

    pub async fn three() -> [SessionApp; 3] {
        [SessionApp::start("a").await, SessionApp::start("b").await, SessionApp::start("c").await]
    }

    /// Kills the server and starts it again at once, with empty memory.
    pub async fn restart(self) -> SessionApp {
        let name = self.backend.name().to_owned();
        let address = self.backend.kill().await;
        SessionApp::start_at(&name, address).await
    }

    /// Has the server lose its memory, as a restart would, but without giving its port up for a moment.
    pub fn forget(&self) {
        self.change(|memory| memory.states.clear());
    }

    pub fn change(&self, change: impl FnOnce(&mut Memory)) {
        change(&mut self.memory.lock().unwrap());
    }

    pub fn ran(&self) -> usize {
        self.memory.lock().unwrap().ran
    }

    /// The copies that it was given: their `Linchpin-Session`.
    pub fn given(&self) -> Vec<String> {
        let seen = self.backend.seen();
        let puts = seen.iter().filter(|seen| seen.line().starts_with("PUT /.well-known/linchpin/session "));
        puts.map(|seen| seen.field("linchpin-session").unwrap().to_owned()).collect()
    }

    /// What requests other than those of Linchpin itself said in `Linchpin-Session`, without the ref.
    pub fn told(&self) -> Vec<String> {
        let is_own = |seen: &&Seen| !seen.path().starts_with("/.well-known/linchpin/");
        self.backend
            .seen()
            .iter()
            .filter(is_own)
            .map(|seen| {
                let field = seen.field("linchpin-session").unwrap_or_default();
                field.split_once(';').map_or(String::new(), |(_, version)| version.to_owned())
            })
            .collect()
    }
}

/// A parsed `Linchpin-Session`.
struct Told {
    session: String,
    term: u64,
    seq: Option<u64>,
    is_dropped: bool,
}

fn parse(field: &str) -> Told {
    let mut parts = field.split(';');
    let session = parts.next().unwrap().strip_prefix("ref=\"").unwrap().strip_suffix('"').unwrap().to_owned();
    let mut told = Told { session, term: 0, seq: None, is_dropped: false };
    for part in parts {
        match part.split_once('=') {
            Some(("term", term)) => told.term = term.parse().unwrap(),
            Some(("seq", seq)) => told.seq = Some(seq.parse().unwrap()),
            None if part == "dropped" => told.is_dropped = true,
            _ => panic!("{field}"),
        }
    }
    told
}

impl Memory {
    fn reply(&mut self, seen: &Seen) -> Reply {
        if self.closes == Some(seen.path()) {
            return Reply::Close;
        }
        if seen.path() == "/health" {
            return Reply::new(if self.is_sick { 500 } else { 200 }, "", "");
        }
        let told = seen.field("linchpin-session").map(parse);
        if seen.path().starts_with("/.well-known/linchpin/") {
            return match (self.take(seen, &told.unwrap()), &self.held_takes) {
                (Reply::Bytes(bytes), Some(held)) => Reply::Held(held.clone(), bytes),
                (reply, _) => reply,
            };
        }
        let Some(told) = told else {
            self.ran += 1;
            return Reply::ok("no session");
        };
        if self.closes_gets && seen.line().starts_with("GET ") {
            return Reply::Close;
        }
        let mut state = self.states.get(&told.session).cloned().unwrap_or_default();
        match told.seq {
            Some(seq) if told.is_dropped && state.version < (told.term, seq) => {
                state = State { version: (told.term, seq), is_dropped: true, session: None };
            }
            Some(seq) if !told.is_dropped && (state.version < (told.term, seq) || self.always_wants) => {
                return Reply::new(409, "linchpin-session-want: ?1\r\n", "");
            }
            Some(_) => {}
            None if state.version.0 + 1 < told.term => state = State::default(),
            None => {}
        }
        self.run(seen, &told, state)
    }

    fn take(&mut self, seen: &Seen, told: &Told) -> Reply {
        match &self.takes {
            Takes::Rightly => {}
            Takes::Wrongly(WrongReply::Bytes(text)) => return Reply::Bytes(text.as_bytes().to_vec()),
            Takes::Wrongly(WrongReply::Close) => return Reply::Close,
            Takes::Wrongly(WrongReply::CloseOnce) => {
                self.takes = Takes::Rightly;
                return Reply::Close;
            }
            Takes::Wrongly(WrongReply::Never) => return Reply::Hang,
        }
        let own = self.states.get(&told.session).cloned().unwrap_or_default();
        let version = (told.term, told.seq.unwrap());
        let is_taken = if own.is_dropped { version > own.version } else { version >= own.version };
        if !is_taken {
            let field = format!("ref=\"{}\";term={};seq={}", told.session, own.version.0, own.version.1);
            return Reply::new(409, &format!("linchpin-session: {field}\r\n"), "");
        }
        let state = if seen.line().starts_with("DELETE") {
            State { version, is_dropped: true, session: None }
        } else {
            let text = String::from_utf8_lossy(&seen.body).into_owned();
            let Some((id, count)) = text.strip_prefix("sealed:").and_then(|rest| rest.split_once(':')) else {
                return Reply::new(422, "", "");
            };
            State { version, is_dropped: false, session: Some((id.to_owned(), count.parse().unwrap())) }
        };
        self.states.insert(told.session.clone(), state);
        Reply::Bytes(b"HTTP/1.1 204 X\r\n\r\n".to_vec())
    }

    fn run(&mut self, seen: &Seen, told: &Told, mut state: State) -> Reply {
        self.ran += 1;
        let cookies = seen.field("cookie").unwrap_or_default();
        let id = cookies.split("; ").find_map(|cookie| cookie.strip_prefix(self.cookie)?.strip_prefix('='));
        // The name is no part of the session's id: it says where the session was.
        let id = id.map(|id| id.split('.').next().unwrap_or_default());
        // A session of another id is nobody's.
        let before = state.session.clone().filter(|(own, _)| Some(own.as_str()) == id);
        let mut session = before.clone();
        let mut fields = String::new();
        let line = seen.line().split(" HTTP").next().unwrap_or_default();
        let (cookie, route) = (self.cookie, if self.is_routed { format!(".{}", self.name) } else { String::new() });
        let mut new_id = || {
            self.next_id += 1;
            // Not hexadecimal: no ref contains it by chance.
            format!("{}-{}", self.name, self.next_id)
        };
        match line.split('?').next().unwrap_or_default() {
            "POST /become" => {
                let id = seen.path().split_once('?').map_or_else(&mut new_id, |(_, id)| id.to_owned());
                fields += &format!("set-cookie: {cookie}={id}{route}; Path=/\r\n");
                session = Some((id, 100));
            }
            "POST /add" | "GET /visit" => {
                let (id, count) = session.take().unwrap_or_else(|| (new_id(), 0));
                fields += &format!("set-cookie: {cookie}={id}{route}; Path=/\r\n");
                session = Some((id, count + 1));
            }
            "POST /renew" => {
                session = session.map(|(_, count)| (new_id(), count));
                if let Some((id, _)) = &session {
                    fields += &format!("set-cookie: {cookie}={id}{route}; Path=/\r\n");
                }
            }
            "POST /logout" => session = None,
            _ => {}
        }
        let body = session.as_ref().map_or("none".into(), |(_, count)| count.to_string());
        let seq = state.version.1.max(told.seq.unwrap_or(0)) + 1;
        let has_changed = session != before;
        if session.is_none() && before.is_some() {
            fields += &self.save(&format!("linchpin-session-drop: ?1;term={};seq={seq}\r\n", told.term));
            state = State { version: (told.term, seq), is_dropped: true, session: None };
        } else if let Some((id, count)) = &session
            && (has_changed || told.seq.is_none() || told.is_dropped)
        {
            let copy = STANDARD.encode(format!("sealed:{id}:{count}"));
            let (term, ttl) = (told.term, self.ttl);
            fields += &self.save(&format!("linchpin-session-save: :{copy}:;term={term};seq={seq};ttl={ttl}\r\n"));
            state = State { version: (term, seq), is_dropped: false, session };
        }
        self.states.insert(told.session.clone(), state);
        let length = body.len();
        let bytes =
            format!("HTTP/1.1 200 X\r\ncontent-length: {length}\r\nx-server: {}\r\n{fields}\r\n{body}", self.name);
        match &self.held {
            Some(held) if !seen.path().contains("now") => Reply::Held(held.clone(), bytes.into()),
            _ => Reply::Bytes(bytes.into()),
        }
    }

    fn save(&self, field: &str) -> String {
        self.instead_of_save.clone().unwrap_or_else(|| field.into())
    }
}
