//! Spans: what a collector gets, and what a collector that is away costs.

use std::path::Path;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;

use super::support::authority::Authority;
use super::support::collector::{Answer, Collector, attribute};
use super::support::proxy::Builder;
use super::support::tool::Folder;
use super::support::{Backend, Proxy, Reply, until};

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";
const TRUSTING: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// Builds a proxy before `backends`.
fn before(backends: &[&Backend], top: &str) -> Builder {
    backends.iter().fold(Proxy::builder().top(top), |builder, backend| builder.backend(backend, ""))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn code(span: &Span) -> StatusCode {
    span.status.clone().unwrap().code()
}

/// Returns the span of a request among `spans`, and those of its attempts in their order.
fn request(spans: &[Span], is_it: impl Fn(&Span) -> bool) -> (&Span, Vec<&Span>) {
    let server = spans.iter().find(|span| span.kind() == SpanKind::Server && is_it(span)).unwrap();
    let mut attempts: Vec<_> = spans.iter().filter(|span| span.parent_span_id == server.span_id).collect();
    attempts.sort_by_key(|span| span.start_time_unix_nano);
    (server, attempts)
}

/// Returns the value of a metric without labels.
async fn metric(proxy: &Proxy, name: &str) -> u64 {
    let metrics = proxy.ask("GET", "/metrics", "").await.text();
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_collector_gets_a_span_of_the_request_and_one_of_each_attempt() {
    let a = Backend::start("a", |_| Reply::Close).await;
    let b = Backend::start("b", |_| Reply::new(404, "", "no")).await;
    let (collector, folder) = (Collector::start().await, Folder::new());
    let log = folder.file("access.log");
    let top = format!("{}[log]\naccess = {log:?}\n{TRUSTING}", collector.section("service = \"edge\""));
    let proxy = before(&[&a, &b], &top).start();
    let fields = format!(
        "traceparent: 00-{TRACE}-{SPAN}-01\r\ntracestate: foo=1\r\nx-request-id: its-id\r\n\
         authorization: Bearer secret\r\ncookie: id=secret\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n"
    );
    // Until a request begins at the backend that fails.
    while a.count() == 0 {
        let mut client = proxy.client().await;
        assert_eq!(client.request("GET", "/a;jsessionid=secret?token=secret", &fields, b"").await.status, 404);
    }
    let told = |backend: &Backend| backend.seen().pop().unwrap().field("traceparent").unwrap()[36..52].to_owned();
    let (of_a, of_b) = (told(&a), told(&b));
    proxy.stop().await;
    let spans = collector.spans();
    assert!(!format!("{spans:?}").contains("secret"), "{spans:?}");
    assert!(!spans.is_empty() && collector.services().iter().all(|name| name == "edge"));
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE && span.trace_state == "foo=1"));
    let first = spans.iter().find(|span| hex(&span.span_id) == of_a).unwrap();
    let (server, attempts) = request(&spans, |span| span.span_id == first.parent_span_id);
    let [first, second] = attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((server.name.as_str(), hex(&server.parent_span_id).as_str()), ("GET", SPAN));
    assert_eq!((first.kind(), second.kind()), (SpanKind::Client, SpanKind::Client));
    assert_eq!(hex(&second.span_id), of_b);
    let port = a.address().port().to_string();
    let url = format!("http://{}/a;jsessionid=*", a.address());
    for (span, key, value) in [
        (server, "http.request.method", Some("GET")),
        (server, "url.path", Some("/a;jsessionid=*")),
        (server, "url.scheme", Some("https")),
        (server, "url.query", None),
        (server, "server.address", Some("test")),
        (server, "network.protocol.version", Some("1.1")),
        (server, "http.response.status_code", Some("404")),
        (server, "client.address", Some("192.0.2.7")),
        (server, "error.type", None),
        (server, "linchpin.request", Some("its-id")),
        (server, "linchpin.pool", Some("app")),
        (server, "linchpin.backend", Some("b")),
        (server, "linchpin.verdict", Some("new")),
        (first, "http.request.method", Some("GET")),
        (first, "linchpin.pool", Some("app")),
        (first, "linchpin.backend", Some("a")),
        (first, "url.full", Some(&url)),
        (first, "server.address", Some("127.0.0.1")),
        (first, "server.port", Some(&port)),
        (first, "error.type", Some("closed")),
        (first, "http.request.resend_count", None),
        (first, "http.response.status_code", None),
        (second, "linchpin.backend", Some("b")),
        (second, "http.request.resend_count", Some("1")),
        (second, "http.response.status_code", Some("404")),
        (second, "network.protocol.version", Some("1.1")),
        (second, "error.type", Some("404")),
    ] {
        assert_eq!(attribute(span, key).as_deref(), value, "{key}");
    }
    // A 404 is an error of whoever asked, and so of the attempt, but not of the server.
    assert_eq!((code(server), code(first), code(second)), (StatusCode::Unset, StatusCode::Error, StatusCode::Error));
    for span in [server, first, second] {
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        assert!(server.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano);
    }
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    let lines = std::fs::read_to_string(log).unwrap();
    assert!(lines.lines().all(|line| line.ends_with(&format!(" trace_id={TRACE}"))), "{lines}");
}

