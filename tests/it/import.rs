//! Configurations of HAProxy, nginx and Traefik, in the shapes of their documentation, and what becomes of them.

use std::path::Path;
use std::process::{Command, Output};

use linchpin::config::{self, Severity};
use linchpin::import::{Format, import};
use linchpin::net::local_addresses;
use proptest::prelude::*;
use proptest::sample::Index;

use super::support::repository::{files, path, read};
use super::support::tool::Folder;

/// The sources in tests/it/import/: name, text, whose it is.
fn sources() -> Vec<(String, String, Format)> {
    let is_source = |file: &String| !file.contains("/expected/");
    let sources = files("tests/it/import").into_iter().filter(is_source).map(|file| {
        let name = file.rsplit('/').next().unwrap().to_owned();
        let text = read(&file);
        let format = Format::guess(&name, &text).unwrap();
        (name, text, format)
    });
    let sources: Vec<_> = sources.collect();
    assert!(sources.iter().any(|(.., of)| *of == Format::IngressNginx));
    for format in [Format::Haproxy, Format::Nginx, Format::Traefik] {
        assert!(sources.iter().filter(|(.., of)| *of == format).count() >= 4, "{format:?}");
    }
    sources
}

#[test]
fn each_source_becomes_what_is_expected() {
    let mut differences = String::new();
    for (name, text, format) in sources() {
        let made = import(&text, &name, format).unwrap_or_else(|error| panic!("{name}: {error}")).text;
        let place = format!("tests/it/import/expected/{name}.toml");
        let expected = std::fs::read_to_string(path(&place)).unwrap_or_default();
        if made != expected {
            differences += &format!(
                "{}\nif it is right: target/debug/linchpin import tests/it/import/{name} --force -o {place}\n\n",
                difference(&place, &expected, &made)
            );
        }
    }
    assert!(differences.is_empty(), "\n{differences}");
}

/// The lines that are in one of two texts alone.
fn difference(name: &str, expected: &str, made: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), made.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    let show = |sign: char, lines: &[&str]| {
        lines[same..lines.len() - tail].iter().map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    format!("{name} from line {}:\n{}{}", same + 1, show('-', &old), show('+', &new))
}

/// The errors of a configuration, but for those that are the reader's to mend.
fn errors(text: &str) -> Vec<String> {
    let report = match config::parse(text, Path::new("imported.toml")) {
        Ok((_, report)) | Err(report) => report,
    };
    // A pool of which no backend could be taken over is to be filled.
    let is_open = |problem: &str| {
        [
            "the pool has no [[pools.backends]]",
            "pools and no [[routes]]",
            "the file has no [[pools]]",
            "the file has no [[listeners]]",
            "clients would loop",
            // Files and folders are where the source was, and others may be here.
            "cannot read the",
            "the path is in use by a file that is not a socket",
            "certificates cannot be stored in",
        ]
        .iter()
        .any(|open| problem.contains(open))
            || problem.contains("the folder /") && problem.ends_with(" does not exist")
    };
    let errors = report.findings().iter().filter(|finding| finding.severity == Severity::Error);
    let problems = errors.filter(|finding| !is_open(&finding.problem));
    problems.map(ToString::to_string).collect()
}

#[test]
fn what_is_made_has_no_errors() {
    for (name, text, format) in sources() {
        let made = import(&text, &name, format).unwrap().text;
        let errors = errors(&made);
        assert!(errors.is_empty(), "{name}:\n{}", errors.join("\n"));
    }
}

