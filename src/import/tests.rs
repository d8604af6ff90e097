//! Owns: the tests that all three formats pass.
//! Invariant: any text is refused or becomes valid TOML, without a panic.
//! Must not know: how a line is handled.

use proptest::prelude::*;

use super::{Format, ImportError, LONGEST, import};

const ALL: [Format; 4] = [Format::Haproxy, Format::Nginx, Format::IngressNginx, Format::Traefik];

/// Words, punctuation and line breaks of all three formats.
const TOKENS: [&str; 96] = [
    " ",
    " ",
    " ",
    "\n",
    "\n",
    "\n  ",
    "\n    ",
    "\t",
    "\"",
    "'",
    "\\",
    "#",
    "{",
    "}",
    ";",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "=",
    ",",
    "global",
    "defaults",
    "frontend f",
    "backend b",
    "listen l",
    "from d",
    "mode http",
    "mode tcp",
    "bind *:80",
    "acl a path_beg /x",
    "use_backend b if",
    "default_backend b",
    "a",
    "or",
    "server s 10.0.0.1:80",
    "server t x:1",
    "check",
    "cookie C insert",
    "prefix",
    "maxidle 1h",
    "stick on src",
    "stick-table type ip size 1m",
    "option httpchk",
    "timeout server 1m",
    "retries 99",
    "balance hdr(x)",
    "weight 5",
    "default-server inter 0",
    "http",
    "upstream u",
    "server",
    "listen 80",
    "listen [::]:80 ssl",
    "server_name x.example",
    "location /",
    "location = /",
    "proxy_pass http://u",
    "sticky",
    "learn",
    "route $a",
    "create=$cookie_a",
    "lookup=$http_b",
    "expires=1h",
    "ip_hash",
    "hash $uri",
    "max_fails=0",
    "map $cookie_a $a",
    "client_max_body_size 0",
    "include x",
    "keepalive 1",
    "http:",
    "routers",
    "services",
    "rule: Host(`a`)",
    "service: s",
    "loadBalancer",
    "servers",
    "url: http://1.2.3.4",
    "weighted",
    "sticky:",
    "cookie:",
    "maxAge: 1",
    "healthCheck:",
    "interval: 1s",
    "&x",
    "*x",
    "http.services.s",
    "é",
    "\u{0}",
    "\r",
    "99999999999999999999",
    "-1",
    "10.0.0.1:0",
    "__Host-x",
];

fn holds(text: &str) {
    for format in ALL {
        if let Ok(imported) = import(text, "a\nname", format) {
            let read = imported.text.parse::<::toml::Table>();
            assert!(read.is_ok(), "{format:?} of {text:?}:\n{}\n{read:?}", imported.text);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_or_become_toml(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        holds(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_words_are_refused_or_become_toml(words in prop::collection::vec(prop::sample::select(&TOKENS[..]), 0..60)) {
        holds(&words.concat());
        holds(&words.join(" "));
        holds(&words.join("\n"));
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let text = "#".repeat(LONGEST + 1);
    for format in ALL {
        assert_eq!(import(&text, "x", format), Err(ImportError::TooLong));
    }
    assert!(import(&text[1..], "x", Format::Nginx).is_ok());
}

#[test]
fn a_file_tells_whose_it_is() {
    for (name, text, format) in [
        ("haproxy.cfg", "", Some(Format::Haproxy)),
        ("lb.cfg", "", Some(Format::Haproxy)),
        ("nginx.conf", "", Some(Format::Nginx)),
        ("dynamic.yml", "", Some(Format::Traefik)),
        ("dynamic.toml", "", Some(Format::Traefik)),
        ("haproxy.conf", "", Some(Format::Haproxy)),
        ("site.conf", "# x\nupstream a {\n", Some(Format::Nginx)),
        ("site.conf", "upstream a { server 10.0.0.1; }\n", Some(Format::Nginx)),
        ("lb.conf", "frontend a\n  use_backend b if { path_beg /b }\n", Some(Format::Haproxy)),
        ("lb.conf", "global\n  daemon\n", Some(Format::Haproxy)),
        ("nginx.yaml", "apiVersion: networking.k8s.io/v1\nkind: Ingress\n", Some(Format::IngressNginx)),
        ("x", "items:\n- apiVersion: networking.k8s.io/v1\n  kind: Ingress\n", Some(Format::IngressNginx)),
        ("x", "http:\n  routers:\n", Some(Format::Traefik)),
        ("x", "[http.routers.a]\n", Some(Format::Traefik)),
        ("x", "Dear reader\n", None),
        ("x", "", None),
    ] {
        assert_eq!(Format::guess(name, text), format, "{name}: {text}");
    }
}

#[test]
fn a_refusal_says_where_and_what_to_do() {
    let refused = import("http {\n server {\n", "nginx.conf", Format::Nginx).unwrap_err().to_string();
    assert!(refused.starts_with("line 2: this block is not closed") && refused.contains("nginx -t"), "{refused}");
}
