//! Owns: reading single values: numbers, durations, sizes, shares, status codes, words.
//! Invariant: a refusal shows the value as found, and one that is valid.
//! Must not know: keys, sections, or what a value is for.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

/// Why a value is refused: the message after the name of its key, and the remedy.
pub(super) struct InvalidValue {
    pub(super) problem: String,
    pub(super) remedy: String,
}

pub(super) type Value<T> = Result<T, InvalidValue>;

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// The longest duration in the configuration: long enough for any use, and short enough to be added to any clock.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Returns the refusal "must be … , not …".
pub(super) fn must_be(what: &str, found: impl std::fmt::Display, remedy: impl Into<String>) -> InvalidValue {
    InvalidValue { problem: format!("must be {what}, not {found}"), remedy: remedy.into() }
}

/// Returns a text from the file for a message: in quotes, without control characters, shortened.
pub(super) fn shown(text: &str) -> String {
    format!("\"{}\"", clipped(text))
}

/// Returns a text without control characters, shortened to fit a line.
pub(super) fn clipped(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut clipped: String = text.chars().take(LONGEST).flat_map(visible).collect();
    if text.chars().nth(LONGEST).is_some() {
        clipped.push('…');
    }
    clipped
}

fn visible(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// Returns the type and the value, for a message.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", shown(text)),
        DeValue::Integer(number) => clipped(&number.to_string()),
        DeValue::Float(number) => clipped(number.as_str()),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".into(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}

pub(super) fn text<'a>(value: &'a DeValue<'_>) -> Value<&'a str> {
    value.as_str().ok_or_else(|| must_be("a string", found(value), "put it in quotes"))
}

/// Reads a string that is not empty and has no control characters.
pub(super) fn plain_text(value: &DeValue<'_>) -> Value<String> {
    let text = text(value)?;
    if text.trim().is_empty() {
        return Err(InvalidValue { problem: "is empty".into(), remedy: "write a value, or remove the key".into() });
    }
    if text.chars().any(char::is_control) {
        return Err(must_be("free of control characters", shown(text), "remove them"));
    }
    Ok(text.into())
}

pub(super) fn flag(value: &DeValue<'_>) -> Value<bool> {
    const YES: [&str; 4] = ["on", "yes", "true", "enabled"];
    const NO: [&str; 4] = ["off", "no", "false", "disabled"];
    let is =
        |words: [&str; 4]| value.as_str().is_some_and(|text| words.iter().any(|word| word.eq_ignore_ascii_case(text)));
    value.as_bool().ok_or_else(|| {
        let remedy = match (is(YES), is(NO)) {
            (true, _) => "write true, without quotes",
            (_, true) => "write false, without quotes",
            _ => "write true or false, without quotes",
        };
        must_be("true or false", found(value), remedy)
    })
}

/// Reads a whole number.
pub(super) fn whole<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Value<T> {
    move |value| {
        let (low, high) = (*range.start(), *range.end());
        let what = format!("a whole number from {low} to {high}");
        let remedy = |number: Option<i128>| match number {
            Some(number) if number < i128::from(low) => format!("write {low} or more"),
            Some(number) if number > i128::from(high) => format!("write {high} or less"),
            Some(number) => format!("write {number}"),
            None => format!("write a number such as {}", low.max(1)),
        };
        let number = integer(value);
        let within = number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number));
        within.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let meant = number.or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
            must_be(&what, found(value), remedy(meant))
        })
    }
}

fn integer(value: &DeValue<'_>) -> Option<i128> {
    value.as_integer().and_then(|number| i128::from_str_radix(number.as_str(), number.radix()).ok())
}

