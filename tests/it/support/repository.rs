//! This repository's files, for the tests that compare documents with sources.

use std::fs;
use std::path::{Path, PathBuf};

/// The path of a file or folder of this repository.
pub fn path(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// The text of a file of this repository.
pub fn read(relative: &str) -> String {
    fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

/// All files in a folder and its folders, as sorted paths relative to the repository.
pub fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let entry = entry.unwrap();
        let relative = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&relative));
        } else {
            found.push(relative);
        }
    }
    found.sort();
    found
}

/// The Rust sources in a folder and its folders.
pub fn rust_files(folder: &str) -> Vec<String> {
    files(folder).into_iter().filter(|path| path.ends_with(".rs")).collect()
}

/// Returns the text between a document's markers `<!-- name: begin … -->` and `<!-- name: end -->`.
pub fn between<'a>(document: &'a str, name: &str) -> &'a str {
    let block = document.split_once(&format!("<!-- {name}: begin")).and_then(|(_, rest)| rest.split_once("-->"));
    let block = block.and_then(|(_, rest)| rest.split_once(&format!("<!-- {name}: end -->")));
    block.unwrap_or_else(|| panic!("no block `{name}` between its markers")).0
}