/// What a source may say and a configuration refuses.
#[test]
fn what_a_configuration_refuses_is_not_written() {
    let upstream =
        |servers: &str| format!("upstream u {{ {servers} }}\nserver {{ location / {{ proxy_pass http://u; }} }}\n");
    let map = "map $request_uri $r { ~jsessionid=.+\\.(?P<r>\\w+)$ $r; }\n";
    let backend = |lines: &str| format!("backend app\n server a 10.0.0.1:80 maxconn 4294967296\n{lines}\n");
    for (text, format, written) in [
        (backend(""), Format::Haproxy, "max_requests = 1000000"),
        (
            backend("stick on req.cook(a)\nstick-table type string size 1000000000"),
            Format::Haproxy,
            "capacity = 100000000",
        ),
        (backend("balance hdr(Host)"), Format::Haproxy, "balance hdr(Host): Linchpin can hash only"),
        (upstream("server 10.0.0.1 max_conns=4294967296;"), Format::Nginx, "max_requests = 1000000"),
        (upstream("hash $http_upgrade; server 10.0.0.1;"), Format::Nginx, "hash $http_upgrade: Linchpin can hash only"),
        (
            map.to_owned()
                + &upstream(
                    "sticky route $r; server 10.0.0.1; server 10.0.0.2 route=a.b; server 10.0.0.3 \
                             route=a-b;",
                ),
            Format::Nginx,
            "route = \"a-b-2\"",
        ),
        (
            map.to_owned() + &upstream("sticky route $r; server 10.0.0.1 route=a;"),
            Format::Nginx,
            "cookie = \"JSESSIONID\"",
        ),
    ] {
        let made = import(&text, "source", format).unwrap().text;
        assert!(made.contains(written), "{text}\n---\n{made}");
        assert_eq!(errors(&made), [""; 0], "{text}\n---\n{made}");
    }
}

