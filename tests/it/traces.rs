//! W3C trace context: what backends and the access log get of it.

use std::collections::BTreeSet;

use super::support::backend::Seen;
use super::support::collector::{Collector, attribute};
use super::support::proxy::Builder;
use super::support::raw::raw_http2;
use super::support::tool::Folder;
use super::support::{Backend, Client, Proxy, Reply, soon};

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

/// Returns the parts of the only `traceparent`: trace, span and flags.
fn parent(values: &[&str]) -> (String, String, String) {
    let [value] = values[..] else { panic!("{values:?}") };
    let [version, trace, span, flags] = value.split('-').collect::<Vec<_>>()[..] else { panic!("{value}") };
    assert_eq!((version, trace.len(), span.len()), ("00", 32, 16), "{value}");
    (trace.into(), span.into(), flags.into())
}

/// The cases of W3C's suite for implementations (w3c/trace-context, test/test.py); unit tests have each variant.
#[tokio::test]
async fn exactly_one_traceparent_leaves_whatever_came() {
    let (a, collector) = (Backend::named("a").await, Collector::start().await);
    let proxy = before(&[&a], &collector.section("")).start();
    let valid = format!("traceparent: 00-{TRACE}-{SPAN}-01\r\n");
    let many = (1..=33).map(|n| format!("bar{n:02}={n:02}")).collect::<Vec<_>>().join(",");
    let long = format!("a={0},b={0},c={0}", "t".repeat(200));
    for (fields, is_continued, state) in [
        (String::new(), false, None),
        ("tracestate: foo=1\r\n".into(), false, None),
        (valid.clone(), true, None),
        (format!("{valid}{valid}tracestate: foo=1\r\n"), false, None),
        (format!("{valid}TRACEPARENT: \r\n"), false, None),
        (valid.replace("traceparent", "TrAcEpArEnT"), true, None),
        (valid.replace("traceparent", "trace-parent"), false, None),
        (valid.replace(": 00-", ": \t 00-").replace("-01\r\n", "-01 \t\r\n"), true, None),
        (valid.replace("-01", "-01."), false, None),
        (valid.replace(" 00-", " cc-").replace("-01", "-01-later"), true, None),
        (valid.replace(" 00-", " cc-").replace("-01", "-01.later"), false, None),
        (valid.replace(" 00-", " ff-"), false, None),
        (valid.replace(TRACE, &"AB".repeat(16)), false, None),
        (valid.replace(TRACE, &"0".repeat(32)), false, None),
        (valid.replace(SPAN, &"0".repeat(16)), false, None),
        (format!("{valid}connection: traceparent\r\n"), true, None),
        (format!("{valid}tracestate: foo=1,bar=2\r\n"), true, Some("foo=1,bar=2")),
        (format!("{valid}tracestate: foo=1\r\ntracestate: \r\ntracestate: bar=2\r\n"), true, Some("foo=1,bar=2")),
        (format!("{valid}TraceState: foo=1 \t , \t bar=2\r\n"), true, Some("foo=1 \t , \t bar=2")),
        (format!("{valid}tracestate: {long}\r\n"), true, Some(&*long)),
        (format!("{valid}tracestate: {many}\r\n"), true, None),
        (format!("{valid}tracestate: foo=1\r\ntracestate: foo =1\r\n"), true, None),
    ] {
        for listener in [0, 1] {
            let seen = send(&proxy, listener, &a, &fields).await;
            let (trace, span, flags) = parent(&seen.fields("traceparent"));
            assert_eq!(trace == TRACE, is_continued, "{fields}");
            assert!(span != SPAN && !trace.starts_with(&"0".repeat(32)), "{fields}");
            // The id of a new trace is random, and says so.
            assert_eq!(flags, if is_continued { "01" } else { "03" }, "{fields}");
            assert_eq!(seen.fields("tracestate"), state.into_iter().collect::<Vec<_>>(), "{fields}");
        }
    }
    // Each trace that begins here, and each span, has an id of its own.
    let seen = a.seen();
    let parents = || seen.iter().map(|seen| parent(&seen.fields("traceparent")));
    let traces: BTreeSet<_> = parents().map(|parent| parent.0).collect();
    let spans: BTreeSet<_> = parents().map(|parent| parent.1).collect();
    assert_eq!((traces.len(), spans.len()), (2 * 11 + 1, seen.len()));
}

