//! Reads the kernel's counters of the server's processes and the machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sys;

/// The kernel's unit in `/proc/stat` is fixed at a hundredth of a second for user space.
const NS_PER_TICK: u64 = 10_000_000;

/// The processes under test; without any, nothing is measured.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pids: Vec<u32>,
}

/// Resident memory, summed over the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    /// Resident pages, shared ones in full.
    pub(crate) rss: u64,
    /// Resident pages, shared ones divided among the processes that share them.
    pub(crate) pss: u64,
}

/// Context switches, summed over all threads of the processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches {
    pub(crate) voluntary: u64,
    pub(crate) involuntary: u64,
}

/// CPU time of the whole machine, all cores together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) busy_ns: u64,
    /// Taken by other guests of the host.
    pub(crate) steal_ns: u64,
}

impl Server {
    /// The processes given on the command line.
    pub(crate) fn new(pids: &[u32]) -> Self {
        Self { pids: pids.to_vec() }
    }

    /// Whether there is anything to measure.
    pub(crate) fn is_known(&self) -> bool {
        !self.pids.is_empty()
    }

    /// CPU time used so far.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        self.sum(|pid| sys::process_cpu_ns(pid).map_err(Into::into))
    }

    /// Memory resident now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut total = Memory::default();
        for &pid in &self.pids {
            let memory = memory(pid).with_context(|| format!("memory of process {pid}"))?;
            total.rss += memory.rss;
            total.pss += memory.pss;
        }
        Ok(total)
    }

    /// Resident bytes now, as cheaply as the kernel reports them: accurate to some pages per thread.
    pub(crate) fn rss(&self) -> Result<u64> {
        self.sum(resident)
    }

    /// Context switches so far of the threads alive now.
    pub(crate) fn switches(&self) -> Result<Switches> {
        let mut total = Switches::default();
        for &pid in &self.pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"))
                .with_context(|| format!("threads of process {pid}"))?;
            for task in tasks {
                // A thread may end between the listing and the reading.
                let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
                    continue;
                };
                total.voluntary += field(&status, "voluntary_ctxt_switches:").unwrap_or_default();
                total.involuntary += field(&status, "nonvoluntary_ctxt_switches:").unwrap_or_default();
            }
        }
        Ok(total)
    }

    fn sum(&self, of: impl Fn(u32) -> Result<u64>) -> Result<u64> {
        self.pids.iter().map(|&pid| of(pid).with_context(|| format!("process {pid}"))).sum()
    }
}

/// CPU time of the machine so far.
pub(crate) fn machine() -> Result<Machine> {
    Ok(parse_machine(&fs::read_to_string("/proc/stat")?))
}

fn memory(pid: u32) -> Result<Memory> {
    let dir = Path::new("/proc").join(pid.to_string());
    // The roll-up is exact. `status` lags by some pages per thread, but every user may read it.
    if let Ok(text) = fs::read_to_string(dir.join("smaps_rollup"))
        && let (Some(rss), Some(pss)) = (field(&text, "Rss:"), field(&text, "Pss:"))
    {
        return Ok(Memory { rss: rss * 1024, pss: pss * 1024 });
    }
    let rss = resident(pid)?;
    Ok(Memory { rss, pss: rss })
}

fn resident(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(field(&status, "VmRSS:").context("no VmRSS")? * 1024)
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn parse_machine(stat: &str) -> Machine {
    let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
        return Machine::default();
    };
    // user nice system idle iowait irq softirq steal; guest time is part of user time already.
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let at = |index: usize| ticks.get(index).copied().unwrap_or_default() * NS_PER_TICK;
    Machine { busy_ns: at(0) + at(1) + at(2) + at(5) + at(6), steal_ns: at(7) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_at_line_starts_only() {
        let text = "voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t7\nRss:     24 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(text, "nonvoluntary_ctxt_switches:"), Some(7));
        assert_eq!(field(text, "Rss:"), Some(24));
        assert_eq!(field(text, "Pss:"), None);
    }

    #[test]
    fn the_machine_is_busy_with_all_but_idle_waiting_and_steal() {
        let machine = parse_machine("cpu  1 2 3 1000 500 4 5 6 1 0\ncpu0 9 9 9 9\n");
        assert_eq!(machine.busy_ns, 15 * NS_PER_TICK);
        assert_eq!(machine.steal_ns, 6 * NS_PER_TICK);
    }

    #[test]
    fn this_process_can_be_measured() {
        let server = Server::new(&[std::process::id()]);
        let memory = server.memory().unwrap();
        assert!(memory.rss >= memory.pss && memory.pss > 0);
        assert!(server.cpu_ns().unwrap() > 0);
        server.switches().unwrap();
        assert!(machine().unwrap().busy_ns > 0);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error() {
        let server = Server::new(&[u32::MAX / 4]);
        assert!(server.cpu_ns().is_err());
        assert!(server.memory().is_err());
        assert!(server.switches().is_err());
    }
}
