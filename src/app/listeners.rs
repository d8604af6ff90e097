//! Owns: what requests have to know of a listener, made of its settings.
//! Invariant: it translates, and decides nothing.
//! Must not know: sockets.

use http::HeaderValue;
use http::header::FORWARDED;

use crate::proxy::client::ListenerInfo;
use crate::proxy::forwarded::ForwardedField;
use crate::proxy::redirect::Redirect;
use crate::runtime::{ListenerId, ListenerSettings};

/// Makes what requests have to know of the listener with this id.
pub(super) fn listener_info(id: ListenerId, listener: &ListenerSettings) -> ListenerInfo {
    let hsts = listener.hsts.map(|time| HeaderValue::try_from(format!("max-age={}", time.as_secs())));
    ListenerInfo {
        id,
        name: listener.name.as_str().into(),
        is_secure: listener.tls.is_some(),
        trusted: listener.trusted_proxies.clone(),
        forwarded: if listener.forwarded == FORWARDED {
            ForwardedField::Forwarded
        } else {
            ForwardedField::XForwardedFor
        },
        // A number after an equals sign is a valid value.
        hsts: hsts.and_then(Result::ok),
        https: listener.redirect_https.map(Redirect::to_https),
    }
}
