//! Owns: which parts of a source are secret.
//! Invariant: no comment repeats a password, hash, token or key of a line.
//! Must not know: how a line is handled.

/// Words that a secret follows.
const WORDS: [&str; 20] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authorization",
    "api-key",
    "api_key",
    "apikey",
    "auth-key",
    "x-auth",
    "x_auth",
    "hmac",
    "bearer ",
    "basic ",
    "auth.users",
    "stats auth",
    "cookie-key",
    "key=",
];

/// Names that contain such a word, but are followed by no secret.
const HARMLESS: [&str; 6] = [
    "server_tokens",
    "auth_basic_user_file",
    "ssl_password_file",
    // These name a Secret of Kubernetes.
    "auth-secret",
    "auth-tls-secret",
    "proxy-ssl-secret",
];

/// Beginnings of hashes and keys.
const MARKS: [&str; 9] = ["$apr1$", "$1$", "$2a$", "$2b$", "$2y$", "$5$", "$6$", "{sha", "-----begin"];

/// Returns `text` without its secrets.
pub(super) fn hidden(text: &str) -> String {
    let text = without_user(text);
    match beginning(&text) {
        Some(at) => format!("{} …", text.get(..at).unwrap_or_default().trim_end_matches([' ', '"', '\''])),
        None => text,
    }
}

/// Returns whether a text contains a secret: its block may, too.
pub(super) fn is_in(text: &str) -> bool {
    beginning(text).is_some()
}

/// Returns the offset at which the secret begins.
fn beginning(text: &str) -> Option<usize> {
    let lower = text.to_ascii_lowercase();
    let end_of_word = |at: usize| {
        let rest = lower.get(at..).unwrap_or_default();
        at + rest.find(|c: char| c.is_whitespace() || "=:\"'".contains(c)).unwrap_or(rest.len())
    };
    let harmless = |at: usize| {
        let start = lower.get(..at).unwrap_or_default().rfind(char::is_whitespace).map_or(0, |start| start + 1);
        let word = lower.get(start..).unwrap_or_default();
        HARMLESS.iter().any(|known| word.starts_with(known))
    };
    let behind = |word: &&str| {
        let at = lower
            .match_indices(*word)
            .map(|(at, _)| at)
            .find(|at| !harmless(*at) && starts_a_word(&lower, *at, word))?;
        let end = if word.ends_with([' ', '=']) { at + word.len() } else { end_of_word(at + word.len()) };
        // The separator after the word is not secret. If nothing follows it, there is no secret.
        let end = end + lower.get(end..)?.find(|c: char| !" =:\"'".contains(c))?;
        (!lower.get(end..)?.is_empty()).then_some(end)
    };
    let first = WORDS.iter().filter_map(behind).min();
    let marked = MARKS.iter().filter_map(|mark| lower.find(mark)).min();
    let set = ["setenv ", "presetenv "].iter().find(|word| lower.starts_with(**word));
    let set = set.and_then(|word| lower.get(word.len()..)?.find(' ').map(|at| word.len() + at));
    [first, marked, set].into_iter().flatten().min()
}

/// Returns whether `word` is a whole word if it has to be: `basic` and `bearer` do.
fn starts_a_word(text: &str, at: usize, word: &str) -> bool {
    let before = text.get(..at).and_then(|text| text.chars().next_back());
    !word.ends_with(' ') || before.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_' && c != '-')
}

/// Returns `text` without the user info of its URLs.
fn without_user(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some((before, behind)) = rest.split_once("://") {
        kept.push_str(before);
        kept.push_str("://");
        let end = behind.find(|c: char| c.is_whitespace() || "/;\"'".contains(c)).unwrap_or(behind.len());
        rest = behind;
        if let Some(at) = behind.get(..end).and_then(|authority| authority.rfind('@')) {
            kept.push('…');
            rest = behind.get(at..).unwrap_or_default();
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_repeated() {
        for text in [
            "user alice insecure-password hunter2",
            "user alice password $5$hunter2",
            "stats auth admin:hunter2",
            "dynamic-cookie-key \"hunter2\"",
            "http-request set-header Authorization \"Basic hunter2\"",
            "http-request deny unless { req.hdr(X-Api-Key) -m str hunter2 }",
            "setenv DB hunter2",
            "option httpchk GET / HTTP/1.0\\r\\nAuthorization:\\ hunter2",
            "proxy_set_header Authorization \"Bearer hunter2\"",
            "sticky cookie a hmac_key=hunter2",
            "\"Bearer hunter2\" 1",
            "set $token hunter2",
            "proxy_pass http://me:hunter2@10.0.0.1/",
            "http.middlewares.a.basicAuth.users: me:$apr1$hunter2",
            "login: auth-url: https://login.example/check?key=hunter2",
            "http.middlewares.a.digestAuth.users: me:realm:hunter2",
            "http.middlewares.a.headers.customRequestHeaders.X-Auth-Key: hunter2",
            "tls.certificates.keyFile: -----BEGIN PRIVATE KEY----- hunter2",
        ] {
            assert!(!hidden(text).contains("hunter2"), "{}", hidden(text));
        }
    }

    #[test]
    fn what_is_no_secret_is_repeated() {
        for text in [
            "server_tokens off",
            "auth_basic_user_file /etc/nginx/users",
            "auth_basic \"admin\"",
            "http-request auth realm x if !{ http_auth(people) }",
            "bind :443 ssl crt /etc/ssl/site.pem",
            "proxy_pass http://10.0.0.1/a@b",
            "ssl_certificate_key /etc/ssl/shop.key",
            "userlist people",
            "shop: auth-secret: admins",
        ] {
            assert_eq!(hidden(text), text);
        }
        assert_eq!(hidden("user alice password $5$x"), "user alice password …");
    }
}
