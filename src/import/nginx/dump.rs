//! Owns: the output of `nginx -T`, in which all files follow each other, and what their includes stand for.
//! Invariant: a directive has the line that it has in the dump; the result is bounded, however files include each other.
//! Must not know: what a directive means, but for `include`.

use super::super::source::{DEEPEST, SyntaxError};
use super::syntax::{self, Directive};

/// The beginning of the line before each file.
const MARK: &str = "# configuration file ";
/// The most directives that includes may add.
const MOST: usize = 100_000;

/// A file of a dump.
struct File<'t> {
    path: &'t str,
    directives: Vec<Directive>,
}

/// Parses an nginx.conf, or what `nginx -T` prints of one.
pub(super) fn directives(text: &str) -> Result<Vec<Directive>, SyntaxError> {
    let mut starts: Vec<(&str, usize, usize)> = Vec::new();
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        at += line.len();
        if let Some(path) = line.trim_end().strip_prefix(MARK).and_then(|path| path.strip_suffix(':')) {
            starts.push((path, at, index + 2));
        }
    }
    if starts.is_empty() {
        return syntax::directives(text);
    }
    // nginx's own messages, if they were written into the same file.
    let first = starts.first().map_or(0, |(_, _, line)| line.saturating_sub(2));
    let is_message = |line: &str| line.trim().is_empty() || line.starts_with('#') || line.starts_with("nginx:");
    if let Some(line) = text.lines().take(first).position(|line| !is_message(line)) {
        return Err(SyntaxError::new(line + 1, "this is before the first file of what nginx -T prints"));
    }
    let mut files: Vec<File<'_>> = Vec::new();
    for (index, (path, at, line)) in starts.iter().enumerate() {
        let end = starts.get(index + 1).map_or(text.len(), |(_, next, _)| *next);
        let text = text.get(..end).unwrap_or(text);
        files.push(File { path, directives: syntax::directives_from(text, *at, *line)? });
    }
    let Some(main) = files.first() else { return Ok(Vec::new()) };
    let mut left = MOST;
    Ok(expand(&main.directives, main.path, &files, 0, &mut left))
}

/// Returns directives with the files that they include in the place of each `include`; those that the dump lacks stay.
fn expand(all: &[Directive], main: &str, files: &[File<'_>], depth: usize, left: &mut usize) -> Vec<Directive> {
    let mut expanded = Vec::new();
    for directive in all {
        let pattern = absolute(directive.word(1), main);
        let is_include = directive.word(0) == "include" && depth < DEEPEST;
        let mut included: Vec<&File<'_>> =
            files.iter().filter(|file| is_include && matches(&pattern, file.path)).collect();
        included.sort_by_key(|file| file.path);
        // What types files have concerns only servers of files.
        let is_types =
            |file: &File<'_>| !file.directives.is_empty() && file.directives.iter().all(|each| each.word(0) == "types");
        included.retain(|file| !is_types(file));
        for file in &included {
            let size = file.directives.len();
            if *left >= size {
                *left -= size;
                expanded.extend(expand(&file.directives, main, files, depth + 1, left));
            }
        }
        if included.is_empty()
            && !files.iter().any(|file| is_include && file.directives.is_empty() && matches(&pattern, file.path))
        {
            let block = directive.block.as_ref().map(|block| expand(block, main, files, depth + 1, left));
            expanded.push(Directive { block, ..directive.clone() });
        }
    }
    expanded
}

/// Returns a path that may be relative to the folder of the main file.
fn absolute(path: &str, main: &str) -> String {
    match main.rsplit_once('/') {
        Some((folder, _)) if !path.starts_with('/') => format!("{folder}/{path}"),
        _ => path.into(),
    }
}

/// Returns whether a path matches a pattern, in which `*` and `?` stand for anything within a segment.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, path) = (pattern.as_bytes(), path.as_bytes());
    let (mut at, mut in_path) = (0, 0);
    // The last star, and where what it stands for ends.
    let mut star: Option<(usize, usize)> = None;
    while in_path < path.len() {
        match (pattern.get(at), path.get(in_path), star) {
            (Some(b'*'), ..) => {
                star = Some((at, in_path));
                at += 1;
            }
            (Some(want), Some(have), _) if want == have || (*want == b'?' && *have != b'/') => {
                at += 1;
                in_path += 1;
            }
            (_, _, Some((begin, end))) if path.get(end) != Some(&b'/') => {
                star = Some((begin, end + 1));
                (at, in_path) = (begin + 1, end + 1);
            }
            _ => return false,
        }
    }
    pattern.get(at..).unwrap_or_default().iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything_within_a_segment() {
        for (pattern, path, is_match) in [
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf", true),
            ("/etc/nginx/conf.d/*.conf", "/etc/nginx/conf.d/a.conf.bak", false),
            ("/etc/nginx/*.conf", "/etc/nginx/conf.d/a.conf", false),
            ("/etc/nginx/sites-enabled/*", "/etc/nginx/sites-enabled/shop", true),
            ("/etc/nginx/proxy_params", "/etc/nginx/proxy_params", true),
            ("/a/?.conf", "/a/b.conf", true),
            ("/a/?.conf", "/a/bb.conf", false),
            ("/a/*b*c", "/a/xbbxc", true),
            ("", "/a", false),
        ] {
            assert_eq!(matches(pattern, path), is_match, "{pattern} {path}");
        }
    }

    #[test]
    fn an_include_becomes_what_the_dump_has_of_it() {
        let dump = "nginx: ok\n# configuration file /etc/nginx/nginx.conf:\nhttp { include conf.d/*.conf; include mime.types; include gone; }\n\
                    # configuration file /etc/nginx/mime.types:\ntypes { a b; }\n\
                    # configuration file /etc/nginx/conf.d/a.conf:\nserver { include /etc/nginx/loop; }\n\
                    # configuration file /etc/nginx/loop:\nlisten 80;\ninclude loop;\n";
        let all = directives(dump).unwrap();
        let words = |all: &[Directive]| all.iter().map(|each| each.word(0).to_owned()).collect::<Vec<_>>();
        let http = all[0].inside();
        assert_eq!(words(http), ["server", "include", "include"]);
        assert_eq!((http[0].line, http[0].inside()[0].line, http[0].inside()[0].word(0)), (7, 9, "listen"));
        assert!(http[0].inside().len() <= DEEPEST + 1);
    }
}
