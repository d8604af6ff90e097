//! Owns: the session ids of an application that a response issues in cookies, or removes.
//! Invariant: pure; a cookie that is expired or empty removes its id.
//! Must not know: tables, pins, pools.

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

use super::cookie;

/// The session ids of an application in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct IssuedId<'a> {
    /// The id that it issues; the last one, if it issues several.
    pub(super) id: Option<&'a [u8]>,
    /// It removes an id.
    pub(super) removes: bool,
}

impl<'a> IssuedId<'a> {
    /// Reads the cookie `name` that a response sets or removes, at `now` in seconds since the Unix epoch.
    pub(super) fn in_cookie(headers: &'a HeaderMap, name: &str, now: u64) -> IssuedId<'a> {
        let fields = headers.get_all(SET_COOKIE).iter().filter_map(|field| set_cookie_effect(field, name, now));
        fields.fold(IssuedId::default(), |known, effect| match effect {
            SetCookieEffect::Starts(id) => IssuedId { id: Some(id), ..known },
            SetCookieEffect::Ends => IssuedId { removes: true, ..known },
        })
    }
}

/// The effect of a Set-Cookie field on a session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SetCookieEffect<'a> {
    Starts(&'a [u8]),
    Ends,
}

/// Returns the effect of a Set-Cookie field on the session cookie `name`. A cookie that is empty, or expired at `now`,
/// ends the session: that is how servers remove a cookie (RFC 6265 §3.1).
pub(super) fn set_cookie_effect<'a>(field: &'a HeaderValue, name: &str, now: u64) -> Option<SetCookieEffect<'a>> {
    let bytes = field.as_bytes();
    let pair = bytes.split(|byte| *byte == b';').next()?;
    let id = cookie::values(pair, name.as_bytes()).next()?;
    if id.is_empty() {
        return Some(SetCookieEffect::Ends);
    }
    let is_expired =
        std::str::from_utf8(bytes).ok().and_then(|text| ::cookie::Cookie::parse(text).ok()).is_some_and(|cookie| {
            let expires = cookie.expires_datetime().map(|at| at.unix_timestamp() <= now.cast_signed());
            // Max-Age has precedence over Expires (RFC 6265 §5.3).
            cookie.max_age().map(|age| !age.is_positive()).or(expires).unwrap_or(false)
        });
    Some(if is_expired { SetCookieEffect::Ends } else { SetCookieEffect::Starts(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_id_of_a_response_counts_and_a_removed_one_is_noticed() {
        let fields = |values: &[&'static str]| -> HeaderMap {
            values.iter().map(|value| (SET_COOKIE, HeaderValue::from_static(value))).collect()
        };
        for (values, id, removes) in [
            (&["other=1", "sid=a"][..], Some("a"), false),
            (&["sid=a", "sid=b; Path=/x"], Some("b"), false),
            (&["sid=; Max-Age=0"], None, true),
            (&["sid=; Path=/x", "sid=c"], Some("c"), true),
            (&["sidx=1"], None, false),
        ] {
            let issued = IssuedId { id: id.map(str::as_bytes), removes };
            assert_eq!(IssuedId::in_cookie(&fields(values), "sid", 100), issued, "{values:?}");
        }
    }
}