#[tokio::test]
async fn a_span_says_what_became_of_the_session_and_of_the_response() {
    let a = Backend::start("a", |seen| match seen.path() {
        "/hang" => Reply::Hang,
        "/cut" => Reply::Last(b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\ncut".into()),
        "/503" => Reply::new(503, "", "no"),
        _ => Reply::ok("a"),
    });
    let (a, collector) = (a.await, Collector::start().await);
    let proxy = before(&[&a], &format!("{}{TRUSTING}", collector.section(""))).start();
    let pin = proxy.get(None).await.pin();
    assert_eq!(proxy.get(pin.as_deref()).await.status, 200);
    let mut client = proxy.client().await;
    client.send(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").await;
    a.has(3).await;
    client.reset();
    let mut client = proxy.client().await;
    client.send(b"GET /cut HTTP/1.1\r\nhost: test\r\n\r\n").await;
    until("the end of the connection", async || client.read_more().await.is_none()).await;
    let mut client = proxy.client().await;
    assert_eq!(client.get("/503").await.status, 503);
    assert_eq!(client.request("PURGE", "/purge", "", b"").await.status, 200);
    let b = a.address();
    let spans = collector.has(12).await;
    drop(a);
    for (path, verdict, status, error, expected) in [
        // It left before anything was decided.
        ("/hang", "none", None, Some("client_went"), [StatusCode::Unset; 2]),
        ("/cut", "new", Some("200"), Some("broken_off"), [StatusCode::Error; 2]),
        ("/503", "new", Some("503"), Some("503"), [StatusCode::Error; 2]),
        ("/purge", "new", Some("200"), None, [StatusCode::Unset; 2]),
    ] {
        let (server, attempts) = request(&spans, |span| attribute(span, "url.path").unwrap() == path);
        assert_eq!(attribute(server, "linchpin.verdict").as_deref(), Some(verdict), "{path}");
        let [attempt] = attempts[..] else { panic!("{attempts:?}") };
        for (span, expected) in [server, attempt].into_iter().zip(expected) {
            assert_eq!(attribute(span, "http.response.status_code").as_deref(), status, "{path}");
            assert_eq!(attribute(span, "error.type").as_deref(), error, "{path} {span:?}");
            assert_eq!(code(span), expected, "{path}");
        }
    }
    let (server, _) = request(&spans, |span| attribute(span, "linchpin.verdict").unwrap() == "hit");
    assert_eq!(attribute(server, "linchpin.session").unwrap().len(), 16);
    // A method may be a client's invention, which would be a name without bound.
    let (server, _) = request(&spans, |span| attribute(span, "url.path").unwrap() == "/purge");
    assert_eq!((server.name.as_str(), attribute(server, "http.request.method").unwrap().as_str()), ("HTTP", "_OTHER"));
    assert_eq!(attribute(server, "http.request.method_original").unwrap(), "PURGE");
    // Nobody serves: one span, which says why.
    until("its end", async || tokio::net::TcpStream::connect(b).await.is_err()).await;
    assert_eq!(proxy.get(pin.as_deref()).await.status, 503);
    let spans = collector.has(14).await;
    let is_it = |span: &Span| attribute(span, "linchpin.error").as_deref() == Some("connection refused");
    let (server, attempts) = request(&spans, is_it);
    for span in [server, attempts[0]] {
        assert_eq!((code(span), attribute(span, "error.type").as_deref()), (StatusCode::Error, Some("connect")));
        assert_eq!(span.status.as_ref().unwrap().message, "connection refused");
    }
}

#[tokio::test]
async fn an_attempt_that_gave_way_for_its_status_has_that_status() {
    let a = Backend::start("a", |_| Reply::new(503, "", "no")).await;
    let (b, collector) = (Backend::named("b").await, Collector::start().await);
    let builder = before(&[&a, &b], &collector.section("")).table("retry", "retry_on = [503]");
    let proxy = builder.start();
    while a.count() == 0 {
        assert_eq!(proxy.get(None).await.status, 200);
    }
    proxy.stop().await;
    let spans = collector.spans();
    let first = spans.iter().find(|span| attribute(span, "error.type").as_deref() == Some("503")).unwrap();
    let (server, attempts) = request(&spans, |span| span.span_id == first.parent_span_id);
    let statuses: Vec<_> = attempts.iter().map(|span| attribute(span, "http.response.status_code").unwrap()).collect();
    assert_eq!((code(server), statuses), (StatusCode::Unset, vec!["503".to_owned(), "200".to_owned()]));
    assert_eq!((code(attempts[0]), code(attempts[1])), (StatusCode::Error, StatusCode::Unset));
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_request() {
    let (a, collector) = (Backend::named("a").await, Collector::start().await);
    let proxy = before(&[&a], &format!("{ADMIN}{}", collector.section(""))).start();
    let lost = async || metric(&proxy, "linchpin_trace_spans_dropped_total").await;
    // What a collector refuses for good is lost at once, and what it takes in part in part.
    for (answer, expected) in
        [(Answer::Status(400, ""), 2), (Answer::Rubbish, 4), (Answer::Status(307, ""), 6), (Answer::TakeAllBut(1), 7)]
    {
        collector.answer(answer);
        assert_eq!(proxy.get(None).await.status, 200);
        until("the spans are lost", async || lost().await == expected).await;
    }
    assert_eq!(metric(&proxy, "linchpin_trace_spans_exported_total").await, 1);
    // It is busy, so the batch is sent again when it says.
    collector.answer(Answer::Status(503, "1"));
    let before = collector.batches();
    assert_eq!(proxy.get(None).await.status, 200);
    until("it is busy", async || collector.batches() > before).await;
    collector.answer(Answer::Take);
    until("it took the spans", async || metric(&proxy, "linchpin_trace_spans_exported_total").await == 3).await;
    assert_eq!(lost().await, 7);
    // It hangs: requests are served as before. A unit test fills the queue.
    collector.answer(Answer::Hang);
    let (before, mut client) = (collector.batches(), proxy.client().await);
    assert_eq!(client.get("/").await.status, 200);
    until("it hangs", async || collector.batches() > before).await;
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // The end of the process doesn't wait for it for long.
    let begun = Instant::now();
    proxy.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reload_and_the_end_send_what_is_queued_to_whom_it_was_meant_for() {
    let (a, folder) = (Backend::named("a").await, Folder::new());
    let (one, two) = (Collector::start().await, Collector::start().await);
    let file = folder.file("linchpin.toml");
    let write = |tracing: &str| std::fs::write(&file, before(&[&a], tracing).text()).unwrap();
    write(&one.section(""));
    let (plan, _) = linchpin::config::load(Path::new(&file)).unwrap();
    let proxy = Proxy::of(linchpin::app::App::start(plan).unwrap());
    let get = async |count: usize| {
        for _ in 0..count {
            assert_eq!(proxy.get(None).await.status, 200);
        }
    };
    // The former collector, which wants a batch in a minute, gets it soon after the reload.
    one.answer(Answer::Status(503, "60"));
    get(2).await;
    until("it is busy", async || one.batches() > 0).await;
    one.answer(Answer::Take);
    write(&two.section(""));
    assert!(proxy.reload(false).await.errors.is_empty());
    get(1).await;
    // The same collector: its queue goes on.
    write(&two.section("sample = \"0%\""));
    assert!(proxy.reload(false).await.errors.is_empty());
    get(1).await;
    write("");
    assert!(proxy.reload(false).await.errors.is_empty());
    get(1).await;
    let untraced = a.seen().pop().unwrap();
    assert_eq!(untraced.field("traceparent"), None);
    one.has(4).await;
    two.has(2).await;
    // A collector that wants a batch in a minute gets it once more at the end.
    write(&one.section(""));
    assert!(proxy.reload(false).await.errors.is_empty());
    one.answer(Answer::Status(503, "60"));
    let before = one.batches();
    get(1).await;
    until("it is busy", async || one.batches() > before).await;
    one.answer(Answer::Take);
    proxy.stop().await;
    assert_eq!((one.spans().len(), two.spans().len()), (6, 2));
}

/// A collector behind TLS, which another Linchpin ends.
#[tokio::test]
async fn an_https_collector_gets_spans_only_if_its_certificate_is_valid() {
    let (a, folder, authority) = (Backend::named("a").await, Folder::new(), Authority::new("root"));
    let collector = Collector::start().await;
    std::fs::write(folder.file("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.file("other.pem"), Authority::new("other").pem()).unwrap();
    authority.issue(&["localhost"]).write(Path::new(&folder.file("")), "localhost");
    let (cert, key) = (folder.file("localhost.pem"), folder.file("localhost.key"));
    let listener =
        format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n[listeners.tls]\ncert = {cert:?}\nkey = {key:?}\n");
    let front = Proxy::builder().top(&listener).backend_at("collector", collector.address(), "").start();
    let section = |ca: &str| {
        let (port, ca) = (front.listener(0).port(), folder.file(ca));
        let headers = folder.file("headers");
        format!("[tracing]\notlp = \"https://localhost:{port}\"\nca = {ca:?}\nheaders_file = {headers:?}\n")
    };
    // A new key needs no reload.
    folder.write("headers", b"# of the vendor\nX-Api-Key: one\n");
    let proxy = before(&[&a], &section("ca.pem")).start();
    assert_eq!(proxy.get(None).await.status, 200);
    collector.has(2).await;
    folder.write("headers", b"X-Api-Key: two\n");
    assert_eq!(proxy.get(None).await.status, 200);
    collector.has(4).await;
    proxy.stop().await;
    assert_eq!(collector.keys(), ["one", "two"]);
    let proxy = before(&[&a], &section("other.pem")).start();
    assert_eq!(proxy.get(None).await.status, 200);
    proxy.stop().await;
    assert_eq!(collector.batches(), 2);
}
