//! Owns: `[routes.basic_auth]`, and findings about its htpasswd file.
//! Invariant: no finding shows a password or its hash.
//! Must not know: how passwords are verified, or when.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use toml::de::DeValue;

use super::reader::Table;
use super::values::{Value, flag, must_be, plain_text, shown, text};
use crate::files::{self, shell_word};
use crate::proxy::basic_auth::Settings;
use crate::proxy::users::Users;

/// The longest htpasswd file, in bytes: some ten thousand users.
const MAX_BYTES: u64 = 1024 * 1024;

/// The most lines of a file that have a finding each.
const MAX_LISTED: usize = 10;

/// Reads the section. `None` if it has an error, which is noted.
pub(super) fn basic_auth(table: &Table<'_>) -> Option<Settings> {
    let realm = table.get("realm", realm).unwrap_or_else(|| "Restricted".into());
    let forward_authorization = table.get("forward_authorization", flag).unwrap_or(false);
    let file = table.required("file", "\"users.htpasswd\"", plain_text)?;
    let path = table.notes().resolve_input(&file.value);
    let (name, notes) = (shown(&path.to_string_lossy()), table.notes());
    let (text, metadata) = match files::read_text_with_metadata(&path, MAX_BYTES) {
        Ok(read) => read,
        Err(error) => {
            let remedy = format!("create it with: htpasswd -cB {} NAME", shell_word(&path));
            notes.error(&file.span, format!("cannot read the htpasswd file {name}: {error}"), remedy);
            return None;
        }
    };
    let mode = metadata.permissions().mode();
    if mode & 0o007 != 0 {
        let problem = format!("everyone on this machine has access to {name} (mode {:03o})", mode & 0o777);
        notes.warn(&file.span, problem, format!("run: chmod 640 {}", shell_word(&path)));
    }
    match Users::parse(&text) {
        Ok(users) => {
            if users.is_empty() {
                let remedy = format!("add one with: htpasswd -B {} NAME", shell_word(&path));
                notes.warn(&file.span, format!("{name} has no user: every request gets a 401"), remedy);
            }
            Some(Settings { file: path, users: Arc::new(users), realm, forward_authorization })
        }
        Err(lines) => {
            let more = lines.len().saturating_sub(MAX_LISTED);
            for line in lines.into_iter().take(MAX_LISTED) {
                let problem = format!("line {} of {name} can't be used: {}", line.line, line.problem);
                notes.error(&file.span, problem, line.remedy.replace("FILE", &shell_word(&path)));
            }
            if more > 0 {
                notes.error(&file.span, format!("{name} has {more} more lines that can't be used"), "mend these first");
            }
            None
        }
    }
}

/// Reads what browsers show when they ask for a password.
fn realm(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    let is_plain = |byte: u8| (byte == b' ' || byte.is_ascii_graphic()) && !b"\"\\".contains(&byte);
    match !text.is_empty() && text.len() <= 128 && text.bytes().all(is_plain) {
        true => Ok(text.into()),
        false => {
            let what = "1 to 128 visible ASCII characters, without \" and \\";
            Err(must_be(what, shown(text), "write for example \"Staff only\""))
        }
    }
}
