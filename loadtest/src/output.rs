//! The only module that prints.

use std::fs;
use std::io::{self, Write as _};

use anyhow::Context;

use crate::args::OutputArgs;
use crate::page;
use crate::report::{Report, in_words, rows};

/// Prints a report: a table, or one line of JSON with the warnings on standard error. Writes the
/// page if requested. Returns whether the server had no faults.
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

/// One line on standard output.
pub(crate) fn line(text: &str) {
    // The reader may have gone.
    let _ = writeln!(io::stdout(), "{text}");
}

/// One line on standard error.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
