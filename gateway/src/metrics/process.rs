//! What the kernel counts of this process, under the names that every Prometheus client library uses.
//!
//! Written as text: a counter of the `metrics` crate holds whole numbers, and a second of CPU is too coarse.

use std::fmt::Write;
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

static STARTED: OnceLock<Duration> = OnceLock::new();

/// Remembers the start of the node; the first call counts.
pub(super) fn started() {
    STARTED.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
}

/// The metrics as text; one that this system does not tell is left out.
pub(super) fn render() -> String {
    let mut text = String::new();
    let used = clock_gettime(ClockId::ProcessCPUTime);
    let used = Duration::try_from(used).unwrap_or_default().as_secs_f64();
    add(&mut text, "process_cpu_seconds_total", "counter", "CPU time of the process, user and system.", used);
    if let Some(bytes) = resident_bytes() {
        add(&mut text, "process_resident_memory_bytes", "gauge", "Resident memory of the process.", bytes);
    }
    if let Some(files) = open_files() {
        add(&mut text, "process_open_fds", "gauge", "Files and sockets that the process has open.", files);
    }
    if let Ok(limit) = rlimit::Resource::NOFILE.get_soft() {
        let help = "Files and sockets that the process may have open.";
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        add(&mut text, "process_max_fds", "gauge", help, limit as f64);
    }
    if let Some(started) = STARTED.get() {
        let help = "Start of the process since the Unix epoch.";
        add(&mut text, "process_start_time_seconds", "gauge", help, started.as_secs_f64());
    }
    text
}

fn add(text: &mut String, name: &str, kind: &str, help: &str, value: f64) {
    // A String takes everything.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
}

/// How many files are open. Newer kernels tell the number as the size of the directory; on older ones it is counted.
fn open_files() -> Option<f64> {
    const OPEN: &str = "/proc/self/fd";
    let told = fs::metadata(OPEN).ok()?.len();
    // The directory itself is open while it is counted.
    let count = if told > 0 { told } else { fs::read_dir(OPEN).ok()?.count().saturating_sub(1) as u64 };
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    Some(count as f64)
}

fn resident_bytes() -> Option<f64> {
    resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// `VmRSS` of a process' status, in bytes.
fn resident(status: &str) -> Option<f64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    kibibytes.trim().parse::<f64>().ok().map(|size| size * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_resident_size() {
        let status = "Name:\tgateway\nVmHWM:\t  90000 kB\nVmRSS:\t   81920 kB\nThreads:\t4\n";
        assert_eq!(resident(status), Some(81_920.0 * 1024.0));
        assert_eq!(resident("Name:\tgateway\n"), None);
    }

    #[test]
    fn tells_how_many_files_are_open_and_may_be() {
        let before = open_files().unwrap();
        let held: Vec<_> = (0..200).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        // Other tests open and close some meanwhile.
        let grown = open_files().unwrap() - before;
        assert!((150.0..250.0).contains(&grown), "{grown} more");
        drop(held);
        assert!(render().contains("\nprocess_max_fds "));
    }

    #[test]
    fn tells_cpu_time_and_start() {
        started();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
            line.split(' ').nth(1).unwrap().parse::<f64>().unwrap()
        };
        let before = value(&render(), "process_cpu_seconds_total ");
        let mut spun = 0_u64;
        while value(&render(), "process_cpu_seconds_total ") <= before {
            spun += 1;
            assert!(spun < 1_000_000, "a busy process uses CPU time");
        }
        assert!(value(&render(), "process_start_time_seconds ") > 1.7e9);
    }
}
