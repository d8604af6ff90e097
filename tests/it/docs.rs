//! The documents name files, functions and modules that exist, and no module is missing from them.

use std::collections::BTreeSet;

use linchpin::telemetry::AccessField;

use super::support::documents::Page;
use super::support::repository::{between, files, path, read};

/// Returns the paths of the codemap: in each line the text before two blanks.
fn codemap() -> BTreeSet<String> {
    let document = read("ARCHITECTURE.md");
    let lines = between(&document, "codemap").lines().filter(|line| !line.starts_with("```"));
    let paths = lines.flat_map(|line| line.split(' ').take_while(|word| !word.is_empty() && is_path(word)));
    paths.map(str::to_owned).collect()
}

fn is_path(word: &str) -> bool {
    word.contains('/') || word.contains('.')
}

#[test]
fn the_codemap_is_the_code() {
    let map = codemap();
    for named in &map {
        assert!(path(named).exists(), "ARCHITECTURE.md's codemap names {named}, which is not there");
    }
    for file in files("src") {
        let covered = map.contains(&file) || map.iter().any(|named| named.ends_with('/') && file.starts_with(named));
        assert!(covered, "ARCHITECTURE.md's codemap leaves out {file}");
    }
}

/// Returns the pages of `docs/`.
fn pages() -> impl Iterator<Item = String> {
    files("docs").into_iter().filter(|file| file.ends_with(".md"))
}

/// Returns all documents of the repository.
fn documents() -> Vec<String> {
    let root = ["README", "ARCHITECTURE", "CHANGELOG", "CONTRIBUTING", "SECURITY"].map(|name| format!("{name}.md"));
    let folders = ["bench/README.md", "fuzz/README.md"].map(Into::into);
    let integrations =
        ["express", "java", "php", "python", "rust"].map(|name| format!("integrations/{name}/README.md"));
    root.into_iter().chain(folders).chain(integrations).chain(pages()).filter(|file| path(file).exists()).collect()
}

#[test]
fn links_lead_somewhere() {
    for document in documents() {
        let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in Page::new(&document).links() {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            if file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let target = if file.is_empty() { path(&document) } else { path(folder).join(file) };
            assert!(target.exists(), "{document} links to {link}, which is not there");
            if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
                let anchors = Page::new(target.to_str().unwrap()).anchors();
                assert!(anchors.iter().any(|known| known == anchor), "{document} links to {link}: {anchors:?}");
            }
        }
    }
}

/// The README leads to the index of the pages, and that to every page.
#[test]
fn the_index_leads_to_every_page() {
    assert!(read("README.md").contains("](docs/README.md)"));
    let index = read("docs/README.md");
    for page in pages().filter(|page| page != "docs/README.md") {
        let name = page.trim_start_matches("docs/");
        assert!(index.contains(&format!("[{name}]({name})")), "docs/README.md has no link to {page}");
    }
}

/// Paths of this repository in code, in running text and in examples exist.
#[test]
fn files_that_documents_name_exist() {
    const FOLDERS: [&str; 13] = [
        "src/",
        "tests/",
        "config/",
        "demo/",
        "bench/",
        "fuzz/",
        "shared/",
        ".ci/",
        "packaging/",
        "deploy/",
        "dashboards/",
        "docs/",
        "integrations/",
    ];
    // The commands next to them create these.
    const MADE: [&str; 4] = ["bench/RESULTS.md", "bench/results.svg", "fuzz/corpus/", "integrations/java/build/"];
    for document in documents() {
        // Blocks of code are fenced by backticks, too: the text between two fences is code.
        let text = read(&document);
        for code in text.split('`').skip(1).step_by(2) {
            for word in code.split(|c: char| c.is_whitespace() || "()[]{},;:=\"'".contains(c)) {
                let word = word.trim_start_matches("./").trim_end_matches('.');
                let is_ours = FOLDERS.iter().any(|folder| word.starts_with(folder));
                let is_pattern = word.contains(['*', '<', '…', '$']) || word.chars().any(|c| c.is_ascii_uppercase());
                if is_ours && !is_pattern && !MADE.iter().any(|made| word.starts_with(made)) {
                    assert!(path(word).exists(), "{document} names {word}, which is not there");
                }
            }
        }
    }
}

#[test]
fn each_field_of_the_access_log_is_explained() {
    let page = read("docs/process.md");
    for field in AccessField::ALL {
        let name = format!("`{}`", field.as_str());
        let row = page.lines().find(|line| line.split('|').nth(1).is_some_and(|names| names.contains(&name)));
        let row = row.unwrap_or_else(|| panic!("docs/process.md leaves out {name}"));
        let is_extra = row.split('|').nth(1).unwrap().contains('†');
        assert_eq!(is_extra, !AccessField::DEFAULT.contains(&field), "{row}");
    }
}

/// The tour through the code names functions that exist, in the order of its chapters.
#[test]
fn each_stop_of_the_tour_is_a_function_of_its_file() {
    let tour = read("docs/tour.md");
    let mut stops = 0;
    for row in tour.lines().filter(|line| line.starts_with("| ") && line.contains(".rs`")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, number, function, file, _] = cells[..] else { panic!("{row}") };
        stops += 1;
        assert_eq!(number, stops.to_string());
        let definition = [format!("fn {function}("), format!("fn {function}<")];
        let code = read(file);
        assert!(definition.iter().any(|definition| code.contains(definition)), "{file} has no function {function}");
        assert!(tour.contains(&format!("**{number}.** ")), "the tour does not explain stop {number}");
    }
    assert_eq!(stops, 10);
}
