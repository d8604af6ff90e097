//! Owns: reading keys and tokens from files and environment variables.
//! Invariant: no finding contains a secret; a file that other users can access is a warning.
//! Must not know: what the keys seal and the tokens guard.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::reader::{Spanned, Table};
use super::values::{plain_text, shown};
use crate::affinity::seal::KEY_BYTES;
use crate::files::{self, shell_word};
use crate::otlp;

/// A longer file is neither a key nor a token.
const MAX_BYTES: u64 = 4096;

/// Reads the secret of one `[[keys]]`, from `file` or `env`.
pub(super) fn key(table: &Table<'_>) -> Option<[u8; KEY_BYTES]> {
    let (file, env) = (table.spot("file", plain_text), table.spot("env", plain_text));
    match (file, env) {
        (Some(file), None) if !table.has("env") => key_of_file(table, &file),
        (None, Some(env)) if !table.has("file") => key_of_variable(table, &env),
        _ if table.has("file") && table.has("env") => {
            let problem = "[[keys]] has both `file` and `env`";
            table.notes().error(&table.at("env"), problem, "keep one of the two");
            None
        }
        _ if table.has("file") || table.has("env") => None,
        _ => {
            let remedy = "write file = \"linchpin.key\", and create the file with: linchpin keygen -o linchpin.key";
            table.notes().missing(table.span(), "[[keys]] has neither `file` nor `env`", remedy);
            None
        }
    }
}

fn key_of_file(table: &Table<'_>, file: &Spanned<String>) -> Option<[u8; KEY_BYTES]> {
    let path = table.notes().resolve_input(&file.value);
    let name = shown(&path.to_string_lossy());
    let (problem, remedy) = match read(&path, file, table) {
        Ok(text) => match decode(&text) {
            Some(key) => return Some(key),
            None if text.trim().is_empty() => (format!("the key file {name} is empty"), damaged(&path)),
            None => (format!("the key file {name} does not contain {KEY_BYTES} bytes in base64"), damaged(&path)),
        },
        Err(error) => (format!("cannot read the key file {name}: {error}"), unreadable(&path, &error)),
    };
    table.notes().error(&file.span, problem, remedy);
    None
}

/// Reads the key of an external account with an authority, from `file` or `env`, in base64.
pub(super) fn external_key(table: &Table<'_>) -> Option<Vec<u8>> {
    const REMEDY: &str = "write it as the authority gave it to you, in base64";
    let (file, env) = (table.spot("file", plain_text), table.spot("env", plain_text));
    let (text, named_at) = match (file, env) {
        (Some(file), None) if !table.has("env") => {
            let path = table.notes().resolve_input(&file.value);
            let read = read(&path, &file, table).map_err(|error| {
                let problem = format!("cannot read the key file {}: {error}", shown(&path.to_string_lossy()));
                table.notes().error(&file.span, problem, "write the key of the authority to it");
            });
            (read.ok()?, file)
        }
        (None, Some(env)) if !table.has("file") => {
            let text = variable(&env.value);
            if text.is_none() {
                let problem = format!("the environment variable {} is not set", shown(&env.value));
                table.notes().error(&env.span, problem, "set it to the key of the authority");
            }
            (text?, env)
        }
        _ if table.has("file") && table.has("env") => {
            table.notes().error(&table.at("env"), "the key has both `file` and `env`", "keep one of the two");
            return None;
        }
        _ if table.has("file") || table.has("env") => return None,
        _ => {
            let problem = "the external account has neither `file` nor `env`, for its key";
            table.notes().missing(table.span(), problem, "write for example file = \"eab.key\"");
            return None;
        }
    };
    let key = decode_any(&text).filter(|key| !key.is_empty());
    if key.is_none() {
        table.notes().error(&named_at.span, format!("{} contains no key in base64", shown(&named_at.value)), REMEDY);
    }
    key
}

/// Returns the remedy for a secret's file that can't be read. It may be the only copy of the key that seals clients'
/// pins: only if there is no file does the remedy suggest a new key, and none of its commands overwrites a file.
fn unreadable(path: &Path, error: &files::Error) -> String {
    match error {
        files::Error::Io(error) if error.kind() == ErrorKind::NotFound => {
            format!(
                "copy the file from another Linchpin, or create the first one with: linchpin keygen -o {}",
                shell_word(path)
            )
        }
        files::Error::Io(error) if error.kind() == ErrorKind::PermissionDenied => {
            "run this as the user who runs Linchpin, or let that user read the file (chown, chmod); do not create a \
             new one"
                .into()
        }
        files::Error::Io(_) => "make the file readable for this user; do not create a new one".into(),
        files::Error::NotRegular(_) => "write the path of the file that contains it".into(),
        files::Error::TooLarge(_) | files::Error::NotText => damaged(path),
    }
}

