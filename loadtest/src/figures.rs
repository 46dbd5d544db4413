//! Formats numbers for people.

/// A number for people: three significant digits, thousands as k and M.
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

/// Megabytes, or a dash if not measured.
pub(crate) fn megabytes_or_dash(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "–".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6))
}

/// As [`short`], or a dash if not measured.
pub(crate) fn short_or_dash(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), short)
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
}
