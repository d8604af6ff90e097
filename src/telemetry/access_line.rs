//! Owns: writing a record as one line of the access log, as its layout says.
//! Invariant: whatever the client sent, the result is one line without its passwords and session ids.
//! Must not know: threads, buffers, where lines go.

use super::access_layout::{AccessField, AccessFormat, AccessLayout};
use super::access_record::Record;
use super::line_format::{CombinedLine, JsonLine, LineWriter, TextLine, Timestamps};
use super::redaction;

/// Appends the line of a record.
pub(super) fn write(out: &mut Vec<u8>, timestamps: &mut Timestamps, layout: &AccessLayout, record: &Record<'_>) {
    match layout.format {
        AccessFormat::Text => fields(&mut TextLine::new(out), timestamps, layout, record),
        AccessFormat::Json => fields(&mut JsonLine::new(out), timestamps, layout, record),
        AccessFormat::Combined => combined(&mut CombinedLine::new(out), timestamps, layout, record),
    }
}

/// Writes the fields of a record. Text and JSON have the same names.
fn fields(line: &mut impl LineWriter, timestamps: &mut Timestamps, layout: &AccessLayout, record: &Record<'_>) {
    let is_moved = record.verdict == "moved";
    for field in &layout.fields {
        match field {
            AccessField::Time => line.positional("time", timestamps.rfc3339(record.time)),
            AccessField::Listener => line.escaped("listener", record.listener.as_bytes()),
            AccessField::Client => line.plain("client", record.client),
            AccessField::User => record.user.iter().for_each(|user| line.escaped("user", user.as_bytes())),
            AccessField::Method => line.positional("method", record.method),
            AccessField::Host => line.escaped("host", record.host),
            AccessField::Path => line.escaped("path", &redaction::path(record.path.as_bytes())),
            AccessField::Query => record.query.iter().for_each(|query| line.escaped("query", query.as_bytes())),
            AccessField::Protocol => record.protocol.iter().for_each(|protocol| line.plain("protocol", protocol)),
            AccessField::TlsVersion => record.tls_version.iter().for_each(|tls| line.plain("tls_version", tls)),
            AccessField::Status => line.number("status", u64::from(record.status)),
            AccessField::BytesIn => line.number("bytes_in", record.bytes_in),
            AccessField::BytesOut => line.number("bytes_out", record.bytes_out),
            AccessField::TotalMs => line.millis("total_ms", record.total),
            AccessField::ConnectMs => record.connected.iter().for_each(|at| line.millis("connect_ms", *at)),
            AccessField::AnswerMs => record.answered.iter().for_each(|at| line.millis("answer_ms", *at)),
            AccessField::WaitMs => record.waited.iter().for_each(|waited| line.millis("wait_ms", *waited)),
            AccessField::Pool => line.plain("pool", record.pool.unwrap_or("-")),
            AccessField::Backend => line.plain("backend", record.backend.unwrap_or("-")),
            AccessField::Attempts => line.number("attempts", u64::from(record.attempts)),
            AccessField::Verdict => line.plain("verdict", record.verdict),
            AccessField::Cause => record.cause.iter().for_each(|cause| line.plain("cause", cause)),
            AccessField::MovedFrom if is_moved => record.pinned.iter().for_each(|from| line.plain("moved_from", from)),
            AccessField::Pinned if !is_moved => record.pinned.iter().for_each(|to| line.plain("pinned", to)),
            AccessField::MovedFrom | AccessField::Pinned => {}
            AccessField::Session => record.session.iter().for_each(|session| line.hex("session", *session)),
            AccessField::Rule => record.rule.iter().for_each(|rule| line.plain("rule", rule)),
            AccessField::SessionCopy => record.copy.iter().for_each(|copy| line.plain("copy", copy)),
            AccessField::Error => record.error.iter().for_each(|error| line.phrase("error", error)),
            AccessField::UserAgent => record.user_agent.iter().for_each(|agent| line.quoted("user_agent", agent)),
            AccessField::Referer => record.referer.iter().for_each(|referer| {
                line.quoted("referer", &redaction::url(referer, layout.captures.query));
            }),
            AccessField::TraceId => record.trace.iter().for_each(|trace| line.hex_bytes("trace_id", &trace.0)),
            AccessField::Request => line.plain("request", record.id),
        }
    }
    line.end();
}