/// Returns the remedy for a secret's file with other content.
fn damaged(path: &Path) -> String {
    let mut other = path.as_os_str().to_owned();
    other.push(".new");
    let other = shell_word(Path::new(&other));
    format!(
        "restore its content from a backup; if there is none, name a new file, created with: linchpin keygen -o \
             {other}"
    )
}

fn key_of_variable(table: &Table<'_>, env: &Spanned<String>) -> Option<[u8; KEY_BYTES]> {
    const REMEDY: &str = "set it to the key of your other Linchpins, or make a first key with: linchpin keygen";
    let name = shown(&env.value);
    let problem = match variable(&env.value).as_deref().map(decode) {
        Some(Some(key)) => return Some(key),
        Some(None) => format!("the environment variable {name} does not contain {KEY_BYTES} bytes in base64"),
        None => format!("the environment variable {name} is not set"),
    };
    table.notes().error(&env.span, problem, REMEDY);
    None
}

/// Reads an environment variable. A name with `=` or NUL is not valid, and the standard library may panic on it.
fn variable(name: &str) -> Option<String> {
    if name.contains(['=', '\0']) { None } else { std::env::var(name).ok() }
}

/// Reads the token in the file that a key names.
pub(super) fn token(table: &Table<'_>, key: &'static str) -> Option<String> {
    let file = table.spot(key, plain_text)?;
    let path = table.notes().resolve_input(&file.value);
    let name = shown(&path.to_string_lossy());
    let (problem, remedy) = match read(&path, &file, table) {
        Ok(text) if text.trim().is_empty() => (format!("the token file {name} is empty"), damaged(&path)),
        Ok(text) if text.trim().bytes().all(|byte| byte.is_ascii_graphic()) => return Some(text.trim().into()),
        Ok(_) => (format!("the token file {name} contains spaces or characters other than ASCII"), damaged(&path)),
        Err(error) => (format!("cannot read the token file {name}: {error}"), unreadable(&path, &error)),
    };
    table.notes().error(&file.span, problem, remedy);
    None
}

/// Checks the file of header fields that a key names. Returns its path.
pub(super) fn header_fields(table: &Table<'_>, key: &'static str) -> Option<PathBuf> {
    let file = table.spot(key, plain_text)?;
    let path = table.notes().resolve_input(&file.value);
    let name = shown(&path.to_string_lossy());
    let (problem, remedy) = match read_up_to(otlp::MAX_FIELDS, &path, &file, table) {
        Ok(text) => match otlp::fields(&text) {
            Ok(_) => return Some(path),
            Err(line) => (
                format!("line {line} of the file {name} is no header field that Linchpin may send"),
                "write lines such as `x-api-key: …`; Linchpin itself sets Host, Content-Type and what frames the \
                 request",
            ),
        },
        Err(error) => (
            format!("cannot read the file {name}: {error}"),
            "create it, with lines such as `x-api-key: …`, and let the user who runs Linchpin read it",
        ),
    };
    table.notes().error(&file.span, problem, remedy);
    None
}

fn read(path: &Path, named_at: &Spanned<String>, table: &Table<'_>) -> Result<String, files::Error> {
    read_up_to(MAX_BYTES, path, named_at, table)
}

fn read_up_to(most: u64, path: &Path, named_at: &Spanned<String>, table: &Table<'_>) -> Result<String, files::Error> {
    let (text, metadata) = files::read_text_with_metadata(path, most)?;
    let mode = metadata.permissions().mode();
    // A group may read it: that is how a service gets at keys that only root may write.
    if mode & 0o027 != 0 {
        let shown = shown(&path.to_string_lossy());
        let problem = format!("other users than the owner have access to {shown} (mode {:03o})", mode & 0o777);
        table.notes().warn(&named_at.span, problem, format!("run: chmod 600 {}", shell_word(path)));
    }
    Ok(text)
}

/// Decodes standard or URL-safe base64, with or without padding.
fn decode(text: &str) -> Option<[u8; KEY_BYTES]> {
    decode_any(text)?.try_into().ok()
}

fn decode_any(text: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const ENGINE: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
    let standard = text.trim().replace('-', "+").replace('_', "/");
    ENGINE.decode(standard).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_every_base64_that_tools_write() {
        let (url, standard) = ("-_".repeat(21) + "w", "+/".repeat(21) + "w=");
        assert_eq!(decode(&url), decode(&standard));
        assert!(decode(&format!("{standard}\n")).is_some());
        for odd in ["", "AAAA", &"A".repeat(44), &"é".repeat(22), &(standard.clone() + &standard)] {
            assert_eq!(decode(odd), None, "{odd}");
        }
    }
}
