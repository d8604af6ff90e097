//! Owns: the syntax of names: of things, hosts, networks, URL paths and cookies.
//! Invariant: an accepted name can be used unchanged in a field, a log line and a metric label.
//! Must not know: what a name refers to.

use std::net::Ipv6Addr;

use http::HeaderName;
use ipnet::IpNet;
use toml::de::DeValue;

use super::values::{InvalidValue, Value, must_be, shown, text};
use crate::affinity::seal::{MAX_NAME, is_name_byte, is_valid_name};

/// Reads the name of a pool, backend, listener or key.
pub(super) fn name(value: &DeValue<'_>) -> Value<String> {
    let name = text(value)?;
    if is_valid_name(name) {
        return Ok(name.into());
    }
    let is_good = |c: char| u8::try_from(c).is_ok_and(is_name_byte);
    let what = format!("a name of 1 to {MAX_NAME} characters from A-Z a-z 0-9 . _ -");
    let better: String = name.chars().map(|c| if is_good(c) { c } else { '-' }).take(MAX_NAME).collect();
    let remedy = if name.is_ascii() && !name.is_empty() {
        format!("write \"{better}\"")
    } else {
        "write for example \"app-1\"".into()
    };
    Err(must_be(&what, shown(name), remedy))
}

/// Reads a host of a route: a name, `*.` and a name, or an IP address. Returns it in lower case.
pub(super) fn host_pattern(value: &DeValue<'_>) -> Value<String> {
    const WHAT: &str = "a host name such as \"example.com\" or \"*.example.com\"";
    let text = text(value)?;
    let host = text.to_lowercase();
    if is_host(host.strip_prefix("*.").unwrap_or(&host)) && !host.starts_with("*.[") {
        return Ok(host);
    }
    let remedy = match host.rsplit_once(':') {
        _ if host == "*" => "remove `hosts` to match every host".into(),
        _ if host.contains("://") => "write only the host, without scheme and path".into(),
        Some((name, port)) if is_host(name) && port.parse::<u16>().is_ok() => {
            format!("write it without the port: \"{name}\"")
        }
        _ if host.contains('*') => "`*` can only be the whole first label: \"*.example.com\"".into(),
        _ if host.ends_with('.') && is_host(host.trim_end_matches('.')) => "write it without the dot at the end".into(),
        _ if !host.is_ascii() => "write it in its ASCII form, which starts with \"xn--\"".into(),
        _ => "write letters, digits, `-` and dots".into(),
    };
    Err(must_be(WHAT, shown(text), remedy))
}

/// Reads a protocol for `Upgrade`: `websocket`, or `SPDY/3.1` with a version.
pub(super) fn upgrade(value: &DeValue<'_>) -> Value<String> {
    // With these, client and backend would exchange requests that Linchpin does not see.
    const NEVER: [&str; 3] = ["h2c", "http", "tls"];
    const WHAT: &str = "a protocol such as \"websocket\" or \"SPDY/3.1\"";
    let text = text(value)?;
    let is_token = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    };
    let (name, version) = text.split_once('/').map_or((text, None), |(name, version)| (name, Some(version)));
    if NEVER.iter().any(|never| never.eq_ignore_ascii_case(name)) {
        let what = "a protocol other than HTTP and TLS";
        return Err(must_be(what, shown(text), "remove it: configure HTTP/2 and TLS in [[listeners]]"));
    }
    match is_token(name) && version.is_none_or(is_token) {
        true => Ok(text.into()),
        false => Err(must_be(WHAT, shown(text), "write one name per entry, without spaces")),
    }
}

/// Reads a host and an optional port, for a probe or a redirect.
pub(super) fn authority(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    let error = || must_be("a host, or host:port", shown(text), "write for example \"example.com\"");
    if is_authority(text) { Ok(text.into()) } else { Err(error()) }
}

/// Whether `text` is a host with an optional port.
pub(super) fn is_authority(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    is_host(text) || text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port))
}

/// Reads the Domain attribute of a cookie.
pub(super) fn cookie_domain(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    if is_host(text) && !text.starts_with('[') {
        return Ok(text.into());
    }
    let remedy = match text.strip_prefix('.') {
        Some(rest) if is_host(rest) => format!("write it without the dot: \"{rest}\" includes its subdomains"),
        _ => "write for example \"example.com\"".into(),
    };
    Err(must_be("a domain name", shown(text), remedy))
}

/// Reads a cookie's name: a token (RFC 9110 §5.6.2).
pub(super) fn cookie_name(value: &DeValue<'_>) -> Value<String> {
    const LONGEST: usize = 128;
    let text = text(value)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if (1..=LONGEST).contains(&text.len()) && text.chars().all(is_token) {
        return Ok(text.into());
    }
    let what = format!("a cookie name of 1 to {LONGEST} letters, digits and !#$%&'*+-.^_`|~");
    Err(must_be(&what, shown(text), "write for example \"linchpin\""))
}

