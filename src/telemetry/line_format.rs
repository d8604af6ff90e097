//! Owns: formatting one line of the access log, as text and as JSON.
//! Invariant: whatever a client sent, the result is one line, and in JSON one object.
//! Must not know: which fields a record has.

use std::time::{Duration, UNIX_EPOCH};

/// Writes the fields of one line. Values of `plain`, `positional` and `phrase` are Linchpin's own words and need no
/// escaping. A line of text omits the name of a `positional` field, and quotes a `phrase` that has spaces. A client's
/// value is `escaped`, or `quoted` if it has spaces.
pub(super) trait LineWriter {
    fn positional(&mut self, name: &str, value: &str);
    fn plain(&mut self, name: &str, value: &str);
    fn phrase(&mut self, name: &str, value: &str);
    fn escaped(&mut self, name: &str, value: &[u8]);
    fn quoted(&mut self, name: &str, value: &[u8]);
    fn number(&mut self, name: &str, value: u64);
    fn millis(&mut self, name: &str, value: Duration);
    fn hex(&mut self, name: &str, value: u64);
    fn hex_bytes(&mut self, name: &str, value: &[u8]);
    fn end(&mut self);
}

/// `time METHOD name=value …`
pub(super) struct TextLine<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> TextLine<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> TextLine<'a> {
        TextLine { out, first: true }
    }

    fn space(&mut self) {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(b' ');
        }
    }

    // Inlined, so that a name is a constant: copying it takes a few stores and no call.
    #[inline(always)]
    fn name(&mut self, name: &str) {
        self.space();
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'=');
    }
}

impl LineWriter for TextLine<'_> {
    #[inline]
    fn positional(&mut self, _: &str, value: &str) {
        self.space();
        self.out.extend_from_slice(value.as_bytes());
    }

    #[inline]
    fn plain(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.extend_from_slice(value.as_bytes());
    }

    fn phrase(&mut self, name: &str, value: &str) {
        self.name(name);
        let is_one = !value.contains(' ');
        let mark: &[u8] = if is_one { b"" } else { b"\"" };
        self.out.extend_from_slice(mark);
        self.out.extend_from_slice(value.as_bytes());
        self.out.extend_from_slice(mark);
    }

    fn escaped(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        if value.is_empty() {
            self.out.push(b'-');
        }
        escape(self.out, value, b"\\x", &VISIBLE);
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        escape(self.out, value, b"\\x", &PRINTABLE);
        self.out.push(b'"');
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

    fn hex_bytes(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        digits(self.out, value);
    }

    fn end(&mut self) {
        self.out.push(b'\n');
    }
}

/// `{"name":value,…}`
pub(super) struct JsonLine<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> JsonLine<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> JsonLine<'a> {
        JsonLine { out, first: true }
    }

    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(if self.first { b"{\"" } else { b",\"" });
        self.first = false;
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn string(&mut self, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
        self.name(name);
        self.out.push(b'"');
        value(self.out);
        self.out.push(b'"');
    }
}

impl LineWriter for JsonLine<'_> {
    fn positional(&mut self, name: &str, value: &str) {
        self.plain(name, value);
    }

    fn plain(&mut self, name: &str, value: &str) {
        self.string(name, |out| out.extend_from_slice(value.as_bytes()));
    }

    fn phrase(&mut self, name: &str, value: &str) {
        self.plain(name, value);
    }

    /// Writes bytes outside visible ASCII as a line of text does, so that a search finds the same in both formats.
    fn escaped(&mut self, name: &str, value: &[u8]) {
        self.string(name, |out| escape(out, value, b"\\\\x", &VISIBLE));
    }

    fn quoted(&mut self, name: &str, value: &[u8]) {
        self.string(name, |out| escape(out, value, b"\\\\x", &PRINTABLE));
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
        self.string(name, |out| hex(out, value));
    }

    fn hex_bytes(&mut self, name: &str, value: &[u8]) {
        self.string(name, |out| digits(out, value));
    }

    fn end(&mut self) {
        self.out.extend_from_slice(b"}\n");
    }
}