/// Reads a duration with its unit.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Value<Duration> {
    move |value| {
        const WHAT: &str = "a duration such as \"30s\", \"500ms\" or \"1h 30m\"";
        if let Some(number) = integer(value).or_else(|| value.as_str().and_then(|text| text.trim().parse().ok())) {
            let remedy = format!("write the unit: \"{number}s\" for seconds");
            return Err(must_be(WHAT, found(value), remedy));
        }
        let Some(text) = value.as_str() else {
            return Err(must_be(WHAT, found(value), "write a number and its unit in quotes"));
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            return Err(must_be(WHAT, shown(text), "write numbers with the units ms, s, m, h or d"));
        };
        let written = |duration| humantime::format_duration(duration).to_string();
        if duration < *range.start() {
            let least = written(*range.start());
            return Err(must_be(&format!("at least {least}"), shown(text), format!("write \"{least}\" or more")));
        }
        if duration > *range.end() {
            let (most, less) = match range.end().as_secs() / (24 * 60 * 60) {
                0 => (written(*range.end()), written(*range.end())),
                days => (format!("{days} days"), format!("{days}d")),
            };
            return Err(must_be(&format!("at most {most}"), shown(text), format!("write \"{less}\" or less")));
        }
        Ok(duration)
    }
}

/// Reads a number of bytes with its unit.
pub(super) fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Value<T> {
    move |value| {
        const WHAT: &str = "a size such as \"64KiB\" or \"1MiB\"";
        if let Some(number) = integer(value).or_else(|| value.as_str().and_then(|text| text.trim().parse().ok())) {
            let meant = u64::try_from(number).map_or_else(|_| "64KiB".into(), written_size);
            return Err(must_be(WHAT, found(value), format!("write the unit: \"{meant}\"")));
        }
        let Some(text) = value.as_str() else {
            return Err(must_be(WHAT, found(value), "write a number and its unit in quotes"));
        };
        let Some(bytes) = parse_size(text) else {
            // nginx and HAProxy write sizes like `10m`.
            let with_unit = ["iB", "B"].iter().find_map(|unit| parse_size(&format!("{}{unit}", text.trim())));
            let remedy = match with_unit {
                Some(bytes) => format!("write \"{}\"", written_size(bytes)),
                None => "write a whole number and one of the units B, KiB, MiB, GiB".into(),
            };
            return Err(must_be(WHAT, shown(text), remedy));
        };
        let limits = format!("from {} to {}", written_size(*range.start()), written_size(*range.end()));
        let within = Some(bytes).filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
        within.ok_or_else(|| {
            let side = if bytes < *range.start() { *range.start() } else { *range.end() };
            must_be(&limits, shown(text), format!("write \"{}\"", written_size(side)))
        })
    }
}

const SIZE_UNITS: [(&str, u64); 7] =
    [("KiB", KIB), ("MiB", MIB), ("GiB", 1024 * MIB), ("kB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1)];

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = text.trim().split_at_checked(text.trim().find(|c: char| !c.is_ascii_digit())?)?;
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim()))?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

