//! Records the latencies of a whole run and of its last interval.

use hdrhistogram::Histogram;
use serde::Serialize;

/// The lowest distinguishable latency; the highest is a minute, and longer ones count as a minute.
const LOWEST_NS: u64 = 1_000;
const HIGHEST_NS: u64 = 60_000_000_000;
/// A thousandth of the value: three digits.
const DIGITS: u8 = 3;
/// Where the curve of a report is read: dense where it bends.
const CURVE: [f64; 17] = [
    0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99, 0.995, 0.9975, 0.999, 0.9995, 0.9999, 0.99999,
    0.999_999, 1.0,
];

/// Records each latency in the interval, which is merged into the whole when it ends.
#[derive(Debug)]
pub(crate) struct Latencies {
    whole: Histogram<u64>,
    interval: Histogram<u64>,
}

/// Percentiles in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latencies {
    /// None recorded.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let empty = Histogram::new_with_bounds(LOWEST_NS, HIGHEST_NS, DIGITS)?;
        Ok(Self { whole: empty.clone(), interval: empty })
    }

    /// Records one latency.
    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.interval.saturating_record(ns);
    }

    /// Ends the interval; `None` if nothing was recorded in it.
    pub(crate) fn end_interval(&mut self) -> Option<Percentiles> {
        if self.interval.is_empty() {
            return None;
        }
        let percentiles = Percentiles::of(&self.interval);
        // Both have the same bounds.
        let _ = self.whole.add(&self.interval);
        self.interval.reset();
        Some(percentiles)
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.whole.len() + self.interval.len()
    }

    /// The percentiles of all latencies; `None` if there are none.
    pub(crate) fn percentiles(&mut self) -> Option<Percentiles> {
        self.end_interval();
        (!self.whole.is_empty()).then(|| Percentiles::of(&self.whole))
    }

    /// As [`Self::percentiles`], and starts over.
    pub(crate) fn take_percentiles(&mut self) -> Option<Percentiles> {
        let percentiles = self.percentiles();
        self.whole.reset();
        percentiles
    }

    /// Quantile and milliseconds, ascending, as far as there are enough values.
    pub(crate) fn curve(&mut self) -> Vec<(f64, f64)> {
        self.end_interval();
        let count = self.whole.len();
        let has_values = |quantile: f64| quantile >= 1.0 || (1.0 - quantile) * count as f64 >= 1.0;
        let at = |quantile: f64| (quantile, self.whole.value_at_quantile(quantile) as f64 / 1e6);
        if count == 0 { Vec::new() } else { CURVE.into_iter().filter(|&q| has_values(q)).map(at).collect() }
    }
}

impl Percentiles {
    fn of(latencies: &Histogram<u64>) -> Self {
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e6;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }

    /// `p50 / p90 / p99 / p99.9 / max`.
    pub(crate) fn in_words(&self) -> String {
        let Self { p50, p90, p99, p999, max } = self;
        format!("{p50:.2} / {p90:.2} / {p99:.2} / {p999:.2} / {max:.2} ms")
    }
}

/// As [`Percentiles::in_words`], or a dash if not measured.
pub(crate) fn in_words_or_dash(percentiles: Option<&Percentiles>) -> String {
    percentiles.map_or_else(|| "–".to_owned(), Percentiles::in_words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_interval_is_separate_and_belongs_to_the_whole() {
        let mut latencies = Latencies::new().unwrap();
        assert_eq!(latencies.percentiles(), None);
        for _ in 0..9 {
            latencies.record(MS);
        }
        let first = latencies.end_interval().unwrap();
        assert!((first.max - 1.0).abs() < 0.01);
        latencies.record(100 * MS);
        assert_eq!(latencies.count(), 10);
        let second = latencies.end_interval().unwrap();
        assert!((second.p50 - 100.0).abs() < 0.1);
        assert_eq!(latencies.end_interval(), None);
        let whole = latencies.percentiles().unwrap();
        assert!((whole.p90 - 1.0).abs() < 0.01 && (whole.max - 100.0).abs() < 0.1);
    }

    #[test]
    fn a_curve_ends_where_its_values_do() {
        let mut latencies = Latencies::new().unwrap();
        assert!(latencies.curve().is_empty());
        for n in 1..=100 {
            latencies.record(n * MS);
        }
        let curve = latencies.curve();
        assert_eq!(curve.last().map(|&(quantile, _)| quantile), Some(1.0));
        assert!(curve.iter().all(|&(quantile, _)| quantile <= 0.99 || quantile >= 1.0), "{curve:?}");
        assert!(curve.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    }

    #[test]
    fn values_out_of_range_count_at_its_end() {
        let mut latencies = Latencies::new().unwrap();
        latencies.record(0);
        latencies.record(u64::MAX);
        assert!(latencies.percentiles().unwrap().max >= 59_000.0);
    }
}