/// `client - - [time] "METHOD target protocol" status bytes "referer" "user agent"`
pub(super) struct CombinedLine<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> CombinedLine<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> CombinedLine<'a> {
        CombinedLine { out }
    }

    /// Writes the client's address, its user, and the time. The hyphen before the user is what the protocol ident would
    /// say (RFC 1413), which nobody asks.
    pub(super) fn begin(&mut self, client: &str, user: Option<&str>, time: &str) {
        self.out.extend_from_slice(client.as_bytes());
        self.out.extend_from_slice(b" - ");
        escape(self.out, user.unwrap_or("-").as_bytes(), b"\\x", &VISIBLE);
        for part in [" [", time, "]"] {
            self.out.extend_from_slice(part.as_bytes());
        }
    }

    /// Writes the request line.
    pub(super) fn request(&mut self, method: &str, path: &[u8], query: Option<&str>, protocol: &str) {
        self.out.extend_from_slice(b" \"");
        self.out.extend_from_slice(method.as_bytes());
        self.out.push(b' ');
        escape(self.out, path, b"\\x", &VISIBLE);
        if let Some(query) = query {
            self.out.push(b'?');
            escape(self.out, query.as_bytes(), b"\\x", &VISIBLE);
        }
        self.out.push(b' ');
        self.out.extend_from_slice(protocol.as_bytes());
        self.out.push(b'"');
    }

    pub(super) fn number(&mut self, value: u64) {
        self.out.push(b' ');
        number(self.out, value);
    }

    /// Writes a client's value, or a hyphen for none.
    pub(super) fn quoted(&mut self, value: Option<&[u8]>) {
        self.out.extend_from_slice(b" \"");
        escape(self.out, value.filter(|value| !value.is_empty()).unwrap_or(b"-"), b"\\x", &PRINTABLE);
        self.out.push(b'"');
    }

    pub(super) fn end(&mut self) {
        self.out.push(b'\n');
    }
}

/// Appends `value`. A byte that is not `plain` becomes `mark` and two hex digits.
fn escape(out: &mut Vec<u8>, value: &[u8], mark: &[u8], plain: &[bool; 256]) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|byte| !plain[usize::from(*byte)]) {
        let (before, odd) = rest.split_at(at);
        out.extend_from_slice(before);
        out.extend_from_slice(mark);
        digits(out, &odd[..1]);
        rest = &odd[1..];
    }
    out.extend_from_slice(rest);
}

/// Visible ASCII, but for the quote and the backslash.
const VISIBLE: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < plain.len() {
        plain[byte] = (byte as u8).is_ascii_graphic() && !matches!(byte as u8, b'"' | b'\\');
        byte += 1;
    }
    plain
};

/// The same, and the space.
const PRINTABLE: [bool; 256] = {
    let mut plain = VISIBLE;
    plain[b' ' as usize] = true;
    plain
};

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn millis(out: &mut Vec<u8>, value: Duration) {
    number(out, value.as_secs().saturating_mul(1000).saturating_add(u64::from(value.subsec_millis())));
    let part = value.subsec_micros() % 1000;
    out.extend_from_slice(&[b'.', b'0' + (part / 100) as u8, b'0' + (part / 10 % 10) as u8, b'0' + (part % 10) as u8]);
}

fn hex(out: &mut Vec<u8>, value: u64) {
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        *digit = DIGITS[(value >> (60 - 4 * at)) as usize & 15];
    }
    out.extend_from_slice(&text);
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

fn digits(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Formats times. Formats the date and the seconds only when the second has changed.
#[derive(Default)]
pub(super) struct Timestamps {
    second: Option<u64>,
    text: String,
    clf: String,
}

impl Timestamps {
    /// Formats a time since the Unix epoch as RFC 3339, with milliseconds, in UTC.
    pub(super) fn rfc3339(&mut self, time: Duration) -> &str {
        let seconds = time.as_secs();
        if self.second != Some(seconds) {
            self.second = Some(seconds);
            self.clf.clear();
            let whole = UNIX_EPOCH + Duration::from_secs(seconds);
            self.text = humantime::format_rfc3339_seconds(whole).to_string();
        }
        self.text.truncate("0000-00-00T00:00:00".len());
        let millis = time.subsec_millis();
        let digit = |n: u32| char::from(b'0' + (n % 10) as u8);
        self.text.extend(['.', digit(millis / 100), digit(millis / 10), digit(millis), 'Z']);
        &self.text
    }

    /// Formats a time since the Unix epoch as the common log format does: `14/Nov/2023:22:13:20 +0000`.
    pub(super) fn clf(&mut self, time: Duration) -> &str {
        if self.second != Some(time.as_secs()) || self.clf.is_empty() {
            const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
            let text = self.rfc3339(time);
            let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
            let month = part(5..7).parse::<usize>().unwrap_or(1).saturating_sub(1);
            let month = MONTHS.get(month * 3..month * 3 + 3).unwrap_or("Jan");
            self.clf = [part(8..10), "/", month, "/", part(0..4), ":", part(11..19), " +0000"].concat();
        }
        &self.clf
    }
}
