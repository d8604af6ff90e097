//! Owns: the two text formats of the metrics, and which one a client gets.
//! Invariant: both have the same samples; they differ in what is said about them.
//! Must not know: what the metrics mean.

use http::header::{ACCEPT, HeaderMap, HeaderValue};

/// OpenMetrics 1.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The classic format of Prometheus, which `promtool check metrics` reads.
const CLASSIC: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// A text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextFormat {
    /// OpenMetrics.
    OpenMetrics,
    /// The classic one.
    Classic,
}

impl TextFormat {
    /// Returns the format for a request with these headers. As Prometheus' client libraries do, it is OpenMetrics only
    /// for who names that: `curl` and browsers send `*/*`, and get what every tool reads. A client without Accept gets
    /// OpenMetrics.
    pub(super) fn wanted(headers: &HeaderMap) -> TextFormat {
        let open = quality(headers, "application/openmetrics-text").filter(|quality| *quality > 0.0);
        match (open, quality(headers, "text/plain")) {
            _ if !headers.contains_key(ACCEPT) => TextFormat::OpenMetrics,
            (Some(open), classic) if classic.is_none_or(|classic| open >= classic) => TextFormat::OpenMetrics,
            _ => TextFormat::Classic,
        }
    }

    /// Returns the media type.
    pub(super) fn content_type(self) -> HeaderValue {
        match self {
            TextFormat::OpenMetrics => OPEN_METRICS,
            TextFormat::Classic => CLASSIC,
        }
    }

    /// Translates a text in OpenMetrics into this format.
    pub(super) fn translate(self, text: String) -> String {
        match self {
            TextFormat::OpenMetrics => text,
            TextFormat::Classic => classic(&text),
        }
    }
}

/// Returns the highest quality (RFC 9110 §12.4.2) at which Accept names a media type; `None` if it doesn't.
fn quality(headers: &HeaderMap, wanted: &str) -> Option<f32> {
    let fields = headers.get_all(ACCEPT).iter().filter_map(|field| field.to_str().ok());
    let ranges = fields.flat_map(|field| field.split(',')).filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_wanted = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(wanted));
        let quality =
            parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
        is_wanted.then_some(quality)
    });
    ranges.reduce(f32::max)
}

/// Translates OpenMetrics into the classic format: there, HELP and TYPE of a counter or an info have the name of their
/// samples, units have no line, and the text has no end mark. Our samples have neither exemplars nor times, which alone
/// would differ.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            help = Some(line);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                _ => ("", kind),
            };
            let words =
                help.take().and_then(|help| help.strip_prefix("# HELP ")?.strip_prefix(name)).unwrap_or_default();
            out.push_str(&format!("# HELP {name}{suffix}{words}\n# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(accept: Option<&str>) -> TextFormat {
        let fields = accept.map(|accept| (ACCEPT, HeaderValue::from_str(accept).unwrap()));
        TextFormat::wanted(&fields.into_iter().collect())
    }

    #[test]
    fn openmetrics_is_for_who_names_it_and_prefers_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [None, Some("application/openmetrics-text"), Some(prometheus)] {
            assert_eq!(wanted(accept), TextFormat::OpenMetrics, "{accept:?}");
        }
        for accept in [
            "*/*",
            "text/plain",
            "text/html, */*;q=0.8",
            "text/plain;version=0.0.4;q=0.9, application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "",
        ] {
            assert_eq!(wanted(Some(accept)), TextFormat::Classic, "{accept}");
        }
    }

    #[test]
    fn the_classic_format_names_a_counter_as_its_samples() {
        let open = "# HELP a_seconds How long.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total{x=\"# y\"} 1\n\
                    # HELP b What.\n# TYPE b info\nb_info{v=\"1\"} 1\n# HELP c Now.\n# TYPE c gauge\nc 2\n# EOF\n";
        let expected = "# HELP a_seconds_total How long.\n# TYPE a_seconds_total counter\na_seconds_total{x=\"# y\"} 1\n\
                        # HELP b_info What.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n# HELP c Now.\n# TYPE c gauge\nc 2\n";
        assert_eq!(classic(open), expected);
    }
}