/// Writes a line in the combined format: that of nginx, but for the query, which is in it only if it is configured.
fn combined(line: &mut CombinedLine<'_>, timestamps: &mut Timestamps, layout: &AccessLayout, record: &Record<'_>) {
    let referer = record.referer.map(|referer| redaction::url(referer, layout.captures.query));
    line.begin(record.client, record.user, timestamps.clf(record.time));
    match record.protocol {
        Some(protocol) => {
            line.request(record.method, &redaction::path(record.path.as_bytes()), record.query, protocol);
        }
        // Nobody could read its first line.
        None => line.quoted(None),
    }
    line.number(u64::from(record.status));
    line.number(record.bytes_out);
    line.quoted(referer.as_deref());
    line.quoted(record.user_agent);
    line.end();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::access_layout::AccessField::{Host, Method, Path, Query, Referer, Time, UserAgent};
    use super::super::trace_ids::TraceId;
    use super::*;

    fn record() -> Record<'static> {
        Record {
            time: Duration::from_millis(1_700_000_000_042),
            id: "00000000000000ab",
            listener: "main",
            client: "127.0.0.1",
            method: "GET",
            host: b"a \"b\"\xff",
            path: "/x\n",
            query: None,
            protocol: Some("HTTP/1.1"),
            tls_version: Some("TLSv1.3"),
            user_agent: None,
            referer: None,
            trace: None,
            status: 200,
            bytes_in: 0,
            bytes_out: 66,
            total: Duration::from_micros(1234),
            connected: None,
            answered: Some(Duration::from_micros(1000)),
            pool: Some("app"),
            backend: Some("b1"),
            attempts: 1,
            verdict: "hit",
            cause: None,
            session: Some(1),
            rule: None,
            copy: None,
            waited: None,
            pinned: None,
            user: None,
            error: None,
        }
    }

    fn line(format: AccessFormat, fields: &[AccessField], record: &Record<'_>) -> String {
        let mut bytes = Vec::new();
        write(&mut bytes, &mut Timestamps::default(), &AccessLayout::new(format, fields), record);
        let line = String::from_utf8(bytes).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        line.trim_end().to_owned()
    }

    #[test]
    fn no_byte_from_a_client_starts_another_line_of_text() {
        let line = line(AccessFormat::Text, &AccessField::DEFAULT, &record());
        assert_eq!(
            line,
            "2023-11-14T22:13:20.042Z listener=main client=127.0.0.1 GET host=a\\x20\\x22b\\x22\\xff path=/x\\x0a \
             status=200 bytes_in=0 bytes_out=66 total_ms=1.234 answer_ms=1.000 pool=app backend=b1 attempts=1 \
             verdict=hit session=0000000000000001 protocol=HTTP/1.1 tls_version=TLSv1.3 request=00000000000000ab"
        );
    }

    #[test]
    fn a_json_line_is_one_object_whatever_the_client_sent() {
        let record = Record { user_agent: Some(b"a \"b\\\n\xff"), query: Some("\"q"), ..record() };
        let record = Record { trace: Some(TraceId([0xab; 16])), ..record };
        let line = line(AccessFormat::Json, &AccessField::ALL, &record);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["path"], "/x\\x0a");
        assert_eq!(value["host"], "a\\x20\\x22b\\x22\\xff");
        assert_eq!(value["user_agent"], "a \\x22b\\x5c\\x0a\\xff");
        assert_eq!(value["query"], "\\x22q");
        assert_eq!(value["trace_id"], "ab".repeat(16));
        assert_eq!(value["status"], 200);
        assert_eq!(value["total_ms"], 1.234);
        assert_eq!(value["session"], "0000000000000001");
        assert_eq!(value["tls_version"], "TLSv1.3");
    }

    #[test]
    fn a_line_has_the_fields_that_are_configured_in_their_order() {
        let record = Record { path: "/x", user_agent: Some(b"curl/8 (x; \"y\")"), query: Some("a=1"), ..record() };
        let record = Record { referer: Some(b"https://u:p@a/b;s=SECRET?q=1"), ..record };
        let fields = [Path, Time, Method, UserAgent];
        assert_eq!(
            line(AccessFormat::Text, &fields, &record),
            "path=/x 2023-11-14T22:13:20.042Z GET user_agent=\"curl/8 (x; \\x22y\\x22)\""
        );
        assert_eq!(
            line(AccessFormat::Json, &[Host, Referer], &record),
            "{\"host\":\"a\\\\x20\\\\x22b\\\\x22\\\\xff\",\"referer\":\"https://a/b;s=*\"}"
        );
        assert_eq!(
            line(AccessFormat::Json, &[Query, Referer], &record),
            "{\"query\":\"a=1\",\"referer\":\"https://a/b;s=*?q=1\"}"
        );
    }

    #[test]
    fn a_combined_line_is_that_of_nginx_without_the_query() {
        let of = |fields: &[AccessField], record: &Record<'_>| line(AccessFormat::Combined, fields, record);
        let plain = Record { path: "/x", bytes_out: 0, ..record() };
        let known = Record { user: Some("a b"), ..plain.clone() };
        assert!(of(&[], &known).starts_with("127.0.0.1 - a\\x20b ["));
        assert_eq!(of(&[], &plain), r#"127.0.0.1 - - [14/Nov/2023:22:13:20 +0000] "GET /x HTTP/1.1" 200 0 "-" "-""#);
        let record = Record { user_agent: Some(b"a \"b\"\n"), referer: Some(b"https://a/?q=1"), ..plain.clone() };
        let start = "127.0.0.1 - - [14/Nov/2023:22:13:20 +0000]";
        assert_eq!(of(&[], &record), format!(r#"{start} "GET /x HTTP/1.1" 200 0 "https://a/" "a \x22b\x22\x0a""#));
        let record = Record { query: Some("a=\"b"), ..record };
        assert_eq!(
            of(&[Query], &record),
            format!(r#"{start} "GET /x?a=\x22b HTTP/1.1" 200 0 "https://a/?q=1" "a \x22b\x22\x0a""#)
        );
        let unread = Record { protocol: None, method: "-", path: "", status: 400, ..plain };
        assert_eq!(of(&[], &unread), format!(r#"{start} "-" 400 0 "-" "-""#));
    }
}
