//! The names on the pages for operators: keys, metrics, fields, words, events and paths that they mention are Linchpin's
//! own, by its own lists, and what an operator meets in a log has a row on a page.

use std::collections::BTreeSet;

use linchpin::affinity::{Cause, RejectedPin, Verdict};
use linchpin::balance::BalancerKind;
use linchpin::copies::Refusal;
use linchpin::proxy::error::Unserved;
use linchpin::telemetry::{AccessField, Denial, Limit};
use linchpin::upstream::Fact;
use serde_json::Value;

use super::metrics::{families, metrics, with_traffic};
use super::support::Backend;
use super::support::documents::{Page, pages};
use super::support::repository::{read, rust_files};

/// Pages that are about the names of others: what is imported, and the sources of Linchpin itself.
const ELSEWHERE: [&str; 2] = ["docs/import.md", "docs/tour.md"];

/// Names of the kernel, of other programs, of OpenTelemetry, and of parts of a store's address.
const OTHERS: [&str; 20] = [
    "acme_issuer",
    "resend_count",
    "status_code",
    "ip_local_port_range",
    "nf_conntrack_max",
    "nr_open",
    "tcp_max_syn_backlog",
    "tcp_mem",
    "tcp_rmem",
    "tcp_wmem",
    "ip_hash",
    "lb_policy",
    "ngx_http_upstream_sticky_module",
    "proxy_ssl_name",
    "proxy_ssl_verify",
    "ssl_client_certificate",
    "ssl_verify_client",
    "stateful_session",
    "sentinel_password",
    "sentinel_user",
];

/// Every table and every key of `config/full.toml`, which a test of the configuration holds to be complete.
fn configuration() -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut tables, mut keys) = (BTreeSet::new(), BTreeSet::new());
    for line in read("config/full.toml").lines() {
        // Values, also of those keys that have several.
        keys.extend(line.split('"').skip(1).step_by(2).map(str::to_owned));
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            let header = line.trim_matches(['[', ']']);
            tables.insert(header.to_owned());
            keys.insert(header.rsplit('.').next().unwrap().to_owned());
        } else if !line.starts_with(' ') {
            // Also the keys of inline tables.
            let names = line.split(['{', ',']).filter_map(|part| part.split_once(" = ")).map(|(name, _)| name.trim());
            keys.extend(names.map(str::to_owned));
        }
    }
    assert!(tables.len() > 30 && keys.len() > 120);
    (tables, keys)
}

/// The names of properties, parameters and values in the OpenAPI document.
fn api_words(value: &Value, words: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                words.insert(name.clone());
                api_words(value, words);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| api_words(value, words)),
        Value::String(word) => drop(words.insert(word.clone())),
        _ => {}
    }
}

