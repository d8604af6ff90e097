//! Owns: the conversion of `return`, `rewrite` and `if`.
//! Invariant: a redirect is converted as a whole or not at all.
//! Must not know: servers, locations.

use super::super::grammar;
use super::super::route::Redirect;
use super::syntax::Directive;

/// Returns whether a directive refuses requests: `return 403;` and the like. A 429 is about a rate.
pub(super) fn refuses(directive: &Directive) -> bool {
    let status = directive.word(1).parse::<u16>().ok();
    directive.word(0) == "return" && status.is_some_and(|status| (400..500).contains(&status) && status != 429)
}

/// Converts `return 301 URL;` or `rewrite ^ URL permanent;`; `name` is the server's first name.
pub(super) fn read(directive: &Directive, name: Option<&str>) -> Option<Redirect> {
    const SAME: [&str; 3] = ["$http_host", "$host", "$server_name"];
    const REST: [&str; 2] = ["$request_uri", "$uri$is_args$args"];
    let (url, rest, status) = match (directive.word(0), &directive.words[..]) {
        ("return", [_, url]) => (url.as_str(), &REST[..], 302),
        ("return", [_, code, url]) => (url.as_str(), &REST[..], code.parse().ok()?),
        ("rewrite", [_, pattern, url, flag]) => {
            let status = match flag.as_str() {
                "permanent" => 301,
                "redirect" => 302,
                _ => return None,
            };
            let rest: &[&str] = match pattern.as_str() {
                "^" | ".*" | "^.*$" => &["$request_uri?", "$request_uri"],
                "^(.*)$" | "^(.*)" | "(.*)" | "^/?(.*)$" => &["$1", "/$1", "$request_uri?"],
                "^/(.*)$" | "^/(.*)" => &["/$1", "$request_uri?"],
                _ => return None,
            };
            (url.as_str(), rest, status)
        }
        _ => return None,
    };
    let mut redirect = Redirect::read(url, &SAME, rest, status)?;
    if url.contains("$server_name") {
        redirect.host = name.filter(|name| !name.starts_with('*')).map(str::to_owned);
    }
    Some(redirect)
}

/// The condition of an `if`.
pub(super) enum If {
    ClearText,
    Host(String),
}

/// Converts `if ($scheme = http)` and `if ($host = name)`.
pub(super) fn condition(directive: &Directive) -> Option<If> {
    let text = directive.from(1).join(" ");
    let inside = text.strip_prefix('(')?.strip_suffix(')')?.trim();
    match inside {
        "$scheme = http" | "$scheme != https" | "$https = " | "$https != on" | "$https !~ on" | "$scheme ~ ^http$" => {
            Some(If::ClearText)
        }
        _ => {
            let name = inside.strip_prefix("$host = ").or_else(|| inside.strip_prefix("$http_host = "))?;
            grammar::host(name).filter(|host| !host.starts_with('*')).map(If::Host)
        }
    }
}

/// Returns the path prefix that `rewrite ^/app/(.*)$ /$1 break;` removes.
pub(super) fn stripped(directive: &Directive) -> Option<String> {
    let [_, pattern, put, flag] = &directive.words[..] else { return None };
    let pattern = pattern.strip_prefix('^')?.trim_end_matches('$');
    let ends = [("/(.*)", "/$1"), ("/?(.*)", "/$1"), ("(/.*)", "$1"), ("(/|$)(.*)", "/$2")];
    let prefix = ends.iter().find_map(|(end, wanted)| pattern.strip_suffix(end).filter(|_| put == wanted))?;
    let is_plain = prefix.len() > 1 && prefix.chars().all(|c| c.is_ascii_alphanumeric() || "/-_".contains(c));
    (directive.word(0) == "rewrite" && flag == "break" && is_plain).then(|| grammar::prefix(prefix)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::syntax::directives;
    use super::*;

    fn directive(text: &str) -> Directive {
        directives(text).unwrap().remove(0)
    }

    #[test]
    fn where_a_return_leads_is_read_or_refused() {
        let to_https = Redirect::to_scheme("https", 301);
        for text in [
            "return 301 https://$host$request_uri;",
            "rewrite ^ https://$host$request_uri? permanent;",
            "rewrite ^(.*)$ https://$host$1 permanent;",
        ] {
            assert_eq!(read(&directive(text), None), Some(to_https.clone()), "{text}");
        }
        let named = read(&directive("return 301 https://$server_name$request_uri;"), Some("a.example")).unwrap();
        assert_eq!(named.host.as_deref(), Some("a.example"));
        for text in ["return 404;", "return 200 ok;", "return 301 https://$other/;", "rewrite ^/a /b last;"] {
            assert_eq!(read(&directive(text), None), None, "{text}");
        }
        for (text, is_refusal) in [
            ("return 403;", true),
            ("return 405;", true),
            ("return 444;", true),
            ("return 429;", false),
            ("return 301 /x;", false),
        ] {
            assert_eq!(refuses(&directive(text)), is_refusal, "{text}");
        }
    }

    #[test]
    fn a_stripped_prefix_is_read_or_refused() {
        for (text, read) in [
            ("rewrite ^/app/(.*)$ /$1 break;", Some("/app")),
            ("rewrite ^/app(/.*)$ $1 break;", Some("/app")),
            ("rewrite ^/app/(.*)$ /$1 last;", None),
            ("rewrite ^/a.b/(.*)$ /$1 break;", None),
            ("rewrite ^/app/(.*)$ /x/$1 break;", None),
        ] {
            assert_eq!(stripped(&directive(text)).as_deref(), read, "{text}");
        }
    }
}
