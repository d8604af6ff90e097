//! Owns: the cookie that names the server of a browser's last page, and the change of server that follows from it.
//! Invariant: its value affects only what a page says, and a value in any other format is ignored.
//! Must not know: pages, nor what a session holds beyond the number of items in its cart.

use cookie::Cookie;
use http::HeaderMap;
use http::header::{HOST, HeaderValue};

use super::cookies;
use super::server::Incarnation;
use super::session::CopyOrigin;
use super::session_state::SessionState;

/// The cookie's name, to which the requested port is appended: browsers share cookies between all ports of a host.
const LAST_VISIT_COOKIE: &str = "DEMOSERVER";

/// Longest name of a server, as `linchpin demo-backend` checks it.
const MAX_NAME_BYTES: usize = 64;

/// Where a browser's last page came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastVisit {
    incarnation: Incarnation,
    /// The number of items in the cart; `None` without a login.
    cart_items: Option<usize>,
    /// This client has asked that server to kill itself.
    kill_requested: bool,
}

/// How a client's server has changed since its last page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServerChange<'a> {
    /// The client has asked for this server to be killed, which happens in a moment.
    KillPending,
    /// Another server served the last page, or another incarnation of this one.
    Moved(ServerMove<'a>),
}

/// Which server a client came from, and what it lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServerMove<'a> {
    /// The server of the last page.
    pub(super) from: &'a str,
    /// That server is an earlier incarnation of this one.
    pub(super) restarted: bool,
    /// This client has killed that server.
    pub(super) killed: bool,
    pub(super) outcome: MoveOutcome<'a>,
}

/// What became of a client's session when it moved.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum MoveOutcome<'a> {
    /// The client was not logged in.
    NothingToLose,
    /// The login is lost, and the cart with this many items.
    Lost { items: usize },
    /// The login is here, and the cart with this many items.
    Kept { items: usize, origin: &'a CopyOrigin },
}

impl LastVisit {
    /// The record of a page that this server shows to a client in this state.
    pub(super) fn new(here: &Incarnation, state: &SessionState) -> Self {
        let cart_items = state.session().map(|session| session.cart.items().len());
        Self { incarnation: here.clone(), cart_items, kill_requested: false }
    }

    /// Adds that the client has asked for this server to be killed.
    pub(super) fn with_kill_requested(self) -> Self {
        Self { kill_requested: true, ..self }
    }

    /// Reads the record from the cookie in the request's fields.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let name = cookie_name(headers);
        cookies::values(headers, &name).find_map(Self::parse)
    }

    /// Returns the `Set-Cookie` value of this record.
    pub(super) fn issue(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        cookies::set_cookie(Cookie::new(cookie_name(headers), self.to_text()))
    }

    /// Returns the change of server since this visit, or `None` if the page need not mention one.
    pub(super) fn change<'a>(&'a self, here: &Incarnation, state: &'a SessionState) -> Option<ServerChange<'a>> {
        if self.incarnation == *here {
            return self.kill_requested.then_some(ServerChange::KillPending);
        }
        let outcome = match state {
            SessionState::Unknown => MoveOutcome::Lost { items: self.cart_items.unwrap_or(0) },
            SessionState::Absent if self.cart_items.is_none() => MoveOutcome::NothingToLose,
            SessionState::Known(_, session) => {
                // Without an origin the client has logged in here since.
                MoveOutcome::Kept { items: session.cart.items().len(), origin: session.origin.as_ref()? }
            }
            // The client has logged out since.
            SessionState::Absent => return None,
        };
        let (from, restarted) = (self.incarnation.name.as_str(), self.incarnation.name == here.name);
        Some(ServerChange::Moved(ServerMove { from, restarted, killed: self.kill_requested, outcome }))
    }

    fn to_text(&self) -> String {
        let cart_items = self.cart_items.map_or_else(|| "-".to_owned(), |items| items.to_string());
        let mark = if self.kill_requested { "killed" } else { "-" };
        format!("{}:{cart_items}:{mark}:{}", self.incarnation.started_ms, self.incarnation.name)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let started_ms = parts.next()?.parse().ok()?;
        let cart_items = match parts.next()? {
            "-" => None,
            items => Some(items.parse().ok()?),
        };
        let kill_requested = match parts.next()? {
            "-" => false,
            "killed" => true,
            _ => return None,
        };
        let name = parts.next()?;
        let is_name = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| Self {
            incarnation: Incarnation { name: name.to_owned(), started_ms },
            cart_items,
            kill_requested,
        })
    }
}

fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| host.rsplit_once(':')).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map_or_else(|| LAST_VISIT_COOKIE.to_owned(), |port| format!("{LAST_VISIT_COOKIE}-{port}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http::header::COOKIE;

    use super::super::session::{SessionId, SessionLimits, SessionStore};
    use super::*;

    fn incarnation(name: &str, started_ms: u64) -> Incarnation {
        Incarnation { name: name.to_owned(), started_ms }
    }

    fn last_visit(cart_items: Option<usize>, kill_requested: bool) -> LastVisit {
        LastVisit { incarnation: incarnation("b", 5), cart_items, kill_requested }
    }

    fn known() -> SessionState {
        let mut sessions = SessionStore::new(SessionLimits { idle: Duration::from_mins(1), capacity: 1 });
        let id = SessionId::random().unwrap();
        SessionState::Known(id, sessions.open(id, "ann".to_owned(), Instant::now()))
    }

    #[test]
    fn a_client_that_stays_with_a_running_server_has_no_change() {
        for state in [known(), SessionState::Unknown, SessionState::Absent] {
            assert_eq!(last_visit(Some(2), false).change(&incarnation("b", 5), &state), None);
        }
        assert_eq!(last_visit(Some(2), true).change(&incarnation("b", 5), &known()), Some(ServerChange::KillPending));
    }

    #[test]
    fn a_move_names_the_previous_server_and_what_was_lost() {
        let moved = |items: Option<usize>, killed, restarted| {
            let outcome = items.map_or(MoveOutcome::NothingToLose, |items| MoveOutcome::Lost { items });
            Some(ServerChange::Moved(ServerMove { from: "b", restarted, killed, outcome }))
        };
        let c = incarnation("c", 5);
        assert_eq!(last_visit(Some(2), true).change(&c, &SessionState::Unknown), moved(Some(2), true, false));
        assert_eq!(last_visit(Some(2), false).change(&c, &SessionState::Unknown), moved(Some(2), false, false));
        assert_eq!(last_visit(None, true).change(&c, &SessionState::Absent), moved(None, true, false));
        // A login whose page was never shown.
        assert_eq!(last_visit(None, false).change(&c, &SessionState::Unknown), moved(Some(0), false, false));
        // Another incarnation of the same server.
        assert_eq!(
            last_visit(Some(2), true).change(&incarnation("b", 6), &SessionState::Unknown),
            moved(Some(2), true, true)
        );
        // The client has logged in or out since.
        assert_eq!(last_visit(Some(2), true).change(&c, &known()), None);
        assert_eq!(last_visit(Some(2), true).change(&c, &SessionState::Absent), None);
    }

    #[test]
    fn a_session_from_a_copy_is_kept() {
        let mut copied = known();
        let origin = CopyOrigin { server: "b".to_owned(), age: Duration::from_secs(3), in_advance: false };
        if let SessionState::Known(_, session) = &mut copied {
            session.origin = Some(origin.clone());
        }
        let outcome = MoveOutcome::Kept { items: 0, origin: &origin };
        assert_eq!(
            last_visit(Some(2), true).change(&incarnation("c", 5), &copied),
            Some(ServerChange::Moved(ServerMove { from: "b", restarted: false, killed: true, outcome }))
        );
        assert_eq!(last_visit(Some(2), false).change(&incarnation("b", 5), &copied), None);
    }

    #[test]
    fn the_cookie_value_round_trips_and_nothing_else_parses() {
        for visit in [last_visit(None, false), last_visit(Some(50), true)] {
            assert_eq!(LastVisit::parse(&visit.to_text()), Some(visit));
        }
        let long = format!("5:-:-:{}", "b".repeat(MAX_NAME_BYTES + 1));
        for text in ["", "5", "5:-:-", "5:-:-:", "x:-:-:b", "5:x:-:b", "5:-:x:b", "5:-:-:b b", "5:-:-:\u{fc}", &long] {
            assert_eq!(LastVisit::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_port_of_a_host_has_a_cookie_of_its_own() {
        let at = |host: &str, cookies: &str| {
            let host = (HOST, HeaderValue::from_str(host).unwrap());
            LastVisit::read(&[host, (COOKIE, HeaderValue::from_str(cookies).unwrap())].into_iter().collect())
        };
        let cookies = "DEMOSERVER-8080=5:-:-:b; DEMOSERVER=5:2:-:b";
        assert_eq!(at("127.0.0.1:8080", cookies), Some(last_visit(None, false)));
        assert_eq!(at("127.0.0.1:9001", cookies), None);
        assert_eq!(at("[::1]:8080", cookies), Some(last_visit(None, false)));
        assert_eq!(at("shop.example", cookies), Some(last_visit(Some(2), false)));
    }
}
