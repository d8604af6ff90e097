//! W3C trace context and spans: what backends, the access log and a collector get.

use super::support::backend::Seen;
use super::support::proxy::Builder;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy};

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";

/// Two listeners: the first trusts its clients, the second doesn't.
const LISTENERS: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n[[listeners]]\n\
                         address = \"127.0.0.1:0\"\n";

/// Builds a proxy with these two listeners before `backends`.
fn before(backends: &[&Backend], top: &str) -> Builder {
    let builder = Proxy::builder().top(&format!("{top}{LISTENERS}"));
    backends.iter().fold(builder, |builder, backend| builder.backend(backend, ""))
}

/// Sends one request, and returns what the backend got.
async fn send(proxy: &Proxy, listener: usize, backend: &Backend, fields: &str) -> Seen {
    let mut client = Client::connect(proxy.listener(listener)).await;
    assert_eq!(client.request("GET", "/", fields, b"").await.status, 200);
    backend.seen().pop().unwrap()
}

#[tokio::test]
async fn without_an_exporter_trace_fields_pass_untouched_and_the_log_can_name_the_trace() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let log = folder.file("access.log");
    let top = format!("[log]\naccess = {log:?}\naccess_fields = [\"status\", \"trace_id\"]\n");
    let proxy = before(&[&a], &top).start();
    for listener in [0, 1] {
        let seen = send(&proxy, listener, &a, "").await;
        assert!(seen.fields("traceparent").is_empty() && seen.fields("tracestate").is_empty());
        let fields = "traceparent: nonsense\r\ntraceparent: 00-X\r\ntracestate: b=2 ,,  a = 1\r\ntracestate: \r\n";
        let seen = send(&proxy, listener, &a, fields).await;
        assert_eq!(seen.fields("traceparent"), ["nonsense", "00-X"]);
        assert_eq!(seen.fields("tracestate"), ["b=2 ,,  a = 1", ""]);
        let seen = send(&proxy, listener, &a, &format!("traceparent: 00-{TRACE}-{SPAN}-00\r\n")).await;
        assert_eq!(seen.fields("traceparent"), [format!("00-{TRACE}-{SPAN}-00")]);
    }
    proxy.stop().await;
    let lines = ["status=200", "status=200", &format!("status=200 trace_id={TRACE}")];
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().collect::<Vec<_>>(), [lines, lines].concat());
}
