//! The pages for operators, taken apart: blocks of code, code in running text, links and headings.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::authority::Authority;
use super::repository::{files, read};
use super::tool::Folder;

/// A page.
pub struct Page {
    pub file: String,
    text: String,
}

/// A block of code between two fences.
#[derive(Debug)]
pub struct Block {
    /// The page and the line of the block, for messages.
    pub place: String,
    pub language: String,
    pub text: String,
}

impl Block {
    /// The command lines of a block of commands, in which a `console` marks them by `$ `.
    pub fn script(&self) -> String {
        if self.language != "console" {
            return self.text.clone();
        }
        let commands = self.text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
        commands.map(|line| format!("{line}\n")).collect()
    }
}

/// Returns the README and the pages of `docs/`.
pub fn pages() -> Vec<Page> {
    let pages = files("docs").into_iter().filter(|file| file.ends_with(".md"));
    [String::from("README.md")].into_iter().chain(pages).map(|file| Page::new(&file)).collect()
}

impl Page {
    pub fn new(file: &str) -> Page {
        Page { file: file.into(), text: read(file) }
    }

    /// The blocks of code, without the indentation that a list gives them.
    pub fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open): (Vec<Block>, _) = (Vec::new(), false);
        for (number, line) in self.text.lines().enumerate() {
            match (line.trim_start().strip_prefix("```"), blocks.last_mut()) {
                (Some(_), _) if open => open = false,
                (Some(language), _) => {
                    open = true;
                    let place = format!("{}:{}", self.file, number + 1);
                    blocks.push(Block { place, language: language.trim().into(), text: String::new() });
                }
                (None, Some(block)) if open => {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                _ => {}
            }
        }
        assert!(!open, "{} has a fence that is not closed", self.file);
        blocks
    }

    /// The text outside of blocks of code and of comments.
    pub fn prose(&self) -> String {
        let (mut prose, mut is_code) = (String::new(), false);
        for line in self.text.lines() {
            let is_fence = line.trim_start().starts_with("```");
            is_code ^= is_fence;
            if !is_code && !is_fence && !line.starts_with("<!--") {
                prose.push_str(line);
                prose.push('\n');
            }
        }
        prose
    }

    /// The pieces of code in running text: what is between two runs of as many backticks.
    pub fn spans(&self) -> Vec<String> {
        let prose = self.prose();
        let (mut spans, mut rest) = (Vec::new(), prose.as_str());
        while let Some((_, begin)) = rest.split_once('`') {
            let more = begin.len() - begin.trim_start_matches('`').len();
            let fence = "`".repeat(more + 1);
            let Some((span, end)) = begin[more..].split_once(&fence) else { break };
            spans.push(span.trim().replace('\n', " "));
            rest = end;
        }
        spans
    }

    /// The targets of the links, as they are written.
    pub fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// The anchors of the headings, as GitHub makes them.
    pub fn anchors(&self) -> Vec<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        headings.filter_map(|line| line.trim_start_matches('#').strip_prefix(' ')).map(anchor).collect()
    }
}

/// Returns the anchor of a heading: its words in lower case with hyphens between them, without other punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// Completes a part of a configuration by what it lacks of a listener, a pool and two backends, as `docs/README.md` says.
pub fn completed(part: &str) -> String {
    let has = |header: &str| part.lines().any(|line| line.trim_start().starts_with(header));
    let backend = |name: &str, port| {
        format!("[[pools.backends]]\nname = \"{name}\"\naddress = \"127.0.0.1:{port}\"\nmax_requests = 100\n")
    };
    let pool = "[[pools]]\nname = \"app\"\n";
    let mut text = String::new();
    if !has("[[listeners]]") {
        text += "[[listeners]]\naddress = \"127.0.0.1:8080\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    }
    // A part of a pool belongs to the pool before it.
    let is_of_pool = !has("[[pools]]") && (has("[pools.") || has("[[pools."));
    if is_of_pool {
        text += pool;
    }
    text += part;
    if !is_of_pool && !has("[[pools]]") {
        text += pool;
    }
    if !has("[[pools.backends]]") && !has("[[pools.discover]]") {
        text += &(backend("a", 9001) + &backend("b", 9002));
    }
    text
}

/// Writes the files that a configuration names into the folder: the key that names a file says what it is.
pub fn write_files(text: &str, folder: &Folder) {
    let authority = Authority::new("root");
    let pairs = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.split(['{', ',']));
    for (key, rest) in pairs.filter_map(|pair| pair.split_once(" = \"")) {
        let name = rest.split('"').next().unwrap();
        let write = |content: &str| {
            let file = folder.write(name, content.as_bytes());
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        };
        match key.trim() {
            "cert" => {
                let name = name.trim_end_matches(".pem");
                authority.issue(&[name]).write(Path::new(&folder.file("")), name);
            }
            "ca" | "client_ca" => write(&authority.pem()),
            "token_file" | "read_token_file" => write(&format!("the-token-of-{name}\n")),
            "file" if name.ends_with(".htpasswd") => write(&format!("ana:{}\n", bcrypt::hash("sesame", 4).unwrap())),
            "file" if name.ends_with(".key") => write("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"),
            "file" => write("a 127.0.0.1:9001\n"),
            "error" | "maintenance" if name.ends_with(".html") => write("<h1>{{status}}</h1>"),
            _ => {}
        }
    }
}
