//! The only module that prints.

use std::fs;
use std::io::{self, Write as _};

use anyhow::Context;
use serde::Serialize;

use crate::check::Faults;
use crate::cli::OutputArgs;
use crate::measure::{Sample, Span};
use crate::page;

/// What a scenario found, for people and for programs.
pub(crate) trait Report: Serialize {
    /// One line that names the run.
    fn title(&self) -> String;
    /// Label and value, in the order to be read; what all scenarios find follows.
    fn rows(&self) -> Vec<(&'static str, String)>;
    /// What all scenarios find.
    fn found(&self) -> &Found;
}

/// What all scenarios find.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// What the server did wrong.
    pub(crate) faults: Faults,
    #[serde(flatten)]
    pub(crate) span: Span,
    /// How it went over time.
    pub(crate) samples: Vec<Sample>,
    /// What the samples count.
    #[serde(skip)]
    pub(crate) counted: &'static str,
    /// Name, and quantile with milliseconds.
    #[serde(skip)]
    pub(crate) curves: Vec<(&'static str, Vec<(f64, f64)>)>,
    /// What the reader must know before trusting the figures.
    pub(crate) warnings: Vec<String>,
}

/// All rows of a report.
pub(crate) fn rows(report: &impl Report) -> Vec<(&'static str, String)> {
    let span = &report.found().span;
    let mut rows = report.rows();
    rows.extend([
        ("server core %", short_or_dash(span.server_core_percent)),
        ("server switches vol/invol", span.switches_in_words()),
        ("own CPU µs/frame", short(span.own_cpu_us_per_frame())),
        ("own core %", short(span.own_core_percent)),
        ("others / steal core %", format!("{:.1} / {:.1}", span.others_core_percent, span.steal_percent)),
    ]);
    rows
}

/// Prints a report: a table, or one line of JSON with the warnings on standard error; and writes the
/// page that is asked for. Returns whether the server did all that it must.
pub(crate) fn show(report: &impl Report, output: &OutputArgs) -> anyhow::Result<bool> {
    let found = report.found();
    if output.json {
        line(&serde_json::to_string(report)?);
    } else {
        line(&report.title());
        for (label, value) in rows(report) {
            line(&format!("  {label:<28} {value}"));
        }
        line(&format!("  {:<28} {}", "faults", in_words(&found.faults)));
    }
    for warning in &found.warnings {
        complain(&format!("warning: {warning}"));
    }
    if let Some(path) = &output.html {
        let page = page::render(report)?;
        fs::write(path, page).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(found.faults.none())
}

/// `none`, or all kinds with their numbers.
pub(crate) fn in_words(faults: &Faults) -> String {
    if faults.none() {
        return "none".to_owned();
    }
    let Faults { lost, duplicated, reordered, misrouted, corrupt, disconnected, refused } = faults;
    format!(
        "LOST {lost}, DUPLICATED {duplicated}, REORDERED {reordered}, MISROUTED {misrouted}, \
         CORRUPT {corrupt}, DISCONNECTED {disconnected}, REFUSED {refused}"
    )
}

/// A number as people read it: three significant digits, thousands as k and M.
pub(crate) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 999_500.0 => (value / 1e6, " M"),
        size if size >= 999.5 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// Megabytes, or a dash for what was not measured.
pub(crate) fn megabytes_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6))
}

/// As [`short`], or a dash for what was not measured.
pub(crate) fn short_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), short)
}

/// One line on standard output.
pub(crate) fn line(text: &str) {
    // Nobody may be reading any more.
    let _ = writeln!(io::stdout(), "{text}");
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0.0, "0.000"),
            (0.1564, "0.156"),
            (2.304, "2.30"),
            (17.83, "17.8"),
            (265.4, "265"),
            (999.7, "1.00 k"),
            (405_432.0, "405 k"),
            (999_700.0, "1.00 M"),
            (6_214_000.0, "6.21 M"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn faults_are_spelled_out() {
        assert_eq!(in_words(&Faults::default()), "none");
        let faults = Faults { lost: 3, ..Faults::default() };
        assert!(in_words(&faults).starts_with("LOST 3,"));
    }
}
