//! Owns: the format of a file of backends: one a line, with a name, an address, and optionally a weight and `backup`.
//! Invariant: a file is accepted as a whole or not at all; half of one would drain the backends of the other half.
//! Must not know: how the file is read, or when.

use std::fmt;

use super::backend::DiscoveredBackend;
use crate::affinity::seal::is_valid_name;

/// The largest file to read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;
/// The highest weight, as in the configuration.
const MAX_WEIGHT: u32 = 1000;

/// The first fault in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    line: usize,
    problem: &'static str,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

/// Parses a file of backends. A `#` starts a comment.
///
/// # Errors
/// The first line that is invalid.
pub fn read(text: &str) -> Result<Vec<DiscoveredBackend>, LineError> {
    let mut all: Vec<DiscoveredBackend> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let words: Vec<_> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let found = backend(&words).and_then(|found| {
            let is_new = seen.insert(found.name.clone()) && seen.insert(found.address.to_string());
            if is_new { Ok(found) } else { Err("an earlier line has the same name or address") }
        });
        all.push(found.map_err(|problem| LineError { line: index + 1, problem })?);
    }
    Ok(all)
}

fn backend(words: &[&str]) -> Result<DiscoveredBackend, &'static str> {
    const HOW: &str = "write NAME IP:PORT, optionally followed by a weight from 0 to 1000 and `backup`";
    let [name, address, more @ ..] = words else { return Err(HOW) };
    if !is_valid_name(name) {
        return Err("a name has 1 to 64 of the characters A-Z a-z 0-9 . _ -");
    }
    let address: crate::net::Address = address.parse().map_err(|_| HOW)?;
    let can_be_reached = match &address {
        crate::net::Address::Tcp(address) => address.port() != 0 && !address.ip().is_unspecified(),
        crate::net::Address::Unix(path) => path.is_absolute(),
    };
    if !can_be_reached {
        return Err("a client cannot connect to this address");
    }
    let (weight, backup) = match more {
        [] => (None, false),
        ["backup"] => (None, true),
        [weight] => (Some(weight), false),
        [weight, "backup"] => (Some(weight), true),
        _ => return Err(HOW),
    };
    let weight = match weight {
        Some(weight) => Some(weight.parse().ok().filter(|weight| *weight <= MAX_WEIGHT).ok_or(HOW)?),
        None => None,
    };
    Ok(DiscoveredBackend { weight, backup, ..DiscoveredBackend::new((*name).into(), address) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_a_backend() {
        let text =
            "# ours\n\na 10.0.0.1:80\n  b   [::1]:81  0 # rests\nc unix:/run/c.sock backup\r\nd 10.0.0.4:80 7 backup";
        let described: Vec<_> = read(text)
            .unwrap()
            .into_iter()
            .map(|f| format!("{} {} {:?} {}", f.name, f.address, f.weight, f.backup))
            .collect();
        let expected = [
            "a 10.0.0.1:80 None false",
            "b [::1]:81 Some(0) false",
            "c unix:/run/c.sock None true",
            "d 10.0.0.4:80 Some(7) true",
        ];
        assert_eq!(described, expected);
        assert_eq!(read("# nobody\n"), Ok(Vec::new()));
    }

    #[test]
    fn one_bad_line_rejects_the_file_and_is_named() {
        for bad in [
            "b",
            "b 10.0.0.2",
            "b app:80",
            "b 10.0.0.2:0",
            "b 0.0.0.0:80",
            "b unix:b.sock",
            "b 10.0.0.2:80 1001",
            "b 10.0.0.2:80 -1",
            "b 10.0.0.2:80 backup 1",
            "ü 10.0.0.2:80",
            "a 10.0.0.2:80",
            "b 10.0.0.1:80",
        ] {
            let error = read(&format!("a 10.0.0.1:80\n{bad}\n")).unwrap_err();
            assert!(error.to_string().starts_with("line 2: "), "{bad}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = read(&text);
        }
    }
}
