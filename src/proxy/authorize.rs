//! Owns: the step of a request in which its route's access rules decide.
//! Invariant: it comes before persistence; no other spelling of a path gets around the rules of a route.
//! Must not know: status codes; how passwords are hashed.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::request;

use super::basic_auth::{BasicAuth, Identified};
use super::error::ProxyError;
use super::exchange::Exchange;
use super::route::{RouteEntry, Routes};
use super::snapshot::ThreadSnapshot;
use super::{host, path_readings};
use crate::telemetry::Denial;

/// Checks whether the client may use the route, and finds out who the user is, if the route asks for a password.
///
/// # Errors
/// It may not, or it has sent no password that the route knows.
pub(super) async fn authorize(
    exchange: &mut Exchange,
    view: &ThreadSnapshot,
    route: &RouteEntry,
    host: Option<&HeaderValue>,
    head: &request::Parts,
) -> Result<(), ProxyError> {
    let routes = &view.snapshot().routes;
    if !routes.has_access_rules() {
        return Ok(());
    }
    let (listener, identity) = (exchange.client().listener_id(), exchange.identity());
    let requested = Requested { listener, is_secure: identity.is_secure, host, path: head.uri.path() };
    check(routes, route, requested, identity.client()).map_err(ProxyError::Denied)?;
    match basic_auth(route) {
        Some(auth) => authenticate(exchange, view, auth, head).await,
        None => Ok(()),
    }
}

/// Asks for credentials, if their lack is the error.
pub(super) fn challenge(exchange: &Exchange, error: ProxyError, headers: &mut HeaderMap) {
    let is_lack = matches!(error, ProxyError::Denied(Denial::NoCredentials | Denial::WrongCredentials));
    if let Some(auth) = exchange.route().filter(|_| is_lack).and_then(basic_auth) {
        headers.insert(WWW_AUTHENTICATE, auth.challenge().clone());
    }
}

fn basic_auth(route: &RouteEntry) -> Option<&BasicAuth> {
    route.access.as_ref()?.basic_auth.as_ref()
}

async fn authenticate(
    exchange: &mut Exchange,
    view: &ThreadSnapshot,
    auth: &BasicAuth,
    head: &request::Parts,
) -> Result<(), ProxyError> {
    // A snapshot with such a route has them.
    let checks = view.snapshot().password_checks.as_ref().ok_or(ProxyError::Denied(Denial::PasswordsBusy))?;
    let user = match auth.identify(checks, &head.headers).map_err(ProxyError::Denied)? {
        Identified::User(user) => user,
        Identified::Unverified { name, password } => {
            let address = exchange.identity().address;
            // Boxed: the future of each request would have room for it otherwise.
            Box::pin(auth.verify(checks, name, password, address, exchange.wait_deadline())).await?
        }
    };
    exchange.record.user = Some(user);
    Ok(())
}

/// Where a request was received, and what for.
#[derive(Debug, Clone, Copy)]
struct Requested<'r> {
    listener: usize,
    is_secure: bool,
    host: Option<&'r HeaderValue>,
    path: &'r str,
}

/// Checks whether the client at this address may use the route that it asked for.
///
/// A server may read a path otherwise than Linchpin matches it: decoded, with `..` resolved, or in lower case. If such a
/// reading belongs to another route with rules of its own, the request is refused: it would get around them.
///
/// # Errors
/// It may not.
fn check(routes: &Routes, route: &RouteEntry, requested: Requested<'_>, client: Option<IpAddr>) -> Result<(), Denial> {
    if route.access.as_ref().is_some_and(|rules| !rules.permit(client)) {
        return Err(Denial::Address);
    }
    if path_readings::is_plain(requested.path) {
        return Ok(());
    }
    let host = requested.host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let of_reading = |path: String| {
        routes.find_folded(requested.listener, requested.is_secure, host::host_name(host), &path)?.access.as_ref()
    };
    match path_readings::folded(requested.path)
        .filter_map(of_reading)
        .all(|rules| route.access.as_ref().is_some_and(|own| Arc::ptr_eq(own, rules)))
    {
        true => Ok(()),
        false => Err(Denial::AmbiguousPath),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Timeouts, access, route};
    use super::*;

    #[test]
    fn no_spelling_of_a_path_gets_around_the_rules_of_its_route() {
        let timeouts = Timeouts::default();
        let to = |prefix: &str, allow: &[&str]| route::Settings {
            path_prefix: prefix.into(),
            access: access::Settings {
                allow: allow.iter().map(|net| net.parse().unwrap()).collect(),
                ..Default::default()
            },
            ..route::Settings::all_to("0")
        };
        let settings =
            [to("/", &[]), to("/Admin", &["10.0.0.0/8"]), to("/admin/public", &[]), to("/b", &["10.0.0.0/8"])];
        let routes = Routes::new(&settings, 0, |_| None, |_| Some((0, &timeouts)));
        let check = |path: &str, client: &str| {
            let entry = routes.entry(routes.find(0, false, "a", path).unwrap()).unwrap();
            let requested = Requested { listener: 0, is_secure: false, host: None, path };
            check(&routes, entry, requested, Some(client.parse().unwrap()))
        };
        for (path, outside, inside) in [
            ("/", Ok(()), Ok(())),
            ("/Admin", Err(Denial::Address), Ok(())),
            ("/Admin/x%20y;z", Err(Denial::Address), Ok(())),
            ("/admin", Ok(()), Ok(())),
            ("/a%20b", Ok(()), Ok(())),
            ("/ADMIN", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/%41dmin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("//Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/x/..;/Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/x/%252e%252e/Admin", Err(Denial::AmbiguousPath), Err(Denial::AmbiguousPath)),
            ("/admin/public/%41", Ok(()), Ok(())),
            // The other route has the same rules.
            ("/b/../Admin", Err(Denial::Address), Ok(())),
        ] {
            assert_eq!((check(path, "192.0.2.1"), check(path, "10.0.0.1")), (outside, inside), "{path}");
        }
    }
}
