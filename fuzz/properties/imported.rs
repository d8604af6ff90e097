//! Properties of any imported text: it is refused, or becomes TOML that lists what was lost.

use std::path::Path;

use linchpin::config;
use linchpin::import::{Format, import};

pub fn holds(data: &[u8], format: Format) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(imported) = import(text, "a\nname", format) else { return };
    let again = import(text, "a\nname", format);
    assert_eq!(again.as_ref(), Ok(&imported), "the same text, the same configuration");
    let lines = text.lines().count();
    assert!(imported.guards.len() <= imported.unsupported, "a guard that was lost is a line that was");
    assert!(imported.guards.iter().all(|line| (1..=lines).contains(line)), "{:?} of {lines}", imported.guards);
    if let Err(error) = imported.text.parse::<toml::Table>() {
        panic!("no TOML: {error}\n{}", imported.text);
    }
    // Files that it names are looked for, and those of devices have no end.
    if !imported.text.contains("/dev") && !imported.text.contains("/proc") {
        let report = config::parse(&imported.text, Path::new("/nowhere/linchpin.toml"));
        let report = report.map_or_else(|report| report, |(_, report)| report);
        assert!(report.errors() == 0 || !report.to_string().is_empty());
    }
}
