//! What is built into Linchpin: under which licences, from where, and that its version is the same everywhere.

use std::collections::BTreeSet;

use super::support::process::{linchpin, printed};
use super::support::repository::{path, read};
use super::support::tool::run;

/// Whether the terms of a licence expression (SPDX, or with the older `/` for OR) can be kept with these licences.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ").replace(" WITH ", "+");
    let words: Vec<_> = spaced.split_whitespace().map(|word| word.replace('+', " WITH ")).collect();
    let mut rest = words.as_slice();
    let value = any_of(&mut rest, allowed);
    assert!(rest.is_empty(), "cannot read {expression:?}");
    value
}

fn any_of(rest: &mut &[String], allowed: &BTreeSet<String>) -> bool {
    let mut value = all_of(rest, allowed);
    while let [word, more @ ..] = *rest
        && word == "OR"
    {
        *rest = more;
        value |= all_of(rest, allowed);
    }
    value
}

fn all_of(rest: &mut &[String], allowed: &BTreeSet<String>) -> bool {
    let mut value = one(rest, allowed);
    while let [word, more @ ..] = *rest
        && word == "AND"
    {
        *rest = more;
        value &= one(rest, allowed);
    }
    value
}

fn one(rest: &mut &[String], allowed: &BTreeSet<String>) -> bool {
    let (word, more) = rest.split_first().expect("a licence");
    *rest = more;
    if word != "(" {
        return allowed.contains(word);
    }
    let value = any_of(rest, allowed);
    assert_eq!(
        rest.split_first().map(|(word, more)| {
            *rest = more;
            word.as_str()
        }),
        Some(")")
    );
    value
}

/// What deny.toml says.
fn denied() -> toml::Table {
    read("deny.toml").parse().unwrap()
}

fn allowed() -> BTreeSet<String> {
    let list = denied()["licenses"]["allow"].as_array().unwrap().clone();
    list.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

/// The name and the licence of all packages that are linked into Linchpin on this platform, or run while it is built.
async fn built_in() -> BTreeSet<(String, String)> {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let tree = ["tree", "--locked", "--edges", "normal,build", "--prefix", "none", "--format", "{p}|{l}"];
    let tree = run(&cargo, &[&tree[..], &["--manifest-path", manifest]].concat()).await.out;
    let package = |line: &str| {
        let (package, licence) = line.trim_end_matches(" (*)").split_once('|')?;
        let name = package.split(' ').next()?;
        (name != "linchpin").then(|| (name.to_owned(), licence.to_owned()))
    };
    tree.lines().filter_map(package).collect()
}

#[tokio::test]
async fn what_is_built_in_has_a_licence_that_is_allowed() {
    let (allowed, packages) = (allowed(), built_in().await);
    assert!(packages.len() > 100, "{}", packages.len());
    let banned = denied()["bans"]["deny"].as_array().unwrap().clone();
    let banned: Vec<_> = banned.iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    let is_fault = |(name, licence): &&(String, String)| {
        banned.contains(&name.as_str()) || licence.is_empty() || !is_allowed(licence, &allowed)
    };
    let faults: Vec<_> = packages.iter().filter(is_fault).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What the packages carry: each crate that is linked is in the list, and at least one text is under its name.
#[tokio::test]
async fn the_licence_of_each_linked_crate_is_in_the_packages() {
    let printed = run(path("packaging/licences").to_str().unwrap(), &[]).await.out;
    let mut parts = printed.split("\n------------------------------------------------------------------------------\n");
    let listed: Vec<_> =
        parts.next().unwrap().lines().filter_map(|line| line.split_once(": ")?.0.split_once(' ')).collect();
    let (mut named, mut texts) = (BTreeSet::new(), 0);
    while let (Some(crates), Some(text)) = (parts.next(), parts.next()) {
        // Some only point to another file.
        if text.len() > 500 {
            named.extend(crates.split(", ").map(str::to_owned));
            texts += 1;
        }
    }
    let without: Vec<_> =
        listed.iter().filter(|(name, version)| !named.contains(&format!("{name}-{version}"))).collect();
    assert!(without.is_empty(), "{without:?} have no licence");
    assert!(texts > 50 && printed.contains("Copyright (c) the authors of vsimd"));
    let linked: BTreeSet<_> = listed.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert!(linked.contains("aws-lc-sys") && !linked.contains("serde_derive") && !linked.contains("proptest"));
    let built_in: BTreeSet<_> = built_in().await.into_iter().map(|(name, _)| name).collect();
    assert!(linked.is_subset(&built_in), "{:?}", linked.difference(&built_in).collect::<Vec<_>>());
}

#[test]
fn everything_comes_from_the_registry() {
    let lock: toml::Table = read("Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let (name, source) =
            (package["name"].as_str().unwrap(), package.get("source").and_then(|source| source.as_str()));
        let expected = (name != "linchpin").then_some("registry+https://github.com/rust-lang/crates.io-index");
        assert_eq!(source, expected, "{name}");
    }
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for (expression, is) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("MIT AND GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("(MIT OR ISC) AND GPL-3.0", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), is, "{expression}");
    }
}

#[tokio::test]
async fn the_version_is_the_same_in_the_command_the_changelog_and_all_locks() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(printed(&linchpin(&["--version"]).await).trim(), format!("linchpin {version}"));
    let changelog = read("CHANGELOG.md");
    let first = changelog.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert!(first == "Unreleased" || first.split(' ').next() == Some(version), "{first}");
    assert!(changelog.contains(&format!("\n## {version}")), "the changelog doesn't know {version}");
    for lock in ["Cargo.lock", "bench/Cargo.lock", "fuzz/Cargo.lock", "integrations/rust/Cargo.lock"] {
        let text = read(lock);
        if let Some((_, rest)) = text.split_once("name = \"linchpin\"\n") {
            assert_eq!(rest.lines().next(), Some(format!("version = \"{version}\"").as_str()), "{lock}");
        }
    }
    let licence = read("LICENSE");
    assert!(licence.contains("Apache License") && licence.contains("Version 2.0"));
    assert_eq!(env!("CARGO_PKG_LICENSE"), "Apache-2.0");
}
