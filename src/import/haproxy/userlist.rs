//! Owns: the conversion of `userlist` sections.
//! Invariant: a list is converted for the rules that use it, and noted if none does.
//! Must not know: rules.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use super::super::reasons::NONE;
use super::super::toml::Table;
use super::super::users::{self, User};
use super::syntax::{Section, Statement, note_whole};

/// The lists of users, by name.
#[derive(Default)]
pub(super) struct UserLists<'s> {
    sections: HashMap<&'s str, &'s Section>,
    /// The lists that rules use: the name and the groups of each, and its file.
    used: RefCell<BTreeMap<(String, Vec<String>), String>>,
}

impl<'s> UserLists<'s> {
    pub(super) fn read(sections: &'s [Section]) -> UserLists<'s> {
        let all = sections.iter().filter(|section| section.header.word(0) == "userlist");
        let all = all.map(|section| (section.header.word(1), section));
        UserLists { sections: all.collect(), used: RefCell::default() }
    }

    /// Returns the file for the users of a list, or of some groups of it, which a rule uses; `None` if there is no such list.
    pub(super) fn file(&self, list: &str, groups: &[String]) -> Option<String> {
        self.sections.get(list)?;
        let file = users::file(&groups.iter().fold(list.to_owned(), |name, group| format!("{name}-{group}")));
        self.used.borrow_mut().insert((list.to_owned(), groups.to_vec()), file.clone());
        Some(file)
    }

    /// Notes the users of a list, or the whole section if no rule uses it.
    pub(super) fn note(&self, section: &Section, notes: &mut Table) {
        let (name, used) = (section.header.word(1), self.used.borrow());
        let files: Vec<_> = used.iter().filter(|((list, _), _)| list == name).collect();
        if files.is_empty() {
            return note_whole(&section.header, &section.statements, "no imported rule uses it", notes);
        }
        for ((_, groups), file) in &files {
            let of_groups =
                |user: &&Statement| groups.is_empty() || groups.iter().any(|group| is_in(user, group, section));
            let all = section.statements.iter().filter(|each| each.word(0) == "user").filter(of_groups);
            let all: Vec<User> = all.map(user).collect();
            users::note(&all, file, notes);
        }
        for statement in &section.statements {
            let (line, text) = (statement.line, statement.text.as_str());
            match statement.word(0) {
                "user" => {}
                "group" => notes.unneeded(line, text, "a file has the users of a group"),
                _ => notes.unsupported(line, text, NONE),
            }
        }
    }
}

/// Returns whether a user is in a group: by its own line, or by that of the group.
fn is_in(user: &Statement, group: &str, section: &Section) -> bool {
    let lists = |words: &[String], key: &str, name: &str| {
        let names = words.iter().skip_while(|word| *word != key).nth(1);
        names.is_some_and(|names| names.split(',').any(|each| each == name))
    };
    let groups = section.statements.iter().filter(|each| each.word(0) == "group" && each.word(1) == group);
    lists(user.from(2), "groups", group) || groups.into_iter().any(|each| lists(each.from(2), "users", user.word(1)))
}

/// Reads `user NAME password HASH` or `user NAME insecure-password PASSWORD`.
fn user(statement: &Statement) -> User {
    let hash = statement.from(2).iter().skip_while(|word| *word != "password").nth(1);
    User { line: statement.line, shown: statement.text.clone(), weak: users::weakness(hash.map_or("", String::as_str)) }
}