fn written_size(bytes: u64) -> String {
    let exact = SIZE_UNITS[..3].iter().rev().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// Reads a size that can be unlimited. Refuses 0, which means unlimited in other proxies.
pub(super) fn body_bytes(value: &DeValue<'_>) -> Value<u64> {
    match value.as_str() {
        Some("unlimited") => Ok(u64::MAX),
        Some("0" | "0B") => Err(must_be("a size, or \"unlimited\"", found(value), "write \"unlimited\" for no limit")),
        _ => size(1..=1 << 50)(value),
    }
}

/// Reads a number per time: `"100/s"`, `"1000/m"`, `"5000/h"`.
pub(super) fn rate(range: RangeInclusive<u32>) -> impl Fn(&DeValue<'_>) -> Value<(u32, Duration)> {
    move |value| {
        let read = |text: &str| {
            let (number, unit) = text.split_once('/')?;
            let seconds = match unit.trim() {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let number = number.trim().parse().ok().filter(|number| range.contains(number))?;
            Some((number, Duration::from_secs(seconds)))
        };
        value.as_str().and_then(read).ok_or_else(|| {
            let what = format!("a rate of {} to {} per second, minute or hour", range.start(), range.end());
            // nginx writes rates like `10r/s`.
            let of_nginx = value.as_str().and_then(|text| text.trim().split_once("r/"));
            let of_nginx = of_nginx.filter(|(number, unit)| read(&format!("{number}/{unit}")).is_some());
            let remedy = match integer(value).or_else(|| value.as_str()?.trim().parse().ok()) {
                Some(number) => format!("write the unit: \"{number}/s\" for {number} per second"),
                None if let Some((number, unit)) = of_nginx => format!("write \"{number}/{unit}\""),
                None => "write a number and one of the units /s, /m, /h, such as \"100/s\"".into(),
            };
            must_be(&what, found(value), remedy)
        })
    }
}

/// Reads a share in percent: `50` or `"50%"`.
pub(super) fn percent<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Value<T> {
    move |value| {
        let written = value.as_str().and_then(|text| text.trim().strip_suffix('%')?.trim_end().parse().ok());
        let percent = written.or_else(|| u64::try_from(integer(value)?).ok()).filter(|number| range.contains(number));
        percent.and_then(|number| T::try_from(number).ok()).ok_or_else(|| {
            let (low, high) = (range.start(), range.end());
            let remedy = format!("write a number from {low} to {high}, such as {0} or \"{0}%\"", 20.clamp(*low, *high));
            must_be(&format!("a share from {low}% to {high}%"), found(value), remedy)
        })
    }
}

/// Reads a status code or a range of them: `204`, `"204"`, `"200-399"`, `"2xx"`.
pub(super) fn statuses(value: &DeValue<'_>) -> Value<RangeInclusive<u16>> {
    let range = match (integer(value), value.as_str()) {
        (Some(number), _) => u16::try_from(number).ok().map(|code| code..=code),
        (None, Some(text)) => parse_statuses(text.trim()),
        (None, None) => None,
    };
    range.filter(|range| *range.start() >= 100 && *range.end() <= 599 && !range.is_empty()).ok_or_else(|| {
        let what = "a status code from 100 to 599, or a range of them";
        must_be(what, found(value), "write for example 204, \"2xx\" or \"200-399\"")
    })
}

fn parse_statuses(text: &str) -> Option<RangeInclusive<u16>> {
    let code = |text: &str| text.trim().parse::<u16>().ok();
    if let Some(class) = text.strip_suffix("xx") {
        let hundred = code(class).filter(|class| *class <= 5)? * 100;
        return Some(hundred..=hundred + 99);
    }
    match text.split_once('-') {
        Some((low, high)) => Some(code(low)?..=code(high)?),
        None => code(text).map(|code| code..=code),
    }
}

/// Reads one of some words, in upper or lower case.
pub(super) fn word<T: Clone + 'static, const N: usize>(
    words: [(&'static str, T); N],
) -> impl Fn(&DeValue<'_>) -> Value<T> {
    move |value| {
        let list = words.iter().map(|(word, _)| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let example = words.first().map_or_else(String::new, |(word, _)| format!("write for example \"{word}\""));
        let Some(text) = value.as_str() else {
            return Err(must_be(&format!("one of {list}"), found(value), example));
        };
        let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
        if let Some((_, meaning)) = known {
            return Ok(meaning.clone());
        }
        let remedy = match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(word) => format!("did you mean \"{word}\"?"),
            None => example,
        };
        Err(must_be(&format!("one of {list}"), shown(text), remedy))
    }
}

/// Returns the known word that is closest to a mistyped one, if any is close.
pub(super) fn nearest<'k>(mistyped: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    const LONGEST: usize = 64;
    if mistyped.len() > LONGEST {
        return None;
    }
    let mistyped = mistyped.to_lowercase();
    let distance = |word: &str| strsim::osa_distance(&mistyped, &word.to_lowercase());
    let allowed = |word: &str| mistyped.len().max(word.len()).div_ceil(3).min(mistyped.len().max(1));
    let close = known.into_iter().map(|word| (distance(word), word)).filter(|(distance, word)| {
        // Two words without a letter in common are not misspellings of each other.
        *distance <= allowed(word) && *distance < word.len().max(mistyped.len())
    });
    close.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}
/// The limit of names to compare with: in a file with thousands of names, comparisons take time.
const MOST_COMPARED: usize = 200;

/// Returns the remedy for an unknown name.
pub(super) fn known<'n>(what: &str, mistyped: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    match nearest(mistyped, names.clone().take(MOST_COMPARED)) {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => match names.take(10).map(|name| format!("\"{name}\"")).collect::<Vec<_>>() {
            names if names.is_empty() => format!("there are no other {what}"),
            names => format!("the {what} are: {}", names.join(", ")),
        },
    }
}
