//! The kernel's counters of this process, under the names that every Prometheus client library uses.
//!
//! `metrics-process` reads the values. This file writes them as text instead of using the crate's own collector, which
//! keeps the CPU time in a counter of the `metrics` crate and thus rounds it to whole seconds.

use std::fmt::Write;

/// The metrics as text, without values that this system does not provide.
pub(super) fn render() -> String {
    let found = metrics_process::collector::collect();
    let values = [
        (
            "process_cpu_seconds_total",
            "counter",
            "CPU time of the process, user and system.",
            found.cpu_seconds_total,
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory of the process.",
            found.resident_memory_bytes.map(float),
        ),
        (
            "process_open_fds",
            "gauge",
            "Files and sockets that the process has open.",
            found.open_fds.map(float),
        ),
        (
            "process_max_fds",
            "gauge",
            "Files and sockets that the process may have open.",
            found.max_fds.map(float),
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start of the process since the Unix epoch.",
            found.start_time_seconds.map(float),
        ),
    ];
    let mut text = String::new();
    for (name, kind, help, value) in values {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        }
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "a gauge")]
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn value(name: &str) -> f64 {
        let text = render();
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.split(' ').nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn counts_the_open_files_and_how_many_there_may_be() {
        let before = value("process_open_fds");
        let held: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some in parallel.
        let grown = value("process_open_fds") - before;
        assert!((150.0..250.0).contains(&grown), "{grown} more");
        drop(held);
        assert!(value("process_max_fds") > value("process_open_fds"));
    }

    #[test]
    fn measures_cpu_time_below_a_second_memory_and_the_start() {
        let before = value("process_cpu_seconds_total");
        let mut spun = 0_u64;
        while value("process_cpu_seconds_total") <= before {
            spun += 1;
            assert!(spun < 1_000_000, "a busy process uses CPU time");
        }
        assert!(value("process_cpu_seconds_total") - before < 0.5, "in parts of a second");
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_start_time_seconds") > 1.7e9);
    }
}
