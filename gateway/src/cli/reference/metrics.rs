//! The page of metrics.

use std::fmt::Write as _;

use super::text::paragraph;
use crate::apps;
use crate::metrics::{Entry, catalogue};

const INTRO: &str = "\
The internal listener serves these at `/metrics`, as Prometheus text. Names that end with `_total` are counters, with
`_seconds` and `_size` histograms; the others are gauges. No label is made from what a client sends, so clients cannot
add series.

The chart brings a Grafana dashboard and alert rules that read them: see [alerts](../operate/alerts/README.md).
";

/// The body of the page.
pub(super) fn body() -> String {
    let mut out = INTRO.to_owned();
    for (name, Entry { kind, help, labels }) in catalogue(&apps::names()) {
        // Writing to a String does not fail.
        let _ = write!(out, "\n### `{name}`\n\n*{kind}.* {}", paragraph(&help));
        for (label, values) in labels {
            // The version changes with each release.
            let values: Vec<String> = match label.as_str() {
                "version" => vec!["the version of the node".to_owned()],
                _ => values.iter().map(|value| format!("`{value}`")).collect(),
            };
            let _ = write!(out, "\n{}", paragraph(&format!("Label `{label}`: {}.", values.join(", "))));
        }
    }
    out
}