#[tokio::test]
async fn only_a_trusted_proxy_decides_that_a_request_is_sampled() {
    let (a, collector) = (Backend::named("a").await, Collector::start().await);
    let proxy = before(&[&a], &collector.section("sample = \"0%\"")).start();
    for (listener, flag, expected) in [(0, "01", "01"), (0, "02", "02"), (1, "03", "02"), (1, "00", "00")] {
        let seen = send(&proxy, listener, &a, &format!("traceparent: 00-{TRACE}-{SPAN}-{flag}\r\n")).await;
        let (trace, _, flags) = parent(&seen.fields("traceparent"));
        assert_eq!((trace.as_str(), flags.as_str()), (TRACE, expected));
    }
    assert_eq!(parent(&send(&proxy, 1, &a, "").await.fields("traceparent")).2, "02");
    proxy.stop().await;
    assert_eq!(collector.spans().len(), 2, "the spans of the only one that is sampled");
}

/// A request over HTTP/2 with a body and trailers, as of gRPC, to a backend that speaks HTTP/2; and a WebSocket.
#[tokio::test]
async fn requests_over_http_2_and_upgrades_carry_one_traceparent() {
    let collector = Collector::start().await;
    let (saw, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let address = raw_http2(move |request, mut respond| {
        let values = request.headers().get_all("traceparent").iter();
        saw.send(values.map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()).unwrap();
        async move {
            let mut body = respond.send_response(http::Response::new(()), false).unwrap();
            body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
            let status = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            body.send_trailers(status).unwrap();
        }
    })
    .await;
    let top = format!("{}[[listeners]]\naddress = \"127.0.0.1:0\"\nhttp2 = true\n", collector.section(""));
    let proxy = Proxy::builder().top(&top).table("upstream", "http2 = true").backend_at("a", address, "").start();
    let stream = tokio::net::TcpStream::connect(proxy.listener(0)).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let valid = format!("00-{TRACE}-{SPAN}-01");
    let request = http::Request::post("http://test/shop.Cart/Add").header("content-type", "application/grpc");
    let request = request.header("traceparent", &valid).header("te", "trailers").body(()).unwrap();
    let (response, mut body) = client.send_request(request, false).unwrap();
    body.send_data(bytes::Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
    let mut body = soon("a response", response).await.unwrap().into_body();
    while let Some(data) = soon("the body", body.data()).await {
        let length = data.unwrap().len();
        body.flow_control().release_capacity(length).unwrap();
    }
    assert_eq!(soon("trailers", body.trailers()).await.unwrap().unwrap()["grpc-status"], "0");
    let values = seen.recv().await.unwrap();
    let (trace, span, _) = parent(&values.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(trace == TRACE && span != SPAN);
    proxy.stop().await;

    let b = Backend::start("b", |_| {
        Reply::Last(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".into())
    });
    let b = b.await;
    let proxy = before(&[&b], &collector.section("")).start();
    let mut client = Client::connect(proxy.listener(0)).await;
    let fields = format!("connection: upgrade\r\nupgrade: websocket\r\ntraceparent: {valid}\r\n");
    client.send(format!("GET /ws HTTP/1.1\r\nhost: test\r\n{fields}\r\n").as_bytes()).await;
    assert_eq!(soon("a response", client.try_any_response("GET")).await.unwrap().status, 101);
    assert_eq!(parent(&b.seen()[0].fields("traceparent")).0, TRACE);
    drop(client);
    // Its span ends with the tunnel.
    let spans = collector.has(4).await;
    let of_tunnel = spans.iter().filter(|span| attribute(span, "http.response.status_code").unwrap() == "101");
    assert_eq!(of_tunnel.count(), 2);
    let versions: Vec<_> = spans.iter().filter_map(|span| attribute(span, "network.protocol.version")).collect();
    assert_eq!(versions, ["2", "2", "1.1", "1.1"]);
}