/// An entry point whose address is unknown gets one that no other has.
#[test]
fn a_made_up_address_is_not_that_of_another_listener() {
    let text = "entryPoints:
  web: { address: \":8080\" }
http:
  routers:
    a: { rule: PathPrefix(`/`), service: s, entryPoints: [web] }
    b: { rule: PathPrefix(`/b`), service: s, entryPoints: [other] }
  services:
    s: { loadBalancer: { servers: [{ url: \"http://10.0.0.1:8081\" }] } }
";
    let made = import(text, "traefik.yaml", Format::Traefik).unwrap().text;
    let addresses: Vec<_> = made.lines().filter(|line| line.starts_with("address")).collect();
    let expected =
        ["127.0.0.1:8082", "0.0.0.0:8080", "10.0.0.1:8081"].map(|address| format!("address = \"{address}\""));
    assert_eq!(addresses, expected, "{made}");
    assert_eq!(errors(&made), [""; 0], "{made}");
}

#[test]
fn a_cookie_name_that_a_configuration_refuses_is_not_taken_over() {
    let haproxy = "defaults
  mode http
frontend f
  bind 10.0.0.1:80
  default_backend app
backend app
  cookie ~ insert
  server a 10.0.0.2:80 cookie a
";
    let nginx = "http { upstream app { server 10.0.0.2:80; sticky cookie id~; }
server { listen 10.0.0.1:80; location / { proxy_pass http://app; } } }";
    let traefik = "http:
  routers:
    a: { rule: PathPrefix(`/`), service: s }
  services:
    s: { loadBalancer: { sticky: { cookie: { name: \"id~\" } }, servers: [{ url: \"http://10.0.0.2:80\" }] } }
";
    for (text, name, format) in [
        (haproxy, "haproxy.cfg", Format::Haproxy),
        (nginx, "nginx.conf", Format::Nginx),
        (traefik, "traefik.yaml", Format::Traefik),
    ] {
        let made = import(text, name, format).unwrap().text;
        assert_eq!(errors(&made), [""; 0], "{made}");
        assert!(made.contains('~'), "what is lost is named: {made}");
    }
}

/// What a backend's certificate has to be for is what it was, or the output says what to write.
#[test]
fn the_name_in_a_backend_certificate_is_taken_over_or_named() {
    let haproxy = |parameters: &str| {
        format!("backend app\n server a 10.0.0.1:443 ssl {parameters}\n server b 10.0.0.2:443 ssl {parameters}\n")
    };
    let nginx = |directives: &str| {
        format!(
            "upstream app {{ server 10.0.0.1:443; }}\nserver {{ location / {{ {directives} proxy_pass https://app; }} }}\n"
        )
    };
    let remedy = "set `server_name` in [pools.upstream.tls]";
    let varies = "`server_name` of [pools.upstream.tls] is the same for all requests";
    for (text, format, written, is_unknown) in [
        (haproxy("verify required ca-file ca.pem"), Format::Haproxy, remedy, true),
        (haproxy(""), Format::Haproxy, remedy, true),
        (haproxy("verify required ca-file ca.pem sni req.hdr(host)"), Format::Haproxy, remedy, true),
        (haproxy("verify required ca-file ca.pem verifyhost b.example"), Format::Haproxy, "= \"b.example\"", false),
        (haproxy("verify none"), Format::Haproxy, "verify = false", false),
        (nginx("proxy_ssl_verify on;"), Format::Nginx, "server_name = \"app\"", false),
        (nginx("proxy_ssl_verify on; proxy_ssl_name b.example;"), Format::Nginx, "server_name = \"b.example\"", false),
        (nginx("proxy_ssl_verify on; proxy_ssl_name $proxy_host;"), Format::Nginx, "server_name = \"app\"", false),
        (nginx("proxy_ssl_verify on; proxy_ssl_name $host;"), Format::Nginx, varies, false),
        (nginx("proxy_ssl_verify on; proxy_ssl_name 99;"), Format::Nginx, "proxy_ssl_name 99: not a host name", false),
        (nginx(""), Format::Nginx, "verify = false", false),
    ] {
        let made = import(&text, "source", format).unwrap().text;
        assert!(made.contains(written), "{text}\n---\n{made}");
        assert_eq!(made.matches(remedy).count(), usize::from(is_unknown), "{text}\n---\n{made}");
    }
}

/// Values that are at the edge of what is taken, or beyond.
const ODD: [&str; 30] = [
    "0",
    "1",
    "-1",
    "99999999999999999999",
    "4294967296",
    "1001",
    "0s",
    "1ms",
    "999y",
    "max",
    "*",
    "_",
    "/",
    "//",
    "/ü",
    "a b",
    "\"",
    "x;y",
    "__Host-a",
    "__Secure-b",
    "none",
    "None",
    ".example.com",
    "*.example.com",
    "http://10.0.0.1:80",
    "10.0.0.1:80",
    "[::]:80",
    "*:80",
    "name=a=b",
    "Host(`x.example`)",
];

/// A source with some of its words replaced, and lines repeated or taken out.
fn mutated() -> impl Strategy<Value = (String, String, Format)> {
    let sources = sources();
    let words: Vec<String> =
        sources.iter().flat_map(|(_, text, _)| text.split_whitespace().map(str::to_owned)).collect();
    let word = prop_oneof![prop::sample::select(words), prop::sample::select(&ODD[..]).prop_map(str::to_owned)];
    let change = (0..4_u8, any::<Index>(), any::<Index>(), word);
    (prop::sample::select(sources), prop::collection::vec(change, 1..12)).prop_map(|((name, text, format), changes)| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for (kind, at, other, word) in changes {
            let at = at.index(lines.len());
            match kind {
                0 => lines.insert(at, lines[other.index(lines.len())].clone()),
                1 if lines.len() > 1 => drop(lines.remove(at)),
                _ => {
                    let indent = lines[at].len() - lines[at].trim_start().len();
                    let mut parts: Vec<&str> = lines[at].split_whitespace().collect();
                    if !parts.is_empty() {
                        let index = other.index(parts.len());
                        parts[index] = &word;
                    }
                    lines[at] = format!("{}{}", " ".repeat(indent), parts.join(" "));
                }
            }
        }
        (name, elsewhere(lines.join("\n")), format)
    })
}

/// Replaces the addresses that this machine happens to have: the importer reads no interfaces, and a check does.
fn elsewhere(text: String) -> String {
    let here = local_addresses::interfaces().into_iter().filter(|ip| !ip.is_loopback());
    here.fold(text, |text, ip| text.replace(&ip.to_string(), "203.0.113.9"))
}

proptest! {
    #[test]
    fn whatever_is_made_has_no_errors((name, text, format) in mutated()) {
        if let Ok(made) = import(&text, &name, format) {
            let errors = errors(&made.text);
            prop_assert!(errors.is_empty(), "{text}\n---\n{}\n---\n{}", made.text, errors.join("\n"));
        }
    }
}

/// What nobody knows stands in the output, wherever it stood in the source.
#[test]
fn no_line_is_dropped() {
    let mut dropped = String::new();
    for (name, text, format) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        let strange = (0..=lines.len()).flat_map(|at| strange_at(&lines, at, &name, format));
        for (at, changed) in strange {
            // What can't be read is said in another way.
            let Ok(made) = import(&changed.join("\n"), &name, format) else { continue };
            let said = format!("# line {}: ", at + 1);
            // What may be a secret is left out, and what may stand there as it is becomes a value.
            let is_told = |line: &str| line.starts_with(&said) && (line.contains("zzz") || line.contains('…'));
            let is_value = |line: &str| !line.starts_with("# ") && line.contains("zzz\"");
            let is_said = made.text.lines().any(|line| is_told(line) || is_value(line));
            if !is_said {
                dropped += &format!("{name}:{}: {}\n", at + 1, changed[at]);
            }
        }
    }
    assert!(dropped.is_empty(), "\n{dropped}");
}

/// A source with a strange line at a place, or with a strange value in one; its index.
fn strange_at(lines: &[&str], at: usize, name: &str, format: Format) -> Vec<(usize, Vec<String>)> {
    let next = lines.get(at).copied().unwrap_or_default();
    let indent: String = next.chars().take_while(|c| *c == ' ').collect();
    let with = |line: String, replaced: usize| {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        changed.splice(at..at + replaced, [line]);
        (at, changed)
    };
    let is_comment = next.trim_start().starts_with('#');
    match format {
        Format::Haproxy => vec![with("zzz-unknown 1".into(), 0)],
        Format::Nginx => {
            let before = lines[..at]
                .iter()
                .rev()
                .map(|line| line.trim_end())
                .find(|line| !line.is_empty() && !line.starts_with('#'));
            let begins = before.is_none_or(|line| line.ends_with([';', '{', '}']));
            // In `types`, it would be a type of files.
            let is_type = lines[..at]
                .iter()
                .rfind(|line| line.contains(['{', '}']))
                .is_some_and(|line| line.starts_with("types"));
            if begins && !is_type { vec![with("zzz_unknown 1;".into(), 0)] } else { vec![] }
        }
        Format::IngressNginx if !is_of_ingress(lines, at) => vec![],
        Format::Traefik if is_comment => vec![],
        Format::Traefik if name.ends_with(".toml") => match next.split_once(" = ") {
            Some((key, _)) => vec![
                with(format!("{indent}zzz = 1"), 0),
                with(format!("{key} = {{ zzz = 1 }}"), 1),
                with(format!("{key} = [\"zzz\"]"), 1),
                with(format!("{key} = \"zzz\""), 1),
            ],
            None => vec![],
        },
        Format::Traefik | Format::IngressNginx => match next.split_once(':') {
            Some((key, value)) => {
                // In front of a key, and not of an item of a list.
                let key_of =
                    if next.contains("nginx.ingress.kubernetes.io/") { "nginx.ingress.kubernetes.io/" } else { "" };
                let mut strange = vec![with(format!("{indent}{key_of}zzz: 1"), 0)];
                strange.retain(|_| !next.trim_start().starts_with('-'));
                // An API server accepts no text with another kind of value.
                if !value.trim().is_empty() && format == Format::Traefik {
                    strange.extend([with(format!("{key}: {{ zzz: 1 }}"), 1), with(format!("{key}: [zzz]"), 1)]);
                }
                strange
            }
            None => vec![],
        },
    }
}

/// Whether a line is an annotation for ingress-nginx, or in the spec of an Ingress.
fn is_of_ingress(lines: &[&str], at: usize) -> bool {
    let begins = |line: &&str| line.starts_with("---") || line.starts_with("- ");
    let Some(next) = lines.get(at).filter(|line| !begins(line)) else { return false };
    let start = lines[..at].iter().rposition(begins).unwrap_or(0);
    let end = lines[at..].iter().position(begins).map_or(lines.len(), |after| at + after);
    let is_ingress = lines[start..end].iter().any(|line| line.trim() == "kind: Ingress");
    let is_section = |line: &&&str| ["metadata:", "spec:", "status:"].contains(&line.trim());
    let section = lines[start..at].iter().rfind(is_section).map_or("", |line| line.trim());
    is_ingress && (section == "spec:" || next.contains("nginx.ingress.kubernetes.io/"))
}

fn linchpin(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_linchpin")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn nothing_is_overwritten_unasked() {
    let folder = Folder::new();
    let source = folder.write(
        "haproxy.cfg",
        b"backend app\n server a 127.0.0.1:9001\n option forwardfor\n \
                                               nonsense\n",
    );
    let out = folder.write("linchpin.toml", b"precious");
    let refused = linchpin(&["import", &source, "-o", &out]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("--force"), "{}", said(&refused));
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    let itself = linchpin(&["import", &source, "-o", &source, "--force"]);
    assert_eq!(itself.status.code(), Some(1));
    assert!(std::fs::read_to_string(&source).unwrap().contains("nonsense"));
    let forced = linchpin(&["import", &source, "-o", &out, "--force"]);
    assert_eq!(forced.status.code(), Some(0), "{}", said(&forced));
    assert!(said(&forced).contains("1 line has no equivalent and is a comment; it can be run"), "{}", said(&forced));
    let shown = linchpin(&["import", &source]);
    assert_eq!(std::fs::read(&out).unwrap(), shown.stdout);
    assert!(linchpin(&["check", "-c", &out]).status.success());
}

#[test]
fn a_source_that_cannot_be_read_is_refused_with_its_line() {
    let folder = Folder::new();
    let broken = folder.write("nginx.conf", b"http {\n  server {\n");
    let output = linchpin(&["import", &broken]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nginx.conf: line 2: this block is not closed"), "{}", said(&output));
    assert!(output.stdout.is_empty());
    let unknown = folder.write("unknown", b"Dear reader\n");
    assert!(said(&linchpin(&["import", &unknown])).contains("--from"));
    assert!(said(&linchpin(&["import", &folder.file("nowhere.cfg")])).contains("nowhere.cfg"));
    assert_eq!(linchpin(&["import", &unknown, "--from", "apache"]).status.code(), Some(2));
}

/// A script that imports a file learns that the output lets more in than the source did, unless that is accepted.
#[test]
fn an_import_that_loses_a_restriction_fails_unless_that_is_accepted() {
    let folder = Folder::new();
    let source = |rule: &str| {
        let text = format!("frontend f\n bind :80\n {rule}\n default_backend b\nbackend b\n server a 127.0.0.1:9001\n");
        folder.write("haproxy.cfg", text.as_bytes())
    };
    let out = folder.file("out.toml");
    let import = |file: &str, more: &[&str]| linchpin(&[&["import", file, "-o", &out, "--force"], more].concat());
    let lost = source("http-request deny unless { req.hdr(X-Key) -m found }");
    let refused = import(&lost, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("--accept-losses"), "{}", said(&refused));
    // It was written all the same.
    assert!(std::fs::read_to_string(&out).unwrap().contains("#[[routes]]"));
    assert_eq!(import(&lost, &["--accept-losses"]).status.code(), Some(0));
    // A limit is no restriction, and a list is not lost.
    for rule in [
        "stick-table type ip size 1k store http_req_rate(10s)\n http-request track-sc0 src\n http-request deny if { sc_http_req_rate(0) gt 9 }",
        "option forwardfor",
        "http-request deny deny_status 429 if { sc_http_req_rate(0) gt 100 }",
        "http-request deny if { src 192.0.2.0/24 }",
    ] {
        let kept = import(&source(rule), &[]);
        assert_eq!(kept.status.code(), Some(0), "{rule}: {}", said(&kept));
    }
}
