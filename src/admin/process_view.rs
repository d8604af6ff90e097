//! Owns: the metrics of the process itself, under the names that Prometheus' client libraries use.
//! Invariant: what the system doesn't tell is omitted, never zero.
//! Must not know: what the process does.

use std::fmt;
use std::fs;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use rustix::process::{Resource, getrlimit};

/// Clock ticks per second in `/proc`: the same in every Linux that programs see (`USER_HZ`).
const TICKS: f64 = 100.0;

/// Encodes the metrics. The process started at `started`, since the Unix epoch.
pub(super) fn encode(encoder: &mut DescriptorEncoder<'_>, started: Duration) -> fmt::Result {
    let help = "Start time of the process since the Unix epoch";
    encoder
        .encode_descriptor("process_start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?
        .encode_gauge(&started.as_secs_f64())?;
    let text = |file: &str| fs::read_to_string(file).unwrap_or_default();
    if let Some(seconds) = cpu_seconds(&text("/proc/self/stat")) {
        let help = "User and system CPU time of the process";
        encoder
            .encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
    }
    let status = text("/proc/self/status");
    let mut gauge = |name: &str, help: &str, unit: Option<&Unit>, value: Option<u64>| -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?.encode_gauge(&value)
    };
    let bytes = Some(&Unit::Bytes);
    gauge("process_resident_memory", "Memory of the process that is resident", bytes, kib(&status, "VmRSS:"))?;
    gauge("process_virtual_memory", "Virtual memory of the process", bytes, kib(&status, "VmSize:"))?;
    // One of them is the folder that is read.
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1));
    gauge("process_open_fds", "Open file descriptors", None, open)?;
    gauge("process_max_fds", "The most file descriptors that can be open", None, getrlimit(Resource::Nofile).current)
}

/// Returns the CPU time from `/proc/self/stat`. The name of the program, in parentheses, may contain anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) as f64 / TICKS)
}

/// Returns the value of a line of `/proc/self/status` in bytes.
fn kib(status: &str, key: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.split_ascii_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_tells_is_read_and_nothing_is_made_up() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 100 0 0 0 250 30 0 0 20 0 5 0 100 1000000 500";
        assert_eq!(cpu_seconds(stat), Some(2.8));
        assert_eq!((cpu_seconds(""), cpu_seconds("7 (x) S 1")), (None, None));
        let status = "Name:\tx\nVmSize:\t    2048 kB\nVmRSS:\t     512 kB\n";
        assert_eq!((kib(status, "VmSize:"), kib(status, "VmRSS:")), (Some(2 << 20), Some(512 << 10)));
        assert_eq!(kib("Name:\tx\n", "VmRSS:"), None);
    }
}
