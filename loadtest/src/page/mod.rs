//! The report as a page: one self-contained file with its plots.

use std::fmt::Write as _;

use anyhow::Result;

use crate::measure::Sample;
use crate::page::plot::{Axis, Line, Plot};
use crate::report::{Found, Report, in_words, rows};

mod plot;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1d2733;background:#f5f6f8}\
h1{font-size:1.35rem;margin:0 0 1rem}h2{font-size:1rem;margin:0 0 .5rem}\
section{background:#fff;border:1px solid #dde1e7;border-radius:8px;padding:1rem;margin:0 0 1rem}\
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.2rem .8rem .2rem 0;font-weight:400;\
vertical-align:top;border-bottom:1px solid #eef0f3}th{color:#5a6675;white-space:nowrap}td{font-variant-numeric:tabular-nums}\
.good{color:#1a7a3c}.bad{color:#b3261e;font-weight:600}.warning{background:#fff6e0;border-color:#efdcaa}\
svg{width:100%;height:auto;display:block}";

/// The whole page.
pub(crate) fn render(report: &impl Report) -> Result<String> {
    let mut page = String::new();
    let title = escaped(&report.title());
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body><h1>{title}</h1>"
    )?;
    let found = report.found();
    for warning in &found.warnings {
        write!(page, "<section class=\"warning\">{}</section>", escaped(warning))?;
    }
    page.push_str("<section><table>");
    for (label, value) in rows(report) {
        write!(page, "<tr><th>{}</th><td>{}</td></tr>", escaped(label), escaped(&value))?;
    }
    let class = if found.faults.none() { "good" } else { "bad" };
    let faults = escaped(&in_words(&found.faults));
    write!(page, "<tr><th>faults</th><td class=\"{class}\">{faults}</td></tr></table></section>")?;
    for plot in plots(found) {
        write!(page, "<section><h2>{}</h2>{}</section>", escaped(&plot.title), plot.draw()?)?;
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

/// The plots that have points.
fn plots(found: &Found) -> Vec<Plot> {
    let Found { counted, curves, samples, .. } = found;
    let curves = curves.iter().map(|(name, curve)| Line::new(name, curve.clone())).collect();
    let percent = |of: fn(&Sample) -> Option<f64>| over_time(samples, of);
    let all = [
        Plot::new("Latency by percentile", Axis::Percentile, "ms", curves),
        Plot::new(
            &format!("{counted} per second"),
            Axis::Seconds,
            "per second",
            vec![Line::new(counted, over_time(samples, |sample| Some(sample.per_s)))],
        ),
        Plot::new(
            "Latency over time",
            Axis::Seconds,
            "ms",
            vec![
                Line::new("p50", over_time(samples, |sample| sample.p50)),
                Line::new("p99", over_time(samples, |sample| sample.p99)),
                Line::new("highest", over_time(samples, |sample| sample.max)),
            ],
        ),
        Plot::new(
            "The server's resident memory",
            Axis::Seconds,
            "MB",
            vec![Line::new(
                "resident",
                over_time(samples, |sample| sample.server_rss.map(|bytes| bytes as f64 / 1e6)),
            )],
        ),
        Plot::new(
            "Share of a core",
            Axis::Seconds,
            "%",
            vec![
                Line::new("server", percent(|sample| sample.server_core_percent)),
                Line::new("tester", percent(|sample| Some(sample.own_core_percent))),
            ],
        ),
    ];
    all.into_iter().filter(Plot::shows_something).collect()
}

fn over_time(samples: &[Sample], value: impl Fn(&Sample) -> Option<f64>) -> Vec<(f64, f64)> {
    samples.iter().filter_map(|sample| Some((sample.at_s, value(sample)?))).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Faults;
    use crate::measure::Span;
    use serde::Serialize;

    #[derive(Serialize)]
    struct Example(Found);

    impl Report for Example {
        fn title(&self) -> String {
            "a <b> of 5 rooms".to_owned()
        }

        fn rows(&self) -> Vec<(&'static str, String)> {
            vec![("deliveries/s", "405 k".to_owned())]
        }

        fn found(&self) -> &Found {
            &self.0
        }
    }

    fn found() -> Found {
        Found {
            faults: Faults::default(),
            span: Span::nothing(),
            samples: Vec::new(),
            counted: "deliveries",
            curves: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn sample(at_s: f64) -> Sample {
        Sample {
            at_s,
            per_s: 1000.0 * at_s,
            p50: Some(1.0),
            p99: None,
            max: Some(2.5),
            server_rss: None,
            server_core_percent: None,
            own_core_percent: 12.5,
        }
    }

    #[test]
    fn the_page_stands_alone_and_draws_what_there_is() {
        let example = Example(Found {
            warnings: vec!["the tester used 99 % of its core".to_owned()],
            faults: Faults { lost: 3, ..Faults::default() },
            curves: vec![("latency", vec![(0.0, 0.5), (0.5, 1.0), (0.99, 2.0), (1.0, 2.5)])],
            samples: vec![sample(1.0), sample(2.0)],
            ..found()
        });
        let page = render(&example).unwrap();
        for part in ["a &lt;b&gt; of 5 rooms", "405 k", "LOST 3", "99 % of its core", "class=\"bad\""] {
            assert!(page.contains(part), "{part}");
        }
        // Percentiles, rate, latency, cores; no memory was read.
        assert_eq!(page.matches("<svg").count(), 4);
        for outside in ["src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_run_without_samples_has_no_empty_plots() {
        let page = render(&Example(found())).unwrap();
        assert!(!page.contains("<svg") && page.contains("class=\"good\""));
    }
}
