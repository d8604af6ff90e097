//! Owns: users in the lines of a source, and the files that they go to.
//! Invariant: no password and no hash is written or shown; what Linchpin can't verify is named with its user.
//! Must not know: the formats of sources.

use super::toml::{Table, Value};
use super::unique_names::named;

/// A user of a source.
#[derive(Debug, Clone)]
pub(super) struct User {
    pub(super) line: usize,
    /// How comments name the line, with nothing secret in it.
    pub(super) shown: String,
    /// Why Linchpin can't verify the password, if so.
    pub(super) weak: Option<&'static str>,
}

/// The file for the users of a list.
pub(super) fn file(list: &str) -> String {
    format!("{}.htpasswd", named(list, "users"))
}

/// Returns why Linchpin can't verify the passwords with a hash like this one, if so.
pub(super) fn weakness(hash: &str) -> Option<&'static str> {
    let begins = |marks: &[&str]| marks.iter().any(|mark| hash.starts_with(mark));
    match hash {
        _ if begins(&["$2a$", "$2b$", "$2y$", "$argon2"]) => None,
        _ if begins(&["$apr1$", "$1$"]) => Some("MD5"),
        _ if begins(&["{SHA}", "{SSHA}"]) => Some("SHA-1"),
        _ if begins(&["$5$", "$6$"]) => Some("crypt's SHA-2"),
        _ => Some("no hash, or DES crypt"),
    }
}

/// Returns the value of `basic_auth` for the users of a file. The backend gets the password, as it did.
pub(super) fn basic_auth(file: &str, realm: Option<&str>, forwards: bool) -> Value {
    let is_plain = |c: char| c == ' ' || (c.is_ascii_graphic() && !"\"\\$".contains(c));
    let realm = realm.filter(|realm| (1..=128).contains(&realm.len()) && realm.chars().all(is_plain));
    let realm = realm.map(|realm| ("realm", Value::text(realm)));
    let pairs = [("file", Value::text(file))].into_iter().chain(realm);
    Value::inline(pairs.chain([("forward_authorization", Value::flag(forwards))]))
}

/// Notes what has to be written into a file, and which passwords have to be set again.
pub(super) fn note(users: &[User], file: &str, notes: &mut Table) {
    for user in users {
        match user.weak {
            None => notes.unsupported(user.line, &user.shown, format!("write it into {file}, as NAME:HASH")),
            Some(what) => notes.guard(
                user.line,
                &user.shown,
                format!("Linchpin verifies only bcrypt and Argon2, and this is {what}: set the password again with htpasswd -B {file} NAME"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hashes_that_are_slow_to_guess_are_taken_over() {
        for hash in ["$2y$05$x", "$2a$10$x", "$2b$10$x", "$argon2id$v=19$x"] {
            assert_eq!(weakness(hash), None, "{hash}");
        }
        for hash in ["$apr1$x", "$1$x", "{SHA}x", "$5$x", "$6$x", "x", ""] {
            assert!(weakness(hash).is_some(), "{hash}");
        }
    }
}
