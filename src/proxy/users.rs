//! Owns: the users of an htpasswd file and the hashes of their passwords.
//! Invariant: no password and no hash is ever shown; verifying costs the same whether or not there is such a user.
//! Must not know: requests, files, or who may try how often.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use argon2::{Argon2, PasswordHash, PasswordVerifier as _};
use aws_lc_rs::hmac;

/// The most bytes of a user's name.
pub const MAX_NAME: usize = 255;

/// The most bytes of a password.
pub const MAX_PASSWORD: usize = 1024;

/// The highest cost of bcrypt: about three seconds on one core for each verification.
const MAX_BCRYPT_COST: u32 = 15;

/// The most memory of one verification with Argon2, in KiB.
const MAX_ARGON2_MEMORY: u32 = 128 * 1024;

/// The most memory of one verification with Argon2 times its passes, in KiB.
const MAX_ARGON2_WORK: u32 = 4 * MAX_ARGON2_MEMORY;

/// The users of one file.
#[derive(Default)]
pub struct Users {
    by_name: HashMap<Arc<str>, User>,
}

struct User {
    hash: StoredHash,
    /// A keyed hash of the password that was verified, so that the slow hash is not computed for each request.
    verified: OnceLock<[u8; 32]>,
}

/// A password's hash, as the file has it.
#[derive(Clone, PartialEq, Eq)]
enum StoredHash {
    Bcrypt(Box<str>),
    Argon2(Box<str>),
}

/// A line of the file that can't be used.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong. Never shows a hash.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Users {
    /// Reads `name:hash` lines, as `htpasswd -B` and other tools write them. Ignores empty lines, those that begin with
    /// `#`, and what follows a second colon.
    ///
    /// # Errors
    /// All lines that can't be used.
    pub fn parse(text: &str) -> Result<Users, Vec<InvalidLine>> {
        let (mut by_name, mut invalid) = (HashMap::new(), Vec::new());
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        for (line, content) in lines.filter(|(_, content)| !content.is_empty() && !content.starts_with('#')) {
            let mut refuse = |problem: String, remedy: String| invalid.push(InvalidLine { line, problem, remedy });
            let Some((name, rest)) = content.split_once(':') else {
                refuse(
                    "it has no `:` between a name and a hash".into(),
                    "write the line with: htpasswd -B FILE NAME".into(),
                );
                continue;
            };
            if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
                refuse(
                    format!("a name has 1 to {MAX_NAME} bytes and no control characters"),
                    "choose another name".into(),
                );
                continue;
            }
            match (StoredHash::parse(rest.split(':').next().unwrap_or_default()), by_name.entry(Arc::from(name))) {
                (Ok(hash), Entry::Vacant(free)) => drop(free.insert(User { hash, verified: OnceLock::new() })),
                (Ok(_), Entry::Occupied(_)) => {
                    refuse(format!("the user {name:?} is in the file twice"), "remove one of the two lines".into());
                }
                (Err(problem), _) => {
                    let remedy = "set the password again with: htpasswd -B FILE NAME";
                    refuse(format!("the password of {name:?} {problem}"), remedy.into());
                }
            }
        }
        if invalid.is_empty() { Ok(Users { by_name }) } else { Err(invalid) }
    }

    /// Whether there is no user.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Returns the user's name if this password was verified before. Takes a microsecond.
    pub(super) fn recognize(&self, key: &hmac::Key, name: &str, password: &[u8]) -> Option<&Arc<str>> {
        let (name, user) = self.by_name.get_key_value(name)?;
        let known = user.verified.get()?;
        hmac::verify(key, &user.hash.with(password), known).is_ok().then_some(name)
    }

    /// Verifies a password. Takes as long as the hash was made to take, which can be seconds. A name that nobody has
    /// takes the time of another user, or its response would show that there is no such user.
    pub(super) fn verify(&self, key: &hmac::Key, name: &str, password: &[u8]) -> Option<Arc<str>> {
        if let Some(name) = self.recognize(key, name, password) {
            return Some(Arc::clone(name));
        }
        let Some((name, user)) = self.by_name.get_key_value(name) else {
            let anyone = self.by_name.values().next()?;
            std::hint::black_box(anyone.hash.verify(password));
            return None;
        };
        if !user.hash.verify(password) {
            return None;
        }
        let code: Option<[u8; 32]> = hmac::sign(key, &user.hash.with(password)).as_ref().try_into().ok();
        if let Some(code) = code {
            // Another request may have been faster.
            let _ = user.verified.set(code);
        }
        Some(Arc::clone(name))
    }

    /// Takes over which passwords were verified for users whose hash is the same as in `before`.
    pub fn adopt(&self, before: &Users) {
        for (name, user) in &self.by_name {
            let same = before.by_name.get(name).filter(|before| before.hash == user.hash);
            if let Some(code) = same.and_then(|before| before.verified.get()) {
                let _ = user.verified.set(*code);
            }
        }
    }
}

