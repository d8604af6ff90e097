//! Owns: the syntax of an nginx.conf: words, quotes, escapes, comments, blocks.
//! Invariant: a syntax error names its line; the nesting of blocks is bounded.
//! Must not know: what a word means.

use super::super::source::{DEEPEST, SyntaxError};

/// A directive, with its block.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Directive {
    /// The line of its first word, from 1. Several directives may share it.
    pub(super) line: usize,
    /// The offset of its first byte, which is unique.
    pub(super) at: usize,
    pub(super) words: Vec<String>,
    /// The source text up to `;` or `{`.
    pub(super) text: String,
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    /// Returns a word; an empty one if there are fewer.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// Returns the words from `index` on.
    pub(super) fn from(&self, index: usize) -> &[String] {
        self.words.get(index..).unwrap_or_default()
    }

    /// Returns the directives of its block.
    pub(super) fn inside(&self) -> &[Directive] {
        self.block.as_deref().unwrap_or_default()
    }
}

/// Parses a whole file.
pub(super) fn directives(text: &str) -> Result<Vec<Directive>, SyntaxError> {
    directives_from(text, 0, 1)
}

/// Parses a text from an offset on, which is in this line.
pub(super) fn directives_from(text: &str, at: usize, line: usize) -> Result<Vec<Directive>, SyntaxError> {
    let mut reader = Reader { text, at, line };
    // The open blocks: the directive of each, and the directives before it.
    let mut open: Vec<(Directive, Vec<Directive>)> = Vec::new();
    let mut current: Vec<Directive> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut start = (0, 1);
    loop {
        let token = reader.token()?;
        let end = reader.at;
        if words.is_empty() {
            start = (token.start, token.line);
        }
        let directive = |words: &mut Vec<String>| Directive {
            line: start.1,
            at: start.0,
            words: std::mem::take(words),
            text: text.get(start.0..end).unwrap_or_default().trim_end_matches([';', '{']).trim().into(),
            block: None,
        };
        match token.kind {
            Kind::Word(word) => words.push(word),
            Kind::Semicolon if words.is_empty() => {
                return Err(SyntaxError::new(token.line, "a `;` without a directive"));
            }
            Kind::Semicolon => current.push(directive(&mut words)),
            Kind::Open if words.is_empty() => return Err(SyntaxError::new(token.line, "a block without a name")),
            Kind::Open if open.len() >= DEEPEST => return Err(SyntaxError::too_deep(token.line)),
            Kind::Open => {
                let mut opened = directive(&mut words);
                if opened.word(0).ends_with("_by_lua_block") {
                    reader.skip_block(opened.line)?;
                    opened.block = Some(Vec::new());
                    current.push(opened);
                } else {
                    open.push((opened, std::mem::take(&mut current)));
                }
            }
            Kind::Close if !words.is_empty() => {
                return Err(SyntaxError::new(token.line, "a `;` is missing before `}`"));
            }
            Kind::Close => {
                let Some((mut opened, outside)) = open.pop() else {
                    return Err(SyntaxError::new(token.line, "this `}` closes no block"));
                };
                opened.block = Some(std::mem::replace(&mut current, outside));
                current.push(opened);
            }
            Kind::End => break,
        }
    }
    if let Some((opened, _)) = open.last() {
        return Err(SyntaxError::new(opened.line, "this block is not closed"));
    }
    match words.is_empty() {
        true => Ok(current),
        false => Err(SyntaxError::new(start.1, "a `;` is missing")),
    }
}

struct Token {
    start: usize,
    line: usize,
    kind: Kind,
}

enum Kind {
    Word(String),
    Semicolon,
    Open,
    Close,
    End,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn token(&mut self) -> Result<Token, SyntaxError> {
        self.skip_blanks();
        let (start, line) = (self.at, self.line);
        let kind = match self.peek() {
            None => Kind::End,
            Some(';') => self.single(Kind::Semicolon),
            Some('{') => self.single(Kind::Open),
            Some('}') => self.single(Kind::Close),
            Some(quote @ ('"' | '\'')) => {
                self.next();
                Kind::Word(self.quoted(quote, line)?)
            }
            Some(_) => Kind::Word(self.bare()),
        };
        Ok(Token { start, line, kind })
    }

