//! Owns: how one line of the access log is put together, as text and as JSON.
//! Invariant: whatever a client sent, a line stays one line, and one JSON object.
//! Must not know: which fields there are.

use std::fmt::Display;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// One line under construction. `bare` values are our own words and need no escaping.
pub(super) trait Line {
    fn bare(&mut self, name: &str, value: &str);
    fn text(&mut self, name: &str, value: &[u8]);
    fn display(&mut self, name: &str, value: &dyn Display);
    fn number(&mut self, name: &str, value: u64);
    fn millis(&mut self, name: &str, value: Duration);
    fn hex(&mut self, name: &str, value: u64);
    fn end(&mut self);
}

/// `time METHOD name=value …`
pub(super) struct Text<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Text<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Text<'a> {
        Text { out, first: true }
    }

    /// Time and method are known by their place.
    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b' ');
        }
        self.first = false;
        if name != "time" && name != "method" {
            self.out.extend_from_slice(name.as_bytes());
            self.out.push(b'=');
        }
    }
}

impl Line for Text<'_> {
    fn bare(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.extend_from_slice(value.as_bytes());
    }

    fn text(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        if value.is_empty() {
            self.out.push(b'-');
        }
        escape(self.out, value, b"\\x");
    }

    fn display(&mut self, name: &str, value: &dyn Display) {
        self.name(name);
        // Writing to a Vec does not fail.
        let _ = write!(self.out, "{value}");
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        number(self.out, value);
    }

    fn millis(&mut self, name: &str, value: Duration) {
        self.name(name);
        millis(self.out, value);
    }

    fn hex(&mut self, name: &str, value: u64) {
        self.name(name);
        hex(self.out, value);
    }

    fn end(&mut self) {
        self.out.push(b'\n');
    }
}

/// `{"name":value,…}`
pub(super) struct Json<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Json<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Json<'a> {
        Json { out, first: true }
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.first { b"{\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn quoted(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        self.out.push(b'"');
        value(self.out);
        self.out.push(b'"');
    }
}

impl Line for Json<'_> {
    fn bare(&mut self, name: &str, value: &str) {
        self.quoted(name, |out| out.extend_from_slice(value.as_bytes()));
    }

    /// Bytes outside visible ASCII are shown as in text lines, so that both say the same.
    fn text(&mut self, name: &str, value: &[u8]) {
        self.quoted(name, |out| escape(out, value, b"\\\\x"));
    }

    fn display(&mut self, name: &str, value: &dyn Display) {
        self.quoted(name, |out| drop(write!(out, "{value}")));
    }

    fn number(&mut self, name: &str, value: u64) {
        self.name(name);
        number(self.out, value);
    }

    fn millis(&mut self, name: &str, value: Duration) {
        self.name(name);
        millis(self.out, value);
    }

    fn hex(&mut self, name: &str, value: u64) {
        self.quoted(name, |out| hex(out, value));
    }

    fn end(&mut self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// Appends `value` with everything but visible ASCII, quotes and backslashes left out as
/// `mark` and two hex digits.
fn escape(out: &mut Vec<u8>, value: &[u8], mark: &[u8]) {
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| !is_plain(byte)) {
        let (plain, odd) = rest.split_at(at);
        out.extend_from_slice(plain);
        out.extend_from_slice(mark);
        digits(out, &odd[..1]);
        rest = &odd[1..];
    }
    out.extend_from_slice(rest);
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn millis(out: &mut Vec<u8>, value: Duration) {
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1000);
    let part = micros % 1000;
    out.extend_from_slice(&[b'.', b'0' + (part / 100) as u8, b'0' + (part / 10 % 10) as u8, b'0' + (part % 10) as u8]);
}

fn hex(out: &mut Vec<u8>, value: u64) {
    digits(out, &value.to_be_bytes());
}

fn digits(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Writes times, the date only when the second has changed.
#[derive(Default)]
pub(super) struct Clock {
    second: Option<u64>,
    text: String,
}

impl Clock {
    /// RFC 3339 with milliseconds, in UTC.
    pub(super) fn rfc3339(&mut self, time: Duration) -> &str {
        let seconds = time.as_secs();
        if self.second != Some(seconds) {
            self.second = Some(seconds);
            let whole = UNIX_EPOCH + Duration::from_secs(seconds);
            self.text = humantime::format_rfc3339_seconds(whole).to_string();
        }
        self.text.truncate("0000-00-00T00:00:00".len());
        let millis = time.subsec_millis();
        let digit = |n: u32| char::from(b'0' + (n % 10) as u8);
        self.text.extend(['.', digit(millis / 100), digit(millis / 10), digit(millis), 'Z']);
        &self.text
    }
}
