//! The page: one server's face, in a colour of its own, so that a change of server can't be missed.
//! Whatever came from a client or from a setting goes through `Escaped`, without exception.
//! It must not know requests: it is a pure function of what it shows.

use std::fmt;
use std::time::{Duration, Instant};

use super::cart::{CartError, MAX_ITEM_CHARS};
use super::session::Session;
use super::visitor::Visitor;
use super::{MAX_USER_CHARS, PASSWORD};

const STYLE: &str = include_str!("page.css");

/// Everything the page shows.
pub(super) struct Page<'a> {
    pub(super) server: &'a str,
    pub(super) pid: u32,
    pub(super) uptime: Duration,
    pub(super) served: u64,
    pub(super) sessions: usize,
    pub(super) session_timeout: Duration,
    pub(super) killable: bool,
    pub(super) notice: Option<Notice>,
    pub(super) visitor: &'a Visitor,
    pub(super) now: Instant,
}

/// What the last POST has to say; it travels in the redirect's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    WrongLogin,
    NotLoggedIn,
    Cart(CartError),
    Killed,
}

impl Notice {
    const ALL: [Self; 5] = [
        Self::WrongLogin,
        Self::NotLoggedIn,
        Self::Cart(CartError::Full),
        Self::Cart(CartError::NotAnItem),
        Self::Killed,
    ];

    pub(super) fn in_query(self) -> &'static str {
        match self {
            Self::WrongLogin => "wrong-login",
            Self::NotLoggedIn => "not-logged-in",
            Self::Cart(CartError::Full) => "cart-full",
            Self::Cart(CartError::NotAnItem) => "not-an-item",
            Self::Killed => "killed",
        }
    }

    pub(super) fn from_query(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|notice| notice.in_query() == word)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongLogin => {
                write!(f, "login refused: any user of up to {MAX_USER_CHARS} characters, password {PASSWORD}")
            }
            Self::NotLoggedIn => f.write_str("a cart needs a login on this server"),
            Self::Cart(error) => error.fmt(f),
            Self::Killed => f.write_str("kill -9 is on its way"),
        }
    }
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.notice(f)?;
        match self.visitor {
            Visitor::Known(_, session) => self.account(f, session)?,
            Visitor::Guest => self.login(f)?,
            Visitor::Lost => {
                self.lost(f)?;
                self.login(f)?;
            }
        }
        self.kill(f)?;
        self.hints(f)?;
        f.write_str("</main></body></html>\n")
    }
}

impl Page<'_> {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = Escaped(self.server);
        let hue = hue(self.server);
        // After a kill the page comes again by itself: whoever answers then is the next server.
        let again =
            if self.notice == Some(Notice::Killed) { r#"<meta http-equiv="refresh" content="2; url=/">"# } else { "" };
        write!(
            f,
            r#"<!doctype html>
<html lang="en" style="--hue:{hue}"><head><meta charset="utf-8">{again}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{server} · demo backend</title>
<style>{STYLE}</style></head>
<body><main>
<header class="server"><div class="name">{server}</div><div>
<h1>Server {server} answered</h1>
<p>process {pid}, up {uptime} · {served} served · {sessions} in memory</p>
</div></header>
"#,
            pid = self.pid,
            uptime = Age(self.uptime),
            served = Count(self.served, "request"),
            sessions = Count(self.sessions as u64, "session"),
        )
    }

    fn notice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(notice) = self.notice else {
            return Ok(());
        };
        match notice {
            Notice::Killed => write!(
                f,
                r#"<section class="notice" role="status"><h2>Server {} is about to die</h2>
<p>kill -9 is on its way to process {}. This page reloads in two seconds: watch who answers then.</p></section>
"#,
                Escaped(self.server),
                self.pid,
            ),
            other => {
                writeln!(f, r#"<section class="notice" role="status">{}</section>"#, Escaped(&other.to_string()))
            }
        }
    }

    fn account(&self, f: &mut fmt::Formatter<'_>, session: &Session) -> fmt::Result {
        write!(
            f,
            r#"<section><div class="apart"><h2>Logged in as {user}</h2>
<form method="post" action="/logout"><button class="plain small">Log out</button></form></div>
<p class="faint">for {age} · {requests}, all served here · forgotten after {timeout} without a request</p>
</section>
<section><h2>Your cart</h2>
"#,
            user = Escaped(&session.user),
            age = Age(self.now.saturating_duration_since(session.since)),
            requests = Count(session.requests, "request"),
            timeout = Age(self.session_timeout),
        )?;
        let items = session.cart.items();
        if items.is_empty() {
            f.write_str(
                "<p class=\"faint\">Empty. What you put in is kept in this server's memory, nowhere else.</p>\n",
            )?;
        } else {
            f.write_str("<ul>\n")?;
            for item in items {
                let item = Escaped(item);
                writeln!(
                    f,
                    r#"<li><span>{item}</span><form method="post" action="/cart"><input type="hidden" name="action" value="remove"><input type="hidden" name="item" value="{item}"><button class="plain small" aria-label="Remove {item}">Remove</button></form></li>"#,
                )?;
            }
            f.write_str("</ul>\n")?;
        }
        write!(
            f,
            r#"<form class="row" method="post" action="/cart">
<label>Item<input name="item" required maxlength="{MAX_ITEM_CHARS}" placeholder="linchpin, axle, wheel …" autofocus></label>
<button>Add to cart</button></form></section>
"#,
        )
    }

    fn lost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"<section class="lost" role="status"><h2>This server does not know your session: login lost</h2>