impl StoredHash {
    fn parse(text: &str) -> Result<StoredHash, String> {
        let weak = |what: &str| Err(format!("is {what}, which anyone who reads the file can guess quickly"));
        match text {
            _ if ["$2a$", "$2b$", "$2y$"].iter().any(|start| text.starts_with(start)) => {
                let parts = bcrypt::HashParts::from_str(text).map_err(|_| "is no valid bcrypt hash".to_owned())?;
                match parts.get_cost() {
                    cost if cost > MAX_BCRYPT_COST => Err(format!(
                        "has a bcrypt cost of {cost}: each verification would take too long; {MAX_BCRYPT_COST} is the limit"
                    )),
                    _ => Ok(StoredHash::Bcrypt(text.into())),
                }
            }
            _ if text.starts_with("$argon2") => {
                let hash = PasswordHash::new(text).map_err(|_| "is no valid Argon2 hash".to_owned())?;
                let params = argon2::Params::try_from(&hash).map_err(|_| "is no valid Argon2 hash".to_owned())?;
                let work = params.m_cost().saturating_mul(params.t_cost());
                match hash.hash.is_some() {
                    false => Err("is no valid Argon2 hash".into()),
                    true if params.m_cost() > MAX_ARGON2_MEMORY || work > MAX_ARGON2_WORK => Err(format!(
                        "needs {} MiB and {} passes of Argon2: each verification would take too much; {} MiB and 4 \
                         passes are the limit",
                        params.m_cost() / 1024,
                        params.t_cost(),
                        MAX_ARGON2_MEMORY / 1024
                    )),
                    true => Ok(StoredHash::Argon2(text.into())),
                }
            }
            "" => Err("is missing".into()),
            _ if text.starts_with("$apr1$") || text.starts_with("$1$") => weak("hashed with MD5"),
            _ if text.starts_with("{SHA}") || text.starts_with("{SSHA}") => weak("hashed with SHA-1"),
            _ if text.starts_with("$5$") || text.starts_with("$6$") => {
                Err("is hashed with crypt's SHA-2; Linchpin verifies bcrypt and Argon2".into())
            }
            _ => weak("not hashed, or by DES crypt"),
        }
    }

    fn verify(&self, password: &[u8]) -> bool {
        match self {
            StoredHash::Bcrypt(hash) => bcrypt::verify(password, hash).unwrap_or(false),
            StoredHash::Argon2(hash) => Argon2::default().verify_password(password, &**hash).is_ok(),
        }
    }

    /// The text whose keyed hash stands for a verified password.
    fn with(&self, password: &[u8]) -> Vec<u8> {
        let (StoredHash::Bcrypt(hash) | StoredHash::Argon2(hash)) = self;
        [hash.as_bytes(), b"\0", password].concat()
    }
}

impl PartialEq for Users {
    fn eq(&self, other: &Users) -> bool {
        let is_same =
            |(name, user): (&Arc<str>, &User)| other.by_name.get(name).is_some_and(|other| other.hash == user.hash);
        self.by_name.len() == other.by_name.len() && self.by_name.iter().all(is_same)
    }
}

impl Eq for Users {}

