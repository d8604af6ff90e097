//! Owns: the cookie that tells a server which server showed a browser the page before, and what follows from that.
//! Invariant: what stands in it changes what a page says, and nothing else; whatever we did not write is no trail.
//! Must not know: pages, and what a session holds beyond the number of items in its cart.

use cookie::Cookie;
use http::HeaderMap;
use http::header::{HOST, HeaderValue};

use super::visitor::{self, Visitor};

/// The cookie; the port that the browser asked for follows, since browsers keep one jar for all ports of a host.
const TRAIL_COOKIE: &str = "DEMOSERVER";

/// No server has a longer name.
const MAX_NAME_BYTES: usize = 64;

/// One life of a server: what it remembers ends with it, and the next one begins with nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) name: String,
    /// In milliseconds of Unix time.
    pub(super) began: u64,
}

/// Where a browser's last page came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trail {
    life: Life,
    /// The number of items in the cart; `None` without a login.
    held: Option<usize>,
    /// This client has pressed the button that kills that server.
    killed: bool,
}

/// What has happened to a client since its last page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change<'a> {
    /// It has had this server killed, which is about to die.
    Dying,
    /// The server that it was with answers it no more, or has begun another life.
    Moved(Move<'a>),
}

/// From where a client came, and at what price.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Move<'a> {
    /// The server that it was with.
    pub(super) from: &'a str,
    /// That server is this one, in another life.
    pub(super) returned: bool,
    /// The client has killed it.
    pub(super) killed: bool,
    /// What was in its memory for this client: the number of items in the cart, or `None` if there was no login.
    pub(super) lost: Option<usize>,
}

impl Trail {
    /// What a page of this server leaves with this visitor.
    pub(super) fn of(here: &Life, visitor: &Visitor) -> Self {
        let held = visitor.session().map(|session| session.cart.items().len());
        Self { life: here.clone(), held, killed: false }
    }

    /// The same, of a client that has this server killed.
    pub(super) fn killed(self) -> Self {
        Self { killed: true, ..self }
    }

    /// What the browser brought along.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let name = cookie_name(headers);
        visitor::cookies(headers, &name).find_map(Self::parse)
    }

    /// The cookie that the browser is to bring along next time.
    pub(super) fn issue(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        visitor::set_cookie(Cookie::new(cookie_name(headers), self.to_text()))
    }

    /// What happened since; `None` if there is nothing to tell.
    pub(super) fn change(&self, here: &Life, visitor: &Visitor) -> Option<Change<'_>> {
        if self.life == *here {
            return self.killed.then_some(Change::Dying);
        }
        let lost = match visitor {
            Visitor::Lost => Some(self.held.unwrap_or(0)),
            Visitor::Guest if self.held.is_none() => None,
            // Logged in here, or logged out on the way: either was the client's own doing.
            Visitor::Known(..) | Visitor::Guest => return None,
        };
        let (from, returned) = (self.life.name.as_str(), self.life.name == here.name);
        Some(Change::Moved(Move { from, returned, killed: self.killed, lost }))
    }

    fn to_text(&self) -> String {
        let held = self.held.map_or_else(|| "-".to_owned(), |items| items.to_string());
        let mark = if self.killed { "killed" } else { "-" };
        format!("{}:{held}:{mark}:{}", self.life.began, self.life.name)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':');
        let began = parts.next()?.parse().ok()?;
        let held = match parts.next()? {
            "-" => None,
            items => Some(items.parse().ok()?),
        };
        let killed = match parts.next()? {
            "-" => false,
            "killed" => true,
            _ => return None,
        };
        let name = parts.next()?;
        let is_name = (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        is_name.then(|| Self { life: Life { name: name.to_owned(), began }, held, killed })
    }
}

fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let port = host.and_then(|host| host.rsplit_once(':')).and_then(|(_, port)| port.parse::<u16>().ok());
    port.map_or_else(|| TRAIL_COOKIE.to_owned(), |port| format!("{TRAIL_COOKIE}-{port}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http::header::COOKIE;

    use super::super::session::{Limits, SessionId, Sessions};
    use super::*;

    fn life(name: &str, began: u64) -> Life {
        Life { name: name.to_owned(), began }
    }

    fn trail(held: Option<usize>, killed: bool) -> Trail {
        Trail { life: life("b", 5), held, killed }
    }

    fn known() -> Visitor {
        let mut sessions = Sessions::new(Limits { idle: Duration::from_mins(1), capacity: 1 });
        let id = SessionId::random().unwrap();
        Visitor::Known(id, sessions.open(id, "ann".to_owned(), Instant::now()))
    }

    #[test]
    fn whoever_stays_with_a_living_server_is_told_nothing() {
        for visitor in [known(), Visitor::Lost, Visitor::Guest] {
            assert_eq!(trail(Some(2), false).change(&life("b", 5), &visitor), None);
        }
        assert_eq!(trail(Some(2), true).change(&life("b", 5), &known()), Some(Change::Dying));
    }

    #[test]
    fn whoever_was_moved_is_told_from_where_and_what_was_lost() {
        let moved = |lost, killed, returned| Some(Change::Moved(Move { from: "b", returned, killed, lost }));
        let c = life("c", 5);
        assert_eq!(trail(Some(2), true).change(&c, &Visitor::Lost), moved(Some(2), true, false));
        assert_eq!(trail(Some(2), false).change(&c, &Visitor::Lost), moved(Some(2), false, false));
        assert_eq!(trail(None, true).change(&c, &Visitor::Guest), moved(None, true, false));
        // A login whose page never came.
        assert_eq!(trail(None, false).change(&c, &Visitor::Lost), moved(Some(0), false, false));
        // The same server in another life.
        assert_eq!(trail(Some(2), true).change(&life("b", 6), &Visitor::Lost), moved(Some(2), true, true));
        // Who has logged in or out since knows.
        assert_eq!(trail(Some(2), true).change(&c, &known()), None);
        assert_eq!(trail(Some(2), true).change(&c, &Visitor::Guest), None);
    }

    #[test]
    fn a_trail_reads_back_as_written_and_nothing_else_does() {
        for trail in [trail(None, false), trail(Some(50), true)] {
            assert_eq!(Trail::parse(&trail.to_text()), Some(trail));
        }
        let long = format!("5:-:-:{}", "b".repeat(MAX_NAME_BYTES + 1));
        for text in ["", "5", "5:-:-", "5:-:-:", "x:-:-:b", "5:x:-:b", "5:-:x:b", "5:-:-:b b", "5:-:-:\u{fc}", &long] {
            assert_eq!(Trail::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn each_port_of_a_host_has_a_trail_of_its_own() {
        let at = |host: &str, cookies: &str| {
            let host = (HOST, HeaderValue::from_str(host).unwrap());
            Trail::read(&[host, (COOKIE, HeaderValue::from_str(cookies).unwrap())].into_iter().collect())
        };
        let cookies = "DEMOSERVER-8080=5:-:-:b; DEMOSERVER=5:2:-:b";
        assert_eq!(at("127.0.0.1:8080", cookies), Some(trail(None, false)));
        assert_eq!(at("127.0.0.1:9001", cookies), None);
        assert_eq!(at("[::1]:8080", cookies), Some(trail(None, false)));
        assert_eq!(at("shop.example", cookies), Some(trail(Some(2), false)));
    }
}
