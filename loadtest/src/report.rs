//! The results of a scenario, as rows that are printed and shown on a page.

use serde::Serialize;

use crate::check::Faults;
use crate::figures::{short, short_or_dash};
use crate::measure::{Sample, Span};

/// The results of a scenario, for people and for programs.
pub(crate) trait Report: Serialize {
    /// One line that names the run.
    fn title(&self) -> String;
    /// Labels and values in reading order; the results of all scenarios follow.
    fn rows(&self) -> Vec<(&'static str, String)>;
    /// The results of all scenarios.
    fn found(&self) -> &Found;
}

/// The results of all scenarios.
#[derive(Debug, Serialize)]
pub(crate) struct Found {
    /// The server's faults.
    pub(crate) faults: Faults,
    #[serde(flatten)]
    pub(crate) span: Span,
    /// Samples over time.
    pub(crate) samples: Vec<Sample>,
    /// The unit of the samples' count.
    #[serde(skip)]
    pub(crate) counted: &'static str,
    /// Name, and quantile with milliseconds.
    #[serde(skip)]
    pub(crate) curves: Vec<(&'static str, Vec<(f64, f64)>)>,
    /// Warnings about the results.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_spelled_out() {
        assert_eq!(in_words(&Faults::default()), "none");
        let faults = Faults { lost: 3, ..Faults::default() };
        assert!(in_words(&faults).starts_with("LOST 3,"));
    }
}