<p>Your browser sent a session id, but server {server} holds nothing under it. Login and cart were in the memory of the server
that gave the id out: it died, or forgot them, or this request went to the wrong server.</p></section>
"#,
            server = Escaped(self.server),
        )
    }

    fn login(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"<section><h2>Log in</h2>
<p class="faint">Any user name; the password is <code>{PASSWORD}</code>.</p>
<form class="row" method="post" action="/login">
<label>User<input name="user" required maxlength="{MAX_USER_CHARS}" autocomplete="username" value="ann"></label>
<label>Password<input name="password" type="password" required autocomplete="current-password" value="{PASSWORD}"></label>
<button>Log in</button></form></section>
"#,
        )
    }

    fn kill(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.killable {
            return Ok(());
        }
        write!(
            f,
            r#"<section><h2>What if this server dies?</h2>
<p class="faint">A real <code>kill -9</code> of process {pid}: nothing is saved, nobody is told. Behind Linchpin you are
moved to another server without an error; what only server {server} remembered is gone. Under <code>linchpin demo</code>
it is back in ten seconds, with an empty memory.</p>
<form class="row" method="post" action="/kill"><button class="kill">Kill server {server}</button></form></section>
"#,
            pid = self.pid,
            server = Escaped(self.server),
        )
    }

    fn hints(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"<section><div class="apart"><h2>Look again</h2>
<form method="get" action="/"><button class="plain small">Reload</button></form></div>
<p class="faint">Reload as often as you like: one client, one server. A private window is another client. The same with
curl, where ADDRESS is this page's:</p>
<pre><code>curl -c jar -b jar -d user=ann -d password={PASSWORD} http://ADDRESS/login
curl -c jar -b jar -d item=axle http://ADDRESS/cart
curl -c jar -b jar http://ADDRESS/whoami</code></pre></section>
"#,
        )
    }
}

/// A hue for a name: neighbours in the alphabet are a golden angle apart, and begin where a, b and c look good.
fn hue(name: &str) -> u32 {
    name.bytes().fold(25, |hue, byte| (hue + u32::from(byte) * 137) % 360)
}

/// Text in which nothing is markup, in an element as well as in a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => fmt::Write::write_char(f, other),
        })
    }
}

/// A duration to the second: nobody cares for more.
struct Age(Duration);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_secs(self.0.as_secs())).fmt(f)
    }
}

struct Count(u64, &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0 == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.0, self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::session::{Limits, SessionId, Sessions};
    use super::*;

    fn page(visitor: &Visitor, notice: Option<Notice>) -> String {
        let page = Page {
            server: "<b>",
            pid: 7,
            uptime: Duration::from_millis(61_500),
            served: 1,
            sessions: 1,
            session_timeout: Duration::from_mins(20),
            killable: true,
            notice,
            visitor,
            now: Instant::now(),
        };
        page.to_string()
    }

    fn logged_in(user: &str, item: &str) -> Visitor {
        let mut sessions = Sessions::new(Limits { idle: Duration::from_mins(1), capacity: 1 });
        let (id, now) = (SessionId::random().unwrap(), Instant::now());
        let mut session = sessions.open(id, user.to_owned(), now);
        session.cart.add(item).unwrap();
        Visitor::Known(id, session)
    }

    #[test]
    fn nothing_that_came_in_is_markup() {
        let html = page(&logged_in("<script>1</script>", "\"><img src=x onerror='1'>"), None);
        for markup in ["<script", "<img", "<b>", "onerror='"] {
            assert!(!html.contains(markup), "{markup} in {html}");
        }
        assert!(html.contains("&lt;script&gt;1&lt;/script&gt;"));
    }

    #[test]
    fn says_plainly_that_a_login_is_lost() {
        let said = "This server does not know your session: login lost";
        assert!(page(&Visitor::Lost, None).contains(said));
        assert!(!page(&Visitor::Guest, None).contains(said));
        assert!(!page(&logged_in("ann", "axle"), None).contains(said));
    }

    #[test]
    fn comes_again_by_itself_after_a_kill_only() {
        let again = "http-equiv=\"refresh\"";
        assert!(page(&Visitor::Guest, Some(Notice::Killed)).contains(again));
        assert!(!page(&Visitor::Guest, Some(Notice::WrongLogin)).contains(again));
    }

    #[test]
    fn every_notice_survives_the_query() {
        for notice in Notice::ALL {
            assert_eq!(Notice::from_query(notice.in_query()), Some(notice));
        }
        assert_eq!(Notice::from_query("<b>"), None);
    }

    #[test]
    fn the_demo_servers_differ_in_colour() {
        let [a, b, c] = ["a", "b", "c"].map(hue);
        for (one, other) in [(a, b), (b, c), (a, c)] {
            assert!(one.abs_diff(other) >= 60, "{one} {other}");
        }
    }
}
