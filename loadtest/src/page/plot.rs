//! One plot as SVG text.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 300);
const TEXT: (&str, i32) = ("sans-serif", 14);
/// Distinguishable for colour-blind people, too.
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(120, 94, 160)];

/// The horizontal axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Seconds,
    /// Stretched towards its end: each nine takes the same space.
    Percentile,
}

/// A named line of points; a percentile axis has quantiles from 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Line {
    pub(super) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), points }
    }
}

/// Lines over one axis.
#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    axis: Axis,
    unit: String,
    lines: Vec<Line>,
}

impl Plot {
    pub(super) fn new(title: &str, axis: Axis, unit: &str, lines: Vec<Line>) -> Self {
        let lines = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
        Self { title: title.to_owned(), axis, unit: unit.to_owned(), lines }
    }

    /// Whether any line has points.
    pub(super) fn shows_something(&self) -> bool {
        !self.lines.is_empty()
    }

    /// The plot as an `<svg>` element.
    pub(super) fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw_into(&mut svg).map_err(|error| anyhow!("drawing {}: {error}", self.title))?;
        Ok(svg)
    }

    fn draw_into(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let lines: Vec<(&str, Vec<(f64, f64)>)> =
            self.lines.iter().map(|line| (line.name.as_str(), self.placed(&line.points))).collect();
        let highest = |of: fn(&(f64, f64)) -> f64| {
            lines.iter().flat_map(|(_, points)| points.iter().map(of)).fold(0.0, f64::max)
        };
        // A line along the very edge is hard to see, and an axis needs some length.
        let (right, top) = (highest(|point| point.0).max(1e-3), (highest(|point| point.1) * 1.08).max(1e-3));
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin(8)
            .x_label_area_size(34)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..right, 0.0..top)?;
        let x_label = |x: &f64| self.x_label(*x);
        let mut mesh = chart.configure_mesh();
        mesh.label_style(TEXT)
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 228, 233))
            .axis_style(RGBColor(150, 158, 170))
            .y_labels(6)
            .y_desc(self.unit.as_str())
            .y_label_formatter(&|y| amount(*y))
            .x_labels(if self.axis == Axis::Percentile { 7 } else { 10 })
            .x_label_formatter(&x_label);
        mesh.draw()?;
        for ((name, points), colour) in lines.into_iter().zip(COLOURS.into_iter().cycle()) {
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(TEXT)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        root.present()?;
        drop(chart);
        Ok(())
    }

    /// The points at their positions in the plot.
    fn placed(&self, points: &[(f64, f64)]) -> Vec<(f64, f64)> {
        match self.axis {
            Axis::Seconds => points.to_vec(),
            // The highest value is drawn where the next quantile would be: at infinity it would not be
            // visible.
            Axis::Percentile => {
                let last =
                    points.iter().rev().find(|point| point.0 < 1.0).map_or(0.0, |point| nines(point.0));
                points.iter().map(|&(q, y)| (if q < 1.0 { nines(q) } else { last + 0.3 }, y)).collect()
            }
        }
    }

    fn x_label(&self, x: f64) -> String {
        match self.axis {
            Axis::Seconds => format!("{} s", amount(x)),
            Axis::Percentile => {
                let percent = format!("{:.4}", 100.0 * (1.0 - 10_f64.powf(-x)));
                format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

/// 0.9 is 1, 0.99 is 2, 0.999 is 3.
fn nines(quantile: f64) -> f64 {
    -(1.0 - quantile).log10()
}

fn amount(value: f64) -> String {
    let rounded = match value.abs() {
        size if size >= 1e6 => return format!("{:.1} M", value / 1e6),
        size if size >= 1e4 => return format!("{:.0} k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    rounded.strip_suffix(".00").or_else(|| rounded.strip_suffix(".0")).map_or(rounded.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_take_the_same_room_each() {
        assert!((nines(0.9) - 1.0).abs() < 1e-9);
        assert!((nines(0.999) - 3.0).abs() < 1e-9);
        assert_eq!(nines(0.0), 0.0);
    }

    #[test]
    fn labels_are_short() {
        assert_eq!(amount(0.0), "0");
        assert_eq!(amount(2.5), "2.50");
        assert_eq!(amount(405_000.0), "405 k");
        assert_eq!(amount(6_210_000.0), "6.2 M");
        let plot = Plot::new("p", Axis::Percentile, "ms", Vec::new());
        assert_eq!(plot.x_label(0.0), "0 %");
        assert_eq!(plot.x_label(1.0), "90 %");
        assert_eq!(plot.x_label(3.0), "99.9 %");
        assert_eq!(plot.x_label(0.5), "68.3772 %");
    }

    #[test]
    fn a_plot_is_one_svg_element() {
        let line = Line::new("p99 & more", vec![(0.0, 1.0), (1.0, 3.0), (2.0, 2.0)]);
        let svg = Plot::new("Latency", Axis::Seconds, "ms", vec![line]).draw().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("p99 &amp; more") && svg.contains("polyline"));
    }
}
