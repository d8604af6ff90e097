//! Owns: the page's HTML; each server has its own colour, so that a change of server is plain to see.
//! Invariant: every text that comes from a client or a setting goes through `Escaped`.
//! Must not know: requests; the page is a pure function of what it shows.

use std::fmt;
use std::time::{Duration, Instant};

use super::cart::MAX_ITEM_CHARS;
use super::last_visit::{MoveOutcome, ServerChange, ServerMove};
use super::login::{MAX_USER_CHARS, PASSWORD};
use super::notice::{MoveSummary, Notice};
use super::session::Session;
use super::session_state::SessionState;

const STYLE: &str = include_str!("page.css");

/// Everything that the page shows.
pub(super) struct Page<'a> {
    pub(super) server: &'a str,
    pub(super) pid: u32,
    pub(super) uptime: Duration,
    pub(super) served: u64,
    pub(super) sessions: usize,
    pub(super) session_timeout: Duration,
    pub(super) allow_kill: bool,
    /// Linchpin keeps a copy of the session.
    pub(super) is_copied: bool,
    /// The origin that the browser requested, such as `http://127.0.0.1:8080`.
    pub(super) origin: &'a str,
    pub(super) change: Option<ServerChange<'a>>,
    pub(super) notice: Option<Notice>,
    pub(super) state: &'a SessionState,
    pub(super) now: Instant,
}

