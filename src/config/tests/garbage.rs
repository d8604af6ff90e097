//! Owns: random and broken files.
//! Invariant: no file causes a panic, and a file with errors has no plan.
//! Must not know: the texts of findings.

use proptest::prelude::*;

use super::super::*;
use super::{FULL, GOOD, origin, switched_on};

fn check(text: &str) {
    match parse(text, &origin()) {
        Ok((_, report)) => assert_eq!(report.errors(), 0, "{report}"),
        Err(report) => {
            assert!(report.errors() > 0, "{report}");
            let lines = text.split('\n').count();
            for finding in report.findings() {
                let position = finding.position.as_ref().unwrap();
                assert!((1..=lines).contains(&position.line) && position.column >= 1, "{finding}");
            }
            drop(report.to_string());
        }
    }
}

#[test]
fn no_text_of_the_full_file_cut_anywhere_panics() {
    let full = switched_on();
    for end in (0..full.len()).step_by(37).filter(|end| full.is_char_boundary(*end)) {
        check(&full[..end]);
    }
}

#[test]
fn deep_and_long_files_are_refused() {
    for text in ["a = ".to_owned() + &"[".repeat(20_000), "a.".repeat(20_000) + "b = 1", "a\n".repeat(2000)] {
        check(&text);
    }
    check(&format!("{} = 1\n{GOOD}", "k".repeat(100_000)));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        check(&text);
    }

    #[test]
    fn no_text_of_toml_s_characters_panics(text in "[a-c0-9\\[\\]{}=.,\"'#\\\\\n\r\t -]{0,200}") {
        check(&text);
    }

    #[test]
    fn no_change_of_the_full_file_panics(
        at: prop::sample::Index,
        cut in 0usize..40,
        with in prop_oneof!["\\PC{0,8}", "[\\[\\]{}=.,\"'#\n-]{1,4}", "-?[0-9]{1,25}", "\"[0-9a-zA-Z%]{0,9}\"", "true", "(\\[\\]|\\{\\})"],
    ) {
        let full = switched_on();
        let boundary = |at: usize| (at..).find(|at| full.is_char_boundary(*at)).unwrap();
        let start = boundary(at.index(full.len()));
        let end = boundary((start + cut).min(full.len()));
        check(&format!("{}{with}{}", &full[..start], &full[end..]));
    }

    #[test]
    fn no_value_of_a_key_panics(
        at: prop::sample::Index,
        value in prop_oneof!["\"\\PC{0,20}\"", "[0-9.:eE_+-]{1,20}", "\"[0-9]{1,25}(ns|ms|s|years|M|KiB|GB|%|xx)\"",
            "\"(unix:|localhost:|\\*\\.|/|__Host-|\\[::1\\]:)[a-z0-9:;. -]{0,9}\"", "\\[\"[0-9a-z-]{0,9}\", [0-9]{1,9}\\]"],
    ) {
        let keys: Vec<_> = FULL.lines().enumerate().filter(|(_, line)| line.contains(" = ")).map(|(at, _)| at).collect();
        let at = keys[at.index(keys.len())];
        let change = |(line, text): (usize, &str)| match text.split_once(" = ") {
            Some((key, _)) if line == at => format!("{} = {value}\n", key.trim_start_matches('#')),
            _ => format!("{text}\n"),
        };
        check(&FULL.lines().enumerate().map(change).collect::<String>());
    }
}
