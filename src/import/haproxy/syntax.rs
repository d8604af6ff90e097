//! Owns: the syntax of an haproxy.cfg: words, quotes, escapes, comments, continued lines, sections.
//! Invariant: every statement is in exactly one section; a syntax error names its line.
//! Must not know: what a word means.

use super::super::source::SyntaxError;
use super::super::toml::Table;

/// A section: its header and the statements below it.
#[derive(Debug, PartialEq)]
pub(super) struct Section {
    pub(super) header: Statement,
    pub(super) statements: Vec<Statement>,
}

/// A line of words.
#[derive(Debug, PartialEq, Clone)]
pub(super) struct Statement {
    /// The number of its first line, from 1.
    pub(super) line: usize,
    pub(super) words: Vec<String>,
    /// The source text, without its comment.
    pub(super) text: String,
}

impl Statement {
    /// Returns a word; an empty one if there are fewer.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// Returns the words from `index` on.
    pub(super) fn from(&self, index: usize) -> &[String] {
        self.words.get(index..).unwrap_or_default()
    }
}

/// Notes all lines of a section that has no equivalent.
pub(super) fn note_whole(header: &Statement, statements: &[Statement], why: &str, notes: &mut Table) {
    notes.unsupported(header.line, &header.text, why);
    for statement in statements {
        notes.unsupported(statement.line, &statement.text, format!("belongs to line {}", header.line));
    }
}

const SECTIONS: [&str; 20] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "mailers",
    "cache",
    "userlist",
    "program",
    "http-errors",
    "ring",
    "log-forward",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
    "log-profile",
    "healthcheck",
];

/// Parses all sections. Lines before the first one are in a section without a header.
pub(super) fn sections(text: &str) -> Result<Vec<Section>, SyntaxError> {
    let mut sections: Vec<Section> = Vec::new();
    for statement in statements(text)? {
        if SECTIONS.contains(&statement.word(0)) {
            sections.push(Section { header: statement, statements: Vec::new() });
            continue;
        }
        match sections.last_mut() {
            Some(section) => section.statements.push(statement),
            None => {
                let header = Statement { line: statement.line, words: Vec::new(), text: String::new() };
                sections.push(Section { header, statements: vec![statement] });
            }
        }
    }
    Ok(sections)
}

fn statements(text: &str) -> Result<Vec<Statement>, SyntaxError> {
    let mut statements = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let mut reader = Reader::default();
        reader.read(line);
        while reader.goes_on {
            let Some((_, line)) = lines.next() else { break };
            reader.read(line);
        }
        if let Some(quote) = reader.quote {
            return Err(SyntaxError::new(number, format!("a {quote} is not closed")));
        }
        reader.end_word();
        if !reader.words.is_empty() {
            statements.push(Statement { line: number, words: reader.words, text: reader.text.trim().into() });
        }
    }
    Ok(statements)
}

#[derive(Default)]
struct Reader {
    words: Vec<String>,
    text: String,
    word: Option<String>,
    quote: Option<char>,
    goes_on: bool,
}

impl Reader {
    fn read(&mut self, line: &str) {
        self.goes_on = false;
        let mut end = line.len();
        let mut chars = line.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            match (self.quote, c) {
                (None | Some('"'), '\\') => match chars.next() {
                    // Other escapes belong to regular expressions, and stay.
                    Some((_, escaped)) => match unescaped(escaped) {
                        Some(c) => self.push(c),
                        None => {
                            self.push('\\');
                            self.push(escaped);
                        }
                    },
                    None => {
                        self.goes_on = true;
                        end = at;
                    }
                },
                (Some(quote), c) if c == quote => self.quote = None,
                (Some(_), c) => self.push(c),
                (None, '"' | '\'') => {
                    self.quote = Some(c);
                    self.word.get_or_insert_default();
                }
                (None, '#') => {
                    end = at;
                    break;
                }
                (None, c) if c.is_whitespace() => self.end_word(),
                (None, c) => self.push(c),
            }
        }
        self.text.push_str(line.get(..end).unwrap_or_default());
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }
}

/// Returns the character that a backslash and `c` stand for.
fn unescaped(c: char) -> Option<char> {
    match c {
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        '\\' | '"' | '\'' | '#' | '$' => Some(c),
        c if c.is_whitespace() => Some(c),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Vec<String>> {
        statements(text).unwrap().into_iter().map(|statement| statement.words).collect()
    }

    #[test]
    fn words_are_quoted_and_escaped() {
        assert_eq!(words("  a  b\tc # d\n\n# e\n"), [["a", "b", "c"]]);
        assert_eq!(words(r#"a "b c" 'd "e' f\ g "h\"i" j\#k"#), [["a", "b c", "d \"e", "f g", "h\"i", "j#k"]]);
        assert_eq!(words("a ''"), [["a", ""]]);
        assert_eq!(words(r"a ^/b\.c /\1"), [["a", r"^/b\.c", r"/\1"]]);
        assert_eq!(words("a b'c d'e"), [["a", "bc de"]]);
        assert_eq!(words("option httpchk GET / HTTP/1.1\\r\\nHost:\\ x")[0][4], "HTTP/1.1\r\nHost: x");
    }

    #[test]
    fn a_line_may_go_on() {
        let read = statements("a \\\n  b # c\nd").unwrap();
        assert_eq!((read[0].line, &read[0].words[..]), (1, &["a".to_owned(), "b".to_owned()][..]));
        assert_eq!((read[1].line, read[1].text.as_str()), (3, "d"));
        assert_eq!(words("a \\"), [["a"]]);
    }

    #[test]
    fn an_open_quote_is_refused_where_it_stands() {
        assert_eq!(statements("a\nb \"c\n").unwrap_err().line, 2);
        assert_eq!(statements("'").unwrap_err().line, 1);
    }

    #[test]
    fn sections_begin_with_their_word() {
        let read = sections("stray\nglobal\n daemon\n\nbackend app # x\n server a\n server b\n").unwrap();
        let shape: Vec<_> =
            read.iter().map(|section| (section.header.text.as_str(), section.statements.len())).collect();
        assert_eq!(shape, [("", 1), ("global", 1), ("backend app", 2)]);
    }
}