impl fmt::Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        self.notice(f)?;
        match (&self.change, self.state) {
            (Some(ServerChange::KillPending), _) => self.kill_pending(f)?,
            (Some(ServerChange::Moved(moved)), _) => self.moved(f, moved)?,
            (None, SessionState::Unknown) => self.unknown_session(f)?,
            (None, SessionState::Known(..) | SessionState::Absent) => (),
        }
        match self.state {
            SessionState::Known(_, session) => self.account(f, session)?,
            SessionState::Absent | SessionState::Unknown => self.login(f)?,
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
        // After a kill the page reloads automatically; the next server then responds.
        let (refresh, title_prefix) = match &self.change {
            Some(ServerChange::KillPending) => (r#"<meta http-equiv="refresh" content="2; url=/">"#, "about to die: "),
            // A screen reader reads the title first.
            Some(ServerChange::Moved(_)) => ("", "moved to "),
            None => ("", ""),
        };
        write!(
            f,
            r#"<!doctype html>
<html lang="en" style="--hue:{hue}"><head><meta charset="utf-8">{refresh}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title_prefix}{server} · demo shop</title>
<style>{STYLE}</style></head>
<body><main>
<header class="server"><div class="name" aria-hidden="true">{server}</div><div>
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
        writeln!(f, r#"<section class="notice" role="status">{}</section>"#, Escaped(&notice.to_string()))
    }

    fn kill_pending(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"<section class="notice" role="status"><h2>Server {} is about to die</h2>
<p>You sent a <code>kill -9</code> to its process {}. This page reloads in two seconds: watch who answers then.</p></section>
"#,
            Escaped(self.server),
            self.pid,
        )
    }

    fn moved(&self, f: &mut fmt::Formatter<'_>, moved: &ServerMove<'_>) -> fmt::Result {
        let class = match moved.outcome {
            MoveOutcome::NothingToLose => "notice",
            MoveOutcome::Lost { .. } => "lost",
            MoveOutcome::Kept { .. } => "kept",
        };
        let (from, hue) = (Escaped(moved.from), hue(moved.from));
        let here = Escaped(self.server);
        write!(f, r#"<section class="{class}" role="status"><h2>"#)?;
        if moved.restarted {
            write!(f, r#"Server <b class="badge">{here}</b> has restarted"#)?;
        } else {
            let (from, here) = (format_args!(r#"<b class="badge" style="--hue:{hue}">{from}</b>"#), here);
            write!(f, r#"You were moved from server {from} to server <b class="badge">{here}</b>"#)?;
        }
        let sentence = MoveSummary { here: self.server, moved }.to_string();
        writeln!(f, "</h2>\n<p>{}</p></section>", Escaped(&sentence))
    }

    fn account(&self, f: &mut fmt::Formatter<'_>, session: &Session) -> fmt::Result {
        write!(
            f,
            r#"<section><div class="apart"><h2>Logged in as {user}</h2>
<form method="post" action="/logout"><button class="plain small">Log out</button></form></div>
<p class="faint">for {age} · {requests}{here} · forgotten after {timeout} without a request</p>
</section>
<section><h2>Your cart</h2>
"#,
            user = Escaped(&session.user),
            age = Age(self.now.saturating_duration_since(session.since)),
            requests = Count(session.requests, "request"),
            here = if session.origin.is_some() { " since it moved here" } else { ", all served here" },
            timeout = Age(self.session_timeout),
        )?;
        let items = session.cart.items();
        if items.is_empty() {
            let place = if self.is_copied { "and Linchpin keeps a copy" } else { "nowhere else" };
            writeln!(f, "<p class=\"faint\">Empty. What you put in is kept in this server's memory, {place}.</p>")?;
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

    fn unknown_session(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            r#"<section class="lost" role="status"><h2>Server {server} does not know your session</h2>
<p>Your browser sent a session id that means nothing here: either this server has forgotten it, or another server gave it out
and keeps your login and your cart in its own memory.</p></section>
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
        if !self.allow_kill {
            return Ok(());
        }
        let memory = if self.is_copied {
            "that server gets the copy of your session that Linchpin keeps, so that you stay logged in and your cart stays full"
        } else {
            "what was in this server's memory is lost"
        };
        write!(
            f,
            r#"<section><h2>What if this server dies?</h2>
<p class="faint">The button sends a real <code>kill -9</code> to process {pid}: nothing is saved, and no other server is notified. Behind
Linchpin you are moved to another server and see no error; {memory}. Under
<code>linchpin demo</code> the server is back after ten seconds, with an empty memory.</p>
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
<p class="faint">Reload as often as you like: one client stays with one server. A private window is another client, and so is
curl with its own cookies:</p>
<pre><code>curl -c jar -b jar -d user=ann -d password={PASSWORD} {origin}/login</code>
<code>curl -c jar -b jar -d item=axle {origin}/cart</code>
<code>curl -c jar -b jar {origin}/whoami</code></pre></section>
"#,
            origin = Escaped(self.origin),
        )
    }
}

/// Returns the hue of a name: neighbours in the alphabet are a golden angle apart, offset so that a, b and c look good.
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

/// A duration, shown in whole seconds.
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
    use super::super::session::{SessionId, SessionLimits, SessionStore};
    use super::*;

    fn page(state: &SessionState, change: Option<ServerChange<'_>>) -> String {
        let page = Page {
            server: "<b>",
            pid: 7,
            uptime: Duration::from_millis(61_500),
            served: 1,
            sessions: 1,
            session_timeout: Duration::from_mins(20),
            allow_kill: true,
            is_copied: false,
            origin: "http://<b>",
            change,
            notice: None,
            state,
            now: Instant::now(),
        };
        page.to_string()
    }

    fn logged_in(user: &str, item: &str) -> SessionState {
        let mut sessions = SessionStore::new(SessionLimits { idle: Duration::from_mins(1), capacity: 1 });
        let (id, now) = (SessionId::random().unwrap(), Instant::now());
        let mut session = sessions.open(id, user.to_owned(), now);
        session.cart.add(item).unwrap();
        SessionState::Known(id, session)
    }

    #[test]
    fn input_never_becomes_markup() {
        let html = page(&logged_in("<script>1</script>", "\"><img src=x onerror='1'>"), None);
        for markup in ["<script", "<img", "<b>", "onerror='"] {
            assert!(!html.contains(markup), "{markup} in {html}");
        }
        assert!(html.contains("&lt;script&gt;1&lt;/script&gt;"));
    }

    #[test]
    fn states_that_a_session_is_unknown() {
        let sentence = "does not know your session";
        assert!(page(&SessionState::Unknown, None).contains(sentence));
        assert!(!page(&SessionState::Absent, None).contains(sentence));
        assert!(!page(&logged_in("ann", "axle"), None).contains(sentence));
    }

    #[test]
    fn a_moved_client_reads_one_sentence_and_no_guesses() {
        let moved = || {
            let outcome = MoveOutcome::Lost { items: 1 };
            Some(ServerChange::Moved(ServerMove { from: "<i>", restarted: false, killed: false, outcome }))
        };
        let html = page(&SessionState::Unknown, moved());
        assert!(html.contains("<title>moved to &lt;b&gt; ·"), "{html}");
        assert!(html.contains("</h2>\n<p>Server &lt;i&gt; no longer answers you, so server &lt;b&gt; does;"), "{html}");
        assert!(!html.contains("does not know your session") && !html.contains("<i>"), "{html}");
        assert!(page(&SessionState::Unknown, moved()).contains(">Log in</button>"));
    }

    #[test]
    fn reloads_automatically_only_while_a_kill_is_pending() {
        let refresh = "http-equiv=\"refresh\"";
        let outcome = MoveOutcome::NothingToLose;
        let moved = ServerChange::Moved(ServerMove { from: "a", restarted: false, killed: true, outcome });
        assert!(page(&SessionState::Absent, Some(ServerChange::KillPending)).contains(refresh));
        assert!(!page(&SessionState::Absent, Some(moved)).contains(refresh));
        assert!(!page(&SessionState::Absent, None).contains(refresh));
    }

    #[test]
    fn the_demo_servers_differ_in_colour() {
        let [a, b, c] = ["a", "b", "c"].map(hue);
        for (one, other) in [(a, b), (b, c), (a, c)] {
            assert!(one.abs_diff(other) >= 60, "{one} {other}");
        }
    }
}