/// The words by which records say why a request has failed, besides those of lists.
fn failures() -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    let errors = read("src/proxy/error.rs");
    let names = errors.split_once("pub fn as_str(self)").unwrap().1.split_once("\n    }\n").unwrap().0;
    words.extend(names.split('"').skip(1).step_by(2).filter(|word| *word != "backend").map(str::to_owned));
    for file in rust_files("src/proxy").into_iter().filter(|file| file != "src/proxy/error.rs") {
        let text = read(&file);
        for call in text.split("FailureDetail::Kind(").skip(1) {
            let arguments = call.split(';').next().unwrap();
            words.extend(arguments.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    // Records of these say which backend was missing, and why.
    words.retain(|word| word != "no_backend" && word != "pin_lost");
    // What a record without a status has.
    assert!(read("src/proxy/record.rs").contains("\"client_went\""));
    words.insert("client_went".into());
    assert!(words.len() > 20, "{words:?}");
    words
}

/// The kinds of events with their fields, from their definition.
fn events() -> Vec<(String, BTreeSet<String>)> {
    let source = read("src/events/event.rs");
    let body = source.split_once("pub enum Event {\n").unwrap().1.split_once("\n}\n").unwrap().0;
    let mut events: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in body.lines() {
        if let Some(name) = line.strip_prefix("    ").and_then(|line| line.strip_suffix(" {")) {
            events.push((name.to_lowercase(), BTreeSet::new()));
        } else if let Some((name, _)) = line.strip_prefix("        ").and_then(|line| line.split_once(": "))
            && name.chars().all(|c| c.is_ascii_lowercase())
        {
            events.last_mut().unwrap().1.insert(name.to_owned());
        }
    }
    assert!(events.len() > 10);
    events
}

fn spans() -> impl Iterator<Item = (String, String)> {
    let of_page = |page: Page| page.spans().into_iter().map(move |span| (page.file.clone(), span)).collect::<Vec<_>>();
    pages().into_iter().flat_map(of_page)
}

#[test]
fn every_section_and_key_of_the_configuration_that_a_page_names_exists() {
    let (tables, keys) = configuration();
    let (mut count, mut faults) = (0, Vec::new());
    for (page, span) in spans() {
        let header = span.trim_start_matches('[').trim_end_matches(']');
        let is_name = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || "_.".contains(c));
        if span.starts_with('[') && is_name(header) {
            count += 1;
            if !tables.contains(header) {
                faults.push(format!("{page}: there is no section {span}"));
            }
        } else if let Some((key, _)) = span.split_once(" = ")
            && is_name(key)
        {
            count += 1;
            if !keys.contains(key.rsplit('.').next().unwrap()) {
                faults.push(format!("{page}: there is no key {span}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 100, "{count}");
}

#[tokio::test]
async fn every_word_of_linchpin_that_a_page_names_is_one() {
    let (a, b) = (Backend::named("a").await, Backend::named("b").await);
    let text = metrics(&with_traffic(&a, &b).await, "text/plain").await;
    let families = families(&text);
    let mut known: BTreeSet<String> = configuration().1;
    api_words(&serde_json::from_str(&read("src/admin/openapi.json")).unwrap(), &mut known);
    known.extend(families.iter().map(|name| (*name).to_owned()));
    // What this pool doesn't have has its metrics only elsewhere; counters end in `_total`.
    for text in rust_files("src").iter().map(|file| read(file)) {
        let names = text.split('"').filter(|name| name.starts_with("linchpin_") && !name.contains(' '));
        known.extend(names.flat_map(|name| [name.to_owned(), format!("{name}_total")]));
    }
    known.extend(failures());
    known.extend(events().into_iter().flat_map(|(kind, fields)| fields.into_iter().chain([kind])));
    let lists: [&[&str]; 9] = [
        &Verdict::NAMES,
        &Cause::NAMES,
        &RejectedPin::NAMES,
        &Unserved::NAMES,
        &Refusal::NAMES,
        &Denial::NAMES,
        &Limit::NAMES,
        &Fact::OUTCOMES,
        &OTHERS,
    ];
    known.extend(lists.into_iter().flatten().map(|word| (*word).to_owned()));
    known.extend(AccessField::ALL.iter().map(|field| field.as_str().to_owned()));
    known.extend(BalancerKind::ALL.iter().map(|kind| kind.as_str().to_owned()));
    let (mut count, mut faults) = (0, BTreeSet::new());
    let is_ours = |(page, span): &(String, String)| !ELSEWHERE.contains(&page.as_str()) && !span.ends_with(".rs");
    for (page, span) in spans().filter(is_ours) {
        for word in span.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let is_word = word.trim_matches('_').contains('_') && !word.starts_with('_');
            if !is_word || word.chars().any(|c| c.is_ascii_uppercase()) {
                continue;
            }
            count += 1;
            if !known.contains(word) {
                faults.insert(format!("{page}: {word}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 300, "{count}");
}

#[test]
fn every_path_of_the_admin_api_that_a_page_names_exists() {
    let document: Value = serde_json::from_str(&read("src/admin/openapi.json")).unwrap();
    let paths: Vec<Vec<String>> = document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(|path| path.split('/').map(str::to_owned).collect())
        .collect();
    let (mut count, mut faults) = (0, Vec::new());
    for page in pages() {
        let texts: Vec<_> = page.spans().into_iter().chain(page.blocks().into_iter().map(|block| block.text)).collect();
        for named in texts.iter().flat_map(|text| text.split("/api/v1/").skip(1)) {
            let end = |c: char| c.is_whitespace() || "?'\"`|,)".contains(c);
            let named: Vec<_> = named.split(end).next().unwrap().split('/').collect();
            let is_same = |path: &[String]| {
                path.len() == named.len() + 3
                    && path[3..].iter().zip(&named).all(|(known, named)| known == named || known.starts_with('{'))
            };
            count += 1;
            if !paths.iter().any(|path| is_same(path)) {
                faults.push(format!("{}: /api/v1/{}", page.file, named.join("/")));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(count > 15, "{count}");
}

/// The cells of a page's table rows, without the code marks.
fn rows(page: &str) -> Vec<Vec<String>> {
    let text = read(page);
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The code in a cell.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_kind_of_event_has_a_row_with_its_fields() {
    let rows = rows("docs/operations.md");
    for (kind, fields) in events() {
        let row = rows.iter().find(|row| row.len() == 3 && words(&row[0]).contains(&kind));
        let row = row.unwrap_or_else(|| panic!("docs/operations.md leaves out the event {kind}"));
        let missing: Vec<_> = fields.difference(&words(&row[2])).cloned().collect();
        assert!(missing.is_empty(), "the event {kind} has {missing:?}, too");
    }
}

#[test]
fn every_reason_and_error_of_a_request_is_explained() {
    let spans: BTreeSet<String> = Page::new("docs/troubleshooting.md").spans().into_iter().collect();
    let missing: Vec<_> = failures().into_iter().filter(|word| !spans.contains(word)).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md leaves out {missing:?}");
    for reason in Unserved::NAMES {
        assert!(spans.contains(reason), "docs/troubleshooting.md leaves out {reason}");
    }
    for cause in Cause::NAMES {
        let is_named = |span: &String| span == cause || span.ends_with(&format!("cause={cause}"));
        assert!(spans.iter().any(is_named), "docs/troubleshooting.md leaves out the cause {cause}");
    }
}
