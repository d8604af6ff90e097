//! Owns: `[[listeners]]`.
//! Invariant: the defaults are those of the module that owns the `Settings`.
//! Must not know: what a listener serves.

use super::addresses::endpoint;
use super::names::{name, network};
use super::reader::{Spanned, Table};
use super::tls::{self, ListenerTls};
use super::values::{flag, word};
use crate::acme;
use crate::net::Address;
use crate::runtime::ListenerSettings;
use http::HeaderName;
use ipnet::IpNet;

/// The fields that a listener can read client addresses from; it reads one of them.
const FORWARDED: [(&str, HeaderName); 2] =
    [("x-forwarded-for", HeaderName::from_static("x-forwarded-for")), ("forwarded", http::header::FORWARDED)];

/// One `[[listeners]]`. A `None` has an error, which is noted, or is not in the file.
pub(super) struct ListenerDraft {
    pub(super) name: Option<Spanned<String>>,
    pub(super) address: Option<Spanned<Address>>,
    http2: bool,
    proxy_protocol: bool,
    trusted_proxies: Vec<IpNet>,
    forwarded: Option<HeaderName>,
    pub(super) tls: Option<ListenerTls>,
    pub(super) redirect_https: Option<Spanned<Option<u16>>>,
}

impl ListenerDraft {
    /// The name for routes: its `name`, or its address.
    pub(super) fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.value.clone()).or_else(|| Some(self.address.as_ref()?.value.to_string()))
    }

    /// Whether requests reach routes, instead of being redirected to https.
    pub(super) fn serves(&self) -> bool {
        self.redirect_https.as_ref().is_none_or(|port| port.value.is_none())
    }

    /// Whether it may receive requests by https, or without. A trusted proxy states the scheme of each request.
    pub(super) fn may_receive(&self, by_https: bool) -> bool {
        self.tls.is_some() == by_https || !self.trusted_proxies.is_empty()
    }

    /// Returns how it obtains certificates, if it does. `has_plain` is whether any listener has no TLS.
    pub(super) fn acme(&self, has_plain: bool) -> Option<acme::Settings> {
        let draft = self.tls.as_ref()?.acme.as_ref()?;
        draft.settings(self.settings()?.name, has_plain)
    }

    pub(super) fn settings(&self) -> Option<ListenerSettings> {
        let default = ListenerSettings::new(self.address.as_ref()?.value.clone());
        Some(ListenerSettings {
            name: self.name.as_ref().map_or(default.name, |name| name.value.clone()),
            address: default.address,
            http2: self.http2,
            proxy_protocol: self.proxy_protocol,
            trusted_proxies: self.trusted_proxies.clone(),
            forwarded: self.forwarded.clone().unwrap_or(default.forwarded),
            tls: self.tls.as_ref().and_then(|tls| tls.settings.clone()),
            hsts: self.tls.as_ref().and_then(|tls| tls.hsts),
            redirect_https: self.redirect_https.as_ref().and_then(|port| port.value),
        })
    }
}

pub(super) fn listener(table: &Table<'_>) -> ListenerDraft {
    let trusted_proxies = table.list("trusted_proxies", network).unwrap_or_default();
    let draft = ListenerDraft {
        name: table.spot("name", name),
        address: table.required("address", "\"127.0.0.1:8080\"", endpoint(table)),
        http2: table.get("http2", flag).unwrap_or(false),
        proxy_protocol: table.get("proxy_protocol", flag).unwrap_or(false),
        trusted_proxies: trusted_proxies.into_iter().map(|net| net.value).collect(),
        forwarded: table.get("forwarded", word(FORWARDED)),
        tls: table.section("tls", |tls| tls.is_present().then(|| tls::listener(tls))),
        redirect_https: table.spot("redirect_https", tls::https_port),
    };
    if let (true, Some(Spanned { value: Some(_), span })) = (table.has("tls"), &draft.redirect_https) {
        let problem = "this listener speaks TLS itself: `redirect_https` would make clients loop";
        table.notes().error(span, problem, "write it in the [[listeners]] that clients reach without TLS");
    }
    if draft.http2 && table.has("tls") {
        let problem = "`http2` has no effect here: it is for listeners without TLS";
        table.notes().warn(&table.at("http2"), problem, "remove it; with TLS, `http2` in [listeners.tls] applies");
    }
    if draft.proxy_protocol && draft.trusted_proxies.is_empty() {
        let problem = "`proxy_protocol` needs `trusted_proxies`: Linchpin accepts PROXY headers only from these";
        let remedy =
            "write trusted_proxies = [\"10.0.0.0/8\"], with the addresses of the load balancers in front of this one";
        table.notes().error(&table.at("proxy_protocol"), problem, remedy);
    }
    // Writing the default without `trusted_proxies` misleads nobody; the file with every key does it.
    if draft.forwarded.as_ref().is_some_and(|field| *field == http::header::FORWARDED)
        && draft.trusted_proxies.is_empty()
    {
        let problem = "`forwarded` has no effect without `trusted_proxies`";
        table.notes().warn(&table.at("forwarded"), problem, "remove it, or name your proxies in `trusted_proxies`");
    }
    if draft.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
        let problem = "every client is a trusted proxy: it can claim any address";
        table.notes().warn(&table.at("trusted_proxies"), problem, "write only the addresses of your own proxies");
    }
    draft
}