/// Reads the name of a field for Linchpin: a token (RFC 9110 §5.6.2) without a meaning of its own.
pub(super) fn field_name(value: &DeValue<'_>) -> Value<HeaderName> {
    const TAKEN: [&str; 20] = [
        "accept",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "location",
        "proxy-connection",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-real-ip",
    ];
    const WHAT: &str = "the name of a header field";
    let text = text(value)?;
    let name: HeaderName = match text.parse() {
        Ok(name) if text.len() <= 128 => name,
        _ => return Err(must_be(WHAT, shown(text), "write for example \"X-Pin\"")),
    };
    if TAKEN.contains(&name.as_str()) || name.as_str().starts_with("x-forwarded") {
        return Err(must_be(WHAT, format!("{}, which already has a meaning", shown(text)), "choose another name"));
    }
    Ok(name)
}

/// Reads the name of a field that a route sets, adds or removes (`action`). Refuses fields of framing and of the
/// connection, and those that say who the client is; cookies can only be removed.
pub(super) fn edited_field(text: &str, of_request: bool, action: &str) -> Value<HeaderName> {
    const HOP: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "date",
    ];
    const WHAT: &str = "the name of a header field";
    let name: HeaderName = match text.parse() {
        Ok(name) if text.len() <= 128 => name,
        _ => return Err(must_be(WHAT, shown(text), "write for example \"X-Frame-Options\"")),
    };
    let field = name.as_str();
    let of_client = field == "forwarded" || field == "x-real-ip" || field.starts_with("x-forwarded");
    let (why, remedy) = match field {
        _ if HOP.contains(&field) => {
            ("it belongs to the connection or the message framing, which Linchpin manages", "delete this entry")
        }
        _ if field.starts_with("linchpin-") => ("Linchpin reserves this prefix for itself", "choose another name"),
        "host" if !of_request => ("responses have no such field", "delete this entry"),
        "host" if action != "set" => ("every request has exactly one", "write it in `set` to change it"),
        _ if of_request && of_client && action != "remove" => {
            ("it says who the client is, and Linchpin sets it", "delete this entry, or choose another name")
        }
        "cookie" if of_request && action != "remove" => ("it belongs to the client", "delete this entry"),
        "set-cookie" if !of_request => ("it belongs to the application and can carry its session", "delete this entry"),
        _ => return Ok(name),
    };
    Err(InvalidValue { problem: format!("cannot be {}: {why}", shown(text)), remedy: remedy.into() })
}

/// Reads the name of a path parameter or query parameter: unreserved characters (RFC 3986 §2.3).
pub(super) fn parameter(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    let is_good = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    if (1..=128).contains(&text.len()) && text.chars().all(is_good) {
        return Ok(text.into());
    }
    Err(must_be("a name of letters, digits and -._~", shown(text), "write for example \"jsessionid\""))
}

/// Reads an IP address or a network such as `10.0.0.0/8`.
pub(super) fn network(value: &DeValue<'_>) -> Value<IpNet> {
    let text = text(value)?;
    let network = text.parse::<IpNet>().map(|network| network.trunc()).ok();
    let network = network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    let error = || must_be("an IP address or a network", shown(text), "write \"127.0.0.1\" or \"10.0.0.0/8\"");
    network.ok_or_else(error)
}

/// Reads the Path attribute of a cookie.
pub(super) fn cookie_path(value: &DeValue<'_>) -> Value<String> {
    path(value, ";", "a path that starts with / and contains no space and no `;`")
}

/// Reads the path and query of a probe.
pub(super) fn target(value: &DeValue<'_>) -> Value<String> {
    path(value, "#", "a path that starts with / and contains no space and no `#`")
}

/// Reads the whole path of a redirect.
pub(super) fn plain_path(value: &DeValue<'_>) -> Value<String> {
    path(value, "?#", "a path that starts with / and contains no space, `?` or `#`")
}

/// Reads the path of a route, without a trailing slash: `/app/` and `/app` are the same (Gateway API).
pub(super) fn path_prefix(value: &DeValue<'_>) -> Value<String> {
    let path = path(value, "?#", "a path that starts with / and contains no space, `?` or `#`")?;
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".into() } else { trimmed.into() })
}

fn path(value: &DeValue<'_>, refused: &str, what: &str) -> Value<String> {
    let text = text(value)?;
    let is_good = |c: char| c.is_ascii_graphic() && !refused.contains(c);
    if text.starts_with('/') && text.chars().all(is_good) {
        return Ok(text.into());
    }
    let with_slash = format!("/{text}");
    let remedy = if !text.is_ascii() {
        "percent-encode the other characters".into()
    } else if with_slash.chars().all(is_good) {
        format!("write {}", shown(&with_slash))
    } else {
        "write a path such as \"/\"".into()
    };
    Err(must_be(what, shown(text), remedy))
}

/// Whether `text` is an IP address or a host name of RFC 1123 in any case; `_` is allowed, since many use it.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
