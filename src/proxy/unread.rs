//! Owns: the record of a request whose head could not be parsed, and the response to it.
//! Invariant: it writes one record and is counted once, like any other request.
//! Must not know: how heads are parsed.

use std::rc::Rc;
use std::time::Duration;

use super::client::Client;
use super::error::ProxyError;
use super::respond;
use super::thread::ThreadState;
use crate::affinity::Verdict;
use crate::clock;
use crate::telemetry::Record;
use crate::telemetry::metrics::EndedRequest;

/// Records a request whose head could not be parsed, and makes the response to it.
pub(super) fn refuse(thread: &ThreadState, client: &Rc<Client>, error: ProxyError) -> bytes::Bytes {
    let id = thread.new_id();
    let status = respond::status(error).as_u16();
    if let Some(limit) = error.limit() {
        thread.limited(limit);
    }
    let ended = EndedRequest {
        verdict: Verdict::None as usize,
        status,
        took: Duration::ZERO,
        first_byte: None,
        bytes_in: 0,
        bytes_out: 0,
    };
    thread.view.borrow().snapshot().unrouted.request(thread.index, &ended);
    thread.log.write(&Record {
        time: clock::unix(),
        id: id.as_str(),
        listener: client.listener_name(),
        client: client.address_text(),
        method: "-",
        host: b"",
        path: "",
        query: None,
        protocol: None,
        tls_version: client.tls_version(),
        user_agent: None,
        referer: None,
        trace: None,
        status,
        bytes_in: 0,
        bytes_out: 0,
        total: Duration::ZERO,
        connected: None,
        answered: None,
        pool: None,
        backend: None,
        attempts: 0,
        verdict: Verdict::None.as_str(),
        cause: None,
        session: None,
        rule: None,
        copy: None,
        waited: None,
        pinned: None,
        user: None,
        error: Some(error.as_str()),
    });
    respond::respond_raw(error, id.as_str())
}