/// Shows no name and no hash.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.by_name.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The passwords are `sesame`, `password`, and 80 times `x`.
    fn users() -> Users {
        let long = bcrypt::hash("x".repeat(80), 4).unwrap();
        let text = format!(
            "# who may enter\n\nana:{}\nbob:{ARGON2}:a comment\nlong:{long}\n",
            bcrypt::hash("sesame", 4).unwrap()
        );
        Users::parse(&text).unwrap()
    }

    /// A test vector of Argon2's authors, for the password `password`.
    const ARGON2: &str = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[7; 32])
    }

    #[test]
    fn the_right_password_is_verified_once_and_recognized_afterwards() {
        let (users, key) = (users(), key());
        assert_eq!(users.recognize(&key, "ana", b"sesame"), None);
        assert_eq!(users.verify(&key, "ana", b"sesame").as_deref(), Some("ana"));
        assert_eq!(users.recognize(&key, "ana", b"sesame").map(|name| &**name), Some("ana"));
        for (name, password) in
            [("ana", "Sesame"), ("ana", ""), ("ana", "open"), ("bob", "sesame"), ("eve", "sesame"), ("", "")]
        {
            assert_eq!(users.recognize(&key, name, password.as_bytes()), None, "{name}");
            assert_eq!(users.verify(&key, name, password.as_bytes()), None, "{name}");
        }
        assert_eq!(users.verify(&key, "bob", b"password").as_deref(), Some("bob"));
        // bcrypt reads 72 bytes; a zero byte is part of a password like any other.
        assert!(users.verify(&key, "long", &[b'x'; 80]).is_some());
        assert_eq!(users.verify(&key, "ana", b"sesame\0"), None);
    }

    #[test]
    fn a_changed_hash_forgets_what_was_verified_and_an_unchanged_one_does_not() {
        let (users, key) = (users(), key());
        assert!(users.verify(&key, "ana", b"sesame").is_some());
        let text = |hash: &str| format!("ana:{hash}\n");
        let (StoredHash::Bcrypt(hash) | StoredHash::Argon2(hash)) = &users.by_name["ana"].hash;
        let same = Users::parse(&text(hash)).unwrap();
        same.adopt(&users);
        assert!(same.recognize(&key, "ana", b"sesame").is_some());
        let changed = Users::parse(&text(&bcrypt::hash("other", 4).unwrap())).unwrap();
        changed.adopt(&users);
        assert_eq!(changed.recognize(&key, "ana", b"sesame"), None);
        assert!(changed != same && same == Users::parse(&text(hash)).unwrap());
        assert_eq!(format!("{users:?}"), "Users(3)");
    }

    #[test]
    fn each_line_that_cannot_be_used_is_named_and_shows_no_hash() {
        let text = "ana\nbob:$apr1$abcdefgh$ijklmnopqrstuvwxyz0123\neve:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\nned:secret\n\
                    :x\ntim:\nsam:$2y$05$short\nzoe:$argon2id$v=19$m=9999999,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4\n\
                    kim:$6$salt$hash\ncost:$2y$31$.....................................................\n";
        let invalid = Users::parse(text).unwrap_err();
        let shown: Vec<_> = invalid.iter().map(|line| format!("{} {}", line.line, line.problem)).collect();
        assert_eq!(
            shown,
            [
                "1 it has no `:` between a name and a hash",
                "2 the password of \"bob\" is hashed with MD5, which anyone who reads the file can guess quickly",
                "3 the password of \"eve\" is hashed with SHA-1, which anyone who reads the file can guess quickly",
                "4 the password of \"ned\" is not hashed, or by DES crypt, which anyone who reads the file can guess quickly",
                "5 a name has 1 to 255 bytes and no control characters",
                "6 the password of \"tim\" is missing",
                "7 the password of \"sam\" is no valid bcrypt hash",
                "8 the password of \"zoe\" needs 9765 MiB and 1 passes of Argon2: each verification would take too much; \
                 128 MiB and 4 passes are the limit",
                "9 the password of \"kim\" is hashed with crypt's SHA-2; Linchpin verifies bcrypt and Argon2",
                "10 the password of \"cost\" has a bcrypt cost of 31: each verification would take too long; 15 is the limit",
            ]
        );
        let twice = Users::parse(&format!("ana:{ARGON2}\nana:{ARGON2}")).unwrap_err();
        assert_eq!(twice[0].problem, "the user \"ana\" is in the file twice");
    }
}
