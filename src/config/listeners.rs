//! Owns: `[[listeners]]`.
//! Invariant: what a section's room calls its default is the default.
//! Must not know: what is served on a listener.

use super::addresses::endpoint;
use super::names::{name, network};
use super::reader::{Spanned, Table};
use super::tls::{self, ListenerTls};
use super::values::{flag, word};
use crate::net::Address;
use crate::runtime::ListenerSettings;
use http::HeaderName;
use ipnet::IpNet;

/// The fields of which a listener believes one.
const FORWARDED: [(&str, HeaderName); 2] =
    [("x-forwarded-for", HeaderName::from_static("x-forwarded-for")), ("forwarded", http::header::FORWARDED)];

/// One `[[listeners]]`. What is `None` was said to be wrong.
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
    /// What routes call it: its name, or its address.
    pub(super) fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.value.clone()).or_else(|| Some(self.address.as_ref()?.value.to_string()))
    }

    /// Whether its requests get to routes: they are not all sent to another listener.
    pub(super) fn serves(&self) -> bool {
        self.redirect_https.as_ref().is_none_or(|port| port.value.is_none())
    }

    /// Whether its requests can have come by https, or without it. A trusted proxy says of each how it came.
    pub(super) fn may_receive(&self, by_https: bool) -> bool {
        self.tls.is_some() == by_https || !self.trusted_proxies.is_empty()
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
        forwarded: table.get("forwarded", word(FORWARDED, &[])),
        tls: table.section("tls", |tls| tls.is_present().then(|| tls::listener(tls))),
        redirect_https: table.spot("redirect_https", tls::https_port),
    };
    if let (true, Some(Spanned { value: Some(_), span })) = (table.has("tls"), &draft.redirect_https) {
        let problem = "`redirect_https` at a listener that speaks TLS itself: clients would go round in a circle";
        table.notes().error(span, problem, "write it at the listener that clients reach without TLS");
    }
    if draft.http2 && table.has("tls") {
        let problem = "`http2` has no effect: it is for clear text, and in TLS it is `http2` of [listeners.tls]";
        table.notes().warn(&table.at("http2"), problem, "take it out");
    }
    if draft.proxy_protocol && draft.trusted_proxies.is_empty() {
        let problem = "`proxy_protocol` without `trusted_proxies`: nobody is believed";
        let remedy =
            "write trusted_proxies = [\"10.0.0.0/8\"], with the addresses of the load balancers before this one";
        table.notes().error(&table.at("proxy_protocol"), problem, remedy);
    }
    // To write the default where it means nothing misleads nobody, and the file with every key does.
    if draft.forwarded.as_ref().is_some_and(|field| *field == http::header::FORWARDED)
        && draft.trusted_proxies.is_empty()
    {
        let problem = "`forwarded` has no effect: it is for `trusted_proxies`, and nobody is believed";
        table.notes().warn(&table.at("forwarded"), problem, "take it out, or name your proxies");
    }
    if draft.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
        let problem = "everybody is a trusted proxy: any client can speak for any other";
        table.notes().warn(&table.at("trusted_proxies"), problem, "name the addresses of your own proxies");
    }
    draft
}