    fn single(&mut self, kind: Kind) -> Kind {
        self.next();
        kind
    }

    fn skip_blanks(&mut self) {
        while let Some(c) = self.peek() {
            if c == '#' {
                while self.peek().is_some_and(|c| c != '\n') {
                    self.next();
                }
            } else if c.is_whitespace() || c == '\u{feff}' {
                self.next();
            } else {
                break;
            }
        }
    }

    fn quoted(&mut self, quote: char, line: usize) -> Result<String, SyntaxError> {
        let mut word = String::new();
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escaped(&mut word),
                c if c == quote => return Ok(word),
                c => word.push(c),
            }
        }
        Err(SyntaxError::new(line, format!("a {quote} is not closed")))
    }

    /// Parses a word without quotes; `${name}` is part of a word.
    fn bare(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek() {
            match c {
                ';' | '}' => break,
                '{' if word.ends_with('$') => {
                    while let Some(c) = self.peek().filter(|c| !c.is_whitespace() && !";{".contains(*c) || *c == '{') {
                        self.next();
                        word.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                }
                '{' => break,
                c if c.is_whitespace() => break,
                '\\' => {
                    self.next();
                    self.escaped(&mut word);
                }
                c => {
                    self.next();
                    word.push(c);
                }
            }
        }
        word
    }

    /// Adds an escaped character. Most escapes belong to regular expressions, and stay.
    fn escaped(&mut self, word: &mut String) {
        match self.next() {
            Some(c @ ('"' | '\'' | '\\')) => word.push(c),
            Some('t') => word.push('\t'),
            Some('r') => word.push('\r'),
            Some('n') => word.push('\n'),
            Some(c) => word.extend(['\\', c]),
            None => word.push('\\'),
        }
    }

    /// Skips a block in another language, up to its closing brace.
    fn skip_block(&mut self, line: usize) -> Result<(), SyntaxError> {
        let mut depth = 1_usize;
        while let Some(c) = self.next() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(SyntaxError::new(line, "this block is not closed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        directives(text).unwrap().remove(0).words
    }

    #[test]
    fn words_are_quoted_and_escaped() {
        assert_eq!(words("a  b\n\tc ; # d\n"), ["a", "b", "c"]);
        assert_eq!(words(r#"a "b;{ c" 'd "e' "f\"g" h\;;"#), ["a", "b;{ c", "d \"e", "f\"g", "h\\;"]);
        assert_eq!(words("a ${b}c $d#e;"), ["a", "${b}c", "$d#e"]);
        assert_eq!(words(r"location ~ \.php$ {}"), ["location", "~", r"\.php$"]);
    }

    #[test]
    fn blocks_lie_in_each_other() {
        let read = directives("a;\nb c {\n  d e\n    f;\n  g {}\n}\nh;").unwrap();
        let shape: Vec<_> = read.iter().map(|each| (each.line, each.text.as_str(), each.inside().len())).collect();
        assert_eq!(shape, [(1, "a", 0), (2, "b c", 2), (7, "h", 0)]);
        assert_eq!(read[1].inside()[0].words, ["d", "e", "f"]);
        assert_eq!(read[1].inside()[1].block, Some(vec![]));
    }

    #[test]
    fn lua_is_passed_over() {
        let read = directives("content_by_lua_block {\n if x then y = {1} end\n}\na;").unwrap();
        assert_eq!((read[0].word(0), read[1].line), ("content_by_lua_block", 4));
    }

    #[test]
    fn what_does_not_end_is_refused_where_it_begins() {
        for (text, line) in [
            ("a;\nb {\n c;\n", 2),
            ("a;\nb", 2),
            ("a \"b", 1),
            ("a;\n}", 2),
            ("a { b }", 1),
            (";", 1),
            ("{}", 1),
            ("x_by_lua_block { {", 1),
            (&"a {\n".repeat(65), 65),
        ] {
            assert_eq!(directives(text).unwrap_err().line, line, "{text}");
        }
        assert!(directives(&("a {".repeat(64) + &"}".repeat(64))).is_ok());
    }
}
