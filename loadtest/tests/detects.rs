//! Runs the tester against the floor, as two processes over loopback: the tester must count deliberate faults exactly,
//! and a faultless floor must pass.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what cannot go on in a test must end it")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_loadtest");

/// A floor on a free port, ended when dropped.
struct Floor {
    child: Child,
    url: String,
}

impl Floor {
    fn start(flags: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["floor", "--listen", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening ").unwrap().trim();
        let url = format!("ws://{address}");
        Self { child, url }
    }

    fn test(&self, scenario: &str, flags: &[&str]) -> Output {
        let pid = self.child.id().to_string();
        Command::new(BINARY)
            .args([scenario, "--json", "--url", &self.url, "--server-pid", &pid])
            .args(flags)
            .output()
            .unwrap()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // The floor runs until it is killed.
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {stderr}"))
}

/// A short run at a fixed rate: a lost message must not stop the publisher.
const RATED: [&str; 12] = [
    "--patience",
    "500ms",
    "--rooms",
    "3",
    "--members",
    "20",
    "--rate",
    "300",
    "--warmup",
    "100ms",
    "--duration",
    "400ms",
];

/// Runs against a floor that injects `kind` into every tenth delivery, and compares the reported faults with those that
/// `expected` returns for the number of injected faults.
fn check(kind: &str, expected: impl Fn(u64) -> Value) {
    let floor = Floor::start(&["--inject", &format!("{kind}:10")]);
    let output = floor.test("fanout", &RATED);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let broadcasts = report["broadcasts_sent"].as_u64().unwrap();
    assert!(broadcasts >= 100, "{report}");
    // The publisher's own copies are never altered, so 19 of 20 deliveries count.
    let mut found = report["faults"].clone();
    found.as_object_mut().unwrap().retain(|_, count| *count != 0);
    assert_eq!(found, expected(broadcasts * 19 / 10), "{report}");
}

#[test]
fn drops_are_detected() {
    check("drop", |wrongs| json!({ "lost": wrongs }));
}

#[test]
fn duplicates_are_detected() {
    check("duplicate", |wrongs| json!({ "duplicated": wrongs }));
}

/// A held back last message of a room is never sent: at most two of nineteen deliveries.
#[test]
fn reorderings_are_detected() {
    let floor = Floor::start(&["--inject", "reorder:10"]);
    let report = report(&floor.test("fanout", &RATED));
    let wrongs = report["broadcasts_sent"].as_u64().unwrap() * 19 / 10;
    let count = |name: &str| report["faults"][name].as_u64().unwrap();
    assert_eq!(count("reordered") + count("lost"), wrongs, "{report}");
    assert!(count("lost") <= 6 && wrongs >= 100, "{report}");
    assert_eq!(count("duplicated") + count("misrouted") + count("corrupt"), 0);
}

#[test]
fn misrouted_messages_are_detected() {
    check("misroute", |wrongs| json!({ "misrouted": wrongs }));
}

/// The original message never arrived.
#[test]
fn corrupt_messages_are_detected() {
    check("corrupt", |wrongs| json!({ "corrupt": wrongs, "lost": wrongs }));
}

#[test]
fn a_faultless_server_passes_in_every_mode() {
    for floor in [&[][..], &["--coalesce"], &["--coalesce=connection"]] {
        let floor = Floor::start(floor);
        let closed_loop = [
            "--rooms",
            "2",
            "--members",
            "30",
            "--in-flight",
            "8",
            "--warmup",
            "50ms",
            "--duration",
            "200ms",
        ];
        for flags in [&RATED[..], &closed_loop] {
            let output = floor.test("fanout", flags);
            let report = report(&output);
            assert_eq!(output.status.code(), Some(0), "{report}");
            assert!(report["deliveries"].as_u64().unwrap() > 1000, "{report}");
            assert!(report["server_cpu_us_per_delivery"].as_f64().unwrap() > 0.0);
            assert!(report["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
        }
    }
}

#[test]
fn idle_connections_are_counted_and_warmed() {
    let floor = Floor::start(&[]);
    let output = floor.test("idle", &["--connections", "120", "--room-size", "50", "--settle", "0"]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!(report["connections"], 120);
    assert!(report["memory_warmed"]["rss"].as_u64().unwrap() > 0);
}

#[test]
fn large_messages_cross_in_pieces() {
    let floor = Floor::start(&[]);
    let flags = [
        "--members",
        "3",
        "--payload",
        "150000",
        "--in-flight",
        "4",
        "--warmup",
        "50ms",
        "--duration",
        "200ms",
    ];
    let output = floor.test("fanout", &flags);
    assert_eq!(output.status.code(), Some(0), "{}", report(&output));
}

/// Flags that make a run short.
const SHORT: [&str; 4] = ["--warmup", "50ms", "--duration", "300ms"];

#[test]
fn every_request_is_answered() {
    let floor = Floor::start(&[]);
    for load in [["--in-flight", "3"], ["--rate", "500"]] {
        let output = floor.test("echo", &[&["--connections", "20"][..], &SHORT, &load].concat());
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report}");
        assert!(report["done"].as_u64().unwrap() > 50, "{report}");
        assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
        assert!(!report["samples"].as_array().unwrap().is_empty());
    }
}

/// An event that no client answers: all requests are lost.
#[test]
fn requests_without_an_answer_are_lost() {
    let floor = Floor::start(&[]);
    let flags = ["--connections", "7", "--echo-event", "silence", "--patience", "200ms"];
    let output = floor.test("echo", &[&flags[..], &SHORT].concat());
    let report = report(&output);
    assert_eq!((output.status.code(), &report["faults"]["lost"]), (Some(1), &json!(7)), "{report}");
}

#[test]
fn cycles_repeat_until_the_server_stops_answering() {
    let floor = Floor::start(&[]);
    let output = floor.test("churn", &[&["--slots", "10"][..], &SHORT].concat());
    let good = report(&output);
    assert_eq!(output.status.code(), Some(0), "{good}");
    assert!(good["done"].as_u64().unwrap() > 20, "{good}");
    assert!(good["join_ms"]["p50"].as_f64().unwrap() <= good["latency_ms"]["max"].as_f64().unwrap());

    let silent = ["--slots", "10", "--leave-event", "silence", "--patience", "200ms"];
    let output = floor.test("churn", &[&silent[..], &SHORT].concat());
    let report = report(&output);
    assert_eq!((output.status.code(), &report["faults"]["lost"]), (Some(1), &json!(10)), "{report}");
}

#[test]
fn all_clients_return_after_a_storm() {
    let floor = Floor::start(&[]);
    let flags = ["--connections", "300", "--stay", "50", "--before", "300ms"];
    let output = floor.test("storm", &flags);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!((&report["never_back"], &report["stay"]), (&json!(0), &json!(50)));
    assert!(report["seconds_to_all_back"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["stay_before_ms"]["p50"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["rss_peak"].as_u64().unwrap() > 0, "{report}");
}

const SOAK: [&str; 10] =
    ["--rooms", "4", "--members", "20", "--rate", "400", "--reconnects", "100", "--duration", "1s"];

#[test]
fn members_that_leave_and_return_lose_nothing() {
    let floor = Floor::start(&[]);
    let output = floor.test("soak", &SOAK);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(report["came_back"].as_u64().unwrap() > 50, "{report}");
    assert!(report["rss_last"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn losses_of_members_that_leave_and_return_are_detected() {
    let floor = Floor::start(&["--inject", "drop:100"]);
    let output = floor.test("soak", &SOAK);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    let lost = report["faults"]["lost"].as_u64().unwrap();
    assert!(lost > 10, "{report}");
    assert_eq!(report["faults"]["duplicated"], 0, "{report}");
}

/// The server dies in the middle: no client returns. The tester reports that, and the publishes that could not be sent.
#[test]
fn a_server_that_dies_is_detected() {
    let floor = Floor::start(&[]);
    let (url, pid) = (floor.url.clone(), floor.child.id().to_string());
    let mut tester = Command::new(BINARY)
        .args(["soak", "--json", "--url", &url, "--patience", "300ms"])
        .args(["--rooms", "4", "--members", "20", "--rate", "400", "--reconnects", "100", "--duration", "4s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Connecting takes one or two hundredths of a second of CPU, publishing many more.
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.split(' ').skip(13).take(2).map(|word| word.parse::<u64>().unwrap()).sum::<u64>()
    };
    while ticks() < 10 {
        assert!(tester.try_wait().unwrap().is_none(), "the tester ended first");
        std::thread::yield_now();
    }
    drop(floor);
    let output = tester.wait_with_output().unwrap();
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report}");
    // Except the clients that were just returning.
    assert!(report["faults"]["disconnected"].as_u64().unwrap() > 60, "{report}");
    assert_eq!(report["faults"]["refused"], 80, "{report}");
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("requests were not sent") && warnings.contains("refused:"), "{warnings}");
}

#[test]
fn many_rooms_and_two_servers_are_distinguished() {
    let (one, two) = (Floor::start(&[]), Floor::start(&[]));
    let rooms = ["--rooms", "5", "--members", "4"];
    let output = one.test("rooms", &[&rooms[..], &SHORT].concat());
    let alone = report(&output);
    assert_eq!(output.status.code(), Some(0), "{alone}");
    assert_eq!((&alone["rooms"], &alone["crossing_ms"]), (&json!(5), &Value::Null));

    // Floors do not know each other: clients of the other one receive nothing.
    let patience = ["--patience", "200ms"];
    let output = one.test("cross", &[&rooms[..], &SHORT, &patience, &["--url", &two.url]].concat());
    let apart = report(&output);
    assert_eq!(output.status.code(), Some(1), "{apart}");
    assert_eq!(apart["nodes"], 2);
    let (sent, lost) =
        (apart["broadcasts_sent"].as_u64().unwrap(), apart["faults"]["lost"].as_u64().unwrap());
    assert_eq!(lost, 2 * sent, "{apart}");
}

/// The file's flags, overridden by the command line, and the page.
#[test]
fn a_scenario_comes_out_of_a_file_and_a_page_out_of_it() {
    let floor = Floor::start(&[]);
    let dir = std::env::temp_dir().join(format!("loadtest-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (file, page) = (dir.join("echo.toml"), dir.join("echo.html"));
    let text = format!(
        "scenario = 'echo'\nurl = ['{}']\nconnections = 900\nduration = '300ms'\njson = true\nhtml = '{}'\n",
        floor.url,
        page.display()
    );
    std::fs::write(&file, text).unwrap();
    let output = Command::new(BINARY).arg("run").arg(&file).args(["--connections", "5"]).output().unwrap();
    let report = report(&output);
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!((output.status.code(), &report["connections"]), (Some(0), &json!(5)), "{report}");
    assert!(html.contains("echo: 5 connections") && html.contains("<svg"), "{html}");
}

#[test]
fn an_impossible_run_and_one_with_faults_exit_differently() {
    let floor = Floor::start(&[]);
    let output = floor.test("fanout", &["--server-pid", "4194303"]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("process 4194303"), "{complaint}");

    let url = floor.url.clone();
    drop(floor);
    let output = Command::new(BINARY).args(["idle", "--url", &url]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("Connection refused"), "{complaint}");
}
