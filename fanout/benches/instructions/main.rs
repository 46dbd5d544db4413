//! Counts the instructions of the hot path under callgrind, so that a regression shows whatever else runs on
//! the machine. `make instructions`; `BLESS=1` accepts the counts as expected.
//!
//! ```text
//!  count ──► valgrind, once for each workload ──► this program: run NAME
//!                     │                             makes ready, does it some times unseen,
//!                     ▼                             then in `counted_by_callgrind`
//!          instructions in there / times ◄──────────┘
//! ```
//!
//! The kernel's instructions and one-time work are not counted. Where a count depends on random hash seeds,
//! the lowest of several runs counts.
//!
//! Compilers and C libraries differ by more than the tolerance: `expected.json` names the ones that it was
//! made with, and with others nothing fails.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that fails panics")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its figures are what it is for")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use serde::{Deserialize, Serialize};

use self::workloads::{WORKLOADS, Workload};

#[allow(dead_code, reason = "each benchmark uses what it needs")]
#[path = "../../../shared/benches/inputs/mod.rs"]
mod inputs;
#[allow(dead_code, reason = "each benchmark uses what it needs")]
#[path = "../support/mod.rs"]
mod support;
mod workloads;

/// Percent by which a count may exceed the expected one.
const TOLERANCE: f64 = 5.0;

/// Runs of each workload.
const RUNS: usize = 3;

/// Repetitions before counting.
const WARM: u32 = 5;

/// The expected counts, and the environment that they were made with.
#[derive(Debug, Serialize, Deserialize)]
struct Expected {
    made_with: BTreeMap<String, String>,
    /// Instructions of each workload, done once.
    instructions: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["run", name] => run(name),
        ["count"] => return compare(&counts()),
        ["bless"] => bless(counts()),
        _ => println!("counted under callgrind, by `make instructions`"),
    }
    ExitCode::SUCCESS
}

/// Runs a workload for callgrind to count.
fn run(name: &str) {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name).unwrap();
    let mut work = (workload.ready)();
    (0..WARM).for_each(|_| work());
    counted_by_callgrind(&mut work, workload.times);
}

/// Callgrind finds this function by its name and counts the instructions in it.
#[inline(never)]
fn counted_by_callgrind(work: &mut dyn FnMut(), times: u32) {
    (0..times).for_each(|_| work());
}

fn counts() -> BTreeMap<String, u64> {
    let count = |workload: &Workload| {
        let least = (0..RUNS).map(|_| count(workload)).min().unwrap_or_default();
        (workload.name.to_owned(), least)
    };
    WORKLOADS.iter().map(count).collect()
}

/// Instructions of a workload done once.
fn count(workload: &Workload) -> u64 {
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
    let status = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--toggle-collect=*::counted_by_callgrind*"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().unwrap())
        .args(["run", workload.name])
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{}: {status}", workload.name),
        Err(error) => panic!("valgrind: {error}"),
    }
    let profile = std::fs::read_to_string(&out).unwrap();
    let total = profile.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
    let total: u64 = total.trim().parse().unwrap();
    assert!(total > 0, "callgrind has not seen where to count");
    total / u64::from(workload.times)
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/expected.json")
}

/// Prints the counts beside the expected ones; fails where a count is too high.
fn compare(counts: &BTreeMap<String, u64>) -> ExitCode {
    let expected: Expected = serde_json::from_str(&std::fs::read_to_string(file()).unwrap()).unwrap();
    let (mut table, mut worse) = (String::new(), 0);
    for name in WORKLOADS.iter().map(|workload| workload.name) {
        let now = counts[name];
        let Some(&before) = expected.instructions.get(name) else {
            writeln!(table, "{name:34} {:>10} {now:>10}  new", "").unwrap();
            continue;
        };
        let change = percent(before, now);
        let is_worse = change > TOLERANCE;
        worse += usize::from(is_worse);
        let mark = if is_worse { "  TOO MANY" } else { "" };
        writeln!(table, "{name:34} {before:>10} {now:>10} {change:>+7.1} %{mark}").unwrap();
    }
    println!("{:34} {:>10} {:>10} {:>9}", "instructions", "expected", "now", "change");
    print!("{table}");
    if worse == 0 {
        return ExitCode::SUCCESS;
    }
    let here = made_with();
    if here != expected.made_with {
        println!("expected of {:?}, here is {here:?}: not comparable, so nothing fails", expected.made_with);
        return ExitCode::SUCCESS;
    }
    eprintln!("{worse} above what is expected by more than {TOLERANCE} %");
    ExitCode::FAILURE
}

fn percent(before: u64, now: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    let (before, now) = (before as f64, now as f64);
    (now / before - 1.0) * 100.0
}

fn bless(instructions: BTreeMap<String, u64>) {
    let expected = Expected { made_with: made_with(), instructions };
    let text = serde_json::to_string_pretty(&expected).unwrap();
    std::fs::write(file(), text + "\n").unwrap();
    println!("{} has {} counts", file().display(), expected.instructions.len());
}

/// The environment that counts depend on besides the code.
fn made_with() -> BTreeMap<String, String> {
    let said = |program: &str, arg: &str| {
        let output = Command::new(program).arg(arg).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        )
    };
    let parts = [
        ("rustc", said("rustc", "--version")),
        ("libc", said("getconf", "GNU_LIBC_VERSION")),
        ("valgrind", said("valgrind", "--version")),
        ("processor", said("uname", "--machine")),
    ];
    parts.map(|(part, version)| (part.to_owned(), version)).into()
}
