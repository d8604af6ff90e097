//! Owns: the conversion of `error_page`, where it shows a file.
//! Invariant: a page that a backend or another server has is no file.
//! Must not know: pools, routes.

use super::super::grammar;
use super::syntax::Directive;

/// The page of an `error_page`: its statuses, its file, and the location that serves it.
pub(super) struct Page {
    pub(super) statuses: Vec<u16>,
    pub(super) file: String,
    pub(super) location: Option<usize>,
}

/// The `error_page` directives that apply in a block.
#[derive(Clone, Default)]
pub(super) struct Pages<'d>(Vec<&'d Directive>);

impl<'d> Pages<'d> {
    /// Returns those that apply in a nested block: a block with some inherits none.
    pub(super) fn inside(&self, block: &'d [Directive]) -> Pages<'d> {
        let own: Vec<_> = block.iter().filter(|each| each.word(0) == "error_page").collect();
        if own.is_empty() { self.clone() } else { Pages(own) }
    }

    /// Returns each directive, and its page, or why it has no equivalent. `around` are the blocks that it is used in, from
    /// `http` on.
    pub(super) fn read(
        &self,
        around: &[&'d [Directive]],
    ) -> impl Iterator<Item = (&'d Directive, Result<Page, &'static str>)> {
        self.0.iter().map(|each| (*each, page(each, around)))
    }
}

/// Returns whether a directive only says which file a location serves, and how.
pub(super) fn belongs(word: &str) -> bool {
    matches!(word, "root" | "alias" | "try_files" | "rewrite" | "access_log" | "log_not_found" | "expires")
}

/// Reads `error_page 500 502 503 504 /50x.html`.
fn page(directive: &Directive, around: &[&[Directive]]) -> Result<Page, &'static str> {
    let words = directive.from(1);
    let (uri, codes) = words.split_last().ok_or("it names no page")?;
    let statuses: Vec<u16> = codes.iter().filter_map(|code| code.parse().ok()).collect();
    if codes.iter().any(|code| code.starts_with('=')) {
        return Err("Linchpin keeps the status of an error");
    }
    if uri.contains("://") {
        return Err("Linchpin responds to errors with a page, and redirects none");
    }
    let locations = around.iter().flat_map(|block| block.iter()).filter(|each| each.word(0) == "location");
    let location = match uri.starts_with('@') {
        true => locations.clone().find(|each| each.word(1) == uri),
        false => {
            let exact = locations.clone().find(|each| each.word(1) == "=" && each.word(2) == uri);
            let prefix = |each: &&Directive| {
                let path = if each.word(1) == "^~" { each.word(2) } else { each.word(1) };
                path.starts_with('/') && uri.starts_with(path)
            };
            let longest = locations.filter(prefix).max_by_key(|each| each.words.last().map_or(0, String::len));
            exact.or(longest)
        }
    };
    let is_forwarding = |each: &Directive| matches!(each.word(0), "proxy_pass" | "grpc_pass" | "return");
    if location.is_some_and(|location| location.inside().iter().any(is_forwarding)) {
        return Err("the page comes from a server, and Linchpin reads pages from files");
    }
    let inside = location.map(Directive::inside).unwrap_or_default();
    let path = match uri.strip_prefix('@') {
        Some(_) => inside.iter().find_map(shown).ok_or("its location names no file")?,
        None => uri.as_str(),
    };
    let alias = inside.iter().rfind(|each| each.word(0) == "alias").map(|each| each.word(1));
    let blocks = std::iter::once(inside).chain(around.iter().rev().copied());
    let root = blocks.flatten().find(|each| each.word(0) == "root").map(|each| each.word(1));
    let file = match (alias, root) {
        (Some(alias), _) => {
            let own = location.and_then(|location| location.words.last()).map_or("", String::as_str);
            format!("{alias}{}", path.strip_prefix(own).unwrap_or_default())
        }
        (None, Some(root)) => format!("{}{path}", root.trim_end_matches('/')),
        (None, None) => return Err("its folder is nginx's default one: name the file in `error` of [pools.pages]"),
    };
    if !file.starts_with('/') {
        return Err("its folder is relative to that of nginx: name the file in `error` of [pools.pages]");
    }
    let file = grammar::file(&file).filter(|file| !file.contains('$')).ok_or("its file depends on the request")?;
    Ok(Page { statuses, file, location: location.map(|location| location.at) })
}

/// Returns the path that `try_files /x.html =503` or `rewrite ^ /x.html break` shows for every request.
fn shown(directive: &Directive) -> Option<&str> {
    let path = match (directive.word(0), &directive.words[..]) {
        ("try_files", [_, path, ..]) => path,
        ("rewrite", [_, pattern, path, flag])
            if flag == "break" && ["^", "^(.*)$", "^.*$", ".*"].contains(&pattern.as_str()) =>
        {
            path
        }
        _ => return None,
    };
    Some(path.as_str()).filter(|path| path.starts_with('/') && !path.contains('$'))
}

#[cfg(test)]
mod tests {
    use super::super::syntax::directives;
    use super::*;

    fn file(text: &str) -> Option<String> {
        let server = directives(text).unwrap();
        let around = [&server[..]];
        let pages = Pages::default().inside(&server);
        let mut read = pages.read(&around);
        read.next().unwrap().1.ok().map(|page| page.file)
    }

    #[test]
    fn a_page_is_a_file_or_nothing() {
        for (text, expected) in [
            (
                "error_page 502 /50x.html; location = /50x.html { root /usr/share/nginx/html; }",
                Some("/usr/share/nginx/html/50x.html"),
            ),
            (
                "error_page 502 /e/50x.html; location /e/ { alias /srv/errors/; internal; }",
                Some("/srv/errors/50x.html"),
            ),
            (
                "root /srv/; error_page 503 @down; location @down { rewrite ^(.*)$ /down.html break; }",
                Some("/srv/down.html"),
            ),
            ("root /srv; error_page 503 @down; location @down { try_files /down.html =503; }", Some("/srv/down.html")),
            ("error_page 502 /50x.html; location = /50x.html { root html; }", None),
            ("error_page 502 /50x.html; location / { proxy_pass http://app; }", None),
            ("error_page 502 =200 /50x.html; root /srv;", None),
            ("error_page 502 https://status.example.com/; root /srv;", None),
            ("error_page 502 /$status.html; root /srv;", None),
            ("error_page 502 @down; root /srv; location @down { return 503 busy; }", None),
        ] {
            assert_eq!(file(text).as_deref(), expected, "{text}");
        }
    }
}
