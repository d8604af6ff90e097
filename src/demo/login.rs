//! Owns: who may log in: any user name within bounds, with the one password.
//! Invariant: a user name is printable and of bounded length.
//! Must not know: sessions, forms or HTTP.

/// The password of every user.
pub const PASSWORD: &str = "linchpin";

/// Longest user name, in characters.
pub(super) const MAX_USER_CHARS: usize = 64;

/// Returns the user's name if name and password are right.
pub(super) fn verify<'a>(user: &'a str, password: &str) -> Option<&'a str> {
    let user = user.trim();
    let is_name = !user.is_empty() && user.chars().count() <= MAX_USER_CHARS && !user.chars().any(char::is_control);
    (is_name && password == PASSWORD).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_any_bounded_name_with_the_password() {
        assert_eq!(verify(" ann ", PASSWORD), Some("ann"));
        assert_eq!(verify("ann", "other"), None);
        let long = "x".repeat(MAX_USER_CHARS + 1);
        for user in ["", "  ", "a\nb", &long] {
            assert_eq!(verify(user, PASSWORD), None, "{user:?}");
        }
    }
}
