//! Owns: the record of a request in the access log and the metrics, and what of its head is kept for that.
//! Invariant: exactly one record and one count a request, whichever way it ends.
//! Must not know: what is done with records.

use std::time::Instant;

use http::Uri;
use http::header::HeaderValue;

use super::super::error::ProxyError;
use super::super::respond;
use super::Exchange;
use crate::affinity::Cause;
use crate::clock;
use crate::telemetry::Record;

/// nginx's code for a client that went before it was answered; it is never sent.
const CLIENT_WENT: u16 = 499;

impl Exchange {
    /// Keeps what the record needs of the head in memory of its own: a head is a part of the buffer that
    /// it was read into, which would last as long as a tunnel does.
    pub(in crate::proxy) fn outlives_head(&mut self) {
        let named = named(&self.target).and_then(|host| HeaderValue::from_bytes(host).ok());
        self.host = named.or(self.host.take().map(copied));
        self.target = path_of(std::mem::take(&mut self.target));
        self.accept = None;
        self.id = self.id.clone().copied();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(body) = &self.body {
            body.leave();
        }
        let total = clock::now().saturating_duration_since(self.begun);
        let given_up = self.client.is_given_up.get() || std::thread::panicking();
        let unanswered = if given_up { respond::status(ProxyError::GivenUp).as_u16() } else { CLIENT_WENT };
        let status = self.status.map_or(unanswered, |status| status.as_u16());
        let service = self.service();
        let unserved = || service.map_or(&self.view.snapshot().unrouted, |service| &service.unserved);
        let series = service.zip(self.backend).and_then(|(service, index)| service.series.get(index));
        let after = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.begun));
        // The hours of a tunnel would drown the durations of all other requests.
        let lasted = if self.is_tunnel { after(self.answered).unwrap_or(total) } else { total };
        series.unwrap_or_else(unserved).request(self.proxy.thread, self.verdict as usize, status, lasted);
        if let (true, Some(series)) = (self.is_tunnel, series) {
            series.tunnel_ended(self.proxy.thread);
        }

        self.proxy.lines.write(&Record {
            time: self.time,
            id: self.id.as_str(),
            listener: self.client.listener(),
            client: &self.client.text_of(self.origin),
            method: self.method.as_str(),
            host: named(&self.target).or(self.host.as_ref().map(HeaderValue::as_bytes)).unwrap_or_default(),
            path: self.target.path(),
            status,
            bytes_in: self.bytes_in + self.body.as_ref().map_or(0, |body| body.read()),
            bytes_out: self.bytes_out,
            total,
            connected: after(self.connected.get()),
            answered: after(self.answered),
            pool: service.map(|service| &**service.pool.name()),
            backend: service.zip(self.backend).map(|(service, index)| &**service.pool.backend(index).name()),
            attempts: self.attempts,
            verdict: self.verdict.as_str(),
            cause: self.cause.map(Cause::as_str),
            session: self.session,
            rule: self.rule,
            waited: self.hold.waited(),
            error: self.error.or(self.status.is_none().then_some(match given_up {
                true => ProxyError::GivenUp.as_str(),
                false => "client_went",
            })),
        });
    }
}

/// The host in a target, as HTTP/2 and proxies have it; that beats Host. Not what stands before it, which
/// may be a password.
fn named(target: &Uri) -> Option<&[u8]> {
    target.authority()?.as_str().rsplit('@').next().map(str::as_bytes)
}

/// A value that is part of no buffer.
fn copied(value: HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or(value)
}

/// The path of a target, as part of no buffer.
fn path_of(target: Uri) -> Uri {
    Uri::try_from(target.path()).unwrap_or(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_a_tunnel_keeps_of_its_request_keeps_none_of_its_buffer() {
        let buffer = Bytes::from(b"a.example/chat?token=1 and eight kilobytes more".to_vec());
        let host = copied(HeaderValue::from_maybe_shared(buffer.slice(..9)).unwrap());
        let target = path_of(Uri::from_maybe_shared(buffer.slice(9..22)).unwrap());
        assert!(buffer.is_unique());
        assert_eq!((host, target.path()), (HeaderValue::from_static("a.example"), "/chat"));
        assert_eq!(path_of(Uri::from_static("*")).path(), "*");
    }
}
