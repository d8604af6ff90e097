//! Owns: the messages at the top of the page: why the last form failed, and how this client came to another server.
//! Invariant: a message states only what this server knows, never why another server does not respond.
//! Must not know: markup, nor how a change of server is detected.

use std::fmt;
use std::time::Duration;

use super::cart::CartError;
use super::last_visit::{MoveOutcome, ServerMove};
use super::login::{MAX_USER_CHARS, PASSWORD};
use super::session::CopyOrigin;

/// Why the last POST failed. The redirect's query carries it to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    WrongLogin,
    NotLoggedIn,
    Cart(CartError),
}

impl Notice {
    const ALL: [Self; 4] =
        [Self::WrongLogin, Self::NotLoggedIn, Self::Cart(CartError::Full), Self::Cart(CartError::NotAnItem)];

    pub(super) fn to_query(self) -> &'static str {
        match self {
            Self::WrongLogin => "wrong-login",
            Self::NotLoggedIn => "not-logged-in",
            Self::Cart(CartError::Full) => "cart-full",
            Self::Cart(CartError::NotAnItem) => "not-an-item",
        }
    }

    pub(super) fn from_query(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|notice| notice.to_query() == word)
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongLogin => {
                write!(
                    f,
                    "Wrong login: take any user name of 1 to {MAX_USER_CHARS} characters, and the password {PASSWORD}."
                )
            }
            Self::NotLoggedIn => f.write_str("Your cart is unchanged: log in first."),
            Self::Cart(error) => write!(f, "Your cart is unchanged: {error}."),
        }
    }
}

/// How the client came to this server, and what became of its session, in one sentence.
pub(super) struct MoveSummary<'a> {
    /// The server that shows the page.
    pub(super) here: &'a str,
    pub(super) moved: &'a ServerMove<'a>,
}

impl fmt::Display for MoveSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { here, moved: ServerMove { from, restarted, killed, outcome } } = self;
        match (killed, restarted) {
            (true, false) => write!(f, "You killed server {from}, so server {here} answers you now; ")?,
            (false, false) => write!(f, "Server {from} no longer answers you, so server {here} does; ")?,
            (true, true) => write!(f, "You killed server {from}, and it has been started again; ")?,
            (false, true) => write!(f, "Server {from} has been started again since your last visit; ")?,
        }
        match outcome {
            MoveOutcome::NothingToLose => f.write_str("you were not logged in, so you have lost nothing."),
            MoveOutcome::Lost { items: 0 } => write!(f, "your login was in {from}'s memory and is lost."),
            MoveOutcome::Lost { items } => {
                write!(f, "your login and {} were in {from}'s memory and are lost.", Items(*items))
            }
            MoveOutcome::Kept { items, origin } => {
                match items {
                    0 => f.write_str("your login is kept: ")?,
                    items => write!(f, "your login and {} are kept: ", Items(*items))?,
                }
                let CopyOrigin { server, age, in_advance } = origin;
                if *in_advance {
                    write!(f, "server {here} held a copy of your session that server {server} had saved {}.", Ago(*age))
                } else {
                    write!(
                        f,
                        "Linchpin gave server {here} the copy of your session that server {server} had saved {}.",
                        Ago(*age)
                    )
                }
            }
        }
    }
}

/// The items in a cart that is not empty.
struct Items(usize);

impl fmt::Display for Items {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("the item in your cart"),
            n => write!(f, "the {n} items in your cart"),
        }
    }
}

/// How old a copy was when its client came, in whole seconds.
struct Ago(Duration);

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => f.write_str("less than a second before"),
            seconds => write!(f, "{} before", humantime::format_duration(Duration::from_secs(seconds))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_notice_survives_the_query() {
        for notice in Notice::ALL {
            assert_eq!(Notice::from_query(notice.to_query()), Some(notice));
        }
        assert_eq!(Notice::from_query("<b>"), None);
        assert_eq!(Notice::from_query("killed"), None, "a link cannot report a kill");
    }

    #[test]
    fn one_sentence_states_what_happened_and_what_is_lost() {
        let of = |restarted, killed, items: Option<usize>| {
            let outcome = items.map_or(MoveOutcome::NothingToLose, |items| MoveOutcome::Lost { items });
            MoveSummary { here: "c", moved: &ServerMove { from: "b", restarted, killed, outcome } }.to_string()
        };
        assert_eq!(
            of(false, true, Some(2)),
            "You killed server b, so server c answers you now; your login and the 2 items in your cart were in b's memory and are lost."
        );
        assert_eq!(
            of(false, false, Some(1)),
            "Server b no longer answers you, so server c does; your login and the item in your cart were in b's memory and are lost."
        );
        assert_eq!(
            of(false, true, None),
            "You killed server b, so server c answers you now; you were not logged in, so you have lost nothing."
        );
        let sentences = [false, true]
            .map(|killed| [None, Some(0), Some(1), Some(9)].map(|lost_items| of(true, killed, lost_items)));
        for sentence in sentences.iter().flatten() {
            assert_eq!(sentence.matches('.').count(), 1, "{sentence}");
        }
    }

    #[test]
    fn one_sentence_names_the_source_of_a_kept_session_and_its_age() {
        let of = |killed, restarted, items, seconds, in_advance| {
            let origin = CopyOrigin { server: "b".to_owned(), age: Duration::from_secs(seconds), in_advance };
            let outcome = MoveOutcome::Kept { items, origin: &origin };
            MoveSummary { here: "c", moved: &ServerMove { from: "b", restarted, killed, outcome } }.to_string()
        };
        assert_eq!(
            of(true, false, 2, 72, false),
            "You killed server b, so server c answers you now; your login and the 2 items in your cart are kept: \
             Linchpin gave server c the copy of your session that server b had saved 1m 12s before."
        );
        assert_eq!(
            of(false, true, 0, 0, false),
            "Server b has been started again since your last visit; your login is kept: \
             Linchpin gave server c the copy of your session that server b had saved less than a second before."
        );
        assert_eq!(
            of(false, false, 1, 0, true),
            "Server b no longer answers you, so server c does; your login and the item in your cart are kept: \
             server c held a copy of your session that server b had saved less than a second before."
        );
    }
}
