//! Owns: reading numbers and durations of the command line.
//! Invariant: the error of a value that can't be used says which ones can.
//! Must not know: what a value is for.

use std::ops::RangeInclusive;

/// Returns a parser of whole numbers in a range.
pub(super) fn whole_number(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("write a whole number from {} to {}", range.start(), range.end()))
    }
}

/// Checks that the text is a duration; the running process reads it.
pub(super) fn duration(text: &str) -> Result<String, &'static str> {
    humantime::parse_duration(text).map(|_| text.to_owned()).map_err(|_| "write a duration, such as 10m or 30s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_can_not_be_used_is_refused_with_those_that_can() {
        let weight = whole_number(0..=1000);
        assert_eq!((weight("0"), weight("1000")), (Ok(0), Ok(1000)));
        for bad in ["1001", "-1", "x", "1.5", ""] {
            assert_eq!(weight(bad), Err("write a whole number from 0 to 1000".to_owned()), "{bad}");
        }
        assert_eq!(duration("10m"), Ok("10m".to_owned()));
        assert!(duration("10").is_err() && duration("soon").is_err());
    }
}
